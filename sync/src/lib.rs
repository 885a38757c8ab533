//! The locks and atomics through which softstore's threads meet.
//!
//! In a normal build every name here *is* parking_lot's or the standard library's: re-exports, nothing of our own. Built
//! with the feature `shuttle` or `loom`, the same names are models whose every step is a point at which an explorer may
//! let another thread go on. So what is explored is the code that serves, and not a copy of it.
//!
//! ```text
//!   (normal)   parking_lot locks, std atomics
//!   shuttle    whole scenarios under thousands of drawn schedules; sequentially consistent   -> explore
//!   loom       small protocols under every schedule, with the memory orderings of C11        -> exhaust
//!   planted    races that are planted for the explorers to find
//! ```
//!
//! Use these names where threads of ours meet in a protocol. A counter that nothing is decided by stays the standard
//! library's: to explore it would only make the schedules longer. What third parties do inside (moka, tokio, prometheus)
//! is one step, as their locks are real; so no model lock may be taken within a call-back of theirs.

#[cfg(all(feature = "shuttle", feature = "loom"))]
compile_error!("`shuttle` and `loom` model the same names: name one of them");

#[cfg(feature = "loom")]
pub mod exhaust;
#[cfg(feature = "shuttle")]
pub mod explore;
#[cfg(any(feature = "shuttle", feature = "loom"))]
mod modelled;
pub mod planted;

/// Atomics.
pub mod atomic {
    #[cfg(feature = "loom")]
    pub use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    #[cfg(feature = "shuttle")]
    pub use shuttle::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    #[cfg(not(any(feature = "shuttle", feature = "loom")))]
    pub use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};
}

#[cfg(any(feature = "shuttle", feature = "loom"))]
pub use modelled::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(any(feature = "shuttle", feature = "loom")))]
pub use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Whether the names here are models.
pub const IS_MODELLED: bool = cfg!(any(feature = "shuttle", feature = "loom"));

#[cfg(all(test, not(any(feature = "shuttle", feature = "loom"))))]
mod tests {
    use std::any::TypeId;

    /// A normal build pays nothing for this crate: its types are the ones that they stand for.
    #[test]
    fn a_normal_build_has_the_real_types() {
        assert_eq!(
            TypeId::of::<crate::Mutex<u8>>(),
            TypeId::of::<parking_lot::Mutex<u8>>()
        );
        assert_eq!(
            TypeId::of::<crate::RwLock<u8>>(),
            TypeId::of::<parking_lot::RwLock<u8>>()
        );
        assert_eq!(
            TypeId::of::<crate::atomic::AtomicU64>(),
            TypeId::of::<std::sync::atomic::AtomicU64>()
        );
        assert_eq!(
            TypeId::of::<crate::atomic::AtomicBool>(),
            TypeId::of::<std::sync::atomic::AtomicBool>()
        );
    }
}
