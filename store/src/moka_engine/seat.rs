//! [`Seat`]: what moka holds of an entry. Not the entry: a ticket that names it, and what it weighs.
//!
//! An entry that is overwritten by one of the same weight may keep its seat, and moka need not be told. A ticket is
//! given once per stripe and thereby once per position (until 2^32 more are given while an eviction of the first still
//! waits, and every write to the stripe takes what waits), so an eviction that names it means the seat and no later one.

/// The name of a seat at its position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ticket(u32);

impl Ticket {
    /// The next ticket of a stripe.
    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    pub(super) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    pub(super) const fn number(self) -> u32 {
        self.0
    }
}

/// moka's value. 8 bytes: what moka allocates for an entry stays in a smaller size class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seat {
    pub(super) ticket: Ticket,
    /// At most 2^30 and some for key, value and overhead: see `VALUE_BYTES_LIMIT`.
    pub(super) weight_bytes: u32,
}
