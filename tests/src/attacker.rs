//! Raw HTTP/2 from the wrong side: frames put together by hand (RFC 9113), headers without compression (RFC 7541), gRPC
//! messages whose heads say what the attacker likes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use softstore_proto::identity::NAME_KEY;
use softstore_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A type of frame.
pub const DATA: u8 = 0;
/// A type of frame.
pub const HEADERS: u8 = 1;
/// A type of frame.
pub const RST_STREAM: u8 = 3;
/// A type of frame.
pub const SETTINGS: u8 = 4;
/// A type of frame.
pub const PING: u8 = 6;
/// A type of frame.
pub const WINDOW_UPDATE: u8 = 8;
/// A type of frame.
pub const CONTINUATION: u8 = 9;

/// A flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// A flag of SETTINGS and PING.
pub const ACK: u8 = 1;
/// A flag of HEADERS.
pub const END_HEADERS: u8 = 4;

/// A path.
pub const CACHE_STREAM: &str = "/softstore.v1.Cache/Stream";
/// A path.
pub const CACHE_EXECUTE: &str = "/softstore.v1.Cache/Execute";
/// A path.
pub const CACHE_WATCH: &str = "/softstore.v1.Cache/Watch";
/// A path.
pub const TRANSFER_TAKE: &str = "/softstore.v1.Transfer/Take";
/// A path.
pub const TRANSFER_PEEK: &str = "/softstore.v1.Transfer/Peek";
/// A path.
pub const SESSION: &str = "/softstore.v1.Assigner/Session";

/// Initial window of streams (RFC 9113, section 6.5.2).
const SETTING_INITIAL_WINDOW: u16 = 4;

/// How long the other side may take to close a connection that it refuses.
const CLOSE_PATIENCE: Duration = Duration::from_secs(40);

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a frame of a test is short")
        .to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

/// A head that announces more payload than comes.
pub fn frame_head(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes()].concat()
}

/// An integer with a prefix of so many bits (RFC 7541, section 5.1).
fn integer(first: u8, prefix_bits: u32, value: usize) -> Vec<u8> {
    let full = (1_usize << prefix_bits) - 1;
    if value < full {
        return vec![first | u8::try_from(value).expect("below the prefix")];
    }
    let mut bytes = vec![first | u8::try_from(full).expect("a prefix is a byte at most")];
    let mut rest = value - full;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).expect("below 256"));
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("below 128"));
    bytes
}

/// A header field, not indexed, with a name of its own.
pub fn header(name: &[u8], value: &[u8]) -> Vec<u8> {
    [
        &[0],
        &integer(0, 7, name.len())[..],
        name,
        &integer(0, 7, value.len()),
        value,
    ]
    .concat()
}

/// The header block of a gRPC call, which says that it is of the cluster that has no other name: else it would go no further.
pub fn call_headers(path: &str) -> Vec<u8> {
    let path = [&[0x04], &integer(0, 7, path.len())[..], path.as_bytes()].concat();
    // POST and http are entries 3 and 6 of the static table.
    [
        vec![0x83, 0x86],
        path,
        header(b"content-type", b"application/grpc"),
        header(b"te", b"trailers"),
        header(NAME_KEY.as_bytes(), b"local"),
    ]
    .concat()
}

/// A gRPC message: flag, length as announced, bytes.
pub fn message(flag: u8, length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[flag], &length.to_be_bytes()[..], bytes].concat()
}

/// A message as it should be.
pub fn encoded(what: &impl Message) -> Vec<u8> {
    let bytes = what.encode_to_vec();
    message(
        0,
        u32::try_from(bytes.len()).expect("a test's message is short"),
        &bytes,
    )
}

/// A batch of operations, as a message.
pub fn batch(ops: &[v1::Op]) -> Vec<u8> {
    let fields = ops.iter().flat_map(|op| {
        let op = op.encode_to_vec();
        let mut field = vec![0x0a];
        prost::encoding::encode_varint(op.len() as u64, &mut field);
        [field, op].concat()
    });
    let bytes: Vec<u8> = fields.collect();
    message(
        0,
        u32::try_from(bytes.len()).expect("a test's batch is short"),
        &bytes,
    )
}

/// A connection, opened as HTTP/2 wants it.
#[derive(Debug)]
pub struct Raw {
    /// Its half that reads.
    pub read: OwnedReadHalf,
    /// Its half that writes.
    pub write: OwnedWriteHalf,
}

impl Raw {
    /// Preface and empty settings.
    pub async fn open(address: &str) -> Self {
        Self::open_with_window(address, None).await
    }

