//! Small protocols of atomics under every schedule, with what their orderings allow (loom).

use std::sync::Arc;

use softstore_sharding::{PullId, SliceKey};
use softstore_sync::Mutex;
use softstore_sync::atomic::AtomicBool;
use softstore_sync::exhaust::{exhaust, find, thread};
use softstore_sync::planted::Race;

use crate::frequency::Decay;
use crate::moka_engine::evictions::Evictions;
use crate::moka_engine::instalments::{INSTALMENT_BYTES, Instalments};
use crate::moka_engine::seat::{Seat, Ticket};
use crate::moka_engine::written::{Kind, Memory, WrittenKeys, WrittenLimit};

const AT: SliceKey = SliceKey::new(0);
const PREEMPTIONS: usize = 3;

/// Plan: two threads note an eviction each in one stripe while a third takes what it sees marked. No note is left behind:
/// whatever the third did not take, the mark still says.
fn notes_against_a_taker() {
    let evictions = Arc::new(Evictions::new(Decay::with_half_life_ms(1_000)));
    let note = |number| {
        let evictions = evictions.clone();
        move || evictions.note(AT, Ticket::from_number(number))
    };
    let (one, two) = (thread::spawn(note(1)), thread::spawn(note(2)));
    let mut taken = 0;
    if evictions.has_notes(0) {
        let notes = evictions.take(0);
        taken += notes.len();
    }
    one.join().expect("no fault");
    two.join().expect("no fault");
    while let Some(stripe) = evictions.some_noted_stripe() {
        taken += evictions.take(stripe).len();
    }
    assert_eq!(taken, 2);
}

#[test]
fn no_note_is_left_behind() {
    exhaust(PREEMPTIONS, notes_against_a_taker);
}

#[test]
fn a_mark_wiped_after_its_notes_is_found() {
    find(Race::MarkWipedAfterNotes, PREEMPTIONS, notes_against_a_taker);
}

#[test]
fn a_mark_set_before_its_note_is_found() {
    find(Race::MarkSetBeforeNote, PREEMPTIONS, notes_against_a_taker);
}

/// Plan: two seats begin to grow while a third thread takes what is owed. Both debts are found, by it or afterwards.
fn debts_against_a_payer() {
    let instalments = Arc::new(Instalments::default());
    let owe = |number| {
        let instalments = instalments.clone();
        move || {
            let seat = Seat {
                ticket: Ticket::from_number(number),
                weight_bytes: 2 * INSTALMENT_BYTES,
            };
            instalments.pay(SliceKey::new(u64::from(number)), seat, 0);
        }
    };
    let (one, two) = (thread::spawn(owe(1)), thread::spawn(owe(2)));
    let mut found = usize::from(instalments.next().is_some());
    one.join().expect("no fault");
    two.join().expect("no fault");
    while instalments.next().is_some() {
        found += 1;
    }
    assert_eq!(found, 2);
}

#[test]
fn no_debt_is_forgotten() {
    exhaust(PREEMPTIONS, debts_against_a_payer);
}

#[test]
fn a_debt_counted_after_the_lock_is_found() {
    find(Race::DebtCountedAfterLock, PREEMPTIONS, debts_against_a_payer);
}

/// Plan: two stripes remember a key each in a pull whose memory has room for one. Under its stripe's lock each key is
/// called written from then on, whether it was remembered or the memory overflowed, and the limit counts no key twice.
#[test]
fn an_overflow_is_seen_where_a_key_was_not_remembered() {
    exhaust(PREEMPTIONS, || {
        let pull = PullId::new(7);
        let limit = Arc::new(WrittenLimit::new(1));
        let overflowed = Arc::new(AtomicBool::new(false));
        let stripes: Vec<Arc<Mutex<WrittenKeys>>> = (0..2)
            .map(|_| {
                let mut keys = WrittenKeys::default();
                keys.begin(pull, Kind::Pulled, overflowed.clone());
                Arc::new(Mutex::new(keys))
            })
            .collect();
        let threads: Vec<_> = stripes
            .iter()
            .map(|stripe| {
                let (stripe, limit) = (stripe.clone(), limit.clone());
                thread::spawn(move || {
                    stripe.lock().remember(Some(pull), AT, &limit);
                    assert_eq!(stripe.lock().recall(pull, AT), Memory::Written);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no fault");
        }
        assert!(stripes.iter().all(|stripe| stripe.lock().overflowed(pull)));
        for stripe in &stripes {
            assert!(stripe.lock().end(pull, &limit));
        }
        assert_eq!(limit.keys(), 0);
    });
}
