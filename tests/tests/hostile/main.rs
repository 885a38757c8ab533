//! Hostile input at the level of connections: what a port must bear from whoever can reach it.
//!
//! Each test sets raw sockets on the ports of real processes while an honest client works on the same cluster
//! ([`arena::Arena`]). What must hold each time: the processes live; their memory grows by less than a stated bound, and
//! their file descriptors come back; the honest client sees no error and no wrong value, and its p99 stays within a bound;
//! a counter names what was refused. `cargo test -p softstore-tests --test hostile -- --nocapture` prints the figures.
//!
//! The attacks take turns, also where tests run side by side: each measures latency.
//!
//! * `lengths`: messages and frames that lie about their length, huge headers.
//! * `floods`: endless small things: pings, settings, resets, headers, empty batches, peeks.
//! * `slow`: connections that say nothing, or a byte at a time, on every port.
//! * `readers`: clients that ask and do not read.
//! * `crowds`: ten thousand idle connections, a full house, a full table of file descriptors.
//! * `peers`: a giver that never sends.

mod arena;
mod crowds;
mod floods;
mod lengths;
mod peers;
mod readers;
mod slow;
mod victim;
