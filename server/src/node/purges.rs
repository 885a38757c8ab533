//! [`Purges`]: the parts of the store that are to be reclaimed, one after the other. A drain or a flush leaves many at once,
//! and each is a walk over its entries: done all at once they would take every blocking thread, and every core, from those
//! who wait.

use std::collections::VecDeque;
use std::sync::Arc;

use softstore_store::Part;
use softstore_sync::Mutex;
use softstore_sync::planted::{self, Race};

/// A queue of parts, and whether somebody works on it. A part comes in once, when it was left: by a hand-off, of which there
/// are no more than ranges, or by a flush, of which there may be any number; 24 bytes each until it was its turn.
#[derive(Debug, Default)]
pub(super) struct Purges(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    parts: VecDeque<Part>,
    has_worker: bool,
}

impl Purges {
    /// Adds a part. `Some`: the caller is to have the worker run.
    pub(super) fn add(self: &Arc<Self>, part: Part) -> Option<PurgeWorker> {
        let mut queue = self.0.lock();
        queue.parts.push_back(part);
        let is_first = !std::mem::replace(&mut queue.has_worker, true);
        is_first.then(|| PurgeWorker {
            purges: self.clone(),
            has_place: true,
        })
    }

    /// The next part; if there is none, the worker's place is free.
    fn next(&self) -> Option<Part> {
        let mut queue = self.0.lock();
        let next = queue.parts.pop_front();
        if planted::is(Race::PlaceGivenUpLater) {
            drop(queue);
            self.0.lock().has_worker = next.is_some();
            return next;
        }
        queue.has_worker = next.is_some();
        next
    }
}

/// The one who reclaims. Dropped without having run, or in a panic, it gives its place to the next.
#[derive(Debug)]
pub(super) struct PurgeWorker {
    purges: Arc<Purges>,
    has_place: bool,
}

impl PurgeWorker {
    /// Reclaims until nothing is left. Blocks.
    pub(super) fn run(mut self, purge: impl Fn(Part)) {
        while let Some(part) = self.purges.next() {
            purge(part);
        }
        // It was given up with the last part, and may be another's by now.
        self.has_place = false;
    }
}

impl Drop for PurgeWorker {
    fn drop(&mut self) {
        if self.has_place {
            self.purges.0.lock().has_worker = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use softstore_sharding::{Epoch, Slice, SliceKey};

    use super::*;

    fn part(number: u64) -> Part {
        Part {
            slice: Slice::single(SliceKey::new(number)),
            epoch: Epoch::new(1),
        }
    }

    /// Plan: parts are added before, while and after the worker runs. There is one worker at a time, it reclaims each part
    /// once and in order, and after it has ended, or has died, the next part brings a new one.
    #[test]
    fn one_worker_at_a_time_reclaims_all() {
        let purges = Arc::new(Purges::default());
        let done = Mutex::new(Vec::new());
        let worker = purges.add(part(1)).expect("nobody works yet");
        assert!(purges.add(part(2)).is_none(), "a second worker");
        worker.run(|reclaimed| {
            if reclaimed == part(1) {
                assert!(purges.add(part(3)).is_none(), "a second worker");
            }
            done.lock().push(reclaimed);
        });
        assert_eq!(*done.lock(), [part(1), part(2), part(3)]);
        drop(purges.add(part(4)).expect("the worker has ended"));
        let worker = purges.add(part(5)).expect("the worker has died");
        done.lock().clear();
        worker.run(|reclaimed| done.lock().push(reclaimed));
        assert_eq!(*done.lock(), [part(4), part(5)]);
    }
}
