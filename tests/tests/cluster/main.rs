//! Cluster tests.
//!
//! `embedded`, `pull_order`, `relay`, `babble`, `fill`: whole clusters in this process, over real sockets. All others: real
//! processes, real signals.
//!
//! * `sigterm`: planned ends. What a drain keeps, when it gives up, what a second signal does.
//! * `surge`: a replacement that is started first; what moves, and how often.
//! * `dev`: `softstore dev --json` and its children.
//! * `kill`: SIGKILL. What is lost is said to be lost.
//! * `assigner`: the Assigner dies and comes back.
//! * `chunk_version`: a restart into a build that speaks another chunk format.
//! * `lease`: leased ownership: a node that is cut off, or has no Assigner, serves nothing; and how the mode is changed.
//! * `zombie`: a node that stood still for longer than the others waited for it.
//! * `overload`: more load than a node can do, and a hand-off in the middle of it.
//! * `bad_input`: what no honest peer sends.
//! * `babble`: an Assigner and a giver whose answers cannot be understood.
//! * `relay`: a giver that can be reached through the Assigner only.
//! * `pull_order`: what a giver sends first, and where a broken stream goes on.
//! * `fill`: what `get_or_load` puts into the cache while a range is being taken over.
//! * `hot_key`: a key that takes nine tenths of all reads from one moment to the next.
//! * `client_follow`: one client through all of a rolling restart: reads, counters, CAS.

mod assigner;
mod babble;
mod bad_input;
mod chunk_version;
mod client_follow;
mod dev;
mod embedded;
mod fill;
mod hot_key;
mod kill;
mod lease;
mod pull_order;
mod relay;
mod sigterm;
mod surge;
mod zombie;
