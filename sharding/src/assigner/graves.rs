//! [`Graves`]: the lives that are known to be dead. Dead is for ever, so a life in here is never counted as living again.
//!
//! The memory is bounded. What it forgets first is oldest, and a forgotten life is still known as dead by another sign:
//! it holds an assignment, and the present directory does not list it (see `Assigner::hello`).

use std::collections::{BTreeSet, VecDeque};

use crate::node::Life;

/// Most dead lives that are remembered.
pub(super) const DEAD_LIVES_MAX: usize = 4_096;

/// The lives that are known to be dead.
#[derive(Debug, Default)]
pub(super) struct Graves {
    lives: BTreeSet<Life>,
    oldest_first: VecDeque<Life>,
}

impl Graves {
    pub(super) fn bury(&mut self, life: Life) {
        if !self.lives.insert(life.clone()) {
            return;
        }
        self.oldest_first.push_back(life);
        if self.oldest_first.len() > DEAD_LIVES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.lives.remove(&oldest);
        }
    }

    pub(super) fn holds(&self, life: &Life) -> bool {
        self.lives.contains(life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::Incarnation;
    use crate::node::NodeId;

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let life = |number: usize| Life {
            node: NodeId::new("n").unwrap(),
            incarnation: Incarnation::new(number as u64),
        };
        let mut graves = Graves::default();
        for number in 0..=DEAD_LIVES_MAX {
            graves.bury(life(number));
            graves.bury(life(number));
        }
        assert!(!graves.holds(&life(0)));
        assert!(graves.holds(&life(1)) && graves.holds(&life(DEAD_LIVES_MAX)));
        assert_eq!(graves.lives.len(), DEAD_LIVES_MAX);
    }
}
