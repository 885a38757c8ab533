//! The chunk codec: how entries travel in a pull. A frame, then entries in bincode, one after the other.
//!
//! ```text
//!   0     4        6           8        12              16       20
//!   | SSCH | version | reserved | entries | payload bytes | crc32 | payload ...
//! ```
//!
//! All numbers little-endian. The CRC-32 (IEEE, as of zlib) covers the header before it and the payload. An entry is
//! `(key, value, version, ttl_ms, class)` in bincode 2's standard configuration (variable-length integers). Every
//! length is checked against what is there before anything is allocated; what does not fit is a [`ChunkError`], and
//! nothing of the chunk is used (H8). This is the only file that knows bincode.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::session::VersionRange;
use softstore_sharding::{FrequencyClass, Version};
use thiserror::Error;

/// Chunk formats that this build reads and writes.
pub const CHUNK_VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// A chunk format that this build can write: what giver and taker have agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkFormat(u16);

impl ChunkFormat {
    /// The only format so far.
    pub const V1: Self = Self(1);

    /// The format of a version.
    ///
    /// # Errors
    /// If this build does not write that version: [`ChunkError::Version`].
    pub fn of_version(version: u32) -> Result<Self, ChunkError> {
        match version {
            1 => Ok(Self::V1),
            other => Err(ChunkError::Version(other)),
        }
    }

    /// Its version.
    #[must_use]
    pub fn version(self) -> u32 {
        self.0.into()
    }
}

/// A chunk is sent once its entries come to this many bytes.
pub const CHUNK_BYTES_TARGET: usize = 256 * 1024;

/// Largest payload: one entry of the largest configurable value (64 MiB), and the rest of a chunk.
pub const CHUNK_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024 + 2 * CHUNK_BYTES_TARGET;

/// Bytes before the payload.
pub const CHUNK_HEADER_BYTES: usize = 20;

const MAGIC: [u8; 4] = *b"SSCH";
const CRC_AT: usize = 16;
/// The least that an entry takes: two lengths, a byte of key, a version, a TTL's tag, a class.
const ENTRY_BYTES_MIN: usize = 6;
/// Room for an entry's lengths and numbers beside its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 48;

type Config = Configuration<LittleEndian, Varint, Limit<CHUNK_PAYLOAD_BYTES_MAX>>;
const CONFIG: Config = bincode::config::standard().with_limit::<CHUNK_PAYLOAD_BYTES_MAX>();

/// An entry in a chunk. Key and value borrow from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkEntry<'a> {
    /// The application's key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Its version at the giver.
    pub version: Version,
    /// Milliseconds it had left when the giver received the `Take`; `None` if it does not expire.
    pub ttl_ms: Option<u64>,
    /// How hot it was at the fence.
    pub class: FrequencyClass,
}

#[derive(bincode::Encode, bincode::BorrowDecode)]
struct WireEntry<'a> {
    key: &'a [u8],
    value: &'a [u8],
    version: u64,
    ttl_ms: Option<u64>,
    class: u8,
}

/// Why bytes are no chunk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChunkError {
    /// Shorter than a header, or than the header says.
    #[error("the chunk is cut short: {have} bytes of {want}")]
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes announced.
        want: usize,
    },
    /// Not a chunk at all.
    #[error("the chunk does not begin with its magic number")]
    Magic,
    /// A format that this build neither reads nor writes.
    #[error("chunk format {0} is not one of {min} to {max}", min = CHUNK_VERSIONS.min, max = CHUNK_VERSIONS.max)]
    Version(u32),
    /// Announces more than the limits allow.
    #[error("the chunk announces {0}, over the limit")]
    TooLarge(&'static str),
    /// The checksum does not match: the chunk was damaged on its way.
    #[error("the chunk's checksum is {found:08x}, not {announced:08x}")]
    Checksum {
        /// In the header.
        announced: u32,
        /// Of the bytes.
        found: u32,
    },
    /// The payload is no list of as many entries as announced.
    #[error("the chunk's entry {0} is malformed")]
    Entry(u32),
    /// Bytes are left after the last entry.
    #[error("{0} bytes are left after the chunk's last entry")]
    Trailing(usize),
}

/// Gathers entries for one chunk.
#[derive(Debug)]
pub struct ChunkBuilder {
    format: ChunkFormat,
    frame: Vec<u8>,
    entries: u32,
}

impl ChunkBuilder {
    /// An empty chunk of a format: the one that its reader has agreed to.
    #[must_use]
    pub fn new(format: ChunkFormat) -> Self {
        let mut frame = Vec::with_capacity(CHUNK_HEADER_BYTES + CHUNK_BYTES_TARGET);
        frame.resize(CHUNK_HEADER_BYTES, 0);
        Self {
            format,
            frame,
            entries: 0,
        }
    }

