//! A TCP listener that stays calm: bounded connections (`Places`), no spinning when the process runs out of file
//! descriptors. Who comes then is turned away at once, by a file descriptor that is kept for that, and not left waiting.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::conditions::{Conditions, Kind};
use crate::connection::Connection;
use crate::opening::Protocol;
use crate::places::{Limits, Places};
use crate::readings::Reading;

/// How long accepting rests after an error such as a full table of file descriptors. Doubles with each up to the longest.
const ACCEPT_REST: Duration = Duration::from_millis(5);
const ACCEPT_REST_MAX: Duration = Duration::from_millis(500);

/// File descriptors that connections to the gRPC port are not given: 256 for the pages' port, the rest for the session with
/// the Assigner, connections to other nodes, logs.
const FILES_KEPT: usize = 512;

/// Accepted connections that wait to be picked up by the server.
const ACCEPTED_BACKLOG: usize = 64;

/// What a listener counted.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once, or told that there is no place, because too many were open.
    pub refused: AtomicU64,
    /// Errors of `accept`.
    pub accept_errors: AtomicU64,
    /// The last of them, as the system numbers errors; 0: none.
    accept_error_last: AtomicI32,
    /// Connections that did not begin with the port's protocol.
    pub foreign: AtomicU64,
    /// Connections closed because they said nothing, or too little to tell their protocol.
    pub silent: AtomicU64,
    /// Connections on which nothing was asked, closed to make room for others.
    pub displaced: AtomicU64,
    /// Connections closed because their client did not take its replies, or did not end a message, in time.
    pub stalled: AtomicU64,
    /// Connections closed because nothing was heard from them any more.
    pub vanished: AtomicU64,
    /// Connections closed because they broke a rule of HTTP/2 or one of its limits.
    pub faulty: AtomicU64,
    /// Connections closed because their client gave up too many calls at once.
    pub cut_for_resets: AtomicU64,
    /// Connections closed because they held the most, while more was in transit than may be.
    pub cut_for_memory: AtomicU64,
    /// Streams reset because they broke a rule of HTTP/2 or one of its limits.
    pub streams_refused: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
    /// Bytes of unfinished messages and of replies that are not taken.
    pub transit_bytes: AtomicU64,
}

/// What was counted when it was looked at last.
#[derive(Debug, Default)]
pub(crate) struct Growth(u64);

impl Growth {
    /// By how much a counter has grown since the last look.
    pub(crate) fn of(&mut self, counter: &AtomicU64) -> u64 {
        let before = self.0;
        self.0 = counter.load(Ordering::Relaxed);
        self.0.saturating_sub(before)
    }
}

