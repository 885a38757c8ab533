//! The process' allocator, jemalloc: how it gives memory back.
//!
//! Free pages are kept for a while, since whoever frees usually allocates again: for [`DIRTY_DECAY_MS`] instead of jemalloc's 10 s,
//! and threads of its own give them back then, also in an arena that nobody uses any more. A node near its memory
//! limit asks for all of them at once ([`Allocator::purge`]).
//!
//! Huge pages are declined: where the system makes them unasked, one small entry that stays keeps 2 MiB resident.

use softstore_server::memory::Allocator;
use tikv_jemalloc_ctl::{Access, AsName, background_thread};
use tracing::debug;

/// How long free pages are kept, in milliseconds.
const DIRTY_DECAY_MS: isize = 1_000;

/// The most arenas that are looked at. jemalloc makes four for each core.
const ARENAS_MAX: u32 = 4_096;

/// jemalloc, set up for a node.
#[derive(Debug)]
pub(crate) struct Jemalloc(());

impl Jemalloc {
    /// Sets it up. What it refuses stays as it was, which costs memory and nothing else.
    pub(crate) fn set_up() -> Self {
        if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
            debug!(%error, "the system does not say whether it makes huge pages");
        }
        let arenas_to_come: &[u8] = b"arenas.dirty_decay_ms\0";
        let set = arenas_to_come.name().write(DIRTY_DECAY_MS);
        if let Err(error) = set.and_then(|()| background_thread::write(true)) {
            debug!(%error, "jemalloc keeps its settings");
        }
        let this = Self(());
        this.set_decay(DIRTY_DECAY_MS);
        this
    }

    /// Sets for how long the arenas there are keep free pages; 0: they give back those that they have.
    fn set_decay(&self, ms: isize) {
        let (count, decay): (&[u8], &[u8]) = (b"arenas.narenas\0", b"arena.0.dirty_decay_ms\0");
        let count: u32 = count.name().read().unwrap_or(0);
        let Ok(mut decay) = decay.name().mib::<[usize; 3]>() else {
            return;
        };
        for arena in 0..count.min(ARENAS_MAX) {
            decay[1] = arena as usize;
            // Refused by those that do not exist yet.
            let _ = decay.write(ms);
        }
    }
}

impl Allocator for Jemalloc {
    fn purge(&self) {
        self.set_decay(0);
        self.set_decay(DIRTY_DECAY_MS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_bytes() -> u64 {
        softstore_server::memory::Kernel::default()
            .resident_bytes()
            .expect("Linux tells it")
    }

    /// Plan: 64 MiB of small pieces, freed. A purge gives back most of it at once.
    #[test]
    fn a_purge_gives_back_what_is_free() {
        let jemalloc = Jemalloc::set_up();
        let mib = 1 << 20;
        let pieces: Vec<Vec<u8>> = (0..64 << 10).map(|_| vec![7; 1_024]).collect();
        let before = resident_bytes();
        drop(pieces);
        jemalloc.purge();
        let after = resident_bytes();
        assert!(
            after + 48 * mib < before,
            "{} MiB, then {} MiB",
            before / mib,
            after / mib
        );
    }
}
