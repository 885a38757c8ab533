//! [`Node`]: a running cache node. The `softstore node` process is this and a signal handler; an application that is
//! itself sharded embeds one.
//!
//! ```text
//!   clients --stream--> data_stream --> operation --+--> store          http: /metrics /healthz /readyz
//!           --watch---> cache_service               |
//!                                                   +-- core (admit), under the shared lock
//!   takers --take/peek/pull--> transfer_service, giving ---+
//!   givers <--take/peek/pull-- channels, peeks, puller <--- state: carries the core's actions out
//!   Assigner <--session--> session (slicelet)
//!
//!   an operation      waiting: held back   replies: on their way   standing_queue, saturation: too old, no time left   load: measured
//!   replicas          lending, invalidations: as owner             reading: as replica
//!   calls             identity: which process, of which cluster, and who belongs elsewhere
//!   state             in_order: actions    standing: may it serve  givings: streams given at once                      metrics, watch, pauses
//! ```

mod cache_service;
mod channels;
mod data_stream;
mod giving;
mod givings;
mod identity;
mod in_order;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod invalidations;
mod lending;
#[cfg(test)]
mod lent;
mod load;
#[cfg(test)]
mod load_cost;
mod metrics;
#[cfg(test)]
mod mid_pull;
mod operation;
mod pauses;
mod peeks;
mod puller;
mod reading;
mod replies;
mod saturation;
mod session;
mod standing;
mod standing_queue;
mod state;
mod transfer_service;
mod waiting;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use prometheus_client::registry::Registry;
use softstore_proto::v1::cache_server::CacheServer;
use softstore_proto::v1::transfer_server::TransferServer;
use softstore_sharding::slicelet::{Identity, Slicelet, SliceletConfig, SliceletEvent};
use softstore_sharding::{Life, NodeId, Peer, Timestamp};
use softstore_store::{MokaStore, MokaStoreConfig};
use softstore_transfer::handoff::HandoffCore;
use softstore_transfer::{HandoffConfig, chunk};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::service::interceptor::InterceptedService;
use tower::util::MapResponseLayer;

pub use self::identity::NodeIdentity;
pub use self::metrics::NodeMetrics;
pub use self::session::DrainOutcome;
pub use self::state::{NodeState, StoreEngine};
use crate::clock::{Clock, new_incarnation};
use crate::config::{ConfigError, NodeConfig, Transfer};
use crate::guard::Guard;
use crate::listener::Ports;
use crate::memory::{
    Allocator, Bytes, Keeper, Kept, Kernel, Limit, MemoryPlan, STORE_PERCENT, UnknownAllocator,
};
use crate::opening::Protocol;
use crate::places::{Limits, Reserve};
use crate::{grpc, http, listener};

/// Between two rounds of the store's housekeeping.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(100);

/// How long the goodbye and the last replies may take after serving has stopped.
const LAST_WORDS: Duration = Duration::from_millis(1_000);

/// Connections of other nodes beyond `connections_max`: two for each that takes over from this one.
const PEERS_RESERVED: usize = 256;

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port could not be listened on.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
    /// gRPC reflection could not be set up.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The system gives no more threads.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The hand-off refused its settings.
    #[error("hand-off: {0}")]
    Handoff(#[from] softstore_transfer::config::HandoffConfigError),
}

/// A running node. Dropping it ends its tasks without a drain.
#[derive(Debug)]
pub struct Node {
    state: Arc<NodeState>,
    grpc_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    drained: Shared<BoxFuture<'static, DrainOutcome>>,
    /// Fires when the session has said goodbye and the data port has sent its last reply.
    last_words: TaskTracker,
    _keeper: Keeper,
}

