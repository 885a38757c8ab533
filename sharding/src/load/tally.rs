//! [`Tally`]: what one thread counts of the operations that it serves. Plain numbers: who shares one, locks it.
//!
//! Counting costs a look-up by slot and two additions, some 20 instructions, and what is rare is kept out of their way: how
//! much that is of a get is measured in the server's `node::load_cost`. One operation in about [`SAMPLE_GAP_MEAN`] is put
//! into the sketch besides; the gaps are drawn, so that no pattern in the operations (a batch that repeats) meets the sample
//! always or never.

use std::collections::BTreeMap;

use super::Rates;
use super::atoms::atom_of;
use super::sketch::Sketch;
use crate::slice::Slice;
use crate::slice_key::{SLOT_COUNT, SliceKey};

/// Operations per sample, on average: a gap is 1 to 64, each as likely.
pub const SAMPLE_GAP_MEAN: f64 = 32.5;

/// Most pieces of slots that are counted by themselves between two heartbeats. What falls into others is not counted.
const PIECES_MAX: usize = 4_096;

const SLOTS: usize = SLOT_COUNT as usize;

/// An operation that was served.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// The key's position.
    pub at: SliceKey,
    /// The range that the node serves it with.
    pub range: Slice,
    /// The key.
    pub key: &'a [u8],
    /// Bytes of the key and of the values in and out.
    pub bytes: usize,
    /// What it was.
    pub was: Was,
}

/// What an operation was, as load is told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Was {
    /// A get that found nothing.
    Miss,
    /// A get that found something.
    Hit,
    /// Anything else.
    Write,
}

const KINDS: usize = Was::Write as usize + 1;

/// The counts of a slot or a piece of one since the last heartbeat. Operations begin anew at 2^32 of a kind, which no node
/// serves between two heartbeats.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    bytes: u64,
    operations: [u32; KINDS],
}

impl Cell {
    #[inline]
    fn count(&mut self, was: Was, bytes: usize) {
        let operations = &mut self.operations[was as usize];
        *operations = operations.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }

    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.wrapping_add(other.bytes);
        for (count, other) in self.operations.iter_mut().zip(other.operations) {
            *count = count.wrapping_add(other);
        }
    }

    /// Its counts as numbers to be weighted.
    pub(super) fn counts(self) -> Rates {
        let [misses, hits, writes] = self.operations.map(f64::from);
        Rates {
            operations: misses + hits + writes,
            writes,
            hits,
            bytes: self.bytes as f64,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.operations == [0; KINDS]
    }
}

/// Pieces that are counted without a search, so many at a time: an isolated key is a piece, and draws much.
const RECENT_PIECES: usize = 8;

/// A piece that was counted lately.
#[derive(Clone, Copy, Debug)]
struct Recent {
    /// The range that it is a piece of.
    range: Slice,
    slice: Slice,
    /// What is not in [`Tally::pieces`] yet.
    cell: Cell,
}

/// See the head of this file. 430 KiB.
#[derive(Clone, Debug)]
pub struct Tally {
    pub(super) slots: Box<[Cell; SLOTS]>,
    pieces: BTreeMap<Slice, Cell>,
    /// By the low bits of the positions counted: those of a key that is alone are always the same.
    recent: [Option<Recent>; RECENT_PIECES],
    pub(super) sketch: Sketch,
    /// Operations until the next sample, 1 or more.
    until_sample: u32,
    /// The state of the draw of gaps: xorshift64 (Marsaglia, 2003), never 0.
    draw: u64,
}

impl Tally {
    /// One that has counted nothing. `seed` begins its draw of gaps.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        // Made where they stay: they are more than a thread's stack should bear.
        let slots = vec![Cell::default(); SLOTS].into_boxed_slice().try_into();
        Self {
            slots: slots.expect("so many were made"),
            pieces: BTreeMap::new(),
            recent: [None; RECENT_PIECES],
            sketch: Sketch::default(),
            until_sample: 1,
            draw: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Counts an operation.
    #[inline]
    pub fn count(&mut self, served: &Served<'_>) {
        let Served {
            at,
            range,
            key,
            bytes,
            was,
        } = *served;
        if range.covers(Slice::of_slot(at.slot())) {
            self.slots[usize::from(at.slot().get())].count(was, bytes);
        } else if let Some(recent) = &mut self.recent[recent_of(at)]
            && recent.range == range
            && recent.slice.contains(at)
        {
            recent.cell.count(was, bytes);
        } else {
            self.count_other_piece(at, range, was, bytes);
        }
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.sample(at, key);
        }
    }

    #[cold]
    #[inline(never)]
    fn count_other_piece(&mut self, at: SliceKey, range: Slice, was: Was, bytes: usize) {
        let mut next = Recent {
            range,
            slice: atom_of(at, range).slice,
            cell: Cell::default(),
        };
        next.cell.count(was, bytes);
        if let Some(before) = self.recent[recent_of(at)].replace(next) {
            self.keep(&before);
        }
    }

    fn keep(&mut self, piece: &Recent) {
        if let Some(cell) = self.pieces.get_mut(&piece.slice) {
            cell.add(piece.cell);
        } else if self.pieces.len() < PIECES_MAX {
            self.pieces.insert(piece.slice, piece.cell);
        }
    }

    /// What was counted by pieces, which is forgotten.
    pub(super) fn take_pieces(&mut self) -> BTreeMap<Slice, Cell> {
        for piece in std::mem::take(&mut self.recent).iter().flatten() {
            self.keep(piece);
        }
        std::mem::take(&mut self.pieces)
    }

    #[cold]
    #[inline(never)]
    fn sample(&mut self, at: SliceKey, key: &[u8]) {
        self.sketch.add(at, key);
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        self.until_sample = 1 + u32::try_from(self.draw >> 58).expect("six bits");
    }
}

#[inline]
fn recent_of(at: SliceKey) -> usize {
    usize::try_from(at.get() % RECENT_PIECES as u64).expect("below a usize")
}
