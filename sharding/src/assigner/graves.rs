//! [`Graves`]: the lives that are known to be dead. Dead is for ever, so a life in here is never counted as living again.
//!
//! The memory is bounded. What it forgets first is oldest, and a forgotten life is still known as dead by another sign:
//! it holds an assignment, and the present directory does not list it (see `Assigner::hello`).

use std::collections::{BTreeMap, VecDeque};

use super::member::Answers;
use crate::node::Life;
use crate::time::Timestamp;

/// Most dead lives that are remembered.
pub(super) const DEAD_LIVES_MAX: usize = 4_096;

/// What is remembered of a dead life.
#[derive(Debug, Default)]
pub(super) struct Grave {
    /// It died in silence: its process may only be away, and come back with what it held.
    pub(super) may_return: bool,
    /// Its last heartbeats that were answered.
    pub(super) answers: Answers,
}

/// The lives that are known to be dead.
#[derive(Debug, Default)]
pub(super) struct Graves {
    lives: BTreeMap<Life, Grave>,
    oldest_first: VecDeque<Life>,
}

impl Graves {
    /// Who is buried twice may return if either is so.
    pub(super) fn bury(&mut self, life: Life, grave: Grave) {
        if let Some(known) = self.lives.get_mut(&life) {
            known.may_return |= grave.may_return;
            return;
        }
        self.lives.insert(life.clone(), grave);
        self.oldest_first.push_back(life);
        if self.oldest_first.len() > DEAD_LIVES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.lives.remove(&oldest);
        }
    }

    pub(super) fn holds(&self, life: &Life) -> bool {
        self.lives.contains_key(life)
    }

    /// Whether the process of a dead life may come back with what it held.
    pub(super) fn may_return(&self, life: &Life) -> bool {
        self.lives.get(life).is_some_and(|grave| grave.may_return)
    }

    /// When a heartbeat of a dead life was answered, if that is remembered.
    pub(super) fn answered_at(&self, life: &Life, sequence: u64) -> Option<Timestamp> {
        self.lives.get(life)?.answers.at(sequence)
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
            graves.bury(life(number), Grave::default());
            graves.bury(life(number), Grave::default());
        }
        assert!(!graves.holds(&life(0)));
        assert!(graves.holds(&life(1)) && graves.holds(&life(DEAD_LIVES_MAX)));
        assert_eq!(graves.lives.len(), DEAD_LIVES_MAX);
    }
}
