//! The one line of JSON that a process started with `--announce` prints on stdout once it listens, and that whoever
//! started it reads. Stable: other programs may read it.

use std::io::Write;

use eyre::{Result, WrapErr};
use serde::{Deserialize, Serialize};

/// A node's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeAnnouncement {
    /// The node's name.
    pub(crate) id: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Where gRPC listens.
    pub(crate) grpc: String,
    /// Where HTTP listens; empty if nowhere.
    pub(crate) http: String,
}

/// The Assigner's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AssignerAnnouncement {
    /// Where gRPC listens.
    pub(crate) assigner: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Where HTTP listens; empty if nowhere.
    pub(crate) http: String,
}

/// What `dev --json` prints once all is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterAnnouncement {
    /// Where the Assigner's gRPC listens.
    pub(crate) assigner: String,
    /// Its process.
    pub(crate) assigner_pid: u32,
    /// The nodes.
    pub(crate) nodes: Vec<NodeAnnouncement>,
}

/// Prints a line of JSON and flushes it: the reader waits for it.
pub(crate) fn print(line: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line).wrap_err("cannot write to stdout")?;
    out.write_all(b"\n")
        .and_then(|()| out.flush())
        .wrap_err("cannot write to stdout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_what_the_documentation_says() {
        let node = NodeAnnouncement {
            id: "node-0".into(),
            pid: 7,
            grpc: "127.0.0.1:1".into(),
            http: "127.0.0.1:2".into(),
        };
        let all = ClusterAnnouncement {
            assigner: "127.0.0.1:3".into(),
            assigner_pid: 8,
            nodes: vec![node],
        };
        assert_eq!(
            serde_json::to_string(&all).unwrap(),
            r#"{"assigner":"127.0.0.1:3","assigner_pid":8,"nodes":[{"id":"node-0","pid":7,"grpc":"127.0.0.1:1","http":"127.0.0.1:2"}]}"#
        );
    }
}
