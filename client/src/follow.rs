//! Following assignments: one task that watches a node, and another one when that is lost or falls behind.
//!
//! The client counts as *following* ([`Routing::is_followed`]) once its source has said that it knows at least what the
//! client holds. A source may fall behind later, if it is cut off from the Assigner and does not know. So while owners are
//! out of reach, other nodes are asked beside it, and the one that knows more becomes the source.
//!
//! A client stays with the founding of the first assignment that it took: a node of another one is no source, wherever an address
//! leads now. Only if nobody of that founding has answered for a while, and all seeds that answer agree on another one, it
//! begins anew with that.
//!
//! That nobody is to be followed is logged when it begins, every minute while it lasts, and when it ends ([`Tidings`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use softstore_sharding::Generation;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::{ClientConfig, whole_ms};
use crate::routing::Routing;
use crate::source::{Attempts, Found, Source, SourceEnd, find, find_newer, generation_of};

/// After so long without an owner out of reach, the next one is as urgent as the first.
const DOUBT_ENDS_AFTER: Duration = Duration::from_secs(20);

/// When no node of the founding that is followed has answered for so long, and all seeds that answer agree on another one, the
/// client follows that: its cluster was founded anew.
const FOLLOWED_ANEW_AFTER: Duration = Duration::from_secs(3);

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
        let mut tidings = Tidings::default();
        let mut heard = Instant::now();
        loop {
            let source = match find(&routing, &config, &attempts).await {
                Found::Source(source) => source,
                Found::Nobody { elsewhere } => {
                    if let Some(founding) = elsewhere
                        && heard.elapsed() >= FOLLOWED_ANEW_AFTER
                    {
                        let former = routing.cluster();
                        tracing::warn!(
                            %former, %founding,
                            "all seeds that answer are of another founding: following that, and forgetting the former one"
                        );
                        routing.forget_cluster();
                        continue;
                    }
                    // Wakes who waits for a first assignment: the attempts say why there is none.
                    routing.set_followed(false);
                    tidings.nobody(&routing, &config, &attempts);
                    tokio::time::sleep(backoff.pause()).await;
                    continue;
                }
            };
            if take_updates(&routing, &config, source, &mut tidings).await {
                heard = Instant::now();
                backoff = Backoff::CONNECT;
                routing.set_followed(false);
            } else {
                routing.set_followed(false);
                tidings.nobody(&routing, &config, &attempts);
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    };
    tokio::select! {
        () = ended => {}
        () = following => {}
    }
}

/// Takes updates, changing to another source if that knows more, until the watch ends. Whether any came.
async fn take_updates(
    routing: &Routing,
    config: &ClientConfig,
    mut source: Source,
    tidings: &mut Tidings,
) -> bool {
    let mut is_useful = false;
    let mut doubts = Doubts::new(routing);
    loop {
        let present = source.address.clone();
        let update = tokio::select! {
            update = source.next() => update,
            newer = doubts.find_newer(config, &present) => {
                tracing::debug!(from = present, to = newer.address, "another node knows a newer assignment");
                source = newer;
                continue;
            }
            // Nothing to route by yet: another node may know more than this one.
            () = tokio::time::sleep(config.connect_timeout()), if routing.table().generation() == Generation::NONE => return false,
        };
        let update = match update {
            Ok(update) => update,
            Err(SourceEnd::Lost) => return is_useful,
            Err(SourceEnd::Malformed) => return false,
        };
        if let Err(error) = routing.update(&update) {
            // A diff on an assignment that is not held: a new watch begins with a whole one.
            tracing::debug!(address = source.address, %error, "an update was not taken");
            return false;
        }
        is_useful = true;
        if generation_of(&update) >= routing.table().generation() {
            routing.set_followed(true);
            tidings.found(&source.address);
        }
    }
}

/// Between two lines that say that nobody is to be followed still.
const REMIND: Duration = Duration::from_secs(60);

/// What the log is told: that nobody is to be followed, once the cluster counts as absent or was never there; that it is still so;
/// and the end of it.
#[derive(Debug, Default)]
struct Tidings {
    told: Option<Instant>,
}

impl Tidings {
    fn nobody(&mut self, routing: &Routing, config: &ClientConfig, attempts: &Attempts) {
        let was_never_there = routing.table().epoch() == 0;
        let is_due = self.told.is_none_or(|told| told.elapsed() >= REMIND);
        if !is_due || !(was_never_there || routing.is_absent()) {
            return;
        }
        self.told = Some(Instant::now());
        let lost_ms = routing.lost_for().map_or(0, whole_ms);
        let why = attempts.why(config, lost_ms);
        tracing::warn!(
            %why,
            "the cache is not there: until it is, reads that find no owner are misses and writes are not applied"
        );
    }

    fn found(&mut self, address: &str) {
        if self.told.take().is_some() {
            tracing::info!(address, "the cache is there");
        }
    }
}

/// Whether the source knows where everything is: not if operations keep meeting owners that are out of reach.
struct Doubts<'a> {
    routing: &'a Routing,
    backoff: Backoff,
    /// The snapshot that the backoff is about.
    epoch: u64,
    /// When the newest doubt arose.
    last: Instant,
}

impl<'a> Doubts<'a> {
    fn new(routing: &'a Routing) -> Self {
        Self {
            routing,
            backoff: Backoff::DOUBT,
            epoch: routing.table().epoch(),
            last: Instant::now(),
        }
    }

    /// Waits until there is a source that knows more than is held, looking for one while there is doubt.
    async fn find_newer(&mut self, config: &ClientConfig, present: &str) -> Source {
        loop {
            self.routing.owner_out_of_reach().await;
            let epoch = self.routing.table().epoch();
            if epoch != self.epoch || self.last.elapsed() > DOUBT_ENDS_AFTER {
                self.epoch = epoch;
                self.backoff = Backoff::DOUBT;
            }
            self.last = Instant::now();
            tokio::time::sleep(self.backoff.pause()).await;
            // An owner that has just died is out of reach until an assignment says who follows it: perhaps this one did.
            if self.routing.table().epoch() == epoch
                && let Some(source) = find_newer(self.routing, config, present).await
            {
                return source;
            }
        }
    }
}
