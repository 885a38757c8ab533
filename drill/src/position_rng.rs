//! A random stream per position of the request sequence.
//!
//! A stream is a pure function of (seed, position). So every arm gets the same sequence without storing it, a position can
//! be asked for twice, and the same seed means the same sequence on every platform and with every version of `rand`.

use std::convert::Infallible;

use rand::TryRng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Random numbers for one position: xxh3 of a counter, seeded with the drill's seed and the position.
#[derive(Debug, Clone)]
pub(crate) struct PositionRng {
    seed: u64,
    counter: u64,
}

impl PositionRng {
    pub(crate) fn new(seed: u64, position: u64) -> Self {
        Self {
            seed: xxh3_64_with_seed(&position.to_le_bytes(), seed),
            counter: 0,
        }
    }
}

impl TryRng for PositionRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let [a, b, c, d, ..] = self.try_next_u64()?.to_le_bytes();
        Ok(u32::from_le_bytes([a, b, c, d]))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.counter += 1;
        Ok(xxh3_64_with_seed(&self.counter.to_le_bytes(), self.seed))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            part.copy_from_slice(&word[..part.len()]);
        }
        Ok(())
    }
}
