//! [`AssignerServer`]: the control plane's process, a shell around `sharding::assigner`.
//!
//! ```text
//!   sessions (tonic) --events--> driver: one task that owns the core --actions--> sessions
//!   status, drain    --calls --->                                    --reading--> /metrics
//!
//!   service  the sessions and what operators ask     driver  the task     metrics     probing  do members answer
//!   seek     is a name's holder still there?         state_file  which cluster this is, kept
//! ```
//!
//! One task owns the core, takes queued input before timers, and answers each step by its actions.

mod driver;
mod metrics;
mod probing;
mod seek;
mod service;
mod state_file;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use prometheus_client::registry::Registry;
use softstore_proto::v1::assigner_server::AssignerServer as GrpcAssigner;
use softstore_sharding::assigner::Assigner;
use softstore_sharding::sharder::{AutoSharder, EvenRange, Ring, Sharder};
use softstore_sharding::{ClusterId, Founding, Generation};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tower::util::MapResponseLayer;

use crate::clock::{Clock, new_founding, new_incarnation};
use crate::config::{AssignerConfig, ConfigError, SharderKind};
use crate::guard::Guard;
use crate::listener::{Growth, Ports};
use crate::opening::Protocol;
use crate::places::{Limits, Reserve};
use crate::{grpc, http, listener};
use driver::{Call, Driver};
use metrics::{AssignerCollector, AssignerMetrics};
use seek::Seekers;
pub use state_file::StateFileError;
use state_file::{State, StateFile};

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
    /// What it remembers cannot be used.
    #[error(transparent)]
    State(#[from] StateFileError),
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
        let name = config.cluster_name();
        let file = config
            .state_dir
            .as_deref()
            .map(StateFile::in_directory)
            .transpose()?;
        let state = file.as_ref().map(|file| file.read(&name)).transpose()?.flatten();
        let Ports {
            grpc,
            grpc_addr,
            http,
            http_addr,
        } = Ports::bind(config.listen, config.http_listen).await?;
        let incarnation = new_incarnation();
        let core = Assigner::new(config.core(), incarnation, sharder, Clock.now())
            .of_cluster(Some(name.clone()), new_founding());
        let core = founded(core, config.founding, state);
        tracing::info!(%grpc_addr, %incarnation, cluster = %core.cluster(), "the Assigner listens");
        let (calls, queue) = tokio::sync::mpsc::channel::<Call>(CALLS_MAX);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let metrics = Arc::new(AssignerMetrics::default());
        // The founding is not known for certain yet; a node of another one is of another life, too.
        let cluster = ClusterId {
            name: Some(name),
            founding: None,
        };
        let seekers = Seekers::new(&calls, cluster.clone());
        let (states, remembered) = watch::channel(None);
        if let Some(file) = file {
            tasks.spawn(file.keep(remembered, metrics.clone(), stop.clone()));
        }
        tasks.spawn(probing::run(calls.clone(), cluster, stop.clone()));
        tasks.spawn(Driver::new(core, queue, seekers, states, metrics.clone()).run(stop.clone()));
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

/// An Assigner that knows its cluster's founding, if its operator names it or its state tells it. The operator's word goes first.
fn founded(core: Assigner, chosen: Option<Founding>, state: Option<State>) -> Assigner {
    let known = state.map(|state| (state.founding, state.generation));
    match (chosen, known) {
        (Some(chosen), Some((founding, _))) if chosen != founding => {
            tracing::warn!(%chosen, stored = %founding, "the founding that was named replaces the stored one");
            core.founded(chosen, Generation::NONE)
        }
        (_, Some((founding, generation))) => core.founded(founding, generation),
        (Some(chosen), None) => core.founded(chosen, Generation::NONE),
        (None, None) => core,
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
        transit_bytes_max: Arc::new(AtomicUsize::new(TRANSIT_BYTES_MAX)),
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
