//! What the cluster tests share.
//!
//! ```text
//!   embedded    clusters in the test's own process: fast, and open to a look inside
//!   processes   clusters of real processes: signals, exit codes, logs, metrics over HTTP
//!     binary      where the softstore binary is
//!     process     one child process
//!     log_pipe    where a child's log goes: to a file, or to a pipe that nobody reads
//!     tap         waits for events in a process' log
//!     http        the little HTTP that reading /metrics and /readyz takes
//!   handed_over what an Assigner says that hands everything over, for tests that play one
//!   ledger      writes and reads a cluster and knows every stale read
//!   network     a network of the test's own: machines, and the links between them to cut, slow down and heal
//!   cgroup      a control group of the test's own, with a memory limit
//!   attacker    raw HTTP/2 from the wrong side
//!   proxy       stands before a port: damages what passes through it, or holds it back
//! ```

pub mod attacker;
pub mod binary;
pub mod cgroup;
pub mod embedded;
pub mod handed_over;
pub mod http;
pub mod ledger;
pub mod log_pipe;
pub mod network;
pub mod process;
pub mod processes;
pub mod proxy;
pub mod tap;
