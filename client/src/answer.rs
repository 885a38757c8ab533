//! [`Answer`]: what a node said of an operation.

use bytes::Bytes;
use softstore_proto::batch::ReplyView;
use softstore_proto::cache::{Moved, StatusClass};
use softstore_proto::v1;

/// Values up to this many bytes are copied out of the message they came in.
const DETACH_BYTES_MAX: usize = 64 << 10;

/// A reply, with bytes of its own.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    status: i32,
    /// The value found.
    pub(crate) value: Bytes,
    /// The version.
    pub(crate) version: u64,
    /// Milliseconds left; 0: does not expire.
    pub(crate) ttl_ms: u64,
    /// The sum of an add.
    pub(crate) number: i64,
    /// Boxed, since next to no reply has any of it.
    rare: Option<Box<Rare>>,
}

#[derive(Debug)]
struct Rare {
    moved: Option<Moved>,
    message: String,
}

impl Answer {
    /// The answer that a reply is; `frame` is the message that it stands in.
    pub(crate) fn of(reply: &ReplyView<'_>, frame: &Bytes) -> Self {
        let is_plain = reply.moved.is_empty() && reply.message.is_empty();
        let rare = (!is_plain).then(|| {
            // A `Moved` that is none says no more than that the key is elsewhere.
            let moved = reply.moved().ok().flatten();
            Box::new(Rare {
                moved: moved.and_then(|moved| Moved::try_from(moved).ok()),
                message: reply.message(),
            })
        });
        Self {
            status: reply.status,
            value: detached(reply.value, frame),
            version: reply.version,
            ttl_ms: reply.ttl_ms,
            number: reply.number,
            rare,
        }
    }

    /// An answer that says no more than a status.
    #[cfg(test)]
    pub(crate) fn with_status(status: v1::Status) -> Self {
        Self {
            status: status.into(),
            ..Self::default()
        }
    }

    /// What it says; `Unspecified` if this build does not know it.
    pub(crate) fn status(&self) -> v1::Status {
        v1::Status::try_from(self.status).unwrap_or_default()
    }

    /// Whether the node refused the operation for want of time or room.
    pub(crate) fn is_busy(&self) -> bool {
        self.status == i32::from(v1::Status::Busy)
    }

    /// Whether it ends its operation well: done, not found, or a condition that did not hold.
    pub(crate) fn is_final(&self) -> bool {
        self.status().class() == StatusClass::Answer
    }

    /// Where the slice went, if it says so.
    pub(crate) fn take_moved(&mut self) -> Option<Moved> {
        self.rare.as_mut()?.moved.take()
    }

    /// Why the operation was refused.
    pub(crate) fn into_message(self) -> String {
        self.rare.map_or_else(String::new, |rare| rare.message)
    }
}

/// A value for the caller. A small slice would keep the whole message it came in alive, so it is copied; a large one
/// makes up most of its message.
fn detached(value: &[u8], frame: &Bytes) -> Bytes {
    if value.len() > DETACH_BYTES_MAX {
        return frame.slice_ref(value);
    }
    Bytes::copy_from_slice(value)
}
