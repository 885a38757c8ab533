//! [`InOrder`]: what was decided under a lock is carried out after the lock was let go, in the order of the decisions.
//!
//! Two threads that each change the core and then carry out what followed could overtake one another between the two: the
//! end of a pull would come before its start, and the pull run on after it was stopped. So decisions are queued while the
//! core's lock is held, which gives them their order, and whoever comes next carries out all that is queued, one at a
//! time. Nobody who is admitted to the core waits for that.

use std::collections::VecDeque;

use softstore_sync::Mutex;

/// A queue of decisions. Bounded by its users: each empties it after it has added to it.
#[derive(Debug)]
pub(super) struct InOrder<T> {
    queue: Mutex<VecDeque<T>>,
    /// Held by the one who carries out.
    turn: Mutex<()>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self {
            queue: Mutex::default(),
            turn: Mutex::default(),
        }
    }
}

impl<T> InOrder<T> {
    /// Adds decisions. The caller still holds the lock under which they were made.
    pub(super) fn add(&self, decided: impl IntoIterator<Item = T>) {
        self.queue.lock().extend(decided);
    }

    /// Carries out all that was added so far: when this returns it is done, by this caller or by another. `carry_out` must
    /// not come back here.
    pub(super) fn carry_out(&self, carry_out: impl Fn(T)) {
        let _turn = self.turn.lock();
        while let Some(next) = self.take() {
            carry_out(next);
        }
    }

    /// The queue is open to others while what was taken is carried out.
    fn take(&self) -> Option<T> {
        self.queue.lock().pop_front()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Plan: one thread is in the middle of carrying out the first decision when another adds two and wants them carried
    /// out. That one must wait for its turn, and find them done, after the first and in their order, when it goes on.
    #[test]
    fn nobody_overtakes_the_one_who_carries_out() {
        let order = InOrder::default();
        let done = Mutex::new(Vec::new());
        let (entered, is_entered) = mpsc::channel();
        let (let_go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let (end, has_ended) = mpsc::channel();
        order.add([1]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                order.carry_out(|number| {
                    if number == 1 {
                        entered.send(()).unwrap();
                        may_go.lock().recv().unwrap();
                    }
                    done.lock().push(number);
                });
            });
            is_entered.recv().unwrap();
            scope.spawn(|| {
                order.add([2, 3]);
                order.carry_out(|number| done.lock().push(number));
                end.send(done.lock().clone()).unwrap();
            });
            // Whoever does not wait for its turn is through by then.
            let overtaken = has_ended.recv_timeout(Duration::from_millis(100));
            let_go.send(()).unwrap();
            assert!(overtaken.is_err(), "{overtaken:?}");
            assert_eq!(has_ended.recv().unwrap(), [1, 2, 3]);
        });
    }
}
