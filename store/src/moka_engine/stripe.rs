//! [`Stripes`]: "the key's lock", and what it guards besides the key's entry.
//!
//! A position's stripe is chosen by its low bits, which are hash bits: so even a narrow slice's keys spread over all
//! stripes, and one stripe's share of a slice is a fair sample of it. Each stripe owns the part of the index and of the
//! written-keys memories that belongs to its positions.

use softstore_sharding::{Slice, SliceKey};
use softstore_sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::index::Index;
use super::seat::Ticket;
use super::written::WrittenKeys;

/// How many stripes there are. A power of two. Few under an explorer: each is a step of whoever visits them all.
pub(super) const STRIPE_COUNT: usize = if softstore_sync::IS_MODELLED { 2 } else { 256 };

/// What one lock guards.
#[derive(Debug, Default)]
pub(super) struct Stripe {
    /// Each entry that stands at a position of this stripe.
    pub(super) index: Index,
    /// The last ticket that was given.
    pub(super) ticket: Ticket,
    pub(super) written: WrittenKeys,
}

/// A stripe on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(RwLock<Stripe>);

/// All stripes.
#[derive(Debug)]
pub(super) struct Stripes(Box<[Padded]>);

impl Stripes {
    pub(super) fn new() -> Self {
        Self((0..STRIPE_COUNT).map(|_| Padded::default()).collect())
    }

    /// Locks the stripe of a position against changes.
    pub(super) fn look(&self, at: SliceKey) -> RwLockReadGuard<'_, Stripe> {
        self.0[stripe_index(at)].0.read()
    }

    /// Locks a stripe by number, below [`STRIPE_COUNT`], to change it.
    pub(super) fn lock_nth(&self, number: usize) -> RwLockWriteGuard<'_, Stripe> {
        self.0[number].0.write()
    }

    /// Locks a stripe by number, below [`STRIPE_COUNT`], against changes.
    pub(super) fn look_nth(&self, number: usize) -> RwLockReadGuard<'_, Stripe> {
        self.0[number].0.read()
    }
}

/// The stripes that hold positions of a slice: all, unless it is very narrow.
pub(super) fn stripes_of(slice: Slice) -> impl Iterator<Item = usize> {
    let first = stripe_index(slice.low());
    let count = usize::try_from(slice.width()).map_or(STRIPE_COUNT, |width| width.min(STRIPE_COUNT));
    (0..count).map(move |offset| (first + offset) % STRIPE_COUNT)
}

/// The stripe of a position.
pub(super) fn stripe_index(at: SliceKey) -> usize {
    usize::try_from(at.get() % STRIPE_COUNT as u64).expect("below the number of stripes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_slice_has_the_stripes_of_its_positions() {
        let slice = Slice::between(SliceKey::new(510), SliceKey::new(513)).expect("ordered");
        let stripes: Vec<usize> = stripes_of(slice).collect();
        assert_eq!(stripes, [254, 255, 0, 1]);
        assert_eq!(stripes_of(Slice::FULL).count(), STRIPE_COUNT);
        assert_eq!(
            stripes_of(Slice::single(SliceKey::MAX)).collect::<Vec<_>>(),
            [255]
        );
    }
}
