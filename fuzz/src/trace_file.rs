//! The drill's trace files: object ids and CSV, plain and packed with xz.
//!
//! The first byte of an input says which format is expected; whether it is packed its own first bytes tell. A small packed
//! file can hold a huge trace: what is held of it is bounded by the limit on requests, which is compiled lower for this.

use crate::heap;
use crate::trace::{REQUESTS_MAX, read};

/// What a plain file may cost for each of its bytes: the shortest request is 4 bytes (an id) and is held as an index, an
/// id and a place in the table of keys; a line's error message quotes it.
const HEAP_FACTOR: usize = 256;

/// What unpacking may cost whatever the file says: the decoder's dictionary, and two buffers of 1 MiB.
const UNPACK_BYTES_MAX: usize = 4 << 20;

/// What the requests of a packed file may cost at most.
const REQUESTS_BYTES_MAX: usize = REQUESTS_MAX * 256;

/// Tries one input.
pub fn run(input: &[u8]) {
    let Some((&format, file)) = input.split_first() else {
        return;
    };
    let is_csv = format & 1 == 1;
    let limit = heap::BYTES_FREE + file.len() * HEAP_FACTOR + UNPACK_BYTES_MAX + REQUESTS_BYTES_MAX;
    let trace = heap::within(limit, || read(file, is_csv));
    if let Ok(trace) = trace {
        let (requests, keys) = (trace.requests(), u64::from(trace.keys()));
        assert!((1..=requests).contains(&keys) && requests <= REQUESTS_MAX as u64);
        let _ = trace.at(requests - 1);
    }
}
