//! Groups of slots: what stands for "a slice" in the drill's measures.
//!
//! Slices differ from arm to arm and move; a fixed cut of the key space does not. 256 groups of 64 slots are finer than the
//! slices of a small cluster, and coarse enough that each is asked several times in 100 ms at the default rate.

use softstore_sharding::{SLOT_COUNT, Slot};

use crate::request::{KeyIndex, Sequence};

pub(crate) const SLOT_GROUPS: usize = 256;
const SLOTS_PER_GROUP: u16 = SLOT_COUNT / 256;

/// The group of each key.
#[derive(Debug)]
pub(crate) struct SlotGroups(Vec<u8>);

impl SlotGroups {
    pub(crate) fn of(sequence: &Sequence) -> Self {
        let group = |key| {
            let slot = Slot::of_key(&sequence.key_bytes(KeyIndex(key))).get();
            u8::try_from(slot / SLOTS_PER_GROUP).expect("16,384 slots in groups of 64 are 256 groups")
        };
        Self((0..sequence.keys()).map(group).collect())
    }

    pub(crate) fn group(&self, key: KeyIndex) -> usize {
        usize::from(self.0[key.index()])
    }
}
