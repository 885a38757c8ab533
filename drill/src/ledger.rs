//! What a read may return: the drill's own account of every key.
//!
//! Each mutation of a key (write, delete, fill) gets the key's next number when it *begins*; mutations of one key run one
//! after the other. From that follow the rules, per key:
//!
//! - a read is *stale* when its number is below the highest number acknowledged before the read was sent; if that highest
//!   one was a delete, the value is *resurrected*;
//! - a miss is always allowed;
//! - a write whose outcome is unknown may take effect at any later time, even on top of newer ones. So its number is never
//!   stale, and it raises no bar;
//! - a refused write must never be seen, nor a number that was not given out;
//! - a fill is dropped when any mutation began since its miss: what it loaded may be older than that.
//!
//! The bar is taken *before* the read is sent and compared after its answer, so a write that runs beside a read can make
//! neither stale.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::request::KeyIndex;
use crate::value::WriteNumber;

/// Unknown and refused numbers remembered per key; beyond, reads of that key are no longer judged (never wrongly accused).
const ODD_NUMBERS_MAX: usize = 256;

/// What was known of a key just before a read of it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sight {
    /// The highest acknowledged mutation, and whether it was a delete.
    acknowledged: WriteNumber,
    acknowledged_delete: bool,
    /// The last mutation begun.
    begun: WriteNumber,
}

/// What a value read for a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Older than a write acknowledged before the read.
    Stale,
    /// Older than a delete acknowledged before the read.
    Resurrected,
    /// Of a write that was refused, or never begun.
    Impossible,
}

/// How a mutation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Acknowledged,
    Refused,
    Unknown,
}

/// The accounts of all keys.
#[derive(Debug)]
pub(crate) struct Ledger {
    accounts: Vec<Mutex<Account>>,
}

#[derive(Debug, Default)]
struct Account {
    begun: WriteNumber,
    acknowledged: WriteNumber,
    acknowledged_delete: bool,
    /// A mutation is under way.
    taken: bool,
    /// Rare state apart, so that an account of an ordinary key stays small.
    odd: Option<Box<Odd>>,
}

#[derive(Debug, Default)]
struct Odd {
    unknown: Vec<WriteNumber>,
    refused: Vec<WriteNumber>,
    overflown: bool,
    waiting: VecDeque<oneshot::Sender<()>>,
}

impl Ledger {
    pub(crate) fn new(keys: u32) -> Self {
        Self {
            accounts: (0..keys).map(|_| Mutex::default()).collect(),
        }
    }

    /// To be taken before a read is sent.
    pub(crate) fn sight(&self, key: KeyIndex) -> Sight {
        let account = self.accounts[key.index()].lock();
        Sight {
            acknowledged: account.acknowledged,
            acknowledged_delete: account.acknowledged_delete,
            begun: account.begun,
        }
    }

    /// Judges a value that a read returned.
    pub(crate) fn judge(&self, key: KeyIndex, sight: Sight, read: WriteNumber) -> Freshness {
        let account = self.accounts[key.index()].lock();
        let odd = account.odd.as_deref();
        if read > account.begun
            || read == WriteNumber(0)
            || odd.is_some_and(|odd| odd.refused.contains(&read))
        {
            return Freshness::Impossible;
        }
        if read >= sight.acknowledged || odd.is_some_and(|odd| odd.overflown || odd.unknown.contains(&read)) {
            return Freshness::Fresh;
        }
        if sight.acknowledged_delete {
            Freshness::Resurrected
        } else {
            Freshness::Stale
        }
    }

