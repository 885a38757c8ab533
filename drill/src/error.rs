//! What can keep a drill from ending in a verdict. Each message says what to do about it.
//!
//! Not here: faults of the cluster under test. Those are counted and judged, never an `Err`.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a drill ended without a report.
#[derive(Debug, Error)]
pub enum DrillError {
    /// The options contradict each other or lie out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The trace could not be read.
    #[error("trace {path}: {source}", path = path.display())]
    Trace {
        /// The file named by `--trace`.
        path: PathBuf,
        /// What is wrong with it.
        source: TraceError,
    },
    /// The trace has too few requests to cover the restarts.
    #[error(
        "the trace ended after {requests} requests, before the restarts of arm {arm} were over; lower --rate or \
         --warm-up-requests, or give a longer trace"
    )]
    TraceTooShort {
        /// The arm that ran out of requests.
        arm: &'static str,
        /// Requests in the trace.
        requests: u64,
    },
    /// A process of the cluster could not be started or did not announce itself.
    #[error("cannot start {what}: {reason}; its log is {log}", log = log.display())]
    Start {
        /// `assigner` or a node's id.
        what: String,
        /// What happened.
        reason: String,
        /// Where its stderr went.
        log: PathBuf,
    },
    /// A node did not exit after its signal.
    #[error("{node} did not exit within {waited_ms} ms of its signal; its log is {log}", log = log.display())]
    NoExit {
        /// The node's id.
        node: String,
        /// How long the drill waited, in milliseconds.
        waited_ms: u64,
        /// Where its stderr went.
        log: PathBuf,
    },
    /// The cluster did not come to rest in time.
    #[error("the cluster was not settled after {waited_ms} ms: {because}")]
    NotSettled {
        /// How long the drill waited, in milliseconds.
        waited_ms: u64,
        /// The Assigner's own words, or that it did not answer.
        because: String,
    },
    /// The client could not connect.
    #[error("cannot connect to the cluster: {0}; check that the --seeds are softstore nodes and reachable")]
    Connect(String),
    /// A file could not be written or a directory made.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Options that cannot be run.
#[derive(Debug, Error, PartialEq)]
pub enum OptionsError {
    /// A number out of its range.
    #[error("--{option} is {value}, but must be between {min} and {max}")]
    OutOfRange {
        /// The flag, without dashes.
        option: &'static str,
        /// What was given.
        value: String,
        /// Least allowed.
        min: String,
        /// Most allowed.
        max: String,
    },
    /// Two options exclude each other.
    #[error("--{option} cannot be used with {with}: {because}")]
    Conflict {
        /// The flag, without dashes.
        option: &'static str,
        /// The other one.
        with: &'static str,
        /// Why.
        because: &'static str,
    },
    /// No arm to judge, or none to judge it by.
    #[error("--arms must name control and at least one of transfer and cold: one is judged by the other")]
    Arms,
    /// The mix of operations cannot be read.
    #[error(
        "--mix {0:?} is not reads:writes:deletes, three whole numbers of which the first is above 0 (say 90:8:2)"
    )]
    Mix(String),
    /// A byte size cannot be read.
    #[error("--{option} {value:?} is not a size; write a whole number of bytes, or one with KiB, MiB or GiB")]
    Size {
        /// The flag, without dashes.
        option: &'static str,
        /// What was given.
        value: String,
    },
}

/// What is wrong with a trace file.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The system could not read it.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// The xz stream is damaged or asks for too much memory.
    #[error("is not a whole, sound xz file: {0}")]
    Xz(io::Error),
    /// There is no request in it.
    #[error("holds no requests")]
    Empty,
    /// More requests than the drill holds in memory.
    #[error("holds more than {requests_max} requests; cut it")]
    TooLong {
        /// The limit.
        requests_max: usize,
    },
    /// A file of 4-byte ids whose length is no multiple of four.
    #[error(
        "ends within an id: {bytes} bytes are no multiple of 4, so it is cut off or not a file of 4-byte ids"
    )]
    CutId {
        /// Bytes after decompression.
        bytes: u64,
    },
    /// A line of a CSV file that does not parse.
    #[error("line {line}: {reason} (expected time,key,size,op,ttl)")]
    Line {
        /// Counted from 1.
        line: u64,
        /// What is wrong in it.
        reason: String,
    },
}
