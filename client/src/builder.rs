//! [`Builder`]: from settings to a [`Client`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use softstore_sharding::ClusterName;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::config::{ClientConfig, ReadPolicy, whole_ms};
use crate::error::ConnectError;
use crate::follow::follow;
use crate::metrics::Counters;
use crate::routing::Routing;
use crate::source::Attempts;

/// Collects a client's settings. Each has a default but the seeds.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    config: ClientConfig,
}

impl Builder {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self { config }
    }

    /// `host:port` of any nodes of the cluster. One that lives is enough.
    pub fn seeds<S: Into<String>>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.config.seeds = seeds.into_iter().map(Into::into).collect();
        self
    }

    /// The cluster's name: nodes of another one are refused. Default: whichever cluster the seeds are of.
    pub fn cluster(mut self, name: ClusterName) -> Self {
        self.config.cluster = Some(name);
        self
    }

    /// How long an operation may take, all retries included. Default 1,000 ms.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.config.operation_timeout_ms = whole_ms(timeout);
        self
    }

    /// How long one attempt to connect may take. Default 1,000 ms.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout_ms = whole_ms(timeout);
        self
    }

    /// How long [`Builder::connect`] waits for a first assignment. Default 5,000 ms.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.config.ready_timeout_ms = whole_ms(timeout);
        self
    }

    /// What a read becomes when no owner answers. Default: a miss.
    pub fn read_policy(mut self, policy: ReadPolicy) -> Self {
        self.config.read_policy = policy;
        self
    }

    /// Whether unconditional sets are sent again after a loss. Default: no.
    pub fn resend_sets(mut self, resend: bool) -> Self {
        self.config.resend_sets = resend;
        self
    }

    /// Connections per node. Default 1.
    pub fn connections_per_node(mut self, connections: usize) -> Self {
        self.config.connections_per_node = connections;
        self
    }

    /// Most operations pending on one connection. Default 65,536.
    pub fn pending_ops_max(mut self, ops: usize) -> Self {
        self.config.pending_ops_max = ops;
        self
    }

    /// Changes any setting.
    pub fn configure(mut self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Whether [`Builder::connect`] fails if the cluster is not there. Default: no. An application that can do without its
    /// cache should start without it.
    pub fn require_cluster(mut self, require: bool) -> Self {
        self.config.require_cluster = require;
        self
    }

    /// Looks for the cluster and takes its assignment; if no seed can be reached, or none has an assignment within the ready
    /// timeout, the client is given all the same, and goes on looking. Until it finds the cluster, its reads are misses
    /// (or errors, see [`ReadPolicy`]) and its writes [`Unavailable`](crate::WriteError::Unavailable); the log is told once
    /// (`tracing`, a warning), and [`Client::health`] tells at any time.
    ///
    /// Must run within a tokio runtime, on which the client's tasks then live; they end with the last clone of the client.
    ///
    /// # Errors
    /// If a setting is out of range. With [`Builder::require_cluster`] also at once if no seed can be reached, and after the
    /// ready timeout if a seed can but has no assignment.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        self.config.validate()?;
        let config = Arc::new(self.config);
        let counters = Arc::new(Counters::default());
        let routing = Arc::new(Routing::new(config.clone(), counters.clone()));
        let attempts = Arc::new(Attempts::default());
        let stop = CancellationToken::new();
        // Cancels also if this future is dropped half way.
        let guard = stop.clone().drop_guard();
        tokio::spawn(follow(routing.clone(), config.clone(), attempts.clone(), stop));
        let found = wait_for_assignment(&routing, &attempts, &config).await;
        if config.require_cluster {
            found?;
        }
        Ok(Client::new(config, routing, attempts, counters, guard))
    }
}

async fn wait_for_assignment(
    routing: &Routing,
    attempts: &Attempts,
    config: &ClientConfig,
) -> Result<(), ConnectError> {
    let mut changes = routing.changes();
    let until = Instant::now() + Duration::from_millis(config.ready_timeout_ms);
    loop {
        if routing.table().epoch() > 0 {
            return Ok(());
        }
        if let Some(failures) = attempts.all_failed() {
            return Err(ConnectError::Unreachable(failures));
        }
        let news = tokio::time::timeout_at(until.into(), changes.changed()).await;
        if !matches!(news, Ok(Ok(()))) {
            return Err(attempts.why(config, config.ready_timeout_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: a listener that accepts connections and never says a word, and a ready timeout far below the time after which an
    /// attempt gives up. The error of who insists must still name the seed, and what was waited for.
    #[tokio::test]
    async fn a_silent_seed_is_named_when_the_ready_timeout_comes_first() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let seed = silent.local_addr().unwrap().to_string();
        let connecting = Client::builder()
            .seeds([seed.clone()])
            .ready_timeout(Duration::from_millis(20))
            .require_cluster(true)
            .connect();
        match connecting.await {
            Err(ConnectError::Unreachable(failures)) => {
                assert_eq!(failures.len(), 1);
                assert_eq!(failures[0].seed, seed);
                assert!(failures[0].reason.contains("20 ms"), "{failures:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
