//! Follows the frames of HTTP/2 (RFC 9113, section 4.1) that a connection sends and reads: the library tells nobody of them.
//!
//! [`SentFrames`] counts those by which a stream or the whole connection is refused, [`ReadFrames`] those that cost more than
//! their bytes.

use crate::opening::HTTP2_PREFACE;

/// Length, type, flags and stream.
const HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// `NO_ERROR` and `CANCEL`: an end that nobody is to blame for.
const HARMLESS: [u32; 2] = [0, 8];

/// What was ended for something that the other side did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// A stream.
    Stream,
    /// The connection.
    Connection,
}

/// How far the frames came.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// What is left of the present frame's payload.
    left: usize,
}

/// A piece of a frame.
enum Piece<'a> {
    /// It begins. Its kind.
    Begin(u8),
    /// Some of what is in it.
    Payload(&'a [u8]),
}

impl Frames {
    /// Takes the next piece from the bytes that come; none if they are all taken.
    fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        if self.left > 0 && !bytes.is_empty() {
            let payload = bytes.split_off(..self.left.min(bytes.len()))?;
            self.left -= payload.len();
            return Some(Piece::Payload(payload));
        }
        let head = bytes.split_off(..(HEAD_BYTES - self.head_bytes).min(bytes.len()))?;
        self.head[self.head_bytes..self.head_bytes + head.len()].copy_from_slice(head);
        self.head_bytes += head.len();
        if self.head_bytes < HEAD_BYTES {
            return None;
        }
        let [a, b, c, kind, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.head_bytes = 0;
        Some(Piece::Begin(kind))
    }
}

/// The frames that are read.
#[derive(Debug)]
pub(crate) struct ReadFrames {
    /// What is still to come of what precedes the first.
    preface_left: usize,
    frames: Frames,
}

impl Default for ReadFrames {
    fn default() -> Self {
        Self {
            preface_left: HTTP2_PREFACE.len(),
            frames: Frames::default(),
        }
    }
}

impl ReadFrames {
    /// Takes in what was read. How many frames began in it that are no data: a call is opened or reset by each, or an answer asked for.
    pub(crate) fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let preface = self.preface_left.min(bytes.len());
        self.preface_left -= preface;
        bytes = &bytes[preface..];
        let mut frames = 0;
        while let Some(piece) = self.frames.next(&mut bytes) {
            frames += usize::from(matches!(piece, Piece::Begin(kind) if kind != DATA));
        }
        frames
    }
}

/// The frames that are sent.
#[derive(Debug, Default)]
pub(crate) struct SentFrames {
    frames: Frames,
    kind: u8,
    /// The last four bytes of payload of a frame that says why: of RST_STREAM all, of GOAWAY the second half of eight. A
    /// GOAWAY's text behind them is skipped.
    code: u32,
    code_bytes_left: usize,
}

impl SentFrames {
    /// Takes in the first `bytes` bytes of what lies in `buffers`.
    pub(crate) fn follow<'a>(
        &mut self,
        buffers: impl Iterator<Item = &'a [u8]>,
        mut bytes: usize,
    ) -> Vec<Ending> {
        let mut endings = Vec::new();
        for buffer in buffers {
            let part = buffer.len().min(bytes);
            self.take_in(&buffer[..part], &mut endings);
            bytes -= part;
            if bytes == 0 {
                break;
            }
        }
        endings
    }

    fn take_in(&mut self, mut sent: &[u8], endings: &mut Vec<Ending>) {
        while let Some(piece) = self.frames.next(&mut sent) {
            match piece {
                Piece::Begin(kind) => {
                    self.kind = kind;
                    self.code_bytes_left = match kind {
                        RST_STREAM => 4,
                        GOAWAY => 8,
                        _ => 0,
                    };
                }
                Piece::Payload(payload) => self.take_in_code(payload, endings),
            }
        }
    }

    fn take_in_code(&mut self, payload: &[u8], endings: &mut Vec<Ending>) {
        if self.code_bytes_left == 0 {
            return;
        }
        for byte in payload.iter().take(self.code_bytes_left) {
            self.code = self.code << 8 | u32::from(*byte);
        }
        self.code_bytes_left = self.code_bytes_left.saturating_sub(payload.len());
        if self.code_bytes_left == 0 && !HARMLESS.contains(&self.code) {
            let is_stream = self.kind == RST_STREAM;
            endings.push(if is_stream {
                Ending::Stream
            } else {
                Ending::Connection
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    /// Plan: calls, resets and a ping between data, cut in every way: each counts once.
    #[test]
    fn what_is_no_data_is_counted_however_the_bytes_are_cut() {
        let bytes = [
            HTTP2_PREFACE.to_vec(),
            frame(1, &[9; 30]),
            frame(0, &[1; 500]),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(4, &[]),
            frame(0, &[]),
        ]
        .concat();
        for piece in [1, 8, 9, 10, 100, bytes.len()] {
            let mut read = ReadFrames::default();
            let frames: usize = bytes.chunks(piece).map(|piece| read.follow(piece)).sum();
            assert_eq!(frames, 3, "{piece}");
        }
    }

    #[test]
    fn refusals_are_found_however_the_bytes_are_cut() {
        let bytes = [
            frame(4, &[]),
            frame(0, &vec![RST_STREAM; 20_000]),
            frame(RST_STREAM, &[0, 0, 0, 7]),
            frame(RST_STREAM, &[0, 0, 0, 8]),
            frame(GOAWAY, &[0, 0, 0, 9, 0, 0, 0, 0]),
            frame(GOAWAY, &[&[0, 0, 0, 9, 0, 0, 0, 11], &b"too many"[..]].concat()),
            frame(0, &[7; 3]),
        ]
        .concat();
        for piece in [1, 3, 9, 1_000, bytes.len()] {
            let mut sent = SentFrames::default();
            let endings: Vec<Ending> = bytes
                .chunks(piece)
                .flat_map(|piece| sent.follow(std::iter::once(piece), piece.len()))
                .collect();
            assert_eq!(endings, [Ending::Stream, Ending::Connection], "{piece}");
        }
        // Only what was written counts, and the rest comes again.
        let mut sent = SentFrames::default();
        let refusal = frame(RST_STREAM, &[0, 0, 0, 7]);
        assert_eq!(sent.follow([&refusal[..5], &refusal[5..]].into_iter(), 7), []);
        assert_eq!(
            sent.follow(std::iter::once(&refusal[7..]), refusal.len() - 7),
            [Ending::Stream]
        );
    }
}
