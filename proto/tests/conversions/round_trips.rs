//! A core's value, encoded to bytes and back, is the same value.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use softstore_proto::readers::{fill_reply_from_wire, fill_reply_to_wire};
use softstore_proto::transfer::{Relayed, peek_reply_from_wire, peek_reply_to_wire};
use softstore_proto::{WireError, v1};
use softstore_sharding::session::{AssignerMessage, AssignmentUpdate, NodeMessage};
use softstore_sharding::{Assignment, Life, Slice};
use softstore_transfer::message::{
    FillRequest, Invalidate, LeaseReply, LeaseRequest, PeekRequest, PullRequest, Release, Take, TakeReply,
};

use crate::values;

/// To the generated type, to bytes, and the whole way back.
fn over_the_wire<C, W>(value: &C) -> Result<C, WireError>
where
    W: for<'a> From<&'a C> + Message + Default,
    C: TryFrom<W, Error = WireError>,
{
    let bytes = W::from(value).encode_to_vec();
    C::try_from(W::decode(bytes.as_slice()).expect("what was just encoded"))
}

proptest! {
    #[test]
    fn slices(slice in values::slice()) {
        prop_assert_eq!(Slice::try_from(v1::Slice::from(slice)), Ok(slice));
    }

    #[test]
    fn assignments(assignment in values::assignment()) {
        prop_assert_eq!(over_the_wire::<Assignment, v1::Assignment>(&assignment), Ok(assignment));
    }

    #[test]
    fn updates(update in values::update()) {
        prop_assert_eq!(over_the_wire::<AssignmentUpdate, v1::AssignmentUpdate>(&update), Ok(update));
    }

    #[test]
    fn node_messages(message in values::node_message()) {
        prop_assert_eq!(over_the_wire::<NodeMessage, v1::NodeMessage>(&message), Ok(message));
    }

    #[test]
    fn assigner_messages(message in values::assigner_message()) {
        prop_assert_eq!(over_the_wire::<AssignerMessage, v1::AssignerMessage>(&message), Ok(message));
    }

    #[test]
    fn takes(take in values::take(), reply in values::take_reply()) {
        prop_assert_eq!(over_the_wire::<Take, v1::TakeRequest>(&take), Ok(take.clone()));
        prop_assert_eq!(over_the_wire::<TakeReply, v1::TakeReply>(&reply), Ok(reply.clone()));
        for relayed in [Relayed::Take(take), Relayed::TakeReply(reply)] {
            prop_assert_eq!(Relayed::decode(&relayed.encode()), Ok(relayed));
        }
    }

    #[test]
    fn pulls_and_releases(pull in values::pull(), release in values::release()) {
        prop_assert_eq!(over_the_wire::<PullRequest, v1::PullRequest>(&pull), Ok(pull));
        prop_assert_eq!(over_the_wire::<Release, v1::ReleaseRequest>(&release), Ok(release));
    }

    #[test]
    fn peeks(peek in values::peek(), answers in vec(values::peek_answer(), 1..5)) {
        prop_assert_eq!(over_the_wire::<PeekRequest, v1::PeekRequest>(&peek), Ok(peek));
        let wire = peek_reply_to_wire(&answers);
        prop_assert!(peek_reply_from_wire(wire.clone(), answers.len() - 1).is_err());
        prop_assert!(peek_reply_from_wire(v1::PeekReply::default(), answers.len()).is_err());
        // Large entries: the first keys only.
        prop_assert_eq!(peek_reply_from_wire(wire.clone(), answers.len() + 1), Ok(answers.clone()));
        prop_assert_eq!(peek_reply_from_wire(wire, answers.len()), Ok(answers));
    }

    #[test]
    fn read_leases(asked in values::lease_request(), reply in values::lease_reply(), told in values::invalidate()) {
        prop_assert_eq!(over_the_wire::<LeaseRequest, v1::LeaseRequest>(&asked), Ok(asked));
        prop_assert_eq!(over_the_wire::<LeaseReply, v1::LeaseReply>(&reply), Ok(reply));
        prop_assert_eq!(over_the_wire::<Invalidate, v1::InvalidateRequest>(&told), Ok(told));
    }

    #[test]
    fn fills(fill in values::fill(), answers in vec(values::fill_answer(), 1..5)) {
        prop_assert_eq!(over_the_wire::<FillRequest, v1::FillRequest>(&fill), Ok(fill));
        let wire = fill_reply_to_wire(&answers);
        prop_assert!(fill_reply_from_wire(wire.clone(), answers.len() - 1).is_err());
        prop_assert!(fill_reply_from_wire(v1::FillReply::default(), answers.len()).is_err());
        prop_assert_eq!(fill_reply_from_wire(wire.clone(), answers.len() + 1), Ok(answers.clone()));
        prop_assert_eq!(fill_reply_from_wire(wire, answers.len()), Ok(answers));
    }
}

/// Nobody can own a range, and be who a range is fenced for: both are said to peers.
#[test]
fn nobody_is_somebody_on_the_wire() {
    let nobody = Life::nobody();
    assert_eq!(over_the_wire::<Life, v1::Life>(&nobody), Ok(nobody));
}
