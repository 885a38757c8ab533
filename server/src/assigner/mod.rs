//! [`AssignerServer`]: the control plane's process, a shell around `sharding::assigner`.
//!
//! ```text
//!   sessions (tonic) --events--> driver: one task that owns the core --actions--> sessions
//!   status, drain    --calls --->                                    --reading--> /metrics
//!
//!   service  the sessions and what operators ask     driver  the task     metrics
//! ```
//!
//! One task owns the core, takes queued input before timers, and answers each step by its actions.

mod driver;
mod metrics;
mod probing;
mod service;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use softstore_proto::v1::assigner_server::AssignerServer as GrpcAssigner;
use softstore_sharding::assigner::Assigner;
use softstore_sharding::sharder::{AutoSharder, EvenRange, Ring, Sharder};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tower::util::MapResponseLayer;

use crate::clock::{Clock, new_incarnation};
use crate::config::{AssignerConfig, ConfigError, SharderKind};
use crate::guard::Guard;
use crate::listener::{Growth, Ports};
use crate::opening::Protocol;
use crate::places::{Limits, Reserve};
use crate::{grpc, http, listener};
use driver::{Call, Driver};
use metrics::{AssignerCollector, AssignerMetrics};

/// Sessions of nodes beyond `connections_max`: as many as a cluster may have nodes.
const NODES_RESERVED: usize = 4_096;

/// Bytes of unfinished messages, and of assignments that nodes have not taken: two of the longest messages.
const TRANSIT_BYTES_MAX: usize = 2 * service::MESSAGE_BYTES_MAX;

/// How long a node may take nothing of what is sent to it, or leave a message unfinished.
const STALL_MAX: Duration = Duration::from_secs(20);

/// Calls and messages that wait for the driver.
const CALLS_MAX: usize = 4_096;

/// Why an Assigner did not start.
#[derive(Debug, Error)]
pub enum AssignerError {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port could not be listened on.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
    /// gRPC reflection could not be set up.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running Assigner. Dropping it ends its tasks.
#[derive(Debug)]
pub struct AssignerServer {
    grpc_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl AssignerServer {
    /// Starts an Assigner.
    ///
    /// # Errors
    /// If a setting is wrong or a port is taken.
    pub async fn start(config: AssignerConfig) -> Result<Self, AssignerError> {
        let sharder: Box<dyn Sharder> = match config.sharder {
            SharderKind::Even => Box::new(EvenRange),
            SharderKind::Ring => Box::new(Ring::default()),
            SharderKind::Auto => Box::new(AutoSharder::default()),
        };
        Self::start_with_sharder(config, sharder).await
    }

    /// The same with a policy of the embedder's own, whatever the config names. It should pass
    /// `softstore_sharding::sharder::conformance`; a placement that breaks the rules is replaced by even ranges.
    ///
    /// # Errors
    /// If a setting is wrong or a port is taken.
    pub async fn start_with_sharder(
        config: AssignerConfig,
        sharder: Box<dyn Sharder>,
    ) -> Result<Self, AssignerError> {
        config.validate()?;
        let Ports {
            grpc,
            grpc_addr,
            http,
            http_addr,
        } = Ports::bind(config.listen, config.http_listen).await?;
        let incarnation = new_incarnation();
        let core = Assigner::new(config.core(), incarnation, sharder, Clock.now());
        tracing::info!(%grpc_addr, %incarnation, "the Assigner listens");
        let (calls, queue) = tokio::sync::mpsc::channel::<Call>(CALLS_MAX);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let metrics = Arc::new(AssignerMetrics::default());
        tasks.spawn(probing::run(calls.clone(), stop.clone()));
        tasks.spawn(Driver::new(core, queue, metrics.clone()).run(stop.clone()));
        tasks.spawn(tell_conditions(metrics.clone(), stop.clone()));
        serve_grpc(
            grpc,
            service::AssignerService::new(calls, metrics.clone(), config.place_timeout_ms, stop.clone()),
            &metrics,
            limits(config.connections_max),
            &tasks,
            &stop,
        )?;
        if let Some(http) = http {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(AssignerCollector(metrics.clone())));
            let listeners = metrics.listeners.clone();
            http::serve(http, registry, metrics, listeners, &tasks, stop.clone())?;
        }
        Ok(Self {
            grpc_addr,
            http_addr,
            stop,
            tasks,
        })
    }

    /// Where its gRPC port listens.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where its HTTP port listens, if it has one.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Ends it. Nodes and clients go on with the last assignment.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for AssignerServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Tells the Assigner's conditions until `stop`, and notices those that counters show.
async fn tell_conditions(metrics: Arc<AssignerMetrics>, stop: CancellationToken) {
    let mut accept_errors = Growth::default();
    let look = || metrics.listeners.look(&mut accept_errors, &metrics.conditions);
    metrics.conditions.tell(stop, look).await;
}

/// What the gRPC port bears. Nodes get in when others have taken all places.
fn limits(connections_max: usize) -> Limits {
    Limits {
        connections_max: listener::fitting(connections_max, NODES_RESERVED),
        reserved: Some(Reserve {
            places: NODES_RESERVED,
            path: "/softstore.v1.Assigner/Session",
        }),
        transit_bytes_max: TRANSIT_BYTES_MAX,
        stall: STALL_MAX,
    }
}

fn serve_grpc(
    listener: TcpListener,
    service: service::AssignerService,
    metrics: &Arc<AssignerMetrics>,
    limits: Limits,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), AssignerError> {
    let incoming = listener::incoming(
        listener,
        Protocol::Http2,
        limits,
        metrics.listeners.clone(),
        stop.clone(),
    );
    let counting = metrics.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    let assigner = GrpcAssigner::new(service)
        .max_decoding_message_size(service::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(usize::MAX);
    let routes = grpc::server()
        .layer(Guard::new(service::MESSAGE_BYTES_MAX))
        .layer(MapResponseLayer::new(move |response: Response<Body>| {
            if grpc::is_refused_unread(response.headers()) {
                counting.protocol_error();
            }
            response
        }))
        .add_service(assigner)
        .add_service(health_service)
        .add_service(grpc::reflection()?);
    let stop = stop.clone();
    tasks.spawn(async move {
        health
            .set_service_status("softstore.v1.Assigner", tonic_health::ServingStatus::Serving)
            .await;
        tokio::select! {
            served = routes.serve_with_incoming(incoming) => if let Err(error) = served {
                tracing::error!(%error, "the gRPC port has failed");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}
