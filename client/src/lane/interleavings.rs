//! Callers, the outgoing half of a stream, its reader and its end, under an explorer's schedules (feature `shuttle`; see
//! `softstore-sync`). A wake-up that is lost shows as threads that wait for one another for ever.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::time::Duration;

use futures::StreamExt;
use softstore_sharding::{Generation, Incarnation};
use softstore_sync::explore::{explore, find, future, roll, thread};

use super::*;

/// How many schedules a scenario is explored under if nobody says otherwise.
const SCHEDULES: usize = 1_000;

/// Within how many a planted race must be found.
const SCHEDULES_MAX: usize = 1 << 14;

const SINCE: Generation = Generation {
    number: 1,
    assigner: Incarnation::new(1),
};

/// A lane without its tasks: the scenario's threads play them.
fn lane() -> Arc<Lane> {
    let batch = BatchLimits {
        ops_max: 2,
        bytes_max: 1_000,
    };
    Arc::new(Lane {
        queue: Mutex::new(Queue::new(Limits {
            pending_ops_max: 8,
            pending_bytes_max: 10_000,
            batch,
        })),
        deadlines: Notify::new(),
        retired: CancellationToken::new(),
        counters: Arc::default(),
    })
}

fn outgoing(lane: &Arc<Lane>) -> Outgoing {
    Outgoing {
        lane: lane.clone(),
        stream: lane.with_queue(|queue, wake| {
            let stream = queue.begin_stream(wake);
            queue.open_gate(wake);
            stream
        }),
        has_yielded: false,
        is_first: true,
    }
}

/// The ids of what left, and of what was answered; and what the callers were told.
#[derive(Debug, Default)]
struct Seen {
    sent: BTreeSet<u64>,
    answered: BTreeSet<u64>,
    outcomes: Vec<(u64, Attempt)>,
}

impl Seen {
    /// Looks whether all that callers were told is true.
    fn check(&self) {
        for (id, attempt) in &self.outcomes {
            let is_true = match attempt {
                Attempt::Answer(_) | Attempt::Shed => self.answered.contains(id),
                Attempt::NotSent(_) => !self.sent.contains(id),
                Attempt::Lost(_) => self.sent.contains(id),
            };
            assert!(is_true, "{attempt:?} is not true of {id}: {self:?}");
        }
    }
}

/// One caller's operation: submitted without a waker, with its task's, or with one of another task that will not poll it;
/// then waited for, or given up after a look.
fn call(lane: &Arc<Lane>, seen: &Mutex<Seen>) {
    let op = OpView {
        key: b"k",
        ..OpView::default()
    };
    let later = Instant::now() + Duration::from_secs(3_600);
    let (known, gives_up) = (roll(3), roll(4) == 0);
    let submit = |waker| lane.submit(&op, Value::Copied(b"v"), SINCE, later, waker);
    let ticket = future::block_on(poll_fn(|context| {
        Poll::Ready(submit(match known {
            0 => None,
            1 => Some(context.waker().clone()),
            _ => Some(Waker::noop().clone()),
        }))
    }));
    let Ok(mut ticket) = ticket else { return };
    let id = ticket.id;
    if gives_up {
        let _ = Pin::new(&mut ticket).poll(&mut Context::from_waker(Waker::noop()));
        drop(ticket);
        return;
    }
    let attempt = future::block_on(ticket);
    seen.lock().outcomes.push((id, attempt));
}

/// Sends what waits and answers most of it, until the stream ends.
fn serve(lane: &Arc<Lane>, mut outgoing: Outgoing, seen: &Mutex<Seen>) {
    while let Some(batch) = future::block_on(outgoing.next()) {
        let ops = batch.open().expect("well formed");
        let ids: Vec<u64> = (0..ops.len())
            .map(|index| ops.get(index).expect("well formed").id)
            .collect();
        seen.lock().sent.extend(&ids);
        let answered: Vec<u64> = ids.into_iter().filter(|_| roll(4) > 0).collect();
        seen.lock().answered.extend(&answered);
        let answers = answered.into_iter().map(|id| (id, Answer::default()));
        lane.with_queue(|queue, wake| queue.dispatch(answers, wake));
    }
}

