//! What the fuzz targets do with an input, one module per kind of decoder. `README.md` lists what decodes bytes from
//! outside and which target covers it.
//!
//! ```text
//!   targets/*.rs  libFuzzer's entry points: one line each
//!        |
//!   chunk, batch, messages, settings_file, trace_file, text  a decoder: no panic, bounded heap, and it agrees with
//!        |                                                   its encoder or with another decoder
//!   node, assigner, clerk                                    decoded messages into the cores, one after the other
//!        |
//!   script        how an input becomes a list of steps     heap   how much an input may allocate
//!   seeds         the first inputs of each target, made of real messages
//! ```

//! What decodes stands in crates that need a server, a gRPC stack or a terminal for the rest of what they do. Of those
//! the modules that decode are compiled in here as they stand, so that this builds in a fraction of the time.

// Those of the binary name the server's library, and those of the server the store's.
extern crate self as softstore_server;
extern crate self as softstore_store;

pub mod assigner;
pub mod batch;
pub mod chunk;
#[path = "../../cli/src"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the binary uses what the targets do not"
)]
mod cli {
    pub(crate) mod announce;
    pub(crate) mod settings;
}
pub mod clerk;
#[path = "../../client/src"]
mod client {
    pub(crate) mod codec;
}
#[path = "../../drill/src"]
#[allow(dead_code, unreachable_pub, reason = "the drill uses what the targets do not")]
mod drill {
    pub(crate) mod csv_trace;
    pub(crate) mod error;
    pub(crate) mod hot_key {
        mod crowd;
        pub(crate) use crowd::{Crowd, CrowdRead};
    }
    pub(crate) mod id_trace;
    pub(crate) mod position_rng;
    pub(crate) mod request;
    pub(crate) mod trace;
    pub(crate) mod value;
    pub(crate) mod workload;
}
pub mod heap;
pub mod messages;
pub mod node;
pub mod script;
pub mod seeds;
#[path = "../../server/src"]
#[allow(dead_code, reason = "the server uses what the targets do not")]
mod server {
    pub mod config;
    pub mod opening;
}
pub mod settings_file;
#[path = "../../store/src"]
#[allow(dead_code, unreachable_pub, reason = "only a default is used")]
mod store {
    pub mod frequency;
}
pub mod text;
pub mod trace_file;

use cli::settings;
use drill::{csv_trace, error, hot_key, id_trace, position_rng, request, trace, value, workload};
pub use server::config;
pub use store::frequency::FREQUENCY_HALF_LIFE_MS;
