//! [`Fill`]: putting a loaded value into the cache, which nobody waits for.
//!
//! Its first attempt is queued before anybody has the value, so that what they ask next comes after it. The rest goes on in a
//! task of its own, bounded in time and, with all others of the client, in bytes ([`Filling`]): a cache that takes nothing
//! must not fill the application's memory.
//!
//! It is put there only if nothing is, and if no write of this client to the key began meanwhile: it never covers a newer
//! write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::Client;
use crate::error::{Cause, WriteError};
use crate::load::Leader;
use crate::operation::{Course, Operation, Started};
use crate::options::SetOptions;

/// How long it is tried, at most. So old may be what callers that miss are handed meanwhile.
const FILL_TIME_MAX: Duration = Duration::from_secs(1);

/// How much of one client's values may be on its way at once, in KiB. A value counts as one at least.
const FILLING_KIB_MAX: usize = 64 << 10;

/// How much is on its way.
#[derive(Debug)]
pub(crate) struct Filling(Arc<Semaphore>);

impl Default for Filling {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FILLING_KIB_MAX)))
    }
}

impl Filling {
    /// Room for a value; none if too much is on its way.
    fn enter(&self, value_bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = value_bytes.div_ceil(1 << 10).clamp(1, FILLING_KIB_MAX);
        let kib = u32::try_from(kib).expect("below the limit");
        self.0.clone().try_acquire_many_owned(kib).ok()
    }
}

/// A value on its way into the cache.
#[derive(Debug)]
pub(crate) struct Fill {
    operation: Operation,
    /// The first attempt.
    started: Started,
    _room: OwnedSemaphorePermit,
}

/// Why an attempt has no successor.
enum End {
    /// It was tried to the end.
    Tried(Result<(), WriteError>),
    /// There may be something newer, or have been.
    Skipped,
}

impl Fill {
    /// Queues the first attempt. `None`: it is not to be put there, or cannot be.
    pub(crate) fn begin(
        client: &Client,
        leader: &Leader,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Option<Self> {
        let counters = &client.shared.counters;
        let Some(room) = client.shared.flights.0.filling.enter(value.len()) else {
            counters.fills_failed.one();
            return None;
        };
        let mut options = SetOptions::new().if_absent();
        options.ttl = ttl;
        let mut operation = match client.set_operation(leader.key.clone(), value, options) {
            Ok(operation) => operation,
            Err(error) => {
                end(client, End::Tried(Err(error)));
                return None;
            }
        };
        operation.op.fill = true;
        operation.deadline = operation.deadline.min(Instant::now() + FILL_TIME_MAX);
        let Some(started) = start(client, leader, &operation) else {
            end(client, End::Skipped);
            return None;
        };
        Some(Self {
            operation,
            started,
            _room: room,
        })
    }

    /// Sees it to its end, with which the flight ends, too.
    pub(crate) async fn finish(self, client: Client, leader: Leader) {
        let operator = &client.shared.operator;
        let mut course = Course::default();
        let mut started = self.started;
        let ended = loop {
            match operator.once(&self.operation, started, &mut course).await {
                // The former owner may have something newer and cannot be asked now: whoever misses next, loads again.
                Ok(None) if course.last() == Some(Cause::NotReady) => break End::Skipped,
                Ok(None) => match start(&client, &leader, &self.operation) {
                    Some(again) => started = again,
                    None => break End::Skipped,
                },
                ended => {
                    let wrote = client.wrote(ended.map(Option::unwrap_or_default));
                    break End::Tried(wrote.map(drop));
                }
            }
        };
        end(&client, ended);
    }
}

/// Queues an attempt, unless this client wrote the key since the load began. An own write that begins after this goes the
/// same way, and so comes after it.
fn start(client: &Client, leader: &Leader, operation: &Operation) -> Option<Started> {
    leader.unless_detached(|| client.shared.operator.start(operation))
}

fn end(client: &Client, end: End) {
    let counters = &client.shared.counters;
    match end {
        End::Tried(Ok(())) => {}
        End::Skipped => counters.fills_skipped.one(),
        End::Tried(Err(error)) => {
            counters.fills_failed.one();
            tracing::debug!(%error, "a loaded value was not put into the cache");
        }
    }
}
