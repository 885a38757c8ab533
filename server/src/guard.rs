//! [`Guard`]: the layer between a gRPC port's connections and its services. It tells each connection's [`Place`] which calls
//! are open, what is held for them, and what their client owes.
//!
//! The HTTP/2 library bounds what it buffers by windows, per stream; what is held beyond is an unfinished message on its way in, in the
//! decoder's buffer, and a reply on its way out: first as the service made it, until the client has room for its beginning
//! ([`holding`]), then encoded. A large reply is therefore handed over in pieces: what the
//! client does not take stays here, where it is counted, and not in the library, where it is not. What a service holds for a
//! call before there is a reply it counts itself, by the [`Call`] among its request's extensions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::places::{Call, Held, NoEntry, Place, next_call};

/// How much of a reply is handed over at once, in bytes.
const PIECE_BYTES: usize = 32 << 10;

/// The head of a gRPC message: a flag, and the length in 4 bytes.
const HEAD_BYTES: usize = 5;

/// Messages up to so many bytes come in one frame, and are not counted.
const SMALL_MESSAGE_BYTES: usize = 16 << 10;

/// Calls on which a client may be silent from the beginning.
const SILENT_CALLS: [&str; 1] = ["/softstore.v1.Cache/Stream"];

/// The layer.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    calls: Arc<AtomicU64>,
    message_bytes_max: usize,
}

impl Guard {
    /// For services that take messages up to so many bytes.
    pub(crate) fn new(message_bytes_max: usize) -> Self {
        Self {
            calls: Arc::default(),
            message_bytes_max,
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A service behind the layer.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Reply>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answering<S::Future> {
        let Some(place) = request.extensions_mut().remove::<Arc<Place>>() else {
            // Only a connection that is not one of ours has no place.
            return Answering::refused(Status::internal("the connection has no place"));
        };
        let path = request.uri().path();
        if let Err(no_entry) = place.admit(path) {
            return Answering::refused(match no_entry {
                NoEntry::Full => Status::unavailable(
                    "too many connections: this one may only be used by other nodes; try again later",
                ),
                NoEntry::Pressed => {
                    Status::resource_exhausted("too much is in transit: read your replies first")
                }
            });
        }
        let owes_message = !SILENT_CALLS.contains(&path);
        let call = Arc::new(place.begin(next_call(&self.guard.calls)));
        if owes_message {
            call.owes_message(0);
        }
        request.extensions_mut().insert(call.clone());
        let request = request.map(|inner| {
            Body::new(Asking {
                inner,
                framing: Framing::default(),
                held: call.held(),
                message_bytes_max: self.guard.message_bytes_max,
                call: call.clone(),
            })
        });
        Answering(State::Called {
            inner: Box::pin(self.inner.call(request)),
            call: Some(call),
        })
    }
}

/// The call that a request is.
pub(crate) fn call_of<T>(request: &tonic::Request<T>) -> Option<Arc<Call>> {
    request.extensions().get().cloned()
}

/// An answer that is counted as held for its call until it is encoded: while its client has no room for it, nobody asks for
/// the bytes.
pub(crate) fn holding<T>(call: Option<&Arc<Call>>, bytes: usize, message: T) -> tonic::Response<T> {
    let mut response = tonic::Response::new(message);
    if let Some(call) = call {
        let mut held = call.held();
        held.set(bytes);
        response.extensions_mut().insert(Arc::new(held));
    }
    response
}

/// A call that is being answered.
pub(crate) struct Answering<F>(State<F>);

enum State<F> {
    Called {
        inner: Pin<Box<F>>,
        call: Option<Arc<Call>>,
    },
    Refused(Option<Status>),
}

impl<F> Answering<F> {
    fn refused(status: Status) -> Self {
        Self(State::Refused(Some(status)))
    }
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Reply>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Refused(status) => {
                let status = status.take().unwrap_or_else(|| Status::internal("asked twice"));
                Poll::Ready(Ok(status
                    .into_http::<Body>()
                    .map(|inner| Reply::new(inner, None, None))))
            }
            State::Called { inner, call } => {
                let answer = ready!(inner.as_mut().poll(context));
                let call = call.take();
                Poll::Ready(answer.map(|mut response| {
                    let unsent = response.extensions_mut().remove::<Arc<Held>>();
                    response.map(|inner| Reply::new(inner, call, unsent))
                }))
            }
        }
    }
}

/// What a client asks, on its way in.
struct Asking {
    inner: Body,
    framing: Framing,
    held: Held,
    message_bytes_max: usize,
    call: Arc<Call>,
}

