//! [`Proxy`]: stands before a gRPC port, and when it is told to, flips a bit in what comes from there, holds it back, or
//! passes nothing either way.
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

/// What is read at once of what a client says.
const BUFFER_BYTES: usize = 64 << 10;

const FRAME_HEAD_BYTES: usize = 9;
const FRAME_IS_DATA: u8 = 0;

/// A running proxy. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    listener: Option<TcpListener>,
    left: Arc<AtomicU32>,
    held_back: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    target: watch::Sender<String>,
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
            cut: watch::Sender::new(false),
            target: watch::Sender::new(String::new()),
            accepting: None,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Passes connections on, from here on to this address: also new ones, if it passed them to another address before.
    pub fn forward_to(&mut self, node: String) {
        self.target.send_replace(node);
        let Some(listener) = self.listener.take() else {
            return;
        };
        let target = self.target.subscribe();
        let (left, held_back, cut) = (self.left.clone(), self.held_back.clone(), self.cut.clone());
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Either side's end ends the connection; that is all a proxy has to say about it.
                let gates = Gates {
                    left: left.clone(),
                    held_back: held_back.subscribe(),
                    cut: cut.subscribe(),
                };
                tokio::spawn(pass(stream, target.borrow().clone(), gates));
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

    /// Passes nothing either way until it is told otherwise; then what was said meanwhile comes, late.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
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

/// What a connection has to heed.
struct Gates {
    left: Arc<AtomicU32>,
    held_back: watch::Receiver<bool>,
    cut: watch::Receiver<bool>,
}

/// Waits until a gate is open. An error means that the proxy is gone.
async fn open(gate: &mut watch::Receiver<bool>) -> io::Result<()> {
    gate.wait_for(|shut| !shut).await.map_err(io::Error::other)?;
    Ok(())
}

async fn pass(client: TcpStream, node: String, gates: Gates) -> io::Result<()> {
    let node = TcpStream::connect(node).await?;
    node.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_node, to_node) = node.into_split();
    tokio::select! {
        copied = copy_bytes(from_client, to_node, gates.cut.clone()) => copied,
        copied = copy_frames(from_node, to_client, gates) => copied,
    }
}

async fn copy_bytes(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut bytes = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        open(&mut cut).await?;
        to.write_all(&bytes[..length]).await?;
    }
}

async fn copy_frames(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut gates: Gates) -> io::Result<()> {
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
            && gates
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one)
                .is_ok()
        {
            frame[FRAME_HEAD_BYTES + length / 2] ^= 1;
        }
        open(&mut gates.held_back).await?;
        open(&mut gates.cut).await?;
        to.write_all(&frame).await?;
    }
}
