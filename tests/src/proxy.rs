//! [`Proxy`]: stands before a gRPC port, and flips a bit in what comes from there or holds it back, when it is told to.
//!
//! It follows the frames of HTTP/2 (RFC 9113, section 4.1) just far enough to leave their heads alone: what is damaged is
//! the middle of a large DATA frame, which during a hand-off is a chunk.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Frames from this size on are damaged: chunks are far larger, control messages smaller.
const DAMAGED_FRAME_BYTES_MIN: usize = 8 << 10;

const FRAME_HEAD_BYTES: usize = 9;
const FRAME_IS_DATA: u8 = 0;

/// A running proxy. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    listener: Option<TcpListener>,
    left: Arc<AtomicU32>,
    held_back: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Takes a free port; what connects to it waits until [`Proxy::forward_to`].
    ///
    /// # Panics
    /// If there is no port.
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        Self {
            address,
            listener: Some(listener),
            left: Arc::default(),
            held_back: watch::Sender::new(false),
            accepting: None,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to pass connections on.
    ///
    /// # Panics
    /// If it did already.
    pub fn forward_to(&mut self, node: String) {
        let listener = self.listener.take().expect("it forwards to one node");
        let (left, held_back) = (self.left.clone(), self.held_back.clone());
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Either side's end ends the connection; that is all a proxy has to say about it.
                tokio::spawn(pass(stream, node.clone(), left.clone(), held_back.subscribe()));
            }
        }));
    }

    /// Damages the next so many large frames.
    pub fn damage(&self, frames: u32) {
        self.left.store(frames, Ordering::SeqCst);
    }

    /// Keeps what comes from the other side until it is told otherwise.
    pub fn hold_back(&self, hold: bool) {
        self.held_back.send_replace(hold);
    }

    /// How many of them have not come yet.
    #[must_use]
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn pass(
    client: TcpStream,
    node: String,
    left: Arc<AtomicU32>,
    held_back: watch::Receiver<bool>,
) -> io::Result<()> {
    let node = TcpStream::connect(node).await?;
    node.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_node, mut to_node) = node.into_split();
    tokio::select! {
        copied = tokio::io::copy(&mut from_client, &mut to_node) => copied.map(|_| ()),
        copied = copy_frames(from_node, to_client, &left, held_back) => copied,
    }
}

async fn copy_frames(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    left: &AtomicU32,
    mut held_back: watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        let mut frame = vec![0; FRAME_HEAD_BYTES];
        from.read_exact(&mut frame).await?;
        let length = usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2]);
        let is_data = frame[3] == FRAME_IS_DATA;
        frame.resize(FRAME_HEAD_BYTES + length, 0);
        from.read_exact(&mut frame[FRAME_HEAD_BYTES..]).await?;
        let wanted = is_data && length >= DAMAGED_FRAME_BYTES_MIN;
        let take_one = |left: u32| left.checked_sub(1);
        if wanted
            && left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one)
                .is_ok()
        {
            frame[FRAME_HEAD_BYTES + length / 2] ^= 1;
        }
        // An error means that the proxy is gone.
        held_back.wait_for(|hold| !hold).await.map_err(io::Error::other)?;
        to.write_all(&frame).await?;
    }
}
