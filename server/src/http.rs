//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process runs), `/readyz` (a rollout may go on).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listener::{self, Incoming, ListenerCounters};
use crate::opening::Protocol;
use crate::places::Limits;

/// Connections at once: scrapers, probes and people. Who comes when all are open takes the place of the oldest.
const CONNECTIONS_MAX: usize = 256;

/// How long a request's head may take to come, and how long a connection may wait for its next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest head of a request, in bytes, and what of pipelined requests is read ahead.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How long a client may take nothing of an answer.
const STALL_MAX: Duration = Duration::from_secs(20);

/// Says whether the process is ready; the error says what is missing.
pub type Readiness = Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

#[derive(Clone)]
struct Pages {
    registry: Arc<Registry>,
    readiness: Readiness,
}

/// Serves the pages in a task of its own until `end`, which cuts its connections. Returns where it listens.
///
/// # Errors
/// If the listener's address cannot be told.
pub fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: Readiness,
    counters: Arc<ListenerCounters>,
    tasks: &TaskTracker,
    end: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let pages = Pages {
        registry: Arc::new(registry),
        readiness,
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(pages);
    let limits = Limits {
        connections_max: CONNECTIONS_MAX,
        reserved: None,
        // Answers are made one after the other, each when the one before was taken.
        transit_bytes_max: Arc::new(AtomicUsize::new(usize::MAX)),
        stall: STALL_MAX,
    };
    let incoming = listener::incoming(listener, Protocol::Http1, limits, counters, end);
    tasks.spawn(serve_connections(incoming, router));
    Ok(address)
}

/// Until the port is closed, which ends its connections.
async fn serve_connections(mut incoming: Incoming, router: Router) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    while let Some(connection) = incoming.next().await {
        let service = TowerToHyperService::new(router.clone());
        let serving = server.serve_connection(TokioIo::new(connection), service);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a connection of the HTTP port has failed");
            }
        });
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &pages.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => {
            let kind = "text/plain; charset=utf-8";
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(header::CONTENT_TYPE, kind)],
                format!("{error}\n"),
            )
        }
    }
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match (pages.readiness)() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
