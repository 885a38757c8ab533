//! `proto`: every gRPC message from outside, decoded by prost and converted into the cores' types.
//!
//! The first byte of an input says which message the rest is. What converts is converted back, encoded, and must come out
//! the same once more: so no conversion lets in what it cannot say, or loses something.

use std::fmt::Debug;

use prost::Message;
use softstore_proto::cache::Moved;
use softstore_proto::transfer::{Relayed, peek_reply_from_wire, peek_reply_to_wire};
use softstore_proto::{WireError, v1};
use softstore_sharding::session::{AssignerMessage, AssignmentUpdate, NodeMessage};
use softstore_sharding::{Assignment, AssignmentDiff};
use softstore_transfer::message::{
    Entry, FillAnswer, FillRequest, Invalidate, LeaseReply, LeaseRequest, PeekAnswer, PeekRequest,
    PullRequest, Release, Take, TakeReply,
};

use crate::heap;

/// A range of two bytes is one of about 200 decoded; the vector that holds it doubles, and its conversion is another.
const HEAP_FACTOR: usize = 2_048;

/// How many kinds of messages there are: the first byte of an input counts modulo this.
pub const KINDS: u8 = 25;

/// Tries one input.
pub fn run(input: &[u8]) {
    if let Some((kind, bytes)) = input.split_first() {
        heap::in_proportion(input, HEAP_FACTOR, || check(kind % KINDS, bytes));
    }
}

fn check(kind: u8, bytes: &[u8]) {
    match kind {
        0 => converted::<v1::NodeMessage, NodeMessage>(bytes),
        1 => converted::<v1::AssignerMessage, AssignerMessage>(bytes),
        2 => converted::<v1::Assignment, Assignment>(bytes),
        3 => converted::<v1::AssignmentUpdate, AssignmentUpdate>(bytes),
        4 => converted::<v1::AssignmentDiff, AssignmentDiff>(bytes),
        5 => converted::<v1::TakeRequest, Take>(bytes),
        6 => converted::<v1::TakeReply, TakeReply>(bytes),
        7 => converted::<v1::PullRequest, PullRequest>(bytes),
        8 => converted::<v1::PeekRequest, PeekRequest>(bytes),
        9 => converted::<v1::PeekAnswer, PeekAnswer>(bytes),
        10 => converted::<v1::ReleaseRequest, Release>(bytes),
        11 => converted::<v1::Moved, Moved>(bytes),
        12 => converted::<v1::Entry, Entry>(bytes),
        13 => peek_reply(bytes),
        14 => relayed(bytes),
        15 => plain::<v1::Op>(bytes),
        16 => plain::<v1::Reply>(bytes),
        17 => plain::<v1::PullItem>(bytes),
        18 => plain::<v1::ClusterStatus>(bytes),
        19 => plain::<v1::DrainRequest>(bytes),
        20 => converted::<v1::LeaseRequest, LeaseRequest>(bytes),
        21 => converted::<v1::LeaseReply, LeaseReply>(bytes),
        22 => converted::<v1::FillRequest, FillRequest>(bytes),
        23 => converted::<v1::FillAnswer, FillAnswer>(bytes),
        _ => converted::<v1::InvalidateRequest, Invalidate>(bytes),
    }
}

/// A message that a core has a type for.
fn converted<W, C>(bytes: &[u8])
where
    W: Message + Default + for<'a> From<&'a C>,
    C: TryFrom<W, Error = WireError> + PartialEq + Debug,
{
    let Ok(Ok(value)) = W::decode(bytes).map(C::try_from) else {
        return;
    };
    let again = W::from(&value).encode_to_vec();
    let wire = W::decode(&*again).expect("what was just encoded");
    assert_eq!(C::try_from(wire), Ok(value));
}

/// A message that is used as it is decoded.
fn plain<W: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(wire) = W::decode(bytes) {
        let again = wire.encode_to_vec();
        assert_eq!(wire.encoded_len(), again.len());
    }
}

fn peek_reply(bytes: &[u8]) {
    const KEYS_ASKED: usize = 3;
    let Ok(wire) = v1::PeekReply::decode(bytes) else {
        return;
    };
    if let Ok(answers) = peek_reply_from_wire(wire, KEYS_ASKED) {
        let again = peek_reply_from_wire(peek_reply_to_wire(&answers), KEYS_ASKED);
        assert_eq!(again, Ok(answers));
    }
}

fn relayed(bytes: &[u8]) {
    if let Ok(message) = Relayed::decode(bytes) {
        assert_eq!(Relayed::decode(&message.encode()), Ok(message));
    }
}