impl ListenerCounters {
    /// Notices connections that could not be accepted since the last look.
    pub(crate) fn look(&self, accept_errors: &mut Growth, conditions: &Conditions) {
        let errors = accept_errors.of(&self.accept_errors);
        if errors > 0 {
            let last = io::Error::from_raw_os_error(self.accept_error_last.load(Ordering::Relaxed));
            conditions.observe_times(Kind::AcceptErrors, "", errors, last);
        }
    }

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
        let gauge = |name, help, unit, value: &AtomicU64| Reading {
            unit,
            is_counter: false,
            ..reading(name, help, value)
        };
        vec![
            gauge("connections_open", "Connections that are open", None, &self.open),
            gauge(
                "transit",
                "Unfinished messages of clients, and replies that they have not taken",
                Some(Unit::Bytes),
                &self.transit_bytes,
            ),
            reading(
                "connections_displaced",
                "Connections on which nothing was asked, closed to make room for others",
                &self.displaced,
            ),
            reading(
                "connections_stalled",
                "Connections closed because their client did not take replies, or did not end a message, in time",
                &self.stalled,
            ),
            reading(
                "connections_vanished",
                "Connections closed because nothing was heard from them any more",
                &self.vanished,
            ),
            reading(
                "connections_faulty",
                "Connections closed because they broke a rule of HTTP/2 or one of its limits",
                &self.faulty,
            ),
            reading(
                "connections_cut_for_resets",
                "Connections closed because their client gave up too many calls at once",
                &self.cut_for_resets,
            ),
            reading(
                "connections_cut_for_memory",
                "Connections closed because they held the most, while more was in transit than may be",
                &self.cut_for_memory,
            ),
            reading(
                "streams_refused",
                "Streams reset because they broke a rule of HTTP/2 or one of its limits",
                &self.streams_refused,
            ),
            reading("connections_accepted", "Connections accepted", &self.accepted),
            reading(
                "connections_refused",
                "Connections turned away because too many were open",
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

/// What fits of so many connections into this process' table of file descriptors, beside those that are reserved.
pub(crate) fn fitting(connections_max: usize, reserved: usize) -> usize {
    let Some(files_max) = getrlimit(Resource::Nofile).current else {
        return connections_max;
    };
    let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
    // With a table so small that nothing would be left, half of it.
    let fitting = files_max.saturating_sub(FILES_KEPT + reserved).max(files_max / 2);
    if fitting < connections_max {
        tracing::warn!(
            connections_max,
            fitting,
            files_max,
            "fewer connections are taken than connections_max: raise the limit of open files (ulimit -n, LimitNOFILE)"
        );
    }
    connections_max.min(fitting)
}

/// Accepts connections in a task of its own until `end`: that cuts those that are open, too.
pub(crate) fn incoming(
    listener: TcpListener,
    protocol: Protocol,
    limits: Limits,
    counters: Arc<ListenerCounters>,
    end: CancellationToken,
) -> Incoming {
    let (sender, receiver) = mpsc::channel(ACCEPTED_BACKLOG);
    let places = Places::open(limits, counters, end.clone());
    let accepting = Accepting {
        listener,
        protocol,
        places,
        sender,
        spare: spare(),
        rest: ACCEPT_REST,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = accepting.run() => {}
            () = end.cancelled() => {}
        }
    });
    Incoming(receiver)
}

/// A file descriptor that can be given up to turn somebody away.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

struct Accepting {
    listener: TcpListener,
    protocol: Protocol,
    places: Arc<Places>,
    sender: mpsc::Sender<io::Result<Connection>>,
    spare: Option<File>,
    /// How long the next error makes it rest.
    rest: Duration,
}

impl Accepting {
    async fn run(mut self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.rest = ACCEPT_REST;
                    if !self.seat(stream).await {
                        return;
                    }
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// Passes a connection on, or turns it away if there is no place. False if nobody wants any more.
    async fn seat(&self, stream: TcpStream) -> bool {
        let counters = self.places.counters();
        let Some(seat) = self.places.take() else {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        // Replies are small and wanted now; failing that, they only come later.
        let _ = stream.set_nodelay(true);
        let connection = Connection::new(stream, seat, self.protocol);
        self.sender.send(Ok(connection)).await.is_ok()
    }

    /// After an error: out of file descriptors, most likely. The first in the queue is turned away, and accepting rests.
    async fn failed(&mut self, error: &io::Error) {
        let counters = self.places.counters().clone();
        counters.accept_errors.fetch_add(1, Ordering::Relaxed);
        counters
            .accept_error_last
            .store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
        if self.spare.take().is_some() {
            let turned_away = tokio::time::timeout(ACCEPT_REST, self.listener.accept()).await;
            if matches!(turned_away, Ok(Ok(_))) {
                counters.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.spare = spare();
        tokio::time::sleep(self.rest).await;
        if self.spare.is_none() {
            self.rest = (2 * self.rest).min(ACCEPT_REST_MAX);
        }
    }
}

/// Accepted connections.
#[derive(Debug)]
pub(crate) struct Incoming(mpsc::Receiver<io::Result<Connection>>);

impl Incoming {
    /// The next one; none once the port is closed.
    pub(crate) async fn next(&mut self) -> Option<Connection> {
        loop {
            if let Ok(connection) = self.0.recv().await? {
                return Some(connection);
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