    /// This chunk, with an empty one of the same format in its place.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let format = self.format;
        std::mem::replace(self, Self::new(format))
    }

    /// Adds an entry; `false` if it does not fit the largest chunk any more (send this one first).
    #[must_use]
    pub fn push(&mut self, entry: &ChunkEntry<'_>) -> bool {
        let bytes = entry.key.len() + entry.value.len() + ENTRY_OVERHEAD_BYTES;
        if self.payload_bytes() + bytes > CHUNK_PAYLOAD_BYTES_MAX {
            return false;
        }
        let wire = WireEntry {
            key: entry.key,
            value: entry.value,
            version: entry.version.get(),
            ttl_ms: entry.ttl_ms,
            class: entry.class.get(),
        };
        bincode::encode_into_std_write(&wire, &mut self.frame, CONFIG).expect("a Vec takes every byte");
        self.entries += 1;
        true
    }

    /// How many entries it holds.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes of its entries so far.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.frame.len() - CHUNK_HEADER_BYTES
    }

    /// Whether it is time to send it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.payload_bytes() >= CHUNK_BYTES_TARGET
    }

    /// The framed chunk.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        let payload_bytes = u32::try_from(self.payload_bytes()).expect("bounded by CHUNK_PAYLOAD_BYTES_MAX");
        self.frame[0..4].copy_from_slice(&MAGIC);
        self.frame[4..6].copy_from_slice(&self.format.0.to_le_bytes());
        self.frame[8..12].copy_from_slice(&self.entries.to_le_bytes());
        self.frame[12..16].copy_from_slice(&payload_bytes.to_le_bytes());
        let crc = checksum(&self.frame);
        self.frame[CRC_AT..CHUNK_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        Bytes::from(self.frame)
    }
}

/// Reads a chunk.
///
/// # Errors
/// If anything about it is not as it must be. Nothing of it should be used then.
pub fn decode(frame: &[u8]) -> Result<Vec<ChunkEntry<'_>>, ChunkError> {
    let have = frame.len();
    if have < CHUNK_HEADER_BYTES {
        return Err(ChunkError::Truncated {
            have,
            want: CHUNK_HEADER_BYTES,
        });
    }
    if frame[0..4] != MAGIC {
        return Err(ChunkError::Magic);
    }
    ChunkFormat::of_version(u16::from_le_bytes([frame[4], frame[5]]).into())?;
    let (entries, payload_bytes) = (number_at(frame, 8), number_at(frame, 12) as usize);
    if payload_bytes > CHUNK_PAYLOAD_BYTES_MAX {
        return Err(ChunkError::TooLarge("payload bytes"));
    }
    let want = CHUNK_HEADER_BYTES + payload_bytes;
    if have < want {
        return Err(ChunkError::Truncated { have, want });
    }
    if have > want {
        return Err(ChunkError::Trailing(have - want));
    }
    if entries as usize > payload_bytes / ENTRY_BYTES_MIN {
        return Err(ChunkError::TooLarge("entries"));
    }
    let (announced, found) = (number_at(frame, CRC_AT), checksum(frame));
    if announced != found && !planted::is(Bug::CrcIgnored) {
        return Err(ChunkError::Checksum { announced, found });
    }
    decode_entries(&frame[CHUNK_HEADER_BYTES..], entries)
}

fn decode_entries(mut payload: &[u8], entries: u32) -> Result<Vec<ChunkEntry<'_>>, ChunkError> {
    let mut decoded = Vec::with_capacity(entries as usize);
    for index in 0..entries {
        let (wire, used): (WireEntry<'_>, usize) =
            bincode::borrow_decode_from_slice(payload, CONFIG).map_err(|_| ChunkError::Entry(index))?;
        if wire.key.is_empty() || wire.key.len() > usize::from(u16::MAX) {
            return Err(ChunkError::Entry(index));
        }
        payload = &payload[used..];
        decoded.push(ChunkEntry {
            key: wire.key,
            value: wire.value,
            version: Version::new(wire.version),
            ttl_ms: wire.ttl_ms,
            class: FrequencyClass::clamped(wire.class),
        });
    }
    if payload.is_empty() {
        Ok(decoded)
    } else {
        Err(ChunkError::Trailing(payload.len()))
    }
}

/// Over everything but the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..CRC_AT]);
    hasher.update(&frame[CHUNK_HEADER_BYTES..]);
    hasher.finalize()
}

