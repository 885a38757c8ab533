//! `transfer::chunk`: whatever the bytes are, they are refused or hold the entries that encoding them again gives.
//!
//! Each input is tried twice: as a frame, and as the payload of a frame whose header and checksum are right, so that the
//! entries are reached without guessing a checksum. The first two bytes then say how many entries are announced.

use softstore_transfer::chunk::{self, CHUNK_HEADER_BYTES, ChunkBuilder, ChunkEntry, ChunkFormat};

use crate::heap;

/// An entry borrows from its frame, and the least one takes 6 bytes.
const HEAP_FACTOR: usize = 32;

/// Tries one input.
pub fn run(input: &[u8]) {
    check(input);
    if let Some((entries, payload)) = input.split_first_chunk() {
        check(&framed(u16::from_le_bytes(*entries).into(), payload));
    }
}

fn check(frame: &[u8]) {
    let decoded = heap::in_proportion(frame, HEAP_FACTOR, || chunk::decode(frame));
    if let Ok(entries) = decoded {
        let again = encoded(&entries);
        assert_eq!(chunk::decode(&again), Ok(entries));
    }
}

/// The chunk of these entries.
///
/// # Panics
/// If they do not fit one.
#[must_use]
pub fn encoded(entries: &[ChunkEntry<'_>]) -> bytes::Bytes {
    let mut builder = ChunkBuilder::new(ChunkFormat::V1);
    for entry in entries {
        assert!(builder.push(entry), "what came in one chunk fits one");
    }
    builder.finish()
}

/// A frame around a payload, with a header that is true but for the number of entries.
fn framed(entries: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = b"SSCH\x01\0\0\0".to_vec();
    frame.extend(entries.to_le_bytes());
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame);
    hasher.update(payload);
    frame.extend(hasher.finalize().to_le_bytes());
    debug_assert_eq!(frame.len(), CHUNK_HEADER_BYTES);
    frame.extend(payload);
    frame
}
