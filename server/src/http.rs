//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process runs), `/readyz` (a rollout may go on).

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::listener::{self, ListenerCounters};
use crate::opening::Protocol;

/// Connections at once: scrapers, probes and people.
const CONNECTIONS_MAX: usize = 1_024;

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
    let incoming = listener::incoming(listener, Protocol::Http1, CONNECTIONS_MAX, counters, end.clone());
    tasks.spawn(async move {
        let served = axum::serve(incoming, router)
            .with_graceful_shutdown(end.cancelled_owned())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the HTTP port has failed");
        }
    });
    Ok(address)
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