    /// Waits until no other mutation of the key is under way.
    pub(crate) async fn turn(&self, key: KeyIndex) -> Turn<'_> {
        let wait = {
            let mut account = self.accounts[key.index()].lock();
            if account.taken {
                let (go, wait) = oneshot::channel();
                account.odd.get_or_insert_default().waiting.push_back(go);
                Some(wait)
            } else {
                account.taken = true;
                None
            }
        };
        if let Some(wait) = wait {
            // The account stays taken while it is handed on, and keeps the sender until it sends.
            let mut waiting = Waiting {
                ledger: self,
                key,
                wait,
            };
            let _ = (&mut waiting.wait).await;
            waiting.wait.close();
        }
        Turn {
            ledger: self,
            key,
            open: None,
        }
    }

    fn pass_on(&self, key: KeyIndex) {
        let mut account = self.accounts[key.index()].lock();
        while let Some(next) = account.odd.as_mut().and_then(|odd| odd.waiting.pop_front()) {
            if next.send(()).is_ok() {
                return;
            }
        }
        account.taken = false;
    }
}

/// A place in a key's queue. Dropped after it was called but before it came on, it calls the next.
struct Waiting<'a> {
    ledger: &'a Ledger,
    key: KeyIndex,
    wait: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.wait.close();
        if self.wait.try_recv().is_ok() {
            self.ledger.pass_on(self.key);
        }
    }
}

/// The sole right to mutate a key. Ends when dropped; a mutation begun and not ended then counts as unknown.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    ledger: &'a Ledger,
    key: KeyIndex,
    open: Option<(WriteNumber, bool)>,
}

impl Turn<'_> {
    /// Begins a write and gives its number.
    pub(crate) fn begin_write(&mut self) -> WriteNumber {
        self.begin(false)
    }

    /// Begins a delete.
    pub(crate) fn begin_delete(&mut self) -> WriteNumber {
        self.begin(true)
    }

    /// Begins a fill after a miss, or `None` if a mutation began since the read was sent.
    pub(crate) fn begin_fill(&mut self, miss: Sight) -> Option<WriteNumber> {
        let begun = self.ledger.accounts[self.key.index()].lock().begun;
        (begun == miss.begun).then(|| self.begin(false))
    }

    fn begin(&mut self, delete: bool) -> WriteNumber {
        let mut account = self.ledger.accounts[self.key.index()].lock();
        account.begun.0 += 1;
        self.open = Some((account.begun, delete));
        account.begun
    }

    /// Ends the mutation begun.
    pub(crate) fn end(&mut self, ending: Ending) {
        let Some((number, delete)) = self.open.take() else {
            return;
        };
        let mut account = self.ledger.accounts[self.key.index()].lock();
        match ending {
            Ending::Acknowledged => {
                account.acknowledged = number;
                account.acknowledged_delete = delete;
            }
            // A delete that takes effect late, or not, can only cause or spare a miss.
            _ if delete => {}
            Ending::Refused => note(&mut account, number, |odd| &mut odd.refused),
            Ending::Unknown => note(&mut account, number, |odd| &mut odd.unknown),
        }
    }
}

