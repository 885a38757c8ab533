//! [`Instalments`]: large entries are made known to moka bit by bit, so that no single operation evicts for long.
//!
//! moka evicts as much as an insert brought in, on the thread of whoever runs its pending tasks next: for a value of
//! 8 MiB in a store of small entries that would be some 20,000 victims at about a microsecond each, with the caller's
//! locks held. So a large entry's seat weighs [`INSTALMENT_BYTES`] at first and grows by as much with each operation
//! that follows, or in `maintain`. The gauges count its whole weight at once: what is told late is lent by the reserve,
//! and a writer that finds the budget exceeded waits while it grows seats itself (`room`).

use std::collections::VecDeque;

use softstore_sharding::SliceKey;
use softstore_sync::Mutex;
use softstore_sync::atomic::{AtomicUsize, Ordering};
use softstore_sync::planted::{self, Race};

use super::MokaStore;
use super::seat::{Seat, Ticket};

/// What a seat weighs at most when it is new, and grows by: 64 KiB, fewer than 200 of the smallest entries.
pub(super) const INSTALMENT_BYTES: u32 = 64 << 10;

/// Most instalments that one call of `maintain` pays.
const MAINTAIN_COUNT_MAX: usize = 32;

/// A seat that weighs less than its entry yet.
#[derive(Debug)]
pub(super) struct Owing {
    at: SliceKey,
    ticket: Ticket,
    paid_bytes: u32,
}

/// All seats that still grow.
#[derive(Debug, Default)]
pub(super) struct Instalments {
    owing: Mutex<VecDeque<Owing>>,
    count: AtomicUsize,
}

impl Instalments {
    /// The seat as moka is to be told of it now: of its first instalment, or of one more than `paid_bytes`.
    pub(super) fn pay(&self, at: SliceKey, seat: Seat, paid_bytes: u32) -> Seat {
        let paid_bytes = paid_bytes.saturating_add(INSTALMENT_BYTES);
        if seat.weight_bytes <= paid_bytes {
            return seat;
        }
        let mut owing = self.owing.lock();
        owing.push_back(Owing {
            at,
            ticket: seat.ticket,
            paid_bytes,
        });
        self.count.store(owing.len(), Ordering::Release);
        Seat {
            weight_bytes: paid_bytes,
            ..seat
        }
    }

    pub(super) fn next(&self) -> Option<Owing> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut owing = self.owing.lock();
        let next = owing.pop_front();
        let count = owing.len();
        if planted::is(Race::DebtCountedAfterLock) {
            drop(owing);
        }
        self.count.store(count, Ordering::Release);
        next
    }
}

impl MokaStore {
    /// Pays one instalment and evicts for it. False if none is owed.
    pub(super) fn pay_instalment(&self) -> bool {
        let Some(owing) = self.instalments.next() else {
            return false;
        };
        let mut stripe = self.lock(owing.at);
        let turn = self.turns.current();
        let ticket = stripe.ticket.next();
        // Nothing is owed for an entry that is gone or has another seat, which has a debt of its own.
        let seat = stripe
            .index
            .get(owing.at)
            .filter(|entry| entry.ticket() == owing.ticket)
            .map(|entry| entry.seat(ticket, turn));
        if let Some(seat) = seat {
            stripe.ticket = ticket;
            // A new ticket, as for any insert: moka may have taken the old seat just now.
            let seat = self.instalments.pay(owing.at, seat, owing.paid_bytes);
            self.give_up_seat(owing.at);
            self.seats.give(owing.at, seat);
        }
        drop(stripe);
        self.run_moka_tasks();
        true
    }

    /// Pays some of what is owed, for `maintain`.
    pub(super) fn pay_instalments(&self) {
        for _ in 0..MAINTAIN_COUNT_MAX {
            if !self.pay_instalment() {
                return;
            }
        }
    }
}
