//! Following assignments: one task that watches any node that answers, and another one when that is lost.
//!
//! Every node relays assignments, so any will do. Candidates are the living nodes of the newest assignment and the
//! seeds, in random order; each that does not answer within a short time is overtaken by the next, so a black hole
//! among them costs little. Seeds are names: they are resolved anew at each attempt.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rand::seq::SliceRandom;
use softstore_proto::v1;
use softstore_sharding::Generation;
use softstore_sharding::session::AssignmentUpdate;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::backoff::Backoff;
use crate::config::ClientConfig;
use crate::error::SeedFailure;
use crate::lane::{client_of, connect};
use crate::routing::Routing;

/// How long a candidate has before the next one is tried beside it.
const OVERTAKE_AFTER: Duration = Duration::from_millis(100);

/// What the task tells of its first attempts, for `connect()`'s error.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    state: Mutex<AttemptsState>,
}

#[derive(Debug, Default)]
struct AttemptsState {
    failures: Vec<SeedFailure>,
    rounds_failed: u64,
    reached: Option<String>,
}

impl Attempts {
    /// The failures of the newest round, if a whole round has failed.
    pub(crate) fn all_failed(&self) -> Option<Vec<SeedFailure>> {
        let state = self.state.lock();
        (state.rounds_failed > 0).then(|| state.failures.clone())
    }

    /// A node that answered.
    pub(crate) fn reached(&self) -> Option<String> {
        self.state.lock().reached.clone()
    }
}

/// The task. Ends when `stop` is cancelled.
pub(crate) async fn follow(
    routing: Arc<Routing>,
    config: Arc<ClientConfig>,
    attempts: Arc<Attempts>,
    stop: CancellationToken,
) {
    let ended = stop.cancelled();
    let following = async {
        let mut backoff = Backoff::CONNECT;
        loop {
            let Some((address, updates)) = open_any(&routing, &config, &attempts).await else {
                // Wakes who waits for a first assignment: the attempts say why there is none.
                routing.set_followed(false);
                tokio::time::sleep(backoff.pause()).await;
                continue;
            };
            attempts.state.lock().reached = Some(address.clone());
            routing.set_followed(routing.table().epoch() > 0);
            if take_updates(&routing, &config, &address, updates).await {
                backoff = Backoff::CONNECT;
            } else {
                tokio::time::sleep(backoff.pause()).await;
            }
            routing.set_followed(false);
        }
    };
    tokio::select! {
        () = ended => {}
        () = following => {}
    }
}

type Updates = Streaming<v1::AssignmentUpdate>;

/// Opens a watch on the first candidate that answers. `None`: none did.
async fn open_any(
    routing: &Routing,
    config: &ClientConfig,
    attempts: &Attempts,
) -> Option<(String, Updates)> {
    let (mut candidates, held) = {
        let table = routing.table();
        let nodes = table.addresses();
        let nodes = nodes.iter().map(|address| address.as_ref().to_owned());
        let candidates: Vec<String> = nodes.chain(config.seeds.iter().cloned()).collect();
        (candidates, table.generation())
    };
    candidates.sort_unstable();
    candidates.dedup();
    candidates.shuffle(&mut rand::rng());
    let mut failures = Vec::new();
    let mut candidates = candidates.into_iter();
    let mut opening = FuturesUnordered::new();
    loop {
        if let Some(address) = candidates.next() {
            opening.push(open(address, config, held));
        } else if opening.is_empty() {
            let mut state = attempts.state.lock();
            state.failures = failures;
            state.rounds_failed += 1;
            return None;
        }
        match tokio::time::timeout(OVERTAKE_AFTER, opening.next()).await {
            Ok(Some(Ok(opened))) => return Some(opened),
            Ok(Some(Err(failure))) => failures.push(failure),
            Ok(None) | Err(_) => {}
        }
    }
}

async fn open(
    address: String,
    config: &ClientConfig,
    held: Generation,
) -> Result<(String, Updates), SeedFailure> {
    let request = v1::WatchRequest {
        held: Some(held.into()),
    };
    let opening = async {
        let channel = connect(&address, config).await.map_err(|error| chain(&error))?;
        let watching = client_of(channel).watch(request).await;
        let response = watching.map_err(|status| {
            let (code, message) = (status.code(), status.message());
            format!("connected, but it does not answer as a softstore node: {code:?} {message}")
        })?;
        // Any HTTP/2 server answers something, and tonic leaves what it is to the first message.
        let kind = response.metadata().get("content-type");
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            Ok(response)
        } else {
            Err("it answers HTTP but no gRPC: is this a node's HTTP port?".to_owned())
        }
    };
    match tokio::time::timeout(config.connect_timeout() * 2, opening).await {
        Ok(Ok(response)) => Ok((address, response.into_inner())),
        Ok(Err(reason)) => Err(SeedFailure {
            seed: address,
            reason,
        }),
        Err(_) => Err(SeedFailure {
            reason: format!("no answer within {} ms", config.connect_timeout_ms * 2),
            seed: address,
        }),
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

/// Takes updates until the watch ends. Whether any came.
async fn take_updates(routing: &Routing, config: &ClientConfig, address: &str, mut updates: Updates) -> bool {
    let mut is_useful = false;
    loop {
        let message = if routing.table().epoch() == 0 {
            // Nothing to route by yet: another node may know more than this one.
            match tokio::time::timeout(config.connect_timeout(), updates.message()).await {
                Ok(message) => message,
                Err(_) => return false,
            }
        } else {
            updates.message().await
        };
        let update = match message {
            Ok(Some(update)) => AssignmentUpdate::try_from(update),
            Ok(None) => return is_useful,
            Err(status) => {
                tracing::debug!(address, %status, "the watch broke");
                return is_useful;
            }
        };
        let taken = match update {
            Ok(update) => routing.update(&update).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = taken {
            // A diff on an assignment that is not held: a new watch begins with a whole one.
            tracing::debug!(address, error, "an update was not taken");
            return false;
        }
        is_useful = true;
        routing.set_followed(true);
    }
}
