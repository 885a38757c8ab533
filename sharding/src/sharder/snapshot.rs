//! [`ClusterSnapshot`]: a [`ClusterView`] that owns what it shows. The Assigner takes one, and a Sharder places it while the
//! Assigner goes on.

use std::sync::Arc;

use super::{ClusterView, HotKey, NodeView};
use crate::assignment::Assignment;
use crate::session::SliceLoad;

/// All that a Sharder may know, as it was at one moment.
#[derive(Clone, Debug)]
pub struct ClusterSnapshot {
    /// As in [`ClusterView::previous`].
    pub previous: Option<Arc<Assignment>>,
    /// As in [`ClusterView::nodes`].
    pub nodes: Vec<NodeView>,
    /// As in [`ClusterView::loads`].
    pub loads: Vec<SliceLoad>,
    /// As in [`ClusterView::hot_keys`].
    pub hot_keys: Vec<HotKey>,
    /// As in [`ClusterView::churn_max`].
    pub churn_max: f64,
}

impl ClusterSnapshot {
    /// It as a view. Copies the lists.
    #[must_use]
    pub fn view(&self) -> ClusterView<'_> {
        ClusterView {
            loads: self.loads.clone(),
            hot_keys: self.hot_keys.clone(),
            ..self.members()
        }
    }

    /// The view without loads: enough to check a placement by.
    #[must_use]
    pub fn members(&self) -> ClusterView<'_> {
        ClusterView {
            previous: self.previous.as_deref(),
            nodes: self.nodes.clone(),
            loads: Vec::new(),
            hot_keys: Vec::new(),
            churn_max: self.churn_max,
        }
    }

    /// Bytes that the nodes report, all together.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.loads.iter().map(|load| load.bytes as f64).sum()
    }
}
