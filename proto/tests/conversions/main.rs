//! Each message of a core survives the wire, and no bytes of a peer make a conversion panic.
//!
//! `values` makes arbitrary values of the cores; `round_trips` sends them over; `garbage` sends broken bytes;
//! `lengths` compares what others count of messages with their encoding.

mod garbage;
mod lengths;
mod round_trips;
mod values;
