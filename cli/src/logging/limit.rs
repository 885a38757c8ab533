//! [`LineLimit`]: whatever floods a process, it logs so many lines a minute and no more. Each place in the code that logs has a
//! budget of its own, so that a flood of one kind hides no other; what is left out is counted with the lines that are lost.
//!
//! What an operator asks for with `--log debug` or `trace` is not limited: only what is on by default.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use softstore_server::log_queue::stderr;
use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in the code within a [`WINDOW`]. A large cluster's start and restarts stay below.
const LINES_PER_WINDOW: u32 = 300;

/// What they are counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// A layer that leaves out what is too much.
#[derive(Debug, Default)]
pub(super) struct LineLimit(Mutex<HashMap<Identifier, Count>>);

/// The lines of one place.
#[derive(Debug, Clone, Copy)]
struct Count {
    since: Instant,
    lines: u32,
}

impl LineLimit {
    /// Whether a place may log another line at `now`. The places are those of the code: their number is bounded.
    fn admits(&self, place: Identifier, now: Instant) -> bool {
        let Ok(mut counts) = self.0.lock() else {
            return true;
        };
        let begun = Count { since: now, lines: 0 };
        let count = counts.entry(place).or_insert(begun);
        if now.duration_since(count.since) >= WINDOW {
            *count = begun;
        }
        count.lines += 1;
        count.lines <= LINES_PER_WINDOW
    }
}

impl<S: Subscriber> Layer<S> for LineLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let is_admitted = *metadata.level() > Level::INFO || self.admits(metadata.callsite(), Instant::now());
        if !is_admitted {
            stderr().line_lost();
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use tracing::Metadata;
    use tracing::callsite::Callsite;
    use tracing::subscriber::Interest;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Lines, as they are written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Plan: a flood from one place, and one line from another. The flood is cut off, the other line is there, what is missing is
    /// counted; debug lines are all there.
    #[test]
    fn a_flood_of_one_kind_is_bounded_and_hides_no_other() {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(move || written.clone())
            .finish()
            .with(LineLimit::default());
        let before = stderr().lines_lost();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..LINES_PER_WINDOW + 50 {
                tracing::warn!("flood");
                tracing::debug!("asked for");
            }
            tracing::info!("other");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let count = |word: &str| text.lines().filter(|line| line.contains(word)).count();
        assert_eq!(count("flood"), LINES_PER_WINDOW as usize);
        assert_eq!(count("asked for"), LINES_PER_WINDOW as usize + 50);
        assert_eq!(count("other"), 1);
        assert_eq!(stderr().lines_lost() - before, 50);
    }

    /// A place in the code that logs.
    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("nobody asks this place what it logs")
        }
    }

    #[test]
    fn the_next_window_has_lines_again() {
        static PLACE: Place = Place;
        let (limit, now) = (LineLimit::default(), Instant::now());
        let admitted = (0..2 * LINES_PER_WINDOW).filter(|_| limit.admits(Identifier(&PLACE), now));
        assert_eq!(admitted.count(), LINES_PER_WINDOW as usize);
        assert!(limit.admits(Identifier(&PLACE), now + WINDOW));
    }
}
