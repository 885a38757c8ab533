//! The HTTP port: `/metrics` for Prometheus, `/healthz` (the process runs), `/readyz` (a rollout may go on; and which conditions
//! are on).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::conditions::Conditions;
use crate::exposition::Format;
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

/// What `/readyz` asks of a process.
pub trait Readiness: Send + Sync + 'static {
    /// Whether it is ready; the error says what is missing.
    ///
    /// # Errors
    /// What it waits for.
    fn readiness(&self) -> Result<(), &'static str>;

    /// What a person needs to know of it.
    fn conditions(&self) -> &Conditions;
}

#[derive(Clone)]
struct Pages {
    registry: Arc<Registry>,
    readiness: Arc<dyn Readiness>,
}

/// Serves the pages in a task of its own until `end`, which cuts its connections. Returns where it listens.
///
/// # Errors
/// If the listener's address cannot be told.
pub fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: Arc<dyn Readiness>,
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

async fn metrics(State(pages): State<Pages>, asked: HeaderMap) -> impl IntoResponse {
    let accept = asked.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::asked_for(accept);
    match format.write(&pages.registry) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, format.content_type())],
            text,
        ),
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

/// Whether it is ready, in the first line; one line for each condition that is on below it.
async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    let (code, word) = match pages.readiness.readiness() {
        Ok(()) => (StatusCode::OK, "ready"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let on = pages.readiness.conditions().on();
    let on: String = on.iter().map(|condition| format!("{condition}\n")).collect();
    (code, format!("{word}\n{on}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::conditions::Kind;

    /// A process that is ready, and one of whose names does not resolve.
    #[derive(Default)]
    struct Misnamed(Conditions);

    impl Readiness for Misnamed {
        fn readiness(&self) -> Result<(), &'static str> {
            Ok(())
        }

        fn conditions(&self) -> &Conditions {
            &self.0
        }
    }

    async fn get(address: SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{accept}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Plan: the pages of a process that has a condition, asked as `curl`, as Prometheus and as a probe ask.
    #[tokio::test]
    async fn pages_answer_what_is_asked_and_tell_what_is_wrong() {
        let misnamed = Arc::new(Misnamed::default());
        let stop = CancellationToken::new();
        misnamed.0.observe(Kind::OwnName, "", "no\nsuch name");
        let telling = misnamed.clone();
        let told = tokio::spawn({
            let stop = stop.clone();
            async move { telling.0.tell(stop, || {}).await }
        });
        let mut registry = Registry::default();
        registry.register(
            "things",
            "Things",
            prometheus_client::metrics::counter::Counter::<u64>::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tasks = TaskTracker::new();
        let address = serve(listener, registry, misnamed, Arc::default(), &tasks, stop.clone()).unwrap();

        let plain = get(address, "/metrics", "").await;
        assert!(
            plain.contains("content-type: text/plain; version=0.0.4"),
            "{plain}"
        );
        assert!(
            plain.contains("# TYPE things_total counter") && !plain.contains("# EOF"),
            "{plain}"
        );
        let open = get(address, "/metrics", "Accept: application/openmetrics-text\r\n").await;
        assert!(
            open.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{open}"
        );
        assert!(
            open.contains("# TYPE things counter") && open.contains("# EOF"),
            "{open}"
        );
        let ready = loop {
            let ready = get(address, "/readyz", "").await;
            if ready.contains("own_name") {
                break ready;
            }
            tokio::task::yield_now().await;
        };
        assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
        let body = ready
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.lines().collect::<Vec<_>>());
        let body = body.unwrap();
        assert_eq!((body.len(), body[0]), (2, "ready"));
        assert!(body[1].ends_with("; no such name"), "{ready}");
        stop.cancel();
        told.await.unwrap();
    }
}
