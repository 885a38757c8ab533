//! What the cluster moved: the nodes' import counters, summed over all their lives.
//!
//! A counter ends with its process, so it is sampled until then; what a node imported after its last sample is missing
//! (a node that drains imports nothing new).

use std::collections::HashMap;

use crate::control::ClusterView;

/// Entries and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moved {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Moved {
    /// Requires: `earlier` was taken of the same tally before.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            entries: self.entries - earlier.entries,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// Sums imports since the first view.
#[derive(Debug, Default)]
pub(crate) struct MovedTally {
    lives: HashMap<(String, u64), Moved>,
    before: Option<Moved>,
}

impl MovedTally {
    /// Takes in a view; counters of one life never go down.
    pub(crate) fn observe(&mut self, view: &ClusterView) {
        for node in &view.nodes {
            let life = self.lives.entry((node.id.clone(), node.incarnation)).or_default();
            life.entries = life.entries.max(node.entries_imported);
            life.bytes = life.bytes.max(node.bytes_imported);
        }
        if self.before.is_none() {
            self.before = Some(self.sum());
        }
    }

    fn sum(&self) -> Moved {
        self.lives.values().fold(Moved::default(), |sum, life| Moved {
            entries: sum.entries + life.entries,
            bytes: sum.bytes + life.bytes,
        })
    }

    /// Moved since the first view.
    pub(crate) fn moved(&self) -> Moved {
        self.sum().since(self.before.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::NodeView;

    fn view(nodes: &[(&str, u64, u64)]) -> ClusterView {
        let node = |&(id, incarnation, imported): &(&str, u64, u64)| NodeView {
            id: id.to_owned(),
            incarnation,
            entries_imported: imported,
            bytes_imported: imported * 100,
            ..NodeView::default()
        };
        ClusterView {
            nodes: nodes.iter().map(node).collect(),
            ..ClusterView::default()
        }
    }

    #[test]
    fn imports_are_summed_over_lives_from_the_first_view_on() {
        let mut tally = MovedTally::default();
        tally.observe(&view(&[("n1", 1, 5), ("n2", 2, 0)]));
        tally.observe(&view(&[("n2", 2, 40)]));
        tally.observe(&view(&[("n1", 7, 30), ("n2", 2, 40)]));
        assert_eq!(
            tally.moved(),
            Moved {
                entries: 70,
                bytes: 7_000
            }
        );
    }
}