    /// The same, with a window of its own for what the server sends on each stream.
    pub async fn open_with_window(address: &str, window: Option<u32>) -> Self {
        let mut raw = Self::connect(address).await;
        let setting =
            window.map(|window| [&SETTING_INITIAL_WINDOW.to_be_bytes()[..], &window.to_be_bytes()].concat());
        let settings = frame(SETTINGS, 0, 0, &setting.unwrap_or_default());
        // The server's settings hold once they are acknowledged; it sends them without being asked.
        let acknowledged = frame(SETTINGS, ACK, 0, &[]);
        raw.send(&[PREFACE, &settings, &acknowledged].concat()).await;
        raw
    }

    /// A TCP connection, and nothing said.
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the port listens");
        let (read, write) = stream.into_split();
        Self { read, write }
    }

    /// Writes. False if the server has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }

    /// Opens a call.
    pub async fn call(&mut self, stream: u32, path: &str) -> bool {
        self.send(&frame(HEADERS, END_HEADERS, stream, &call_headers(path)))
            .await
    }

    /// Reads and forgets until the server closes.
    ///
    /// # Panics
    /// If it does not.
    pub async fn closed(mut self) {
        let closed = tokio::time::timeout(CLOSE_PATIENCE, read_to_end(&mut self.read)).await;
        assert!(closed.is_ok(), "the server keeps the connection");
    }

    /// Reads and forgets in a task of its own from now on; writes go on.
    pub fn reading(self) -> Drain {
        let Self { read, write } = self;
        let windows = Arc::<Windows>::default();
        let reading = tokio::spawn(follow_windows(read, windows.clone()));
        Drain {
            write,
            windows,
            reading,
        }
    }
}

/// A connection whose replies are read and forgotten, but for what they say of windows.
#[derive(Debug)]
pub struct Drain {
    write: OwnedWriteHalf,
    windows: Arc<Windows>,
    reading: tokio::task::JoinHandle<()>,
}

impl Drain {
    /// Writes. False if the server has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }

    /// Sends bytes on a stream, as the windows allow: who breaks them is closed at once, and no danger. False if the server has
    /// closed.
    pub async fn data(&mut self, stream: u32, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(16 << 10) {
            while !self.windows.take(stream, piece.len()) {
                if self.reading.is_finished() {
                    return false;
                }
                self.windows.opened.notified().await;
            }
            if !self.send(&frame(DATA, 0, stream, piece)).await {
                return false;
            }
        }
        true
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// How much may be sent (RFC 9113, section 6.9).
#[derive(Debug, Default)]
struct Windows {
    open: Mutex<Open>,
    opened: Notify,
}

/// Until the server's settings have come, nothing.
#[derive(Debug, Default)]
struct Open {
    initial: Option<i64>,
    connection: i64,
    /// What was added to each stream's, and taken.
    streams: HashMap<u32, i64>,
}

impl Windows {
    fn take(&self, stream: u32, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut open = self.open.lock();
        let Some(initial) = open.initial else { return false };
        let of_stream = open.streams.get(&stream).copied().unwrap_or(0);
        if initial + of_stream < bytes || open.connection + DEFAULT_WINDOW < bytes {
            return false;
        }
        open.connection -= bytes;
        open.streams.insert(stream, of_stream - bytes);
        true
    }

    fn frame(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let number = |bytes: &[u8]| i64::from(u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        let mut open = self.open.lock();
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let settings = payload.chunks_exact(6);
                let mut initials =
                    settings.filter(|setting| setting[..2] == SETTING_INITIAL_WINDOW.to_be_bytes());
                open.initial = Some(
                    initials
                        .next()
                        .map_or(DEFAULT_WINDOW, |setting| number(&setting[2..])),
                );
            }
            WINDOW_UPDATE if payload.len() == 4 => {
                let more = number(payload);
                match stream {
                    0 => open.connection += more,
                    _ => *open.streams.entry(stream).or_default() += more,
                }
            }
            _ => return,
        }
        drop(open);
        self.opened.notify_waiters();
        self.opened.notify_one();
    }
}

/// A window that nobody has changed.
const DEFAULT_WINDOW: i64 = 65_535;

/// Reads frames to the end of the connection.
async fn follow_windows(read: OwnedReadHalf, windows: Arc<Windows>) {
    let mut read = tokio::io::BufReader::new(read);
    let mut head = [0; 9];
    let mut payload = Vec::new();
    while read.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, flags, stream @ ..] = head;
        payload.resize(u32::from_be_bytes([0, a, b, c]) as usize, 0);
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        windows.frame(kind, flags, u32::from_be_bytes(stream), &payload);
    }
    // Whoever waits for a window finds out that there will be none.
    windows.opened.notify_waiters();
    windows.opened.notify_one();
}

/// Until the end or an error; how many bytes came.
async fn read_to_end(read: &mut OwnedReadHalf) -> usize {
    let mut bytes = 0;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        bytes += count;
    }
    bytes
}
