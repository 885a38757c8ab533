//! Batches as this crate writes and reads them, against what prost makes of the same messages.

use proptest::prelude::*;
use softstore_sharding::{Generation, Slice};

use super::*;
use crate::v1;

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

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (SHARED_BYTES_MIN - 1..SHARED_BYTES_MIN + 2).prop_map(|length| vec![7; length]),
    ]
    .prop_map(Bytes::from)
}

prop_compose! {
    fn any_op()(
        id: u64, kind in -1..9, key in any_bytes(), value in any_bytes(), ttl_ms: u64, condition in -1..5, version: u64,
        delta: i64, flags: (bool, bool, bool), deadline_ms: u64, since_index: u32,
        bounds in prop_oneof![1 => Just((0, 0)), 3 => any::<(u64, u64)>()],
    ) -> v1::Op {
        let slice = flags.0.then_some(v1::Slice { low: bounds.0, high: bounds.1 });
        let (report_existence, fill) = (flags.1, flags.2);
        v1::Op {
            id, kind, key, value, ttl_ms, condition, version, delta, report_existence, deadline_ms, since_index, slice, fill,
        }
    }
}

prop_compose! {
    fn any_reply()(
        id: u64, status in -1..30, value in any_bytes(), version: u64, ttl_ms: u64, number: i64, moved: Option<u64>,
        message in ".{0,10}",
    ) -> v1::Reply {
        let moved = moved.map(|low| Box::new(v1::Moved {
            slice: Some(v1::Slice { low, high: 0 }),
            ..Default::default()
        }));
        v1::Reply { id, status, value, version, ttl_ms, number, moved, message }
    }
}

fn generations(numbers: &[u32]) -> Vec<Generation> {
    let wire = |number: &u32| v1::Generation {
        number: u64::from(*number),
        assigner: 3,
    };
    numbers
        .iter()
        .map(|number| wire(number).try_into().expect("in range"))
        .collect()
}

fn received<M: Message + Default>(message: &impl Message) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).expect("decodable")
}

proptest! {
    #[test]
    fn prost_reads_the_operations_that_are_written_here(
        ops in prop::collection::vec(any_op(), 0..6), sinces in prop::collection::vec(any::<u32>(), 0..3), sent_ms: u64,
    ) {
        let sinces = generations(&sinces);
        let batch = OpBatch::of(&ops, &sinces, sent_ms, Some(STREAM_VERSIONS));
        prop_assert_eq!(batch.encoded_len(), batch.encode_to_vec().len());
        let plain: PlainOpBatch = received(&batch);
        prop_assert_eq!(&plain.ops, &ops);
        prop_assert_eq!(plain.sent_ms, sent_ms);
        prop_assert_eq!(plain.sinces.len(), sinces.len());
        prop_assert_eq!(plain.versions, Some(STREAM_VERSIONS.into()));
    }

    #[test]
    fn operations_that_prost_writes_are_read_here(
        ops in prop::collection::vec(any_op(), 0..6), numbers in prop::collection::vec(any::<u32>(), 0..3), sent_ms: u64,
    ) {
        let sinces = generations(&numbers);
        let plain = PlainOpBatch {
            ops: ops.clone(),
            sinces: sinces.iter().map(|since| (*since).into()).collect(),
            sent_ms,
            versions: None,
        };
        let opened = received::<OpBatch>(&plain).open().expect("well formed");
        prop_assert_eq!(opened.len(), ops.len());
        for (index, op) in ops.iter().enumerate() {
            let view = opened.get(index).expect("well formed");
            prop_assert_eq!(view, OpView::of(op));
            prop_assert_eq!(&view.to_op(), op);
            let since = sinces.get(op.since_index as usize).copied().unwrap_or(Generation::NONE);
            prop_assert_eq!(opened.since_of(&view), since);
            let patience = (op.deadline_ms > 0).then(|| op.deadline_ms.saturating_sub(sent_ms));
            prop_assert_eq!(opened.patience_ms(&view), patience);
        }
    }

    #[test]
    fn what_is_withdrawn_is_not_sent(ops in prop::collection::vec((any_op(), any::<bool>()), 0..8), newest_first: bool) {
        let mut assembly = Assembly::default();
        let mut places = Vec::new();
        for (op, stays) in &ops {
            let place = assembly.push_op(&OpView::of(op), Value::of(&op.value));
            if !stays {
                places.push(place);
            }
        }
        if newest_first {
            places.reverse();
        }
        places.into_iter().for_each(|place| assembly.withdraw(place));
        let plain: PlainOpBatch = received(&assembly.into_op_batch(&[], 5, None));
        let left: Vec<_> = ops.into_iter().filter(|(_, stays)| *stays).map(|(op, _)| op).collect();
        prop_assert_eq!(plain.ops, left);
        prop_assert_eq!(plain.sent_ms, 5);
    }

    #[test]
    fn replies_come_through_either_way(
        all in prop::collection::vec(any_reply(), 0..6), closing: bool, value_bytes_max: u64,
    ) {
        let said = ReplyBatchNotes { closing, version: 1, value_bytes_max };
        let batch = ReplyBatch::of(&all, said);
        let plain: PlainReplyBatch = received(&batch);
        prop_assert_eq!(&plain, &PlainReplyBatch { replies: all.clone(), closing, version: 1, value_bytes_max });
        prop_assert_eq!(&batch.into_replies().expect("well formed"), &all);
        let mut count = 0;
        let notes = received::<ReplyBatch>(&plain).read(|reply, frame| {
            assert_eq!(reply.id, all[count].id);
            assert_eq!(frame.slice_ref(reply.value), all[count].value);
            count += 1;
        });
        prop_assert_eq!(notes, Ok(said));
        prop_assert_eq!(count, all.len());
    }

    #[test]
    fn a_batch_put_behind_another_is_one_batch(
        ops in prop::collection::vec(any_op(), 0..4), more in prop::collection::vec(any_op(), 0..4),
    ) {
        let assembled = |ops: &[v1::Op]| {
            let mut assembly = Assembly::default();
            for op in ops {
                assembly.push_op(&OpView::of(op), Value::of(&op.value));
            }
            assembly
        };
        let mut both = assembled(&ops);
        both.append(assembled(&more));
        let plain: PlainOpBatch = received(&both.into_op_batch(&[], 0, None));
        prop_assert_eq!(plain.ops, [ops, more].concat());
    }

    /// Bytes from anywhere: an error or a batch, and no more in memory than a limit's worth.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = Bytes::from(bytes);
        if let Ok(ops) = OpBatch::decode(frame.clone()).expect("taken in as it comes").open() {
            for index in 0..ops.len() {
                let _ = ops.get(index);
            }
        }
        let _ = ReplyBatch::decode(frame).expect("taken in as it comes").into_replies();
    }

    /// One byte of a good message changed, or its end cut off: never a panic.
    #[test]
    fn damaged_batches_are_read_or_refused(ops in prop::collection::vec(any_op(), 1..4), at: prop::sample::Index, to: Option<u8>) {
        let mut bytes = OpBatch::of(&ops, &[], 7, None).encode_to_vec();
        let at = at.index(bytes.len());
        match to {
            Some(byte) => bytes[at] = byte,
            None => bytes.truncate(at),
        }
        if let Ok(ops) = OpBatch::decode(Bytes::from(bytes)).expect("taken in as it comes").open() {
            for index in 0..ops.len() {
                let _ = ops.get(index);
            }
        }
    }
}

