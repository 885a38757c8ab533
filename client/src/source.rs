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
use softstore_proto::v1;
use softstore_sharding::Generation;
use softstore_sharding::session::AssignmentUpdate;
use tonic::Streaming;

use crate::config::ClientConfig;
use crate::error::{ConnectError, SeedFailure};
use crate::lane::{client_of, connect};
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

/// The generation that an update leads to.
pub(crate) fn generation_of(update: &AssignmentUpdate) -> Generation {
    match update {
        AssignmentUpdate::Full(next) => next.generation(),
        AssignmentUpdate::Diff(diff) => diff.next,
    }
}

/// Opens a watch on the first candidate that knows at least what is held. If none does, on one that answers: it may learn
/// more. `None`: none answers.
pub(crate) async fn find(routing: &Routing, config: &ClientConfig, attempts: &Attempts) -> Option<Source> {
    let (candidates, held) = candidates(routing, config);
    let mut search = Search::new(candidates, held, config, Some(attempts));
    let mut behind = None;
    let mut failures = Vec::new();
    while let Some(found) = search.next().await {
        match found {
            Ok(source) if source.said.is_some() && source.knows() >= held => return Some(source),
            Ok(source) => behind = behind.or(Some(source)),
            Err(failure) => failures.push(failure),
        }
    }
    if behind.is_none() {
        attempts.failed(failures);
    }
    behind
}

/// Asks some nodes beside `present` what they know, and opens a watch on one that knows more than is held.
pub(crate) async fn find_newer(routing: &Routing, config: &ClientConfig, present: &str) -> Option<Source> {
    let (mut candidates, held) = candidates(routing, config);
    candidates.retain(|address| address != present);
    candidates.truncate(SECOND_OPINIONS_MAX);
    let mut search = Search::new(candidates, held, config, None);
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

type Opening<'a> = futures::future::BoxFuture<'a, Result<Source, SeedFailure>>;

/// Asks candidates, one after the other and the slow ones at once.
struct Search<'a> {
    candidates: std::vec::IntoIter<String>,
    held: Generation,
    config: &'a ClientConfig,
    attempts: Option<&'a Attempts>,
    opening: FuturesUnordered<Opening<'a>>,
}

impl<'a> Search<'a> {
    fn new(
        candidates: Vec<String>,
        held: Generation,
        config: &'a ClientConfig,
        attempts: Option<&'a Attempts>,
    ) -> Self {
        Self {
            candidates: candidates.into_iter(),
            held,
            config,
            attempts,
            opening: FuturesUnordered::new(),
        }
    }

    /// What became of a candidate. `None`: there are no more.
    async fn next(&mut self) -> Option<Result<Source, SeedFailure>> {
        loop {
            if let Some(address) = self.candidates.next() {
                let opening = open(address, self.config, self.held, self.attempts);
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
    config: &ClientConfig,
    held: Generation,
    attempts: Option<&Attempts>,
) -> Result<Source, SeedFailure> {
    let opened = tokio::time::timeout(config.connect_timeout() * 2, watch(&address, config, held)).await;
    let reason = match opened {
        Ok(Ok(updates)) => {
            let mut source = Source {
                address,
                updates,
                said: None,
            };
            match tokio::time::timeout(config.connect_timeout(), source.next()).await {
                Ok(Ok(said)) => source.said = Some(said),
                Ok(Err(_)) => {
                    return Err(SeedFailure {
                        seed: source.address,
                        reason: "it answers, but ends the watch".to_owned(),
                    });
                }
                Err(_) => {}
            }
            if let Some(attempts) = attempts {
                attempts.reached(&source.address);
            }
            return Ok(source);
        }
        Ok(Err(reason)) => reason,
        Err(_) => format!("no answer within {} ms", config.connect_timeout_ms * 2),
    };
    Err(SeedFailure {
        seed: address,
        reason,
    })
}

async fn watch(address: &str, config: &ClientConfig, held: Generation) -> Result<Updates, String> {
    let request = v1::WatchRequest {
        held: Some(held.into()),
    };
    let channel = connect(address, config).await.map_err(|error| chain(&error))?;
    let watching = client_of(channel).watch(request).await;
    let response = watching.map_err(|status| {
        let (code, message) = (status.code(), status.message());
        format!("connected, but it does not answer as a softstore node: {code:?} {message}")
    })?;
    // Any HTTP/2 server answers something, and tonic leaves what it is to the first message.
    let kind = response.metadata().get("content-type");
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        Ok(response.into_inner())
    } else {
        Err("it answers HTTP but no gRPC: is this a node's HTTP port?".to_owned())
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
