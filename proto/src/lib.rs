//! The wire: generated types of `proto/softstore/v1/*.proto`, and all conversions to and from the cores' types.
//!
//! Nothing outside this crate turns bytes of a peer into a core's type. Every conversion validates (`TryFrom`), and what
//! does not fit is a [`WireError`] that names the field. There is no logic here.
//!
//! ```text
//!   assignment   generations, slices, lives, assignments, diffs     <-> softstore_sharding
//!   session      a node's session with the Assigner                 <-> softstore_sharding::session
//!   load         what a heartbeat says of a node's load             <-> softstore_sharding::session
//!   status       what operators are told of the cluster             <--  softstore_sharding::assigner
//!   transfer     the hand-off, and its relayed form                 <-> softstore_transfer::message
//!   readers      an owner and its replicas                         <-> softstore_transfer::message
//!   cache        classes of an operation's status, `Moved`
//!   batch        the data stream's messages, which are not generated
//!   identity     which cluster a call is of, who answers            <-> softstore_sharding::identity
//!   limits       how long anything may be
//!   error        WireError
//! ```

pub mod assignment;
pub mod batch;
pub mod cache;
pub mod error;
pub mod identity;
pub mod limits;
pub mod load;
pub mod readers;
pub mod session;
pub mod status;
pub mod transfer;

pub use error::WireError;

/// Generated from `proto/softstore/v1`. Documented in the .proto files.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/softstore.v1.rs"));
}

/// The services' descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/softstore.v1.bin"));

/// The Rust in `docs/protocol.md`, run as tests: its vectors are those of this build.
#[cfg(doctest)]
#[doc = include_str!("../../docs/protocol.md")]
pub struct ProtocolPage;