impl Node {
    /// Starts a node: it listens, says hello to the Assigner, and serves what it is assigned. It need not find the
    /// Assigner: it goes on looking.
    ///
    /// # Errors
    /// If a setting is wrong or a port is taken.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        Self::start_with_allocator(config, Arc::new(UnknownAllocator)).await
    }

    /// The same in a process whose allocator can be asked to give memory back. One that cannot only has its store shrink, when
    /// the process comes near its memory limit.
    ///
    /// # Errors
    /// If a setting is wrong or a port is taken.
    pub async fn start_with_allocator(
        config: NodeConfig,
        allocator: Arc<dyn Allocator>,
    ) -> Result<Self, NodeError> {
        config.validate()?;
        let kernel = Kernel::default();
        let plan = MemoryPlan::new(
            &kernel.limit(),
            config.memory_bytes,
            config.transit_bytes_max as u64,
        );
        let store = Arc::new(MokaStore::new(store_config(&config, &plan, &kernel)));
        let memory_bytes = config.memory_bytes;
        Self::start_within(config, store, allocator, memory_bytes).await
    }

    /// The same over a storage engine of the embedder's own. It must pass `softstore_store::conformance`; the config's
    /// settings of the store are the embedder's to apply. The budget that it comes with is the most that it is given.
    ///
    /// # Errors
    /// If a setting is wrong or a port is taken.
    pub async fn start_with_store(
        config: NodeConfig,
        store: Arc<dyn StoreEngine>,
    ) -> Result<Self, NodeError> {
        let memory_bytes = store.stats().budget_bytes;
        Self::start_within(config, store, Arc::new(UnknownAllocator), memory_bytes).await
    }

    /// Starts it over a store that may have so much memory; 0: derived from the limit.
    async fn start_within(
        config: NodeConfig,
        store: Arc<dyn StoreEngine>,
        allocator: Arc<dyn Allocator>,
        memory_bytes: u64,
    ) -> Result<Self, NodeError> {
        config.validate()?;
        let kernel = Kernel::default();
        let limit = kernel.limit();
        let plan = MemoryPlan::new(&limit, memory_bytes, config.transit_bytes_max as u64);
        let Ports {
            grpc,
            grpc_addr,
            http,
            http_addr,
        } = Ports::bind(config.listen, config.http_listen).await?;
        tell_plan(&plan, &limit);
        let address = config.advertise.clone().unwrap_or_else(|| grpc_addr.to_string());
        let life = Life {
            node: config.id.clone(),
            incarnation: new_incarnation(),
        };
        let me = Peer {
            life,
            address: address.into(),
        };
        let core = handoff_core(&config, me.clone())?;
        let http_address = http_addr.map_or_else(String::new, |http| http_address(&config, http));
        let (state, events) = NodeState::new(config, core, store);
        let identity = Identity {
            peer: me,
            http_address: http_address.into(),
            zone: state.config.zone.as_str().into(),
            capacity_bytes: plan.store_bytes,
            process: state.identity.process(),
            cluster: state.identity.cluster().name,
        };
        let slicelet = Slicelet::new(slicelet_config(&state.config), identity, Clock.now());
        state.memory.set_plan(&plan);
        state.memory.set_transit(plan.transit_bytes);
        let keeper = Keeper::start(Kept {
            kernel,
            allocator,
            store: state.store.clone(),
            gauges: state.memory.clone(),
            listeners: state.listeners.clone(),
            memory_bytes,
            transit_bytes_max: state.config.transit_bytes_max as u64,
        });
        let keeper = keeper.map_err(NodeError::Thread)?;
        let stop = state.stop.clone();
        let (drained_sender, drained) = oneshot::channel();
        let session = session::Session::new(state.clone(), slicelet, events, drained_sender);
        let last_words = TaskTracker::new();
        last_words.spawn(session.run(stop.clone()));
        state.tasks.spawn(keep_time(state.clone(), stop.clone()));
        state.tasks.spawn(saturation::watch(state.clone(), stop.clone()));
        state.tasks.spawn(pauses::watch(state.clone(), stop.clone()));
        state.tasks.spawn(keep_house(state.clone(), stop.clone()));
        state.tasks.spawn(watch::conditions(state.clone(), stop.clone()));
        state.tasks.spawn(watch::own_name(state.clone(), stop.clone()));
        serve_grpc(&state, grpc, &stop, &last_words)?;
        if let Some(http) = http {
            serve_http(&state, http, &stop)?;
        }
        // A dropped sender means that the session ended without a drain.
        let drained = drained
            .map(|outcome| outcome.unwrap_or(DrainOutcome::NoAssigner))
            .boxed()
            .shared();
        Ok(Self {
            state,
            grpc_addr,
            http_addr,
            drained,
            last_words,
            _keeper: keeper,
        })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.state.config.id
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

    /// What its parts share: counters, the store, the core. For embedders and tests.
    #[must_use]
    pub fn state(&self) -> &Arc<NodeState> {
        &self.state
    }

    /// Whether a rollout may go on: see `/readyz`. The error says what is missing.
    ///
    /// # Errors
    /// What it waits for.
    pub fn readiness(&self) -> Result<(), &'static str> {
        self.state.readiness()
    }

    /// Hands off all it owns, then stops. Returns how that ended; the configured deadline bounds it.
    pub async fn drain(&self) -> DrainOutcome {
        self.state.tell_slicelet(SliceletEvent::DrainRequested);
        self.finish_drain().await
    }

    /// Waits until the node has been drained by an operator's order, and stops it then.
    pub async fn drained_by_order(&self) -> DrainOutcome {
        let mut looks = tokio::time::interval(MAINTENANCE_INTERVAL);
        loop {
            tokio::select! {
                _ = self.drained.clone() => return self.finish_drain().await,
                _ = looks.tick() => {
                    if self.state.is_draining() {
                        return self.finish_drain().await;
                    }
                }
            }
        }
    }

    async fn finish_drain(&self) -> DrainOutcome {
        let deadline = Duration::from_millis(self.state.config.drain_deadline_ms);
        let outcome = tokio::time::timeout(deadline, self.drained.clone())
            .await
            .unwrap_or(DrainOutcome::Deadline);
        self.shutdown().await;
        outcome
    }

    /// Stops serving, says goodbye, and ends all tasks. What was not handed off is lost.
    pub async fn shutdown(&self) {
        // From here on nothing is served: streams end after the replies that are due.
        self.state.stop_serving();
        self.state.closing.cancel();
        self.state.tell_slicelet(SliceletEvent::StoppedServing);
        self.last_words.close();
        // Streams linger for clients that do not close their half, for a bounded time of their own.
        let _ = tokio::time::timeout(LAST_WORDS, self.last_words.wait()).await;
        self.state.tasks.close();
        self.state.end();
    }

    /// Ends everything at once, without a word to anyone: when this returns, no connection answers any more.
    pub fn abort(&self) {
        self.state.stop_serving();
        self.state.end();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Where others reach the HTTP port: on the host that the gRPC port is advertised under, if one is.
fn http_address(config: &NodeConfig, listens: SocketAddr) -> String {
    match config
        .advertise
        .as_deref()
        .and_then(|address| address.rsplit_once(':'))
    {
        Some((host, _)) if listens.ip().is_unspecified() => format!("{host}:{}", listens.port()),
        _ => listens.to_string(),
    }
}

/// Says who gets what of the memory, and whether there is enough.
fn tell_plan(plan: &MemoryPlan, limit: &Limit) {
    tracing::info!(%plan, "memory");
    let wanted = plan.store_bytes.saturating_add(plan.transit_bytes);
    if plan.is_beyond_limit() {
        tracing::warn!(%plan, "more memory is given out than the limit allows: the store will get less than that");
    } else if wanted > limit.room_bytes {
        let (wanted, room) = (Bytes(wanted), Bytes(limit.room_bytes));
        tracing::warn!(
            %wanted, %room,
            "others use a part of the memory that this node plans with: the store gets less while they do. Several nodes on one \
             machine want --memory each"
        );
    }
}

/// A budget that follows the limit may grow up to the machine's share.
fn store_config(config: &NodeConfig, plan: &MemoryPlan, kernel: &Kernel) -> MokaStoreConfig {
    let machine = kernel.machine_bytes().filter(|_| config.memory_bytes == 0);
    MokaStoreConfig {
        budget_bytes: plan.store_bytes,
        budget_bytes_max: machine.map_or(0, |bytes| bytes / 100 * STORE_PERCENT),
        value_bytes_max: config.value_bytes_max,
        frequency_half_life_ms: config.frequency_half_life_ms,
        ..MokaStoreConfig::default()
    }
}

fn handoff_core(config: &NodeConfig, me: Peer) -> Result<HandoffCore, NodeError> {
    let handoff = HandoffConfig {
        transfer: config.transfer == Transfer::On,
        pull_deadline_ms: config.pull_deadline_ms,
        copy_age_ms_max: config.pull_deadline_ms.saturating_mul(10),
        ..HandoffConfig::default()
    };
    handoff.validate()?;
    Ok(HandoffCore::new(
        me,
        handoff,
        config.chunk_versions.unwrap_or(chunk::CHUNK_VERSIONS),
    ))
}

fn slicelet_config(config: &NodeConfig) -> SliceletConfig {
    SliceletConfig {
        heartbeat_interval_ms: config.heartbeat_ms,
        failure_timeout_ms: config.failure_timeout_ms,
        assigner_wait_ms: config.assigner_wait_ms,
        ..SliceletConfig::default()
    }
}

/// What the gRPC port bears. Other nodes get in when clients have taken all places: a node that drains gives to them.
fn limits(state: &NodeState) -> Limits {
    let config = &state.config;
    Limits {
        connections_max: listener::fitting(config.connections_max, PEERS_RESERVED),
        reserved: Some(Reserve {
            places: PEERS_RESERVED,
            path: "/softstore.v1.Transfer/",
        }),
        transit_bytes_max: state.memory.transit_bytes(),
        stall: Duration::from_millis(config.stall_ms_max),
    }
}

fn serve_grpc(
    state: &Arc<NodeState>,
    listener: TcpListener,
    stop: &CancellationToken,
    last_words: &TaskTracker,
) -> Result<(), NodeError> {
    let message_bytes_max = state.config.value_bytes_max + grpc::MESSAGE_BYTES_EXTRA;
    let cache = CacheServer::new(cache_service::CacheService(state.clone()))
        .max_decoding_message_size(message_bytes_max)
        .max_encoding_message_size(grpc::REPLY_BYTES_MAX);
    let transfer = TransferServer::new(transfer_service::TransferService(state.clone()))
        .max_decoding_message_size(message_bytes_max)
        .max_encoding_message_size(grpc::REPLY_BYTES_MAX);
    // Who belongs to another cluster is refused before its message is read.
    let (of_clients, of_peers) = (state.clone(), state.clone());
    let cache = InterceptedService::new(cache, move |request| of_clients.admit_client(request));
    let transfer = InterceptedService::new(transfer, move |request| of_peers.admit_peer(request));
    let (health, health_service) = tonic_health::server::health_reporter();
    let incoming = listener::incoming(
        listener,
        Protocol::Http2,
        limits(state),
        state.listeners.clone(),
        stop.clone(),
    );
    let counting = state.clone();
    let routes = grpc::server()
        .layer(Guard::new(message_bytes_max))
        .layer(MapResponseLayer::new(move |response: Response<Body>| {
            if grpc::is_refused_unread(response.headers()) {
                metrics::count(&counting.metrics.bad_requests);
            }
            response
        }))
        .add_service(cache)
        .add_service(transfer)
        .add_service(health_service)
        .add_service(grpc::reflection()?);
    let closing = state.closing.clone();
    state
        .tasks
        .spawn(report_health(state.clone(), health, stop.clone()));
    let stop = stop.clone();
    last_words.spawn(async move {
        let serving = routes.serve_with_incoming_shutdown(incoming, closing.cancelled_owned());
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the gRPC port has failed");
            },
            () = stop.cancelled() => {}
        }
    });
    Ok(())
}

