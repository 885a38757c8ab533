//! A recorded request sequence in memory, and the reading of trace files.
//!
//! Two formats: 4-byte object ids (`id_trace`) and CSV (`csv_trace`, a file whose name ends in `.csv` or `.csv.xz`). Either
//! may be compressed with xz, which is told by its first bytes. What a file says about time is not replayed: requests go
//! out in the file's order at the drill's own rate.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::csv_trace;
use crate::error::TraceError;
use crate::id_trace;
use crate::request::{KeyIndex, RequestKind};

/// The most requests of one trace that are held: with CSV about 2 GiB of memory. The fuzz targets reach a lower limit more
/// often.
pub(crate) const REQUESTS_MAX: usize = if cfg!(fuzzing) { 1 << 14 } else { 100_000_000 };
/// The most memory that an xz file may ask for to be decompressed (its own presets need up to 65 MiB).
const XZ_MEMORY_BYTES_MAX: u64 = 256 << 20;
const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// One request of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceRow {
    pub(crate) key: KeyIndex,
    pub(crate) kind: RequestKind,
    /// `None`: the format has no sizes.
    pub(crate) value_bytes: Option<u32>,
    pub(crate) ttl_ms: u64,
}

/// What only a CSV trace has, per request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detail {
    pub(crate) kind: RequestKind,
    pub(crate) value_bytes: u32,
    pub(crate) ttl_s: u32,
}

/// A trace in memory, its keys made dense in the order of their first request.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Per request.
    pub(crate) sequence: Vec<KeyIndex>,
    /// Per request; empty for a trace of ids.
    pub(crate) details: Vec<Detail>,
    /// Per key: the file's own id (its place, for CSV).
    pub(crate) object_ids: Vec<u32>,
    /// Per key; empty for a trace of ids.
    pub(crate) largest_value_bytes: Vec<u32>,
}

impl Trace {
    pub(crate) fn requests(&self) -> u64 {
        self.sequence.len() as u64
    }

    pub(crate) fn keys(&self) -> u32 {
        u32::try_from(self.object_ids.len())
            .expect("at most one key a request, of which there are fewer than 2^32")
    }

    pub(crate) fn at(&self, position: u64) -> TraceRow {
        let position = usize::try_from(position).expect("a position of a trace in memory");
        let key = self.sequence[position];
        match self.details.get(position) {
            None => TraceRow {
                key,
                kind: RequestKind::Get,
                value_bytes: None,
                ttl_ms: 0,
            },
            Some(detail) => TraceRow {
                key,
                kind: detail.kind,
                value_bytes: Some(detail.value_bytes),
                ttl_ms: u64::from(detail.ttl_s) * 1_000,
            },
        }
    }

    pub(crate) fn object_id(&self, key: KeyIndex) -> u32 {
        self.object_ids[key.index()]
    }

    pub(crate) fn largest_value_bytes(&self, key: KeyIndex) -> Option<u32> {
        self.largest_value_bytes.get(key.index()).copied()
    }
}

/// Reads a trace file of either format.
///
/// # Errors
/// A [`TraceError`] that says what is wrong with the file. Nothing in a file makes it panic or take unbounded memory.
pub(crate) fn read_file(path: &Path) -> Result<Trace, TraceError> {
    let file = BufReader::with_capacity(1 << 20, File::open(path).map_err(TraceError::Read)?);
    let csv = path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy().to_ascii_lowercase();
        name.trim_end_matches(".xz").ends_with(".csv")
    });
    read(file, csv)
}

pub(crate) fn read(mut file: impl BufRead, csv: bool) -> Result<Trace, TraceError> {
    let packed = file.fill_buf().map_err(TraceError::Read)?.starts_with(&XZ_MAGIC);
    let trace = if packed {
        let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, CONCATENATED)
            .map_err(|source| TraceError::Xz(source.into()))?;
        let unpacked = BufReader::with_capacity(1 << 20, XzDecoder::new_stream(file, stream));
        parse(unpacked, csv).map_err(|error| match error {
            TraceError::Read(source) => TraceError::Xz(source),
            other => other,
        })?
    } else {
        parse(file, csv)?
    };
    if trace.sequence.is_empty() {
        return Err(TraceError::Empty);
    }
    Ok(trace)
}

fn parse(file: impl BufRead, csv: bool) -> Result<Trace, TraceError> {
    if csv {
        csv_trace::read(file)
    } else {
        id_trace::read(file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use liblzma::read::XzEncoder;

    use super::*;

    fn ids(ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }

    fn xz(plain: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        XzEncoder::new(plain, 1).read_to_end(&mut packed).unwrap();
        packed
    }

    #[test]
    fn ids_are_read_plain_and_packed_alike() {
        let plain = ids(&[7, 9, 7, 7, 0xffff_ffff]);
        for file in [plain.clone(), xz(&plain)] {
            let trace = read(Cursor::new(file), false).unwrap();
            assert_eq!(trace.sequence, [0, 1, 0, 0, 2].map(KeyIndex));
            assert_eq!(trace.object_ids, [7, 9, 0xffff_ffff]);
            assert_eq!(trace.keys(), 3);
        }
    }

    #[test]
    fn a_bad_file_of_ids_is_a_typed_error() {
        assert!(matches!(read(Cursor::new(vec![]), false), Err(TraceError::Empty)));
        assert!(matches!(
            read(Cursor::new(vec![1; 7]), false),
            Err(TraceError::CutId { bytes: 7 })
        ));
        let packed = xz(&ids(&(0..10_000).collect::<Vec<_>>()));
        let cut = packed[..packed.len() / 2].to_vec();
        assert!(matches!(read(Cursor::new(cut), false), Err(TraceError::Xz(_))));
        let mut damaged = packed;
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(matches!(
            read(Cursor::new(damaged), false),
            Err(TraceError::Xz(_))
        ));
    }

    #[test]
    fn a_missing_file_says_so() {
        assert!(matches!(
            read_file(Path::new("/nonexistent.trace")),
            Err(TraceError::Read(_))
        ));
    }

    #[test]
    fn csv_is_read_packed() {
        let trace = read(Cursor::new(xz(b"0,a,10,get,0\n1,a,10,delete,0\n")), true).unwrap();
        assert_eq!(trace.requests(), 2);
        assert_eq!(trace.at(1).kind, RequestKind::Delete);
    }
}
