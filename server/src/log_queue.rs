//! [`LogQueue`]: log lines that nobody waits for. A thread of its own writes them; who logs puts a line into a bounded queue
//! and goes on, also when nobody reads what the thread writes (a paused log shipper, a stuck terminal, a slow disk). What does
//! not fit is lost and counted, and said once there is room again.
//!
//! ```text
//!   tracing, panics, remarks --push--> queue (LINES_MAX, BYTES_MAX) --thread "log"--> stderr
//!                                        | full: counted
//! ```
//!
//! Not tracing-appender's, for three reasons: its guard prints to stdout when the queue is full at the end, and a stdout that is as
//! stuck as stderr (both are one socket under systemd) then keeps the process from ending; it bounds lines and not bytes; and
//! it tells nobody, in the log itself, that lines are missing there.
//!
//! Not here: what is logged and how it looks (`cli/src/logging`), and which lines are worth one (`conditions`, `events`).

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Lines that wait to be written.
pub const LINES_MAX: usize = 8_192;

/// Bytes of lines that wait to be written.
pub const BYTES_MAX: usize = 2 << 20;

/// Between two lines that say how many were lost.
const LOSS_TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// There is one stderr in a process.
static STDERR: OnceLock<LogQueue> = OnceLock::new();

/// Lines of this process' stderr that were lost so far. 0 where its logs do not come here, as in an application that embeds a node.
#[must_use]
pub fn lines_lost() -> u64 {
    STDERR.get().map_or(0, LogQueue::lines_lost)
}

/// Waits until what stderr was given is written, for so long at the most.
pub fn flush_stderr(patience: Duration) {
    if let Some(stderr) = STDERR.get() {
        stderr.flush(patience);
    }
}

/// This process' stderr, behind a queue. The thread that writes it starts with the first use and ends with the process.
pub fn stderr() -> &'static LogQueue {
    STDERR.get_or_init(|| {
        LogQueue::start(std::io::stderr(), |lines| {
            tracing::warn!(
                lines,
                "log lines are missing before this one: nobody read them, they could not be written, or one kind came too often"
            );
        })
    })
}

/// A bounded queue of lines, and the thread that writes them.
#[derive(Debug, Clone)]
pub struct LogQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is a line to write.
    more: Condvar,
    /// All lines are written.
    written: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The thread is at a line that it has taken out.
    is_writing: bool,
}

impl LogQueue {
    /// Starts a thread that writes to `out` what is pushed. `tell_loss` is called on that thread after a line was written, with
    /// the number of lines that were lost since the last time; it may push.
    pub fn start(out: impl Write + Send + 'static, tell_loss: impl Fn(u64) + Send + 'static) -> Self {
        let queue = Self(Arc::default());
        let writing = queue.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Without a thread (a process that may have no more of them) every line is lost and counted, as with a stuck reader.
        let _ = thread.spawn(move || writing.write(out, tell_loss));
        queue
    }

    /// Puts a line, which ends with its line feed, behind the others. If there is no room it is lost.
    pub fn push(&self, line: &[u8]) {
        let mut queue = self.0.queue.lock();
        if queue.lines.len() >= LINES_MAX || queue.bytes + line.len() > BYTES_MAX {
            drop(queue);
            self.line_lost();
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        drop(queue);
        self.0.more.notify_one();
    }

    /// Counts a line that is lost, here or before it came here.
    pub fn line_lost(&self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines that were lost so far.
    #[must_use]
    pub fn lines_lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Waits until all that was pushed is written, for so long at the most. Whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut queue = self.0.queue.lock();
        while queue.is_writing || !queue.lines.is_empty() {
            if self.0.written.wait_until(&mut queue, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// The next line, once there is one.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.0.queue.lock();
        queue.is_writing = false;
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.is_writing = true;
                return line;
            }
            self.0.written.notify_all();
            self.0.more.wait(&mut queue);
        }
    }

    fn write(&self, mut out: impl Write, tell_loss: impl Fn(u64)) {
        let (mut lost_told, mut told) = (0, None::<Instant>);
        loop {
            let line = self.next();
            // One write for each line: what several processes write to one pipe stays apart.
            if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                self.line_lost();
                continue;
            }
            let lost = self.lines_lost();
            if lost > lost_told && told.is_none_or(|told| told.elapsed() >= LOSS_TOLD_INTERVAL) {
                tell_loss(lost - lost_told);
                (lost_told, told) = (lost, Some(Instant::now()));
            }
        }
    }
}

impl Write for &LogQueue {
    /// Takes what it is given as one line.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A reader that takes a line when it is told to.
    struct Slow {
        may_go_on: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            let gone = |_| std::io::ErrorKind::BrokenPipe;
            self.may_go_on.recv().map_err(gone)?;
            let _ = self.taken.send(line.to_vec());
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Plan: nobody reads. As many lines as fit are kept, the others lost and counted, pushing goes on at once, and waiting for
    /// the end ends. Then somebody reads: what was kept comes in its order, and the loss is told.
    #[test]
    fn nobody_waits_for_a_reader_and_what_is_lost_is_told() {
        const LOST: usize = 100;
        let (let_go, may_go_on) = mpsc::channel();
        let (taken, lines) = mpsc::channel();
        let (told, losses) = mpsc::channel();
        let queue = LogQueue::start(Slow { may_go_on, taken }, move |lost| {
            let _ = told.send(lost);
        });
        queue.push(b"0\n");
        // Taken out, and at the reader.
        while !queue.0.queue.lock().is_writing {
            std::thread::yield_now();
        }
        for number in 1..=LINES_MAX + LOST {
            queue.push(format!("{number}\n").as_bytes());
        }
        assert_eq!(queue.lines_lost(), LOST as u64);
        assert!(!queue.flush(Duration::from_millis(50)), "nobody reads");
        for _ in 0..=LINES_MAX {
            let_go.send(()).unwrap();
        }
        for number in 0..=LINES_MAX {
            let line = lines.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(line, format!("{number}\n").as_bytes());
        }
        assert_eq!(losses.recv_timeout(Duration::from_secs(20)).unwrap(), LOST as u64);
        assert!(queue.flush(Duration::from_secs(20)), "all is written");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (_let_go, may_go_on) = mpsc::channel();
        let (taken, _lines) = mpsc::channel();
        let queue = LogQueue::start(Slow { may_go_on, taken }, |_| {});
        for _ in 0..4 {
            queue.push(&vec![b'.'; BYTES_MAX / 2]);
        }
        assert!(queue.0.queue.lock().bytes <= BYTES_MAX);
    }
}
