//! [`StateFile`]: what an Assigner remembers on disk, in a directory of its own: its cluster's founding, and the highest
//! generation that it gave out. So one that starts again, whoever comes first, founds no second cluster.
//!
//! It is small, and lags behind by up to [`WRITE_INTERVAL`]: generations grow by the clock as well. It is replaced as a whole
//! (written beside, synced, renamed), by a task of its own that nothing waits for.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use softstore_sharding::generation::GENERATION_NUMBER_MAX;
use softstore_sharding::{ClusterName, Founding, Generation, Incarnation};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::metrics::AssignerMetrics;

/// Its name in the directory.
const FILE: &str = "assigner-state";

/// What it is called while it is written.
const FILE_BEING_WRITTEN: &str = "assigner-state.new";

/// The first line: what this is, and the version of its format.
const HEAD: &str = "softstore assigner state 1";

/// More bytes than any state has.
const BYTES_MAX: u64 = 4_096;

/// Shortest time between two writes.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// What is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    /// The cluster's name.
    pub(super) cluster: ClusterName,
    /// Its founding.
    pub(super) founding: Founding,
    /// The highest generation given out.
    pub(super) generation: Generation,
}

/// Why what an Assigner remembers is of no use to it. It does not start: what it might found would be a second cluster.
#[derive(Debug, Error)]
pub enum StateFileError {
    /// The directory or the file cannot be read or made.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is damaged, or of another build.
    #[error(
        "{path} is no state of an Assigner that this build can read ({why}). If nodes of the cluster run, remove it: the Assigner \
         learns its founding from them"
    )]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// It is of another cluster.
    #[error(
        "{path} is the state of the cluster {theirs}, and this Assigner is of {ours}: mend --cluster or --state-dir"
    )]
    OtherCluster {
        /// Which.
        path: PathBuf,
        /// The cluster in the file.
        theirs: ClusterName,
        /// The configured one.
        ours: ClusterName,
    },
}

impl State {
    fn to_text(&self) -> String {
        let Generation { number, assigner } = self.generation;
        format!(
            "{HEAD}\ncluster {}\nfounding {}\ngeneration {number} {:x}\n",
            self.cluster,
            self.founding,
            assigner.get()
        )
    }

    fn of_text(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return Err("its first line says something else");
        }
        let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name));
        let cluster = field("cluster ").and_then(|name| name.parse().ok());
        let founding = field("founding ").and_then(|founding| founding.parse().ok());
        let generation = field("generation ").and_then(|said| {
            let (number, assigner) = said.split_once(' ')?;
            let number = number
                .parse()
                .ok()
                .filter(|number| *number <= GENERATION_NUMBER_MAX)?;
            let assigner = Incarnation::new(u64::from_str_radix(assigner, 16).ok()?);
            Some(Generation { number, assigner })
        });
        Ok(Self {
            cluster: cluster.ok_or("no cluster's name")?,
            founding: founding.ok_or("no founding")?,
            generation: generation.ok_or("no generation")?,
        })
    }
}

/// A directory's state file.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    directory: PathBuf,
}

impl StateFile {
    /// The one of a directory, which is made if it is not there.
    pub(super) fn in_directory(directory: &Path) -> Result<Self, StateFileError> {
        std::fs::create_dir_all(directory).map_err(|error| StateFileError::Io {
            path: directory.to_owned(),
            error,
        })?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// What was remembered; none if there is no file yet.
    pub(super) fn read(&self, ours: &ClusterName) -> Result<Option<State>, StateFileError> {
        let path = self.directory.join(FILE);
        let io = |error| StateFileError::Io {
            path: path.clone(),
            error,
        };
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.map_err(io)?.len(),
        };
        let malformed = |why| StateFileError::Malformed {
            path: path.clone(),
            why,
        };
        if bytes > BYTES_MAX {
            return Err(malformed("it is too long"));
        }
        let text = std::fs::read(&path).map_err(io)?;
        let text = String::from_utf8(text).map_err(|_| malformed("it is no text"))?;
        let state = State::of_text(&text).map_err(malformed)?;
        if state.cluster != *ours {
            let (theirs, ours) = (state.cluster, ours.clone());
            return Err(StateFileError::OtherCluster { path, theirs, ours });
        }
        Ok(Some(state))
    }

    fn write(&self, state: &State) -> std::io::Result<()> {
        let beside = self.directory.join(FILE_BEING_WRITTEN);
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(state.to_text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, self.directory.join(FILE))?;
        // The rename itself is safe once the directory is.
        std::fs::File::open(&self.directory)?.sync_all()
    }

    /// Writes what is to be remembered whenever that has changed, and once more at the end.
    pub(super) async fn keep(
        self,
        mut states: watch::Receiver<Option<State>>,
        metrics: Arc<AssignerMetrics>,
        stop: CancellationToken,
    ) {
        let mut fails = false;
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                changed = states.changed() => is_last = changed.is_err(),
                () = stop.cancelled() => is_last = true,
            }
            let Some(state) = states.borrow_and_update().clone() else {
                continue;
            };
            let file = self.clone();
            let written = tokio::task::spawn_blocking(move || file.write(&state)).await;
            match written {
                Ok(Ok(())) => {
                    if std::mem::take(&mut fails) {
                        tracing::info!(directory = %self.directory.display(), "the state is written again");
                    }
                }
                Ok(Err(error)) => {
                    metrics.state_write_failed();
                    if !std::mem::replace(&mut fails, true) {
                        tracing::error!(
                            directory = %self.directory.display(), %error,
                            "the state cannot be written: the cluster goes on, and the next Assigner asks its nodes"
                        );
                    }
                }
                Err(error) => tracing::error!(%error, "writing the state broke off"),
            }
            if !is_last {
                tokio::select! {
                    () = tokio::time::sleep(WRITE_INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(number: u64) -> State {
        State {
            cluster: ClusterName::new("prod").unwrap(),
            founding: Founding::new(0xfeed).unwrap(),
            generation: Generation {
                number,
                assigner: Incarnation::new(0xabc),
            },
        }
    }

    /// Plan: a directory that is not there, a state, a newer one over it; then damage, a longer file, another cluster. What was
    /// written is read, and what cannot be believed is an error, never an absence.
    #[test]
    fn f8_what_is_written_is_read_and_what_is_damaged_is_no_absence() {
        let directory = std::env::temp_dir().join(format!("softstore-state-{}", std::process::id()));
        let file = StateFile::in_directory(&directory.join("below")).unwrap();
        let ours = ClusterName::new("prod").unwrap();
        assert_eq!(file.read(&ours).unwrap(), None);
        for number in [7, 8] {
            file.write(&state(number)).unwrap();
            assert_eq!(file.read(&ours).unwrap(), Some(state(number)));
        }
        let other = file.read(&ClusterName::local()).unwrap_err();
        assert!(matches!(other, StateFileError::OtherCluster { .. }), "{other}");
        let path = directory.join("below").join(FILE);
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            String::new(),
            whole.replace("state 1", "state 2"),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("feed", "zeed"),
            whole.replace("generation 8", "generation 99999999999999"),
            "x".repeat(5_000),
        ] {
            std::fs::write(&path, &damaged).unwrap();
            let refused = file.read(&ours).unwrap_err();
            assert!(
                matches!(refused, StateFileError::Malformed { .. }),
                "{damaged}: {refused}"
            );
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
