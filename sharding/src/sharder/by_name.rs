//! [`NodesByName`]: a view's nodes, for who looks up the owner of every range of a large assignment.

use std::collections::HashMap;

use super::{ClusterView, NodeView};
use crate::assignment::RangeAssignment;
use crate::node::{Life, NodeId};

/// The nodes of a [`ClusterView`] by their names. [`ClusterView::node`] looks at one after the other: for each of 64,000 ranges
/// among 1,000 nodes that is tens of milliseconds.
#[derive(Debug)]
pub struct NodesByName<'a>(HashMap<&'a NodeId, &'a NodeView>);

impl<'a> NodesByName<'a> {
    /// Those of a view, whose nodes differ in name.
    #[must_use]
    pub fn of(view: &'a ClusterView<'_>) -> Self {
        let by_name = view.nodes.iter().map(|node| (&node.life.node, node));
        Self(by_name.collect())
    }

    /// The node of this name.
    #[must_use]
    pub fn named(&self, name: &NodeId) -> Option<&'a NodeView> {
        self.0.get(name).copied()
    }

    /// The node that lives this life.
    #[must_use]
    pub fn node(&self, life: &Life) -> Option<&'a NodeView> {
        self.named(&life.node)
            .filter(|node| node.life.incarnation == life.incarnation)
    }

    /// Whether the node of this name may be given something.
    #[must_use]
    pub fn may_take(&self, name: &NodeId) -> bool {
        self.named(name).is_some_and(|node| node.role.may_take())
    }

    /// Whether the owner of a range stays, as in [`ClusterView::owner_stays`].
    #[must_use]
    pub fn owner_stays(&self, range: &RangeAssignment) -> bool {
        self.node(&range.owner).is_some_and(|node| node.role.may_take())
    }

    /// Whether a range must stay as it is, as in [`ClusterView::is_pinned`].
    #[must_use]
    pub fn is_pinned(&self, range: &RangeAssignment) -> bool {
        range.keeps_whole() && self.owner_stays(range)
    }
}
