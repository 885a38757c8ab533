//! A TCP listener that stays calm: bounded connections, no spinning when the process runs out of file descriptors.
//!
//! Its connections end with it. tonic gives no handle on the connections that it serves, and they outlive the task that
//! accepted them: so each looks for its end itself, and neither reads nor writes any more from that moment on.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::opening::{Opening, Protocol};
use crate::readings::Reading;

/// How long accepting rests after an error such as a full table of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How long a connection may take to say which protocol it speaks: one that stays silent must not keep its place.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepted connections that wait to be picked up by the server.
const ACCEPTED_BACKLOG: usize = 64;

/// What a listener counted.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once because too many were open.
    pub refused: AtomicU64,
    /// Errors of `accept`.
    pub accept_errors: AtomicU64,
    /// Connections that did not begin with the port's protocol.
    pub foreign: AtomicU64,
    /// Connections closed because they said nothing, or too little to tell their protocol.
    pub silent: AtomicU64,
}

impl ListenerCounters {
    /// For a page of metrics.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        let reading = |name, help, value: &AtomicU64| Reading {
            name,
            help,
            unit: None,
            is_counter: true,
            value: value.load(Ordering::Relaxed),
        };
        vec![
            reading("connections_accepted", "Connections accepted", &self.accepted),
            reading(
                "connections_refused",
                "Connections closed at once because too many were open",
                &self.refused,
            ),
            reading(
                "connections_foreign",
                "Connections that did not begin with the port's protocol: garbage, or another program's",
                &self.foreign,
            ),
            reading(
                "connections_silent",
                "Connections closed because they said nothing at their beginning",
                &self.silent,
            ),
            reading(
                "accept_errors",
                "Connections that could not be accepted",
                &self.accept_errors,
            ),
        ]
    }
}

/// Binds an address.
///
/// # Errors
/// With the address and what to do in the message.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there: stop it, or choose another port (0 takes a free one)"
            }
            io::ErrorKind::AddrNotAvailable => "this machine has no such address",
            io::ErrorKind::PermissionDenied => "this user may not listen there: choose a port above 1023",
            _ => "choose another address",
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}; {advice}"),
        )
    })
}

/// The two ports of a node or of an Assigner, bound and not yet served.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) grpc: TcpListener,
    pub(crate) grpc_addr: SocketAddr,
    pub(crate) http: Option<TcpListener>,
    pub(crate) http_addr: Option<SocketAddr>,
}

impl Ports {
    /// Binds both, or the one.
    ///
    /// # Errors
    /// As [`bind`].
    pub(crate) async fn bind(grpc: SocketAddr, http: Option<SocketAddr>) -> io::Result<Self> {
        let grpc = bind(grpc).await?;
        let http = match http {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self {
            grpc_addr: grpc.local_addr()?,
            http_addr: http.as_ref().map(TcpListener::local_addr).transpose()?,
            grpc,
            http,
        })
    }
}

/// Accepts connections in a task of its own, at most `connections_max` at once, until `end`: that cuts those that are open,
/// too.
pub fn incoming(
    listener: TcpListener,
    protocol: Protocol,
    connections_max: usize,
    counters: Arc<ListenerCounters>,
    end: CancellationToken,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(ACCEPTED_BACKLOG);
    let permits = Arc::new(Semaphore::new(connections_max));
    tokio::spawn(async move {
        let accepting = accept(&listener, protocol, &permits, &counters, &sender, &end);
        tokio::select! {
            () = accepting => {}
            () = end.cancelled() => {}
        }
    });
    Incoming(receiver)
}

async fn accept(
    listener: &TcpListener,
    protocol: Protocol,
    permits: &Arc<Semaphore>,
    counters: &Arc<ListenerCounters>,
    sender: &mpsc::Sender<io::Result<Connection>>,
    end: &CancellationToken,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(permit) = permits.clone().try_acquire_owned() else {
                    counters.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                counters.accepted.fetch_add(1, Ordering::Relaxed);
                // Replies are small and wanted now; failing that, they only come later.
                let _ = stream.set_nodelay(true);
                // Of its own, so that connections do not meet in one lock.
                let end = end.child_token();
                let connection = Connection {
                    stream,
                    ended: Box::pin(end.clone().cancelled_owned()),
                    end,
                    opening: Opening::new(protocol),
                    opening_ends: Some(Box::pin(tokio::time::sleep(OPENING_TIMEOUT))),
                    counters: counters.clone(),
                    _permit: permit,
                };
                if sender.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Accepted connections.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<io::Result<Connection>>);

/// The HTTP port takes its connections from here, too.
impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Connection, Option<SocketAddr>) {
        while let Some(accepted) = self.0.recv().await {
            if let Ok(connection) = accepted {
                let peer = connection.stream.peer_addr().ok();
                return (connection, peer);
            }
        }
        // The port is closed: no more will come.
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        Ok(None)
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// A connection that counts against the limit while it lives.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    opening: Opening,
    /// Until it has said enough to tell that it speaks the port's protocol.
    opening_ends: Option<Pin<Box<Sleep>>>,
    counters: Arc<ListenerCounters>,
    end: CancellationToken,
    /// Wakes whoever waits for something to read.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn check_end(&self) -> io::Result<()> {
        if self.end.is_cancelled() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end()?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.opening.is_foreign(&buffer.filled()[before..]) {
            self.counters.foreign.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(peer = ?self.stream.peer_addr().ok(), "a connection does not speak this port's protocol");
        }
        if self.opening.is_judged() {
            self.opening_ends = None;
        }
        let patience = self.opening_ends.as_mut();
        if read.is_pending() && patience.is_some_and(|end| end.as_mut().poll(context).is_ready()) {
            self.counters.silent.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if read.is_pending() && self.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_end()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
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
        self.check_end()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
