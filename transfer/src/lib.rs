//! The hand-off of slices between nodes: pure state machines and the chunk codec.

pub mod message;
