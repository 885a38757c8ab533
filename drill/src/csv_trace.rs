//! Traces in CSV: `time,key,size,op,ttl` a line, a header line allowed.
//!
//! `time`: any number, not replayed. `key`: 1 to 65,535 bytes without comma or quote; only its identity is used. `size`: bytes
//! of the value. `op`: get or gets; set, add, replace, cas, append, prepend, incr or decr (all replayed as a set); delete. `ttl`:
//! whole seconds, 0 for none. A get that misses fills with its own line's size and ttl.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use crate::error::TraceError;
use crate::request::{KeyIndex, RequestKind, VALUE_BYTES_MAX};
use crate::trace::{Detail, REQUESTS_MAX, Trace};

const KEY_BYTES_MAX: usize = 65_535;
/// A key and four numbers.
const LINE_BYTES_MAX: usize = KEY_BYTES_MAX + 256;

pub(crate) fn read(mut file: impl BufRead) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    let mut dense: HashMap<Box<[u8]>, KeyIndex> = HashMap::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let limit = LINE_BYTES_MAX as u64 + 1;
        if file
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut line)
            .map_err(TraceError::Read)?
            == 0
        {
            break;
        }
        let refuse = |reason: String| TraceError::Line { line: number, reason };
        if line.len() > LINE_BYTES_MAX {
            return Err(refuse(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        let text = line.trim_ascii();
        if text.is_empty() || (number == 1 && text.starts_with(b"time")) {
            continue;
        }
        if trace.sequence.len() == REQUESTS_MAX {
            return Err(TraceError::TooLong {
                requests_max: REQUESTS_MAX,
            });
        }
        let (key, detail) = parse_line(text).map_err(refuse)?;
        append(&mut trace, &mut dense, key, detail);
    }
    Ok(trace)
}

fn append(trace: &mut Trace, dense: &mut HashMap<Box<[u8]>, KeyIndex>, key: &[u8], detail: Detail) {
    let index = match dense.get(key) {
        Some(index) => *index,
        None => {
            let index = KeyIndex(trace.keys());
            dense.insert(key.into(), index);
            trace.object_ids.push(index.0);
            trace.largest_value_bytes.push(0);
            index
        }
    };
    let largest = &mut trace.largest_value_bytes[index.index()];
    *largest = (*largest).max(detail.value_bytes);
    trace.sequence.push(index);
    trace.details.push(detail);
}

fn parse_line(line: &[u8]) -> Result<(&[u8], Detail), String> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let [time, key, size, op, ttl] = fields[..] else {
        return Err(format!("{} fields instead of 5", fields.len()));
    };
    text(time)
        .parse::<f64>()
        .map_err(|_| format!("time {:?} is not a number", text(time)))?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(format!(
            "a key of {} bytes; 1 to {KEY_BYTES_MAX} are allowed",
            key.len()
        ));
    }
    let value_bytes = text(size)
        .parse()
        .map_err(|_| format!("size {:?} is not a number of bytes", text(size)))?;
    if value_bytes > VALUE_BYTES_MAX {
        return Err(format!(
            "a value of {value_bytes} bytes; at most {VALUE_BYTES_MAX} are allowed"
        ));
    }
    let kind = match text(op).to_ascii_lowercase().as_str() {
        "get" | "gets" => RequestKind::Get,
        "set" | "add" | "replace" | "cas" | "append" | "prepend" | "incr" | "decr" => RequestKind::Set,
        "delete" => RequestKind::Delete,
        other => return Err(format!("unknown operation {other:?}")),
    };
    let ttl_s = text(ttl)
        .parse()
        .map_err(|_| format!("ttl {:?} is not whole seconds", text(ttl)))?;
    Ok((
        key,
        Detail {
            kind,
            value_bytes,
            ttl_s,
        },
    ))
}

/// For parsing and messages; damage shows as replacement characters, which no number contains.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&field[..field.len().min(64)]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_become_requests() {
        let file = b"time,key,size,op,ttl\n0,a,100,get,0\r\n1.5,b,7,set,60\n\n2,a,300,cas,0\n3,b,7,delete,0";
        let trace = read(&file[..]).unwrap();
        assert_eq!(trace.sequence, [0, 1, 0, 1].map(KeyIndex));
        assert_eq!(trace.largest_value_bytes, [300, 7]);
        let kinds: Vec<_> = (0..4).map(|position| trace.at(position).kind).collect();
        use RequestKind::{Delete, Get, Set};
        assert_eq!(kinds, [Get, Set, Set, Delete]);
        assert_eq!(trace.at(1).ttl_ms, 60_000);
    }

    #[test]
    fn a_bad_line_is_named() {
        for (line, reason) in [
            ("0,a,1,get", "4 fields"),
            ("x,a,1,get,0", "time"),
            ("0,,1,get,0", "key of 0"),
            ("0,a,-1,get,0", "size"),
            ("0,a,99999999,get,0", "at most"),
            ("0,a,1,frob,0", "frob"),
            ("0,a,1,get,soon", "ttl"),
        ] {
            let file = format!("0,a,1,get,0\n{line}\n");
            match read(file.as_bytes()) {
                Err(TraceError::Line {
                    line: 2,
                    reason: told,
                }) => assert!(told.contains(reason), "{told}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_endless_line_takes_no_endless_memory() {
        let file = vec![b'a'; LINE_BYTES_MAX * 3];
        assert!(matches!(read(&file[..]), Err(TraceError::Line { line: 1, .. })));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(file: Vec<u8>) {
            let _ = read(&file[..]);
        }
    }
}