#[test]
fn unknown_fields_are_skipped_and_known_ones_of_another_type_refused() {
    let op = v1::Op {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    let mut bytes = OpBatch::of(&[op], &[], 0, None).encode_to_vec();
    // Field 1,000: a varint, 64 bits, a byte string, 32 bits.
    bytes.extend([0xc0, 0x3e, 0x05, 0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8]);
    bytes.extend([0xc2, 0x3e, 0x02, 1, 2, 0xc5, 0x3e, 1, 2, 3, 4]);
    let open = |bytes: &[u8]| OpBatch::decode(bytes).expect("taken in as it comes").open();
    assert_eq!(open(&bytes).expect("well formed").len(), 1);
    // Field 1, which is a message, as a varint.
    bytes.extend([0x08, 0x01]);
    let refused = open(&bytes).expect_err("of another type").to_string();
    assert!(refused.contains("another type"), "{refused}");
}

/// The whole key space has no bytes of its own as a slice; a flush of it must not come out as a flush of nothing.
#[test]
fn the_slice_of_everything_is_said() {
    let flush = v1::Op {
        kind: v1::OpKind::Flush.into(),
        slice: Some(Slice::FULL.into()),
        ..Default::default()
    };
    let batch = OpBatch::of(std::slice::from_ref(&flush), &[], 0, None);
    let plain: PlainOpBatch = received(&batch);
    assert_eq!(plain.ops, std::slice::from_ref(&flush));
    let ops = batch.open().expect("well formed");
    assert_eq!(ops.get(0).expect("well formed").slice, flush.slice);
}

/// As prost reads it: half of the range in one field, the other half in a second one.
#[test]
fn versions_that_come_in_two_fields_are_merged() {
    let half = |min, max| PlainOpBatch {
        versions: Some(v1::VersionRange { min, max }),
        ..Default::default()
    };
    let bytes = [half(1, 0).encode_to_vec(), half(0, 3).encode_to_vec()].concat();
    let plain = PlainOpBatch::decode(&*bytes).expect("decodable").versions;
    assert_eq!(plain, Some(v1::VersionRange { min: 1, max: 3 }));
    let ops = OpBatch::decode(&*bytes).expect("taken in as it comes").open();
    let read = ops.expect("well formed").versions().map(v1::VersionRange::from);
    assert_eq!(read, plain);
}

#[test]
fn more_than_a_batch_may_hold_is_refused() {
    let ops = vec![v1::Op::default(); 1_025];
    let refused = OpBatch::of(&ops, &[], 0, None).open().expect_err("one too many");
    assert_eq!(
        refused.to_string(),
        "the field ops has 1025 elements or bytes; the limit is 1024"
    );
}

#[test]
fn a_message_that_is_merged_field_by_field_is_the_same() {
    let ops = [v1::Op {
        id: 9,
        key: Bytes::from_static(b"key"),
        ..Default::default()
    }];
    let whole = OpBatch::of(&ops, &[], 77, None);
    let merged = OpBatch::decode_length_delimited(Bytes::from(whole.encode_length_delimited_to_vec()));
    assert_eq!(merged.expect("decodable").encode_to_vec(), whole.encode_to_vec());
}
