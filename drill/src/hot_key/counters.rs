//! What each node says that it has answered: its counters on `/metrics`.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a node may take to tell.
const TIMEOUT: Duration = Duration::from_millis(500);
/// No page of metrics is longer.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// Counts since a node's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NodeCounts {
    /// Operations answered with a result.
    pub(crate) operations: u64,
    /// Reads answered as a replica, from a copy.
    pub(crate) reads_of_copies: u64,
}

/// Reads one node's counters.
pub(crate) trait Counters: Send + Sync + 'static {
    /// The counts of the node at that place in the list of nodes; `None`: it did not tell.
    fn read(&self, node: usize) -> impl Future<Output = Option<NodeCounts>> + Send;
}

/// Nodes' HTTP ports.
#[derive(Debug, Clone)]
pub(crate) struct MetricsPages(pub(crate) Vec<String>);

impl Counters for MetricsPages {
    async fn read(&self, node: usize) -> Option<NodeCounts> {
        let page = timeout(TIMEOUT, page(self.0.get(node)?)).await.ok()?.ok()?;
        parse(&page)
    }
}

async fn page(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// `None` where a counter is missing: that is not 0.
fn parse(page: &str) -> Option<NodeCounts> {
    let mut operations = None;
    let mut reads_of_copies = None;
    for line in page.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let answered = ["ok", "not_found", "condition_failed"]
            .into_iter()
            .any(|outcome| name.contains(&format!("outcome=\"{outcome}\"")));
        if name.starts_with("softstore_operations_total{") && answered {
            operations = Some(operations.unwrap_or(0) + value.parse::<u64>().ok()?);
        }
        if name == "softstore_reads_of_copies_total" {
            reads_of_copies = Some(value.parse().ok()?);
        }
    }
    Some(NodeCounts {
        operations: operations?,
        reads_of_copies: reads_of_copies?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_is_summed_and_what_is_missing_is_not_0() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# TYPE softstore_operations counter\n\
            softstore_operations_total{kind=\"get\",outcome=\"ok\"} 40\n\
            softstore_operations_total{kind=\"get\",outcome=\"not_found\"} 2\n\
            softstore_operations_total{kind=\"get\",outcome=\"moved\"} 900\n\
            softstore_operations_total{kind=\"set\",outcome=\"ok\"} 5\n\
            softstore_operations_held_back_total 7\nsoftstore_reads_of_copies_total 11\n";
        let told = NodeCounts {
            operations: 47,
            reads_of_copies: 11,
        };
        assert_eq!(parse(page), Some(told));
        assert_eq!(parse(&page.replace("copies", "others")), None);
        assert_eq!(parse("HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }
}