fn number_at(frame: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, Vec<u8>, u64, Option<u64>, u8);

    fn entry(owned: &Owned) -> ChunkEntry<'_> {
        let (key, value, version, ttl_ms, class) = owned;
        let (version, class) = (Version::new(*version), FrequencyClass::clamped(*class));
        ChunkEntry {
            key,
            value,
            version,
            ttl_ms: *ttl_ms,
            class,
        }
    }

    fn chunk_of(entries: &[Owned]) -> Bytes {
        let mut builder = ChunkBuilder::new(ChunkFormat::V1);
        for owned in entries {
            assert!(builder.push(&entry(owned)));
        }
        builder.finish()
    }

    fn any_entries() -> impl Strategy<Value = Vec<Owned>> {
        let key = prop::collection::vec(any::<u8>(), 1..40);
        let value = prop::collection::vec(any::<u8>(), 0..300);
        prop::collection::vec(
            (
                key,
                value,
                any::<u64>(),
                any::<Option<u64>>(),
                0..FrequencyClass::COUNT,
            ),
            0..20,
        )
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(entries in any_entries()) {
            let chunk = chunk_of(&entries);
            let expected: Vec<ChunkEntry<'_>> = entries.iter().map(entry).collect();
            prop_assert_eq!(decode(&chunk), Ok(expected));
        }

        #[test]
        fn h8_any_damage_is_noticed(entries in any_entries(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut damaged = chunk_of(&entries).to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            prop_assert!(decode(&damaged).is_err(), "bit {} of byte {}", bit, at);
        }

        #[test]
        fn h8_garbage_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes).is_err());
        }

        /// With a header and a checksum that are right, so that the entries themselves are reached.
        #[test]
        fn h8_garbage_entries_are_refused_without_panic(
            payload in prop::collection::vec(any::<u8>(), 0..200), entries in 0u32..40,
        ) {
            let mut frame = vec![0; CHUNK_HEADER_BYTES];
            frame[0..4].copy_from_slice(&MAGIC);
            frame[4] = 1;
            frame[8..12].copy_from_slice(&entries.to_le_bytes());
            frame[12..16].copy_from_slice(&u32::try_from(payload.len()).expect("short").to_le_bytes());
            frame.extend_from_slice(&payload);
            let crc = checksum(&frame);
            frame[CRC_AT..CHUNK_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            if let Ok(decoded) = decode(&frame) {
                prop_assert_eq!(decoded.len(), entries as usize);
            }
        }
    }

    /// Every version that this build offers can be written, and is what the chunk says; no other can.
    #[test]
    fn a_chunk_is_of_the_version_that_was_agreed_on() {
        for version in CHUNK_VERSIONS.min..=CHUNK_VERSIONS.max {
            let format = ChunkFormat::of_version(version).expect("it was offered");
            assert_eq!(format.version(), version);
            let mut builder = ChunkBuilder::new(format);
            for chunk in [builder.take().finish(), builder.finish()] {
                assert_eq!(chunk[4..6], u16::try_from(version).unwrap().to_le_bytes());
                assert_eq!(decode(&chunk), Ok(Vec::new()));
            }
        }
        for version in [CHUNK_VERSIONS.min - 1, CHUNK_VERSIONS.max + 1, u32::MAX] {
            assert_eq!(
                ChunkFormat::of_version(version),
                Err(ChunkError::Version(version))
            );
        }
    }

    #[test]
    fn h8_each_lie_has_its_error() {
        let good = chunk_of(&[(b"k".to_vec(), b"v".to_vec(), 7, None, 3)]).to_vec();
        let with = |at: usize, bytes: &[u8]| {
            let mut lie = good.clone();
            lie[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&lie).map(|_| ())
        };
        assert_eq!(
            decode(&good[..10]),
            Err(ChunkError::Truncated {
                have: 10,
                want: CHUNK_HEADER_BYTES
            })
        );
        assert_eq!(with(0, b"XXXX"), Err(ChunkError::Magic));
        assert_eq!(with(4, &9u16.to_le_bytes()), Err(ChunkError::Version(9)));
        assert_eq!(
            with(8, &u32::MAX.to_le_bytes()),
            Err(ChunkError::TooLarge("entries"))
        );
        assert_eq!(
            with(12, &u32::MAX.to_le_bytes()),
            Err(ChunkError::TooLarge("payload bytes"))
        );
        assert!(matches!(
            with(12, &100u32.to_le_bytes()),
            Err(ChunkError::Truncated { .. })
        ));
        assert!(matches!(
            with(12, &6u32.to_le_bytes()),
            Err(ChunkError::Trailing(_))
        ));
        assert!(matches!(with(CRC_AT, &[0; 4]), Err(ChunkError::Checksum { .. })));
    }
}
