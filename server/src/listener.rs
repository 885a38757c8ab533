//! A TCP listener that stays calm: bounded connections, no spinning when the process runs out of file descriptors.

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
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long accepting rests after an error such as a full table of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(50);

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

/// Accepts connections in a task of its own until `closing`, at most `connections_max` at once.
pub fn incoming(
    listener: TcpListener,
    connections_max: usize,
    counters: Arc<ListenerCounters>,
    closing: CancellationToken,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(ACCEPTED_BACKLOG);
    let permits = Arc::new(Semaphore::new(connections_max));
    tokio::spawn(async move {
        let accepting = accept(&listener, &permits, &counters, &sender);
        tokio::select! {
            () = accepting => {}
            () = closing.cancelled() => {}
        }
    });
    Incoming(receiver)
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    counters: &ListenerCounters,
    sender: &mpsc::Sender<io::Result<Connection>>,
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
                if sender
                    .send(Ok(Connection {
                        stream,
                        _permit: permit,
                    }))
                    .await
                    .is_err()
                {
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
    _permit: OwnedSemaphorePermit,
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
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
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
