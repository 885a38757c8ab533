//! `proto::batch`: the hand-written codec of the data stream against what prost derives for the same messages.
//!
//! What ours accepts whole, prost accepts, and both read the same. What prost accepts, ours accepts too, or refuses for
//! a reason that prost does not know: a limit, an impossible value, or a group (wire types 3 and 4), which no version of
//! the protocol has.

use bytes::Bytes;
use prost::Message;
use softstore_proto::batch::{OpBatch, OpView, Ops, ReplyBatch, ReplyBatchNotes};
use softstore_proto::{WireError, v1};
use softstore_sharding::Generation;
use softstore_sharding::session::VersionRange;

use crate::heap;

/// An operation of two bytes becomes one of about 200 in prost's form; the vector that holds it doubles.
const HEAP_FACTOR: usize = 1_024;

/// `OpBatch` as prost would have generated it.
#[derive(Clone, PartialEq, Message)]
struct PlainOpBatch {
    #[prost(message, repeated, tag = "1")]
    ops: Vec<v1::Op>,
    #[prost(message, repeated, tag = "2")]
    sinces: Vec<v1::Generation>,
    #[prost(uint64, tag = "3")]
    sent_ms: u64,
    #[prost(message, optional, tag = "4")]
    versions: Option<v1::VersionRange>,
}

/// `ReplyBatch` as prost would have generated it.
#[derive(Clone, PartialEq, Message)]
struct PlainReplyBatch {
    #[prost(message, repeated, tag = "1")]
    replies: Vec<v1::Reply>,
    #[prost(bool, tag = "2")]
    closing: bool,
    #[prost(uint32, tag = "3")]
    version: u32,
    #[prost(uint64, tag = "4")]
    value_bytes_max: u64,
}

/// Tries one input as a batch of operations.
pub fn run_ops(input: &[u8]) {
    let frame = Bytes::copy_from_slice(input);
    let ours = heap::in_proportion(input, 64, || {
        let batch = OpBatch::decode(frame.clone()).expect("taken in as it comes");
        batch.open().and_then(|ops| read_all(&ops).map(|()| ops))
    });
    heap::in_proportion(input, HEAP_FACTOR, || match (ours, PlainOpBatch::decode(frame)) {
        (Ok(ops), Ok(plain)) => same_ops(&ops, &plain),
        (Ok(_), Err(error)) => panic!("read here, and refused by prost: {error}"),
        (Err(error), Ok(_)) => assert!(
            is_ours_to_refuse(&error),
            "read by prost, and refused here: {error}"
        ),
        (Err(_), Err(_)) => {}
    });
}

fn read_all(ops: &Ops) -> Result<(), WireError> {
    (0..ops.len()).try_for_each(|index| ops.get(index).map(drop))
}

fn same_ops(ops: &Ops, plain: &PlainOpBatch) {
    assert_eq!(ops.len(), plain.ops.len());
    let since = |wire: &v1::Generation| Generation::try_from(*wire).expect("it was read here");
    let sinces: Vec<Generation> = plain.sinces.iter().map(since).collect();
    for (index, op) in plain.ops.iter().enumerate() {
        let view = ops.get(index).expect("all were read before");
        assert_eq!(view, OpView::of(op));
        assert_eq!(&view.to_op(), op);
        let listed = sinces.get(op.since_index as usize).copied();
        assert_eq!(ops.since_of(&view), listed.unwrap_or(Generation::NONE));
        let patience = (op.deadline_ms > 0).then(|| op.deadline_ms.saturating_sub(plain.sent_ms));
        assert_eq!(ops.patience_ms(&view), patience);
    }
    let versions = plain
        .versions
        .map(|wire| VersionRange::try_from(wire).expect("it was read here"));
    assert_eq!(ops.versions(), versions);
    // Written again it is the same to prost.
    let again = OpBatch::of(&plain.ops, &sinces, plain.sent_ms, versions);
    assert_eq!(again.encoded_len(), again.encode_to_vec().len());
    assert_eq!(PlainOpBatch::decode(&*again.encode_to_vec()).as_ref(), Ok(plain));
}

/// Tries one input as a batch of replies.
pub fn run_replies(input: &[u8]) {
    let frame = Bytes::copy_from_slice(input);
    let batch = || ReplyBatch::decode(frame.clone()).expect("taken in as it comes");
    let mut notes = ReplyBatchNotes::default();
    heap::in_proportion(input, HEAP_FACTOR, || {
        let read = batch().read(|_, _| {});
        let ours = batch().into_replies();
        match (read, ours, PlainReplyBatch::decode(frame.clone())) {
            (Ok(read), Ok(replies), Ok(plain)) => {
                notes = read;
                same_replies(&replies, read, &plain);
            }
            (Ok(_), Ok(_), Err(error)) => {
                assert!(is_unread_here(&error), "read here, and refused by prost: {error}")
            }
            (Err(error), _, Ok(_)) | (_, Err(error), Ok(_)) => {
                assert!(
                    is_ours_to_refuse(&error),
                    "read by prost, and refused here: {error}"
                );
            }
            (_, _, Err(_)) => {}
        }
    });
}

fn same_replies(replies: &[v1::Reply], notes: ReplyBatchNotes, plain: &PlainReplyBatch) {
    // A `Moved` is read where it lies: one that says nothing is none, and of two the last counts, where prost merges them.
    let rest = |reply: &v1::Reply| v1::Reply {
        moved: None,
        ..reply.clone()
    };
    assert!(replies.iter().map(rest).eq(plain.replies.iter().map(rest)));
    let mut both = replies.iter().zip(&plain.replies);
    assert!(both.all(|(ours, theirs)| ours.moved.is_none() || theirs.moved.is_some()));
    let said = ReplyBatchNotes {
        closing: plain.closing,
        version: plain.version,
        value_bytes_max: plain.value_bytes_max,
    };
    assert_eq!(notes, said);
    let again = ReplyBatch::of(replies, notes).into_replies();
    assert_eq!(
        again
            .as_deref()
            .map(|again| again.iter().map(rest).eq(replies.iter().map(rest))),
        Ok(true)
    );
}

/// A text that is no UTF-8: here it is repaired when it is shown, since it only says why something was refused. And a
/// `Moved` before the last one, which is not looked at.
fn is_unread_here(error: &prost::DecodeError) -> bool {
    let why = error.to_string();
    why.contains("UTF-8") || why.contains("Reply.moved")
}

fn is_ours_to_refuse(error: &WireError) -> bool {
    match error {
        WireError::Limit { .. } | WireError::Bad { .. } => true,
        WireError::Undecodable { why, .. } => why.contains("a type that there is not"),
        WireError::Missing { .. } => false,
    }
}
