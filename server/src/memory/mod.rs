//! How a node keeps under the memory limit that counts for it.
//!
//! A store's budget is not the process' size: what changes its size leaves holes in the allocator's pages, replies wait for
//! their readers, a hand-off lists what it sends. So a node looks at what the kernel looks at before it kills: its resident
//! memory, and the tightest limit of its control groups. When these come close, it first has the allocator give back what is
//! free, then gives the store less; when there is room again, more.
//!
//! ```text
//!   kernel    what the kernel says: the limit that counts, how far it is, resident memory   (reads files, keeps nothing)
//!   plan      the one sum: limit = store + in transit + reserve                             (pure)
//!   governor  reading + time -> purge? which budget? what to tell?                          (pure)
//!   keeper    the thread that looks, asks the governor, and does what it says
//! ```
//!
//! Nothing of it is on the data path: an operation does not know that it is there.

mod governor;
mod keeper;
mod kernel;
mod plan;

use std::fmt;

pub use self::keeper::MemoryGauges;
pub(crate) use self::keeper::{Keeper, Kept};
pub use self::kernel::{Kernel, Limit, Source};
pub use self::plan::{MemoryPlan, STORE_PERCENT};

/// The process' allocator, as far as a node asks anything of it. The process has one; the binary that chose it knows how.
pub trait Allocator: fmt::Debug + Send + Sync {
    /// Gives back to the system what is free. Called at most some times a second, on a thread of its own.
    fn purge(&self);
}

/// An allocator that cannot be asked to give anything back: a node then only gives its store less.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnknownAllocator;

impl Allocator for UnknownAllocator {
    fn purge(&self) {}
}

/// Bytes for people: whole MiB, or GiB with a digit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GIB: u64 = 1 << 30;
        if self.0 >= GIB {
            let tenths = self.0 / (GIB / 10);
            write!(f, "{}.{} GiB", tenths / 10, tenths % 10)
        } else {
            write!(f, "{} MiB", self.0 >> 20)
        }
    }
}