fn note(account: &mut Account, number: WriteNumber, list: impl Fn(&mut Odd) -> &mut Vec<WriteNumber>) {
    let odd = account.odd.get_or_insert_default();
    if list(odd).len() < ODD_NUMBERS_MAX {
        list(odd).push(number);
    } else {
        odd.overflown = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.end(Ending::Unknown);
        self.ledger.pass_on(self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const KEY: KeyIndex = KeyIndex(0);

    fn turn(ledger: &Ledger) -> Turn<'_> {
        ledger.turn(KEY).now_or_never().expect("the key is free")
    }

    fn write(ledger: &Ledger, ending: Ending) -> WriteNumber {
        let mut turn = turn(ledger);
        let number = turn.begin_write();
        turn.end(ending);
        number
    }

    fn delete(ledger: &Ledger) {
        let mut turn = turn(ledger);
        turn.begin_delete();
        turn.end(Ending::Acknowledged);
    }

    #[test]
    fn a_value_below_the_acknowledged_one_is_stale() {
        let ledger = Ledger::new(1);
        let old = write(&ledger, Ending::Acknowledged);
        let new = write(&ledger, Ending::Acknowledged);
        let sight = ledger.sight(KEY);
        assert_eq!(ledger.judge(KEY, sight, old), Freshness::Stale);
        assert_eq!(ledger.judge(KEY, sight, new), Freshness::Fresh);
    }

    #[test]
    fn a_value_older_than_a_delete_is_resurrected_and_a_newer_one_is_fresh() {
        let ledger = Ledger::new(1);
        let old = write(&ledger, Ending::Acknowledged);
        delete(&ledger);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), old), Freshness::Resurrected);
        let new = write(&ledger, Ending::Acknowledged);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), new), Freshness::Fresh);
    }

    /// Plan: a read is sent, then a write begins and is acknowledged, then the read answers: with the old value or with the
    /// new one. Both are right, as the two ran side by side.
    #[test]
    fn a_write_beside_a_read_makes_neither_value_stale() {
        let ledger = Ledger::new(1);
        let old = write(&ledger, Ending::Acknowledged);
        let sight = ledger.sight(KEY);
        let new = write(&ledger, Ending::Acknowledged);
        assert_eq!(ledger.judge(KEY, sight, old), Freshness::Fresh);
        assert_eq!(ledger.judge(KEY, sight, new), Freshness::Fresh);
        let mut under_way = turn(&ledger);
        let newest = under_way.begin_write();
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), newest), Freshness::Fresh);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), new), Freshness::Fresh);
    }

    #[test]
    fn a_write_of_unknown_outcome_raises_no_bar_and_may_land_late() {
        let ledger = Ledger::new(1);
        let first = write(&ledger, Ending::Acknowledged);
        let lost = write(&ledger, Ending::Unknown);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), first), Freshness::Fresh);
        let newer = write(&ledger, Ending::Acknowledged);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), lost), Freshness::Fresh);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), newer), Freshness::Fresh);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), first), Freshness::Stale);
    }

    #[test]
    fn a_mutation_dropped_in_mid_flight_is_unknown() {
        let ledger = Ledger::new(1);
        let lost = {
            let mut turn = turn(&ledger);
            turn.begin_write()
        };
        write(&ledger, Ending::Acknowledged);
        assert_eq!(ledger.judge(KEY, ledger.sight(KEY), lost), Freshness::Fresh);
    }

    #[test]
    fn a_refused_write_and_an_unheard_of_number_are_impossible() {
        let ledger = Ledger::new(1);
        let refused = write(&ledger, Ending::Refused);
        write(&ledger, Ending::Acknowledged);
        let sight = ledger.sight(KEY);
        assert_eq!(ledger.judge(KEY, sight, refused), Freshness::Impossible);
        assert_eq!(ledger.judge(KEY, sight, WriteNumber(3)), Freshness::Impossible);
        assert_eq!(ledger.judge(KEY, sight, WriteNumber(0)), Freshness::Impossible);
    }

    #[test]
    fn a_fill_is_dropped_if_anything_began_since_its_miss() {
        let ledger = Ledger::new(1);
        let miss = ledger.sight(KEY);
        assert!(turn(&ledger).begin_fill(miss).is_some());
        assert_eq!(
            turn(&ledger).begin_fill(miss),
            None,
            "the other fill of the same miss came first"
        );
        let miss = ledger.sight(KEY);
        delete(&ledger);
        assert_eq!(turn(&ledger).begin_fill(miss), None);
    }

    /// Plan: one turn is held while three more wait, the second of which gives up. They come on in order, the second skipped.
    #[test]
    fn turns_come_one_after_the_other() {
        let ledger = Ledger::new(1);
        let first = turn(&ledger);
        let mut second = Box::pin(ledger.turn(KEY));
        let mut third = Box::pin(ledger.turn(KEY));
        let mut fourth = Box::pin(ledger.turn(KEY));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        assert!((&mut fourth).now_or_never().is_none());
        drop(second);
        drop(first);
        assert!((&mut fourth).now_or_never().is_none());
        let third_turn = (&mut third).now_or_never().expect("its turn");
        drop(third_turn);
        assert!((&mut fourth).now_or_never().is_some());
        assert!(ledger.turn(KEY).now_or_never().is_some());
    }
}
