//! [`SentFrames`]: follows the frames of HTTP/2 that a connection sends (RFC 9113, section 4.1), to count those by which the
//! library refuses a stream or the whole connection: it tells nobody else.

/// Length, type, flags and stream.
const HEAD_BYTES: usize = 9;

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
pub(crate) struct SentFrames {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// What is left of the present frame's payload.
    left: usize,
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
        while !sent.is_empty() {
            if self.left == 0 {
                let part = (HEAD_BYTES - self.head_bytes).min(sent.len());
                self.head[self.head_bytes..self.head_bytes + part].copy_from_slice(&sent[..part]);
                self.head_bytes += part;
                sent = &sent[part..];
                if self.head_bytes == HEAD_BYTES {
                    self.begin_frame();
                }
                continue;
            }
            let part = self.left.min(sent.len());
            self.take_in_code(&sent[..part], endings);
            self.left -= part;
            sent = &sent[part..];
        }
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.head_bytes = 0;
        self.code_bytes_left = match kind {
            RST_STREAM => 4,
            GOAWAY => 8,
            _ => 0,
        };
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
            let is_stream = self.head[3] == RST_STREAM;
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
