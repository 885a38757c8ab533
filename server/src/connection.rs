//! [`Connection`]: an accepted socket that sees to its own end.
//!
//! tonic gives no handle on the connections that it serves, and they outlive the task that accepted them: so each looks for
//! its end itself, and neither reads nor writes any more from that moment on. It counts why it ended where the libraries
//! above it would only say so to the other side.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use crate::frames::{Ending, ReadFrames, SentFrames};
use crate::grpc;
use crate::listener::ListenerCounters;
use crate::opening::{Opening, Protocol};
use crate::places::{Place, Seat};

/// How long a connection may take to say which protocol it speaks: one that stays silent must not keep its place.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// Frames other than data that a connection reads before all others that have something to do had their turn. The libraries above
/// read on for as long as there is something to read: many thousand calls at once. Data is not bounded so: what waits in a socket
/// is seen by nobody who could refuse it.
const TURN_FRAMES: usize = 256;

/// A connection that counts against the limit while it lives.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    seat: Seat,
    opening: Opening,
    /// Until it has said enough to tell that it speaks the port's protocol.
    opening_ends: Option<Pin<Box<Sleep>>>,
    /// Until it takes what is written to it. Runs while it does not.
    stall_ends: Option<Pin<Box<Sleep>>>,
    /// Wakes whoever waits for something to read.
    is_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    heard: Instant,
    /// What is read, from behind the preface on.
    read: Option<ReadFrames>,
    /// Frames other than data that were read in this turn.
    turn_frames: usize,
    /// The other side closed it, or it broke.
    has_ended: bool,
    sent: Option<SentFrames>,
}

impl Connection {
    /// A connection that was just accepted and has a place.
    pub(crate) fn new(stream: TcpStream, seat: Seat, protocol: Protocol) -> Self {
        let is_cut = Box::pin(seat.0.cut().clone().cancelled_owned());
        Self {
            stream,
            opening: Opening::new(protocol),
            opening_ends: Some(Box::pin(tokio::time::sleep(OPENING_TIMEOUT))),
            stall_ends: None,
            is_cut,
            heard: Instant::now(),
            read: (protocol == Protocol::Http2).then(ReadFrames::default),
            turn_frames: 0,
            has_ended: false,
            sent: (protocol == Protocol::Http2).then(SentFrames::default),
            seat,
        }
    }

    fn place(&self) -> &Arc<Place> {
        &self.seat.0
    }

    fn counters(&self) -> &ListenerCounters {
        self.place().places().counters()
    }

    fn count(&self, counter: impl Fn(&ListenerCounters) -> &AtomicU64) {
        counter(self.counters()).fetch_add(1, Ordering::Relaxed);
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.place().cut().is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Takes in what was read.
    fn heard(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.has_ended = true;
            return;
        }
        self.heard = Instant::now();
        self.place().was_read(bytes.len());
        let frames = self.read.as_mut().map(|read| read.follow(bytes));
        self.turn_frames += frames.unwrap_or(0);
        if self.opening.is_judged() {
            return;
        }
        if self.opening.is_foreign(bytes) {
            self.count(|counters| &counters.foreign);
            tracing::debug!(peer = ?self.stream.peer_addr().ok(), "a connection does not speak this port's protocol");
        }
        if self.opening.is_judged() {
            self.opening_ends = None;
        }
    }

    /// Takes in what became of a write of these bytes. A client that takes nothing for too long is cut.
    fn wrote<'a>(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
        buffers: impl Iterator<Item = &'a [u8]>,
    ) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.stall_ends = None;
                let endings = self.sent.as_mut().map(|sent| sent.follow(buffers, bytes));
                for ending in endings.into_iter().flatten() {
                    match ending {
                        Ending::Connection => self.count(|counters| &counters.faulty),
                        Ending::Stream => self.count(|counters| &counters.streams_refused),
                    }
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Pending => {
                let stall = self.place().places().stall();
                let ends = self
                    .stall_ends
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                if ends.as_mut().poll(context).is_ready() {
                    self.count(|counters| &counters.stalled);
                    self.place().cut().cancel();
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
            broken @ Poll::Ready(Err(_)) => {
                self.has_ended = true;
                broken
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Nobody closed it, and nothing was heard from it for so long that this side gave it up.
        let is_given_up = !self.has_ended && !self.place().cut().is_cancelled();
        let is_http2 = self.sent.is_some();
        if is_http2 && is_given_up && self.heard.elapsed() >= grpc::KEEPALIVE_TIMEOUT {
            self.count(|counters| &counters.vanished);
        }
    }
}

/// What the layers above see of a connection: its place.
impl Connected for Connection {
    type ConnectInfo = Arc<Place>;

    fn connect_info(&self) -> Arc<Place> {
        self.place().clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_cut()?;
        if self.turn_frames >= TURN_FRAMES {
            self.turn_frames = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                self.heard(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            broken @ Poll::Ready(Err(_)) => {
                self.has_ended = true;
                broken
            }
            Poll::Pending => {
                self.turn_frames = 0;
                let patience = self.opening_ends.as_mut();
                if patience.is_some_and(|end| end.as_mut().poll(context).is_ready()) {
                    self.count(|counters| &counters.silent);
                    self.place().cut().cancel();
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                if self.is_cut.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(context, wrote, std::iter::once(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.wrote(context, wrote, buffers.iter().map(|buffer| &**buffer))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::opening::HTTP2_PREFACE;
    use crate::places::{Limits, Places};

    /// Plan: far more calls to read than a turn allows, by one who goes on for as long as there is something. It is told to wait
    /// once a turn, is woken at once, and reads all of it. The same in data is read in one go.
    #[tokio::test]
    async fn who_always_has_something_to_read_gives_way() {
        const FRAMES: usize = 16 * TURN_FRAMES;
        const WINDOW_UPDATE: u8 = 8;
        let frames = |kind| {
            [&[0, 0, 4, kind, 0, 0, 0, 0, 0], &[0, 0, 0, 1][..]]
                .concat()
                .repeat(FRAMES)
        };
        assert!(pauses(frames(WINDOW_UPDATE)).await >= 8);
        assert!(pauses(frames(0)).await <= 4, "it only waits for the sender");
    }

    /// How often who reads all of this is told to wait.
    async fn pauses(frames: Vec<u8>) -> usize {
        let limits = Limits {
            connections_max: 1,
            reserved: None,
            transit_bytes_max: Arc::new((1 << 20).into()),
            stall: Duration::from_secs(60),
        };
        let seat = Places::open(limits, Arc::default(), CancellationToken::new())
            .take()
            .expect("there is room for one");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        let bytes = [HTTP2_PREFACE.to_vec(), frames].concat();
        let length = bytes.len();
        let mut sender = TcpStream::connect(address).await.expect("somebody listens");
        let (stream, _) = listener.accept().await.expect("somebody connects");
        sender.write_all(&bytes).await.expect("the sockets hold it");
        let mut connection = Connection::new(stream, seat, Protocol::Http2);
        let mut buffer = vec![0; 2_048];
        let (mut read, mut pauses) = (0, 0);
        while read < length {
            let step = connection.read(&mut buffer);
            let mut step = std::pin::pin!(step);
            let next = std::future::poll_fn(|context| {
                let polled = step.as_mut().poll(context);
                pauses += usize::from(polled.is_pending());
                polled
            });
            read += next.await.expect("nothing breaks");
        }
        pauses
    }
}
