//! [`Source`]: a watch on a node that knows as much as this client, and how one is found.
//!
//! Every node relays assignments, so any will do. Candidates are the living nodes of the newest assignment and the
//! seeds, in random order; each that does not say what it knows within a short time is overtaken by the next, so a black
//! hole among them costs little, and so does a node that is behind: it has nothing to say yet to who holds more. Seeds are
//! names: they are resolved anew at each attempt.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use softstore_proto::identity::refused_by;
use softstore_proto::v1;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{ClusterId, Founding, Generation};
use tonic::Streaming;

use crate::config::ClientConfig;
use crate::error::{ConnectError, SeedFailure};
use crate::lane::{client_of, connect, declared};
use crate::routing::Routing;

/// How long a candidate has before the next one is tried beside it.
const OVERTAKE_AFTER: Duration = Duration::from_millis(100);

/// Most nodes that are asked in one search for one that knows more than the present source.
const SECOND_OPINIONS_MAX: usize = 3;

/// What came of the newest attempts to find a node that tells where everything is: why there is none.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    state: Mutex<AttemptsState>,
}

#[derive(Debug, Default)]
struct AttemptsState {
    /// Of the newest round in which nobody answered.
    failures: Option<Vec<SeedFailure>>,
    /// Who has answered since.
    reached: Option<String>,
}

impl Attempts {
    /// The failures of the newest round, if nobody has answered in it or since.
    pub(crate) fn all_failed(&self) -> Option<Vec<SeedFailure>> {
        let state = self.state.lock();
        state.failures.clone().filter(|_| state.reached.is_none())
    }

    /// Why no node tells where everything is, after `waited_ms`.
    pub(crate) fn why(&self, config: &ClientConfig, waited_ms: u64) -> ConnectError {
        let state = self.state.lock();
        match (&state.reached, &state.failures) {
            (Some(seed), _) => ConnectError::NoAssignment {
                seed: seed.clone(),
                waited_ms,
            },
            (None, Some(failures)) => ConnectError::Unreachable(failures.clone()),
            (None, None) => ConnectError::Unreachable(unanswered(config, waited_ms)),
        }
    }

    fn reached(&self, address: &str) {
        self.state.lock().reached = Some(address.to_owned());
    }

    fn failed(&self, failures: Vec<SeedFailure>) {
        *self.state.lock() = AttemptsState {
            failures: Some(failures),
            reached: None,
        };
    }
}

/// Before the end of the first round: some seeds may have failed, but not all have, so of each no more is known than that it
/// has not answered.
fn unanswered(config: &ClientConfig, waited_ms: u64) -> Vec<SeedFailure> {
    let failure = |seed: &String| SeedFailure {
        seed: seed.clone(),
        reason: format!("no answer within {waited_ms} ms"),
    };
    config.seeds.iter().map(failure).collect()
}

type Updates = Streaming<v1::AssignmentUpdate>;

/// A watch on one node.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where the node listens.
    pub(crate) address: String,
    updates: Updates,
    /// What it said already, and was not taken yet.
    said: Option<AssignmentUpdate>,
}

/// Why a source has no next update.
#[derive(Debug)]
pub(crate) enum SourceEnd {
    /// The watch ended or broke.
    Lost,
    /// What it said cannot be understood.
    Malformed,
}

impl Source {
    /// The next update. Loses nothing when dropped half-way.
    pub(crate) async fn next(&mut self) -> Result<AssignmentUpdate, SourceEnd> {
        if let Some(said) = self.said.take() {
            return Ok(said);
        }
        let address = &self.address;
        match self.updates.message().await {
            Ok(Some(update)) => AssignmentUpdate::try_from(update).map_err(|error| {
                tracing::debug!(address, %error, "an update cannot be understood");
                SourceEnd::Malformed
            }),
            Ok(None) => Err(SourceEnd::Lost),
            Err(status) => {
                tracing::debug!(address, %status, "the watch broke");
                Err(SourceEnd::Lost)
            }
        }
    }

    /// What the node knows, as far as it has said so.
    fn knows(&self) -> Generation {
        self.said.as_ref().map_or(Generation::NONE, generation_of)
    }
}