impl HttpBody for Asking {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        match frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
            Some(Ok(Some(data))) => this.take_in(data.clone()),
            Some(Ok(None) | Err(_)) | None => this.call.owes_no_message(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Asking {
    fn take_in(&mut self, data: Bytes) {
        let begun = self.framing.take_in(&data);
        if self.framing.is_between_messages() {
            self.call.owes_no_message();
        } else if let Some(bytes) = begun {
            self.call.owes_message(bytes);
        }
        // The decoder refuses longer ones. It keeps its buffer as long as the call lasts.
        let bytes = begun.filter(|bytes| (SMALL_MESSAGE_BYTES..=self.message_bytes_max).contains(bytes));
        if let Some(bytes) = bytes.filter(|bytes| *bytes > self.held.bytes()) {
            self.held.set(bytes);
        }
    }
}

/// Follows the heads of gRPC messages ("gRPC over HTTP2", Length-Prefixed-Message).
#[derive(Debug, Default)]
struct Framing {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// What is still to come of the present message.
    left: usize,
}

impl Framing {
    /// Takes in what comes next. The length of the last message that it begins, if it does.
    fn take_in(&mut self, mut data: &[u8]) -> Option<usize> {
        let mut begun = None;
        while !data.is_empty() {
            if self.left > 0 {
                let part = self.left.min(data.len());
                self.left -= part;
                data = &data[part..];
                continue;
            }
            let part = (HEAD_BYTES - self.head_bytes).min(data.len());
            self.head[self.head_bytes..self.head_bytes + part].copy_from_slice(&data[..part]);
            self.head_bytes += part;
            data = &data[part..];
            begun = Some(0);
            if self.head_bytes == HEAD_BYTES {
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
                self.head_bytes = 0;
                begun = Some(self.left);
            }
        }
        begun
    }

    fn is_between_messages(&self) -> bool {
        self.left == 0 && self.head_bytes == 0
    }
}

/// What a client is answered, on its way out.
pub(crate) struct Reply {
    inner: Body,
    call: Option<Arc<Call>>,
    /// What is left of the present frame, and what is held for it.
    rest: Bytes,
    held: Option<Held>,
    /// What is held of the answer as the service made it, until it is asked for.
    unsent: Option<Arc<Held>>,
}

impl Reply {
    fn new(inner: Body, call: Option<Arc<Call>>, unsent: Option<Arc<Held>>) -> Self {
        // Nobody asks for more of a body that is empty from the beginning.
        if inner.is_end_stream()
            && let Some(call) = &call
        {
            call.is_answered();
        }
        let held = call.as_ref().map(|call| call.held());
        Self {
            inner,
            call,
            rest: Bytes::new(),
            held,
            unsent,
        }
    }

    /// The next piece of what is left.
    fn hand_over(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        if self.rest.is_empty()
            && let Some(held) = &mut self.held
        {
            held.set(0);
        }
        if let Some(call) = &self.call {
            call.owes_reading();
        }
        Frame::data(piece)
    }
}

impl HttpBody for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(call) = &this.call {
            call.has_read();
        }
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.hand_over())));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        let frame = match frame {
            Some(Ok(frame)) => frame,
            end => {
                this.call.iter().for_each(|call| call.is_answered());
                return Poll::Ready(end);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                if data.len() > PIECE_BYTES
                    && let Some(held) = &mut this.held
                {
                    held.set(data.len());
                }
                this.unsent = None;
                this.rest = data;
                Poll::Ready(Some(Ok(this.hand_over())))
            }
            Err(trailers) => {
                this.call.iter().for_each(|call| call.is_answered());
                Poll::Ready(Some(Ok(trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_heads_are_found_however_the_bytes_are_cut() {
        let message = |length: u32| [&[0], &length.to_be_bytes()[..], &vec![9; length as usize]].concat();
        let bytes = [message(3), message(0), message(70_000)].concat();
        for piece in [1, 2, 5, 7, 1_000, bytes.len()] {
            let mut framing = Framing::default();
            let begun: Vec<usize> = bytes
                .chunks(piece)
                .filter_map(|piece| framing.take_in(piece))
                .collect();
            assert_eq!(begun.last(), Some(&70_000), "{piece}");
            assert!(framing.is_between_messages(), "{piece}");
            framing.take_in(&message(3)[..7]);
            assert!(!framing.is_between_messages(), "{piece}");
        }
    }
}