/// Plan: three callers submit and wait while one thread plays the connection, which leaves some operations unanswered, and
/// another ends the task that serves the queue at any moment. Every caller gets its outcome; one that says "not sent" is
/// true of what never left; nothing stays open.
fn callers_against_the_end() {
    let lane = lane();
    let seen = Mutex::new(Seen::default());
    let outgoing = outgoing(&lane);
    let attendance = Attendance(lane.clone());
    thread::scope(|scope| {
        let (lane, seen) = (&lane, &seen);
        scope.spawn(move || serve(lane, outgoing, seen));
        for _ in 0..3 {
            scope.spawn(move || call(lane, seen));
        }
        scope.spawn(move || {
            for _ in 0..roll(8) {
                thread::yield_now();
            }
            drop(attendance);
        });
    });
    assert_eq!(lane.queue.lock().open(), 0);
    seen.lock().check();
}

#[test]
fn every_caller_gets_an_outcome_when_the_lane_ends() {
    explore(SCHEDULES, callers_against_the_end);
}

#[test]
fn an_end_that_nobody_is_told_of_is_found() {
    find(Race::NobodyEndsWhatWaits, SCHEDULES_MAX, callers_against_the_end);
}

/// Plan: two callers submit and wait, and the connection answers all; it ends only after they have gone. Nobody is woken
/// but by a submission and an answer: were one wake-up lost, all would wait.
#[test]
fn no_wake_up_is_lost() {
    explore(SCHEDULES, || {
        let lane = lane();
        let mut outgoing = outgoing(&lane);
        let op = OpView {
            key: b"k",
            ..OpView::default()
        };
        let later = Instant::now() + Duration::from_secs(3_600);
        thread::scope(|scope| {
            let lane = &lane;
            scope.spawn(move || {
                let mut left = 4;
                while left > 0 {
                    let batch = future::block_on(outgoing.next()).expect("the stream goes on");
                    let ops = batch.open().expect("well formed");
                    left -= ops.len();
                    for index in 0..ops.len() {
                        let id = ops.get(index).expect("well formed").id;
                        let answer = std::iter::once((id, Answer::default()));
                        lane.with_queue(|queue, wake| queue.dispatch(answer, wake));
                    }
                }
            });
            for _ in 0..2 {
                scope.spawn(move || {
                    for _ in 0..2 {
                        let ticket = lane.submit(&op, Value::Copied(b"v"), SINCE, later, None);
                        let attempt = future::block_on(ticket.expect("there is room"));
                        assert!(matches!(attempt, Attempt::Answer(_)));
                    }
                });
            }
        });
        assert_eq!(lane.queue.lock().open(), 0);
    });
}

/// Plan: nobody sends and nobody answers. The sweeper sleeps until it is told of a deadline, as its task does, and then
/// sweeps past it. Each caller gets its outcome by that alone, however its submission meets the sweep.
#[test]
fn the_sweeper_is_told_of_every_deadline() {
    explore(SCHEDULES, || {
        let lane = lane();
        let callers = Mutex::new(3);
        let op = OpView {
            key: b"k",
            ..OpView::default()
        };
        let deadline = Instant::now() + Duration::from_secs(3_600);
        thread::scope(|scope| {
            let (lane, callers) = (&lane, &callers);
            scope.spawn(move || {
                while *callers.lock() > 0 {
                    lane.with_queue(|queue, wake| queue.sweep(deadline, wake));
                    future::block_on(lane.deadlines.notified());
                }
            });
            for _ in 0..3 {
                scope.spawn(move || {
                    let ticket = lane.submit(&op, Value::Copied(b"v"), SINCE, deadline, None);
                    let attempt = future::block_on(ticket.expect("there is room"));
                    assert!(matches!(attempt, Attempt::NotSent(NotSent::Deadline)));
                    *callers.lock() -= 1;
                    lane.deadlines.notify_one();
                });
            }
        });
        assert_eq!(lane.queue.lock().open(), 0);
    });
}
