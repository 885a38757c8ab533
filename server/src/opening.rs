//! [`Opening`]: judges the first bytes of a connection, so that what is no softstore client is counted.
//!
//! The protocols' own parsers refuse garbage too, but inside the server libraries, where nobody can count it.

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest name of an HTTP/1 method, in bytes.
const METHOD_BYTES_MAX: usize = 16;

/// What a port speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// gRPC: HTTP/2 from the first byte.
    Http2,
    /// Pages: HTTP/1.
    Http1,
}

/// How far the first bytes of one connection came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    protocol: Protocol,
    seen: usize,
    judged: bool,
}

impl Opening {
    /// Of a connection that has sent nothing.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            seen: 0,
            judged: false,
        }
    }

    /// Whether enough came to tell.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.judged
    }

    /// Takes in what came next. True once, when a byte came that the protocol does not begin with.
    pub fn is_foreign(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if self.judged {
                return false;
            }
            let fits = match self.protocol {
                Protocol::Http2 => {
                    self.judged = self.seen + 1 == HTTP2_PREFACE.len();
                    HTTP2_PREFACE[self.seen] == byte
                }
                Protocol::Http1 => {
                    self.judged = self.seen > 0 && byte == b' ';
                    self.judged || (byte.is_ascii_uppercase() && self.seen < METHOD_BYTES_MAX)
                }
            };
            if !fits {
                self.judged = true;
                return true;
            }
            self.seen += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it cries out when the bytes come in pieces of this size.
    fn foreign(protocol: Protocol, bytes: &[u8], piece: usize) -> usize {
        let mut opening = Opening::new(protocol);
        bytes
            .chunks(piece)
            .filter(|piece| opening.is_foreign(piece))
            .count()
    }

    #[test]
    fn garbage_is_told_once_and_the_protocols_pass() {
        for piece in [1, 3, 1_000] {
            let http2 = [HTTP2_PREFACE, &[0; 100]].concat();
            assert_eq!(foreign(Protocol::Http2, &http2, piece), 0);
            assert_eq!(foreign(Protocol::Http2, b"GET / HTTP/1.1\r\n", piece), 1);
            assert_eq!(foreign(Protocol::Http2, b"PRI * HTTP/2.1\r\n", piece), 1);
            assert_eq!(
                foreign(Protocol::Http1, b"GET /metrics HTTP/1.1\r\n\r\n", piece),
                0
            );
            assert_eq!(foreign(Protocol::Http1, b"\x16\x03\x01\x02\x00\x01", piece), 1);
            assert_eq!(foreign(Protocol::Http1, b" / HTTP/1.1", piece), 1);
            assert_eq!(foreign(Protocol::Http1, &[b'A'; 40], piece), 1);
            assert_eq!(foreign(Protocol::Http1, b"", piece), 0);
        }
    }
}
