//! [`Replies`]: replies on their way into one message, encoded as they come.

use softstore_proto::batch::{Assembly, ReplyBatch, ReplyBatchNotes, ReplyView, Value};
use softstore_proto::v1;
use softstore_proto::v1::Status;
use softstore_transfer::handoff::Moved;

/// Most replies in one message.
const REPLIES_MAX: usize = 1_024;

/// Bytes of replies after which a message is closed; what it exceeds this by is less than one reply.
pub(super) const REPLIES_BYTES_MAX: usize = 4 << 20;

/// The replies of one message, or a part of them.
#[derive(Debug, Default)]
pub(super) struct Replies {
    assembly: Assembly,
    count: usize,
}

impl Replies {
    /// Makes room for so many bytes more.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.assembly.reserve(bytes);
    }

    /// Adds a reply.
    pub(super) fn push(&mut self, reply: &ReplyView<'_>, value: Value<'_>) {
        self.assembly.push_reply(reply, value);
        self.count += 1;
    }

    /// Adds a reply that has no value.
    pub(super) fn push_plain(&mut self, reply: &ReplyView<'_>) {
        self.push(reply, Value::Copied(&[]));
    }

    /// Adds a reply that says no more than a status.
    pub(super) fn push_status(&mut self, id: u64, status: Status) {
        self.push_plain(&ReplyView::new(id, status));
    }

    /// Adds a refusal, and why.
    pub(super) fn push_refusal(&mut self, id: u64, status: Status, why: &str) {
        self.push_plain(&ReplyView {
            message: why.as_bytes(),
            ..ReplyView::new(id, status)
        });
    }

    /// Adds a reply that says where the key's slice went.
    pub(super) fn push_moved(&mut self, id: u64, moved: &Moved) {
        let moved = v1::Moved {
            slice: Some(moved.slice.into()),
            owner: Some((&moved.owner).into()),
            address: moved.address.to_string(),
            since: Some(moved.since.into()),
        };
        self.push_plain(&ReplyView {
            moved: &moved.encoded(),
            ..ReplyView::new(id, Status::Moved)
        });
    }

    /// Adds the replies of another.
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        self.assembly.append(other.assembly);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= REPLIES_MAX || self.len_bytes() >= REPLIES_BYTES_MAX
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.assembly.len_bytes()
    }

    /// Their length without values that are shared.
    pub(super) fn inline_bytes(&self) -> usize {
        self.assembly.inline_bytes()
    }

    /// The message, with what it says beside the replies.
    pub(super) fn into_batch(self, notes: ReplyBatchNotes) -> ReplyBatch {
        self.assembly.into_reply_batch(notes)
    }

    /// The one reply that these are.
    pub(super) fn into_single(self) -> Result<v1::Reply, tonic::Status> {
        let replies = self.into_batch(ReplyBatchNotes::default()).into_replies()?;
        let single = replies.into_iter().next();
        single.ok_or_else(|| tonic::Status::internal("the operation was not answered"))
    }
}
