//! The processes of one cluster, as far as restarts go.

use std::future::Future;

use crate::error::DrillError;

/// How a node is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM: drain, then exit.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Nodes that can be stopped and started by name.
pub(crate) trait Fleet: Send {
    /// The nodes that run, in the order of their first start.
    fn members(&self) -> Vec<String>;
    fn signal(&mut self, node: &str, signal: Signal) -> Result<(), DrillError>;
    /// Waits until a signalled node has exited. May be cancelled and called again.
    fn exited(&mut self, node: &str) -> impl Future<Output = Result<(), DrillError>> + Send;
    /// The error for a node that did not exit in time.
    fn no_exit(&self, node: &str, waited_ms: u64) -> DrillError;
    /// Starts a node of that name, and returns when it listens.
    fn start(&mut self, node: &str) -> impl Future<Output = Result<(), DrillError>> + Send;
}