/// Keeps the gRPC health service in step with readiness.
async fn report_health(
    state: Arc<NodeState>,
    health: tonic_health::server::HealthReporter,
    stop: CancellationToken,
) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let mut looks = tokio::time::interval(MAINTENANCE_INTERVAL);
    let mut told = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = stop.cancelled() => return,
            () = state.closing.cancelled() => return,
        }
        let ready = state.readiness().is_ok();
        if told != Some(ready) {
            told = Some(ready);
            let status = if ready { Serving } else { NotServing };
            health.set_service_status("", status).await;
            health.set_service_status("softstore.v1.Cache", status).await;
        }
    }
}

fn serve_http(
    state: &Arc<NodeState>,
    listener: TcpListener,
    stop: &CancellationToken,
) -> Result<(), NodeError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(metrics::NodeCollector(state.clone())));
    http::serve(
        listener,
        registry,
        state.clone(),
        state.listeners.clone(),
        &state.tasks,
        stop.clone(),
    )?;
    Ok(())
}

/// Ticks the core when it wants to be.
async fn keep_time(state: Arc<NodeState>, stop: CancellationToken) {
    let mut ticks = state.ticks();
    loop {
        let at = *ticks.borrow_and_update();
        let now = state.clock.now();
        let wait = Duration::from_millis(at.unwrap_or(Timestamp::NEVER).ms_since(now).min(3_600_000));
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.changed() => {}
            () = tokio::time::sleep(wait) => state.with_core(|core, now| ((), core.tick(now))),
        }
    }
}

/// The store's housekeeping.
async fn keep_house(state: Arc<NodeState>, stop: CancellationToken) {
    let mut rounds = tokio::time::interval(MAINTENANCE_INTERVAL);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = rounds.tick() => {}
        }
        let (store, now) = (state.store.clone(), state.clock.now());
        state.end_overflowed();
        // A panic there would be a bug of the store; the next round goes on all the same.
        let _ = tokio::task::spawn_blocking(move || store.maintain(now)).await;
    }
}
