//! [`Tally`]: what one thread counts of the operations that it serves. Plain numbers: who shares one, locks it.
//!
//! Counting costs a look-up by slot and some additions. One operation in about [`SAMPLE_GAP_MEAN`] is put into the sketch
//! besides; the gaps are drawn, so that no pattern in the operations (a batch that repeats) meets the sample always or
//! never.

use std::collections::BTreeMap;

use super::Rates;
use super::atoms::atom_of;
use super::sketch::Sketch;
use crate::slice::Slice;
use crate::slice_key::{SLOT_COUNT, SliceKey};

/// Operations per sample, on average: a gap is 1 to 32, each as likely.
pub const SAMPLE_GAP_MEAN: f64 = 16.5;

/// Most pieces of slots that are counted by themselves between two heartbeats. What falls into others is not counted.
const PIECES_MAX: usize = 4_096;

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
    /// It was something else than a get.
    pub is_write: bool,
    /// It was a get that found something.
    pub is_hit: bool,
}

/// The counts of a slot or a piece of one since the last heartbeat. They stop at their end: for the bytes, 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cell {
    operations: u32,
    writes: u32,
    hits: u32,
    bytes: u32,
}

impl Cell {
    #[inline]
    fn count(&mut self, served: &Served<'_>) {
        self.operations = self.operations.saturating_add(1);
        self.writes = self.writes.saturating_add(u32::from(served.is_write));
        self.hits = self.hits.saturating_add(u32::from(served.is_hit));
        let bytes = u32::try_from(served.bytes).unwrap_or(u32::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Its counts as numbers to be weighted.
    pub(super) fn counts(self) -> Rates {
        Rates {
            operations: f64::from(self.operations),
            writes: f64::from(self.writes),
            hits: f64::from(self.hits),
            bytes: f64::from(self.bytes),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.operations == 0
    }
}

/// See the head of this file. 300 KiB.
#[derive(Clone, Debug)]
pub struct Tally {
    pub(super) slots: Vec<Cell>,
    pub(super) pieces: BTreeMap<Slice, Cell>,
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
        Self {
            slots: vec![Cell::default(); usize::from(SLOT_COUNT)],
            pieces: BTreeMap::new(),
            sketch: Sketch::default(),
            until_sample: 1,
            draw: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Counts an operation.
    #[inline]
    pub fn count(&mut self, served: &Served<'_>) {
        let atom = atom_of(served.at, served.range);
        if atom.is_piece {
            self.count_piece(atom.slice, served);
        } else {
            self.slots[usize::from(atom.slot.get())].count(served);
        }
        self.until_sample -= 1;
        if self.until_sample == 0 {
            self.sample(served);
        }
    }

    #[cold]
    fn count_piece(&mut self, piece: Slice, served: &Served<'_>) {
        if let Some(cell) = self.pieces.get_mut(&piece) {
            cell.count(served);
        } else if self.pieces.len() < PIECES_MAX {
            self.pieces.entry(piece).or_default().count(served);
        }
    }

    #[inline(never)]
    fn sample(&mut self, served: &Served<'_>) {
        self.sketch.add(served.at, served.key);
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        self.until_sample = 1 + u32::try_from(self.draw >> 59).expect("five bits");
    }
}
