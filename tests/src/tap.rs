//! [`Tap`]: waits for events in the log of a process, so that a test acts in a phase of a hand-off instead of sleeping until
//! it may be there.
//!
//! It follows the file that the process logs to. A process that stands still, or cannot log any more, does not hold it up;
//! waiting for its next event is then bounded by the tests' patience.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::embedded::PATIENCE;

/// Between two looks at a log. Phases that a test holds open last a hundred times as long.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// One event: a line of JSON, flat (`--log-format json`).
pub type Event = Value;

/// The log of one process, as far as it is written.
#[derive(Debug)]
pub struct Tap {
    log: PathBuf,
    read_bytes: u64,
    unfinished: Vec<u8>,
    events: Vec<Event>,
}

impl Tap {
    /// Follows a log from its beginning.
    #[must_use]
    pub fn on(log: &Path) -> Self {
        Self {
            log: log.to_owned(),
            read_bytes: 0,
            unfinished: Vec::new(),
            events: Vec::new(),
        }
    }

    /// All events so far.
    pub fn events(&mut self) -> &[Event] {
        // A log that cannot be read has no events; who waits for one runs out of patience.
        let _ = self.read_on();
        &self.events
    }

    fn read_on(&mut self) -> std::io::Result<()> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.read_bytes))?;
        self.read_bytes += file.read_to_end(&mut self.unfinished)? as u64;
        while let Some(end) = self.unfinished.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            // What is no JSON (a panic's message, a line cut off by a full disk) is no event.
            self.events.extend(serde_json::from_slice::<Event>(&line));
        }
        Ok(())
    }

    /// How many events have this text.
    pub fn count(&mut self, text: &str) -> usize {
        self.events().iter().filter(|event| is(event, text)).count()
    }

    /// Waits until there are more than `seen` events of this text.
    ///
    /// # Panics
    /// When the tests' patience is over.
    pub async fn more_than(&mut self, seen: usize, text: &str) {
        self.wait(&[text], |events| events.len() > seen).await;
    }

    /// Waits for an event with this text and, in one of its fields, this name.
    ///
    /// # Panics
    /// When the tests' patience is over.
    pub async fn about(&mut self, text: &str, name: &str) {
        self.wait(&[text], |events| {
            events.iter().any(|event| event.to_string().contains(name))
        })
        .await;
    }

    async fn wait(&mut self, texts: &[&str], enough: impl Fn(&[&Event]) -> bool) {
        let begun = Instant::now();
        loop {
            let events = self.events().iter();
            let found: Vec<&Event> = events
                .filter(|event| texts.iter().any(|text| is(event, text)))
                .collect();
            if enough(&found) {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "not within {PATIENCE:?} in {}: {texts:?}",
                self.log.display()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn is(event: &Event, text: &str) -> bool {
    event["message"] == text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Plan: a log that grows by halves of lines and has a line that is no JSON in it. Events are found once their line is
    /// complete, each once, and the other line is passed over.
    #[tokio::test]
    async fn events_are_found_when_their_line_is_complete() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        let mut tap = Tap::on(log.path());
        write!(log, "{{\"message\":\"a\"}}\nno JSON\n{{\"message\":").unwrap();
        assert_eq!(tap.count("a"), 1);
        assert_eq!(tap.events().len(), 1);
        writeln!(log, "\"a\",\"who\":\"n1:7\"}}").unwrap();
        tap.more_than(1, "a").await;
        tap.about("a", "n1").await;
        assert_eq!(tap.count("a"), 2);
    }
}
