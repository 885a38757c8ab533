//! [`Fills`]: what a replica is asking its owners for. One question per position at a time, shared by those who came for the
//! key meanwhile.
//!
//! Not part of the core: reads have that shared only. The shell keeps it behind a lock of its own, and holds that lock while
//! it carries out what is decided here: an answer is kept, or a copy is forgotten.
//!
//! What is kept (H2): an answer whose question still stands, by an owner that saw no write coming, under the reading that is
//! still valid. An invalidation takes the question away, and nobody joins it after: what it brings may be older than the
//! write that follows.
//!
//! Who gets the value: whoever asked, since the owner has read it after that. Who joined later gets it only if the owner saw
//! no write coming. Otherwise the owner may have read it before a write that was done, and acknowledged, before the reader
//! came: the question was asked after the invalidation, so none has taken it away. Nor does a joiner get what has expired by the
//! time of an answer that is late: it may have come after that (H5).

use std::collections::BTreeMap;

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Epoch, SliceKey, Timestamp};

/// What a reader who found no copy is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// Ask the owner, and tell the answer under this token.
    Ask(u64),
    /// Wait for the answer to the question with this token.
    Wait(u64),
}

/// See the head of this file.
#[derive(Clone, Debug, Default)]
pub struct Fills {
    pending: BTreeMap<SliceKey, Pending>,
    tokens_given: u64,
}

#[derive(Clone, Debug)]
struct Pending {
    token: u64,
    key: Bytes,
    epoch: Epoch,
}

impl Fills {
    /// A reader, admitted under the reading with this epoch, found no copy of a key. Questions of other readings, which may
    /// have been answered before a write that came in between, are not joined. None: there is none
    /// to join, and the reader may not ask one (`may_ask`).
    pub fn join(&mut self, at: SliceKey, key: &Bytes, epoch: Epoch, may_ask: bool) -> Option<Join> {
        if let Some(pending) = self.pending.get(&at)
            && pending.epoch == epoch
            && pending.key == *key
        {
            return Some(Join::Wait(pending.token));
        }
        if !may_ask {
            return None;
        }
        self.tokens_given += 1;
        let (token, key) = (self.tokens_given, key.clone());
        self.pending.insert(at, Pending { token, key, epoch });
        Some(Join::Ask(token))
    }

    /// The owner is about to change a position: a question under way is not kept, and not joined. The shell forgets the copy
    /// before it lets the lock go.
    pub fn invalidate(&mut self, at: SliceKey) {
        self.pending.remove(&at);
    }

    /// An answer has come, or never will (`may_keep`: false). Returns whether it may be kept, by what is known here; the shell
    /// keeps it, if the reading it was asked under is still valid, before it lets the lock go.
    pub fn answered(&mut self, at: SliceKey, token: u64, may_keep: bool) -> bool {
        let stands = self
            .pending
            .get(&at)
            .is_some_and(|pending| pending.token == token);
        if stands {
            self.pending.remove(&at);
        }
        (stands || planted::is(Bug::FillCrossesInvalidation))
            && (may_keep || planted::is(Bug::FillKeptWhileWritten))
    }

    /// Whether one who joined a question after it was asked may have what it brought, that lives until `deadline`
    /// ([`Timestamp::NEVER`]: it does not expire).
    #[must_use]
    pub fn is_for_joiners(may_keep: bool, deadline: Timestamp, now: Timestamp) -> bool {
        now < deadline && (may_keep || planted::is(Bug::FillSharedWhileWritten))
    }

    /// How many questions are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> SliceKey {
        SliceKey::new(position)
    }

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    /// Plan: a question is joined by readers of the same reading and key, and kept once.
    #[test]
    fn one_question_is_shared_and_kept_once() {
        let mut fills = Fills::default();
        let (one, two) = (Epoch::new(1), Epoch::new(2));
        assert_eq!(fills.join(at(5), &key("a"), one, true), Some(Join::Ask(1)));
        assert_eq!(fills.join(at(5), &key("a"), one, true), Some(Join::Wait(1)));
        assert_eq!(fills.join(at(6), &key("b"), one, true), Some(Join::Ask(2)));
        assert!(fills.answered(at(5), 1, true));
        assert!(!fills.answered(at(5), 1, true), "said twice");
        assert!(!fills.answered(at(6), 2, false), "a write was coming");
        assert!(fills.is_empty());
        // Of another reading, or another key at the same position: not joined, and what was asked first is not kept.
        assert_eq!(fills.join(at(5), &key("a"), one, true), Some(Join::Ask(3)));
        assert_eq!(fills.join(at(5), &key("a"), two, true), Some(Join::Ask(4)));
        assert_eq!(fills.join(at(5), &key("c"), two, true), Some(Join::Ask(5)));
        assert!(!fills.answered(at(5), 3, true) && !fills.answered(at(5), 4, true));
        assert!(fills.answered(at(5), 5, true));
    }

    /// Plan: an invalidation crosses an answer. It is not kept and nobody joins it, nor does it take away what is asked after.
    #[test]
    fn h2_an_invalidated_question_is_neither_kept_nor_joined() {
        let mut fills = Fills::default();
        let epoch = Epoch::new(1);
        assert_eq!(fills.join(at(5), &key("a"), epoch, true), Some(Join::Ask(1)));
        fills.invalidate(at(5));
        assert_eq!(fills.join(at(5), &key("a"), epoch, true), Some(Join::Ask(2)));
        assert!(!fills.answered(at(5), 1, true));
        assert_eq!(fills.join(at(5), &key("a"), epoch, true), Some(Join::Wait(2)));
        assert!(fills.answered(at(5), 2, true));
    }

    /// Plan: a reader who may not ask joins the question that there is, and no other.
    #[test]
    fn who_may_not_ask_may_join() {
        let mut fills = Fills::default();
        let epoch = Epoch::new(1);
        assert_eq!(fills.join(at(5), &key("a"), epoch, false), None);
        assert_eq!(fills.join(at(5), &key("a"), epoch, true), Some(Join::Ask(1)));
        assert_eq!(fills.join(at(5), &key("a"), epoch, false), Some(Join::Wait(1)));
        assert_eq!(fills.join(at(6), &key("b"), epoch, false), None);
    }

    #[test]
    fn h2_what_may_not_be_kept_is_not_for_joiners() {
        let now = Timestamp::from_ms(5);
        assert!(Fills::is_for_joiners(true, Timestamp::NEVER, now));
        assert!(!Fills::is_for_joiners(false, Timestamp::NEVER, now));
    }

    /// Plan: an answer is so late that the value has expired. Who joined may have come after that.
    #[test]
    fn h5_what_has_expired_is_not_for_joiners() {
        let deadline = Timestamp::from_ms(50);
        assert!(Fills::is_for_joiners(true, deadline, Timestamp::from_ms(49)));
        assert!(!Fills::is_for_joiners(true, deadline, deadline));
    }
}
