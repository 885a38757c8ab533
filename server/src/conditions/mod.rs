//! [`Conditions`]: what a person needs to know about a process, for as long as it is so: no Assigner can be reached, a name does
//! not resolve, the lease is over, a peer floods it with nonsense. Each is said in the log once when it begins, again every
//! [`REMIND_MS`] while it lasts, and when it ends; whatever happens, a kind has at most 12
//! lines a minute (`spells.rs`). `/readyz`, `/metrics` and, through the heartbeats, `softstore status` tell which are on.
//!
//! ```text
//!   whoever notices --observe, clear--> Spells (kind.rs says of each kind what it means, when it counts and how it ends)
//!                                         | tick
//!                                         v
//!                                       log lines, from a task of its own: so conditions may be noticed under any lock
//! ```
//!
//! A new kind is a variant of [`Kind`] with its row in `kind.rs`, and a line in `docs/operations.md`.
//!
//! Not here: what is done about a condition, and events that stand for themselves (`events`).

mod kind;
mod spells;

use std::time::Duration;

use parking_lot::Mutex;
use softstore_sharding::session::CONDITIONS_MAX;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use kind::Kind;
pub use spells::{On, REMIND_MS};
use spells::{Spells, Stage, Telling};

use crate::clock::Clock;
use crate::readings::encode_labelled;

/// Between two looks at what has begun, lasts, or is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The conditions of one node or Assigner.
#[derive(Debug, Default)]
pub struct Conditions {
    spells: Mutex<Spells>,
    /// Something was noticed that may have to be told at once.
    changed: Notify,
}

impl Conditions {
    /// It is so: with whom (a node, an address; empty if that says nothing), and why, in words.
    pub fn observe(&self, kind: Kind, about: &str, why: impl std::fmt::Display) {
        self.observe_times(kind, about, 1, why);
    }

    /// The same for what happened so many times.
    pub fn observe_times(&self, kind: Kind, about: &str, times: u64, why: impl std::fmt::Display) {
        let why = why.to_string();
        let is_new = self.spells.lock().observe(kind, about, times, why, Clock.now());
        if is_new {
            self.changed.notify_one();
        }
    }

    /// It is so no more.
    pub fn clear(&self, kind: Kind, about: &str) {
        if self.spells.lock().clear(kind, about, Clock.now()) {
            self.changed.notify_one();
        }
    }

    /// What is on, longest first.
    pub fn on(&self) -> Vec<On> {
        self.spells.lock().on(Clock.now())
    }

    /// What is on, a line each, as a heartbeat and a status tell it: the longest first, and no more than those may have.
    pub fn lines(&self) -> Vec<String> {
        let on = self.on();
        on.iter().take(CONDITIONS_MAX).map(ToString::to_string).collect()
    }

    /// Tells what begins, lasts and ends in the log, until `stop`. `look` notices what nobody else does, as counters that grow.
    pub async fn tell(&self, stop: CancellationToken, mut look: impl FnMut()) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.changed.notified() => {}
                _ = looks.tick() => look(),
            }
            self.tell_now();
        }
        self.tell_now();
    }

    fn tell_now(&self) {
        let tellings = self.spells.lock().tick(Clock.now());
        tellings.iter().for_each(log);
    }

    /// How many of each kind are on, as metrics.
    pub(crate) fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let on = self.on();
        let counts = Kind::ALL.map(|kind| {
            let of_kind = on.iter().filter(|condition| condition.kind == kind);
            (kind.name(), of_kind.count() as u64)
        });
        encode_labelled(
            "softstore_condition",
            "What a person needs to know: how many of this kind are on",
            "condition",
            &counts,
            encoder,
        )
    }
}

fn log(telling: &Telling) {
    let Telling {
        kind,
        about,
        why,
        stage,
        times,
        left_out,
    } = telling;
    let (condition, about) = (kind.name(), about.as_str());
    match *stage {
        Stage::Begins => tracing::warn!(condition, about, why, left_out, "{}", kind.words()),
        Stage::Lasts { for_ms } => {
            tracing::warn!(
                condition,
                about,
                why,
                for_ms,
                times,
                left_out,
                "still: {}",
                kind.words()
            );
        }
        Stage::Ends { after_ms } => {
            tracing::info!(
                condition,
                about,
                after_ms,
                times,
                left_out,
                "{}",
                kind.words_of_end()
            );
        }
    }
}
