//! Traces of object ids: 4 bytes a request, little-endian, nothing else. Every request is a read.
//!
//! The format is that of the `orm-busy` trace ((c) headissue GmbH, Jens Wilke, cache2k; CC BY 4.0). Ids are only ever compared,
//! so the byte order changes nothing but which size an object is given.

use std::collections::HashMap;
use std::io::{BufRead, ErrorKind};

use crate::error::TraceError;
use crate::request::KeyIndex;
use crate::trace::{REQUESTS_MAX, Trace};

pub(crate) fn read(mut file: impl BufRead) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    let mut dense: HashMap<u32, KeyIndex> = HashMap::new();
    while let Some(id) = next_id(&mut file, trace.sequence.len())? {
        if trace.sequence.len() == REQUESTS_MAX {
            return Err(TraceError::TooLong {
                requests_max: REQUESTS_MAX,
            });
        }
        let next = KeyIndex(trace.keys());
        let key = *dense.entry(id).or_insert_with(|| {
            trace.object_ids.push(id);
            next
        });
        trace.sequence.push(key);
    }
    Ok(trace)
}

/// The next id; `None` at the file's end.
fn next_id(file: &mut impl BufRead, requests: usize) -> Result<Option<u32>, TraceError> {
    let mut bytes = [0; 4];
    let mut filled = 0;
    while filled < 4 {
        match file.read(&mut bytes[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => {
                return Err(TraceError::CutId {
                    bytes: requests as u64 * 4 + filled as u64,
                });
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(TraceError::Read(error)),
        }
    }
    Ok(Some(u32::from_le_bytes(bytes)))
}