/// The founding that an update is of.
fn founding_of(update: &AssignmentUpdate) -> Option<Founding> {
    match update {
        AssignmentUpdate::Full(next) => next.founding(),
        AssignmentUpdate::Diff(diff) => diff.founding,
    }
}

/// The generation that an update leads to.
pub(crate) fn generation_of(update: &AssignmentUpdate) -> Generation {
    match update {
        AssignmentUpdate::Full(next) => next.generation(),
        AssignmentUpdate::Diff(diff) => diff.next,
    }
}

/// What became of a search.
#[derive(Debug)]
pub(crate) enum Found {
    /// A watch.
    Source(Source),
    /// No node of the cluster that is followed answers.
    Nobody {
        /// All seeds that answer are of this founding instead.
        elsewhere: Option<Founding>,
    },
}

/// Why a candidate is not watched.
#[derive(Debug)]
struct Failure {
    told: SeedFailure,
    /// It answered, and is of this cluster, which is another one.
    foreign: Option<ClusterId>,
}

impl Failure {
    fn new(seed: String, reason: String) -> Self {
        Self {
            told: SeedFailure { seed, reason },
            foreign: None,
        }
    }
}

/// The founding on which all seeds agree that answer, if that is not the one that is followed.
fn agreed_elsewhere(failures: &[Failure], config: &ClientConfig) -> Option<Founding> {
    let of_seeds = failures
        .iter()
        .filter(|failure| config.seeds.contains(&failure.told.seed));
    let mut foreign = of_seeds.filter_map(|failure| failure.foreign.as_ref());
    let is_named = |cluster: &&ClusterId| config.cluster.is_none() || cluster.name == config.cluster;
    let first = foreign.next().filter(is_named)?.founding?;
    foreign
        .all(|cluster| is_named(&cluster) && cluster.founding == Some(first))
        .then_some(first)
}

