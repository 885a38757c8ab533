//! The Rust client of softstore, a sharded in-memory cache.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use softstore_client::{Client, SetOptions};
//!
//! let client = Client::builder().seeds(["127.0.0.1:7401"]).connect().await?;
//! client.set_with("greeting", "hello", SetOptions::new().ttl(Duration::from_secs(60))).await?;
//! assert_eq!(client.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! What to expect of it:
//! - Every operation ends by its deadline: 1,000 ms from the call by default, retries included.
//! - A read whose owner cannot be reached is a miss (or an error, see [`ReadPolicy`]).
//! - A write that is not known to have been applied is an error: [`WriteError::Unavailable`] if it certainly was not,
//!   [`WriteError::OutcomeUnknown`] if it may have been.
//! - It follows the cluster through restarts and moves, and needs one living node of it.
//! - It does without a cluster, too: [`Builder::connect`] gives a client even if no node answers. Reads are misses then and
//!   writes fail, at once after a second, until one does ([`Client::health`]; [`Builder::require_cluster`] insists).
//!
//! ```text
//!   client, many, flush, load (fill), typed, hot_keys, health    what applications call
//!        |
//!   operation      one operation to its end: what is tried again, what its outcome is
//!        |
//!   routing        the clerk's shell: key -> connection and since     <---  follow, source: watch assignments
//!        |
//!   lane           one connection: opened, read, broken, opened again
//!        |
//!   queue          what is pending on it: batches, deadlines, who waits for what
//!        |
//!   outbox, window, backoff      what goes into a batch, how much may be on its way, when it is tried again
//!
//!   options, answer, payload, codec    what a call says and is told; keys, values, typed ones     config, metrics
//! ```

mod answer;
mod backoff;
mod builder;
mod client;
mod codec;
mod config;
mod error;
mod fill;
mod flush;
mod follow;
mod health;
mod hot_keys;
mod lane;
mod load;
mod many;
mod metrics;
mod operation;
mod options;
mod outbox;
mod payload;
mod queue;
mod routing;
mod source;
mod typed;
mod window;

pub use builder::Builder;
pub use client::Client;
pub use config::{ClientConfig, ConfigError, ReadPolicy, SEEDS_MAX};
pub use error::{Cause, ConnectError, LoadError, ReadError, SeedFailure, TypedError, WriteError};
pub use health::Health;
pub use hot_keys::{HotKey, HotKeys};
pub use metrics::ClientMetrics;
pub use options::{Found, SetOptions, SetOutcome, ZeroTtl};
pub use payload::{IntoBytes, KeyError};
pub use softstore_sharding::{Slice, SliceKey, Version};

/// The Rust in `README.md`, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct ReadmePage;