/// Opens a watch on the first candidate that knows at least what is held. If none does, on one that answers: it may learn
/// more.
pub(crate) async fn find(routing: &Routing, config: &ClientConfig, attempts: &Attempts) -> Found {
    let (candidates, held) = candidates(routing, config);
    let mut search = Search::new(candidates, held, routing, config, Some(attempts));
    let mut behind = None;
    let mut failures = Vec::new();
    while let Some(found) = search.next().await {
        match found {
            Ok(source) if source.said.is_some() && source.knows() >= held => return Found::Source(source),
            Ok(source) => behind = behind.or(Some(source)),
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(behind) = behind {
        return Found::Source(behind);
    }
    let elsewhere = agreed_elsewhere(&failures, config);
    attempts.failed(failures.into_iter().map(|failure| failure.told).collect());
    Found::Nobody { elsewhere }
}

/// Asks some nodes beside `present` what they know, and opens a watch on one that knows more than is held.
pub(crate) async fn find_newer(routing: &Routing, config: &ClientConfig, present: &str) -> Option<Source> {
    let (mut candidates, held) = candidates(routing, config);
    candidates.retain(|address| address != present);
    candidates.truncate(SECOND_OPINIONS_MAX);
    let mut search = Search::new(candidates, held, routing, config, None);
    while let Some(found) = search.next().await {
        match found {
            // More may have been learnt meanwhile.
            Ok(source) if source.knows() > routing.table().generation() => return Some(source),
            Ok(_) | Err(_) => {}
        }
    }
    None
}

/// Who may be watched, in random order, and the newest generation held.
fn candidates(routing: &Routing, config: &ClientConfig) -> (Vec<String>, Generation) {
    let table = routing.table();
    let nodes = table.addresses();
    let nodes = nodes.iter().map(|address| address.as_ref().to_owned());
    let mut candidates: Vec<String> = nodes.chain(config.seeds.iter().cloned()).collect();
    candidates.sort_unstable();
    candidates.dedup();
    candidates.shuffle(&mut rand::rng());
    (candidates, table.generation())
}

type Opening<'a> = futures::future::BoxFuture<'a, Result<Source, Failure>>;

/// Asks candidates, one after the other and the slow ones at once.
struct Search<'a> {
    candidates: std::vec::IntoIter<String>,
    held: Generation,
    routing: &'a Routing,
    config: &'a ClientConfig,
    attempts: Option<&'a Attempts>,
    opening: FuturesUnordered<Opening<'a>>,
}

impl<'a> Search<'a> {
    fn new(
        candidates: Vec<String>,
        held: Generation,
        routing: &'a Routing,
        config: &'a ClientConfig,
        attempts: Option<&'a Attempts>,
    ) -> Self {
        Self {
            candidates: candidates.into_iter(),
            held,
            routing,
            config,
            attempts,
            opening: FuturesUnordered::new(),
        }
    }

    /// What became of a candidate. `None`: there are no more.
    async fn next(&mut self) -> Option<Result<Source, Failure>> {
        loop {
            if let Some(address) = self.candidates.next() {
                let opening = open(address, self.routing, self.config, self.held, self.attempts);
                self.opening.push(Box::pin(opening));
            } else if self.opening.is_empty() {
                return None;
            }
            if let Ok(Some(found)) = tokio::time::timeout(OVERTAKE_AFTER, self.opening.next()).await {
                return Some(found);
            }
        }
    }
}

/// Opens a watch, and waits a little for what the node has to say.
async fn open(
    address: String,
    routing: &Routing,
    config: &ClientConfig,
    held: Generation,
    attempts: Option<&Attempts>,
) -> Result<Source, Failure> {
    let cluster = routing.cluster();
    let watching = watch(&address, &cluster, config, held);
    let opened = tokio::time::timeout(config.connect_timeout() * 2, watching).await;
    let updates = match opened {
        Ok(Ok(updates)) => updates,
        Ok(Err(WatchError { reason, foreign })) => {
            if foreign.is_some() {
                routing.count_foreign();
            }
            let told = SeedFailure {
                seed: address,
                reason,
            };
            return Err(Failure { told, foreign });
        }
        Err(_) => {
            let reason = format!("no answer within {} ms", config.connect_timeout_ms * 2);
            return Err(Failure::new(address, reason));
        }
    };
    let mut source = Source {
        address,
        updates,
        said: None,
    };
    match tokio::time::timeout(config.connect_timeout(), source.next()).await {
        Ok(Ok(said)) if !routing.is_ours(&said) => {
            let reason = "it is of another cluster, by the assignment that it holds".to_owned();
            let told = SeedFailure {
                seed: source.address,
                reason,
            };
            let founding = founding_of(&said);
            let name = cluster.name;
            return Err(Failure {
                told,
                foreign: Some(ClusterId { name, founding }),
            });
        }
        Ok(Ok(said)) => source.said = Some(said),
        Ok(Err(_)) => {
            let reason = "it answers, but ends the watch".to_owned();
            return Err(Failure::new(source.address, reason));
        }
        Err(_) => {}
    }
    if let Some(attempts) = attempts {
        attempts.reached(&source.address);
    }
    Ok(source)
}

/// Why there is no watch.
struct WatchError {
    reason: String,
    /// The node is of this cluster, which is another one.
    foreign: Option<ClusterId>,
}

impl From<String> for WatchError {
    fn from(reason: String) -> Self {
        let foreign = None;
        Self { reason, foreign }
    }
}

async fn watch(
    address: &str,
    cluster: &ClusterId,
    config: &ClientConfig,
    held: Generation,
) -> Result<Updates, WatchError> {
    let request = v1::WatchRequest {
        held: Some(held.into()),
    };
    let channel = connect(address, config).await.map_err(|error| chain(&error))?;
    let watching = client_of(channel).watch(declared(request, cluster)).await;
    let response = watching.map_err(|status| match refused_by(&status) {
        Some(theirs) => WatchError {
            reason: format!("it is a node of another cluster: {theirs}"),
            foreign: Some(theirs),
        },
        None => {
            let (code, message) = (status.code(), status.message());
            WatchError::from(format!(
                "connected, but it does not answer as a softstore node: {code:?} {message}"
            ))
        }
    })?;
    // Any HTTP/2 server answers something, and tonic leaves what it is to the first message.
    let kind = response.metadata().get("content-type");
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        Ok(response.into_inner())
    } else {
        let reason = "it answers HTTP but no gRPC: is this a node's HTTP port?";
        Err(WatchError::from(reason.to_owned()))
    }
}

/// An error with its causes: tonic's own says "transport error" only.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
