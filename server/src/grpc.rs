//! What the gRPC ports of nodes and of the Assigner have in common: limits, keepalive, reflection; and why a call out failed,
//! in words.

use std::error::Error;
use std::io;
use std::time::Duration;

use tonic::codegen::http::HeaderMap;
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

/// What a message may hold beside its largest value: the rest of a batch (4 MiB) and the framing.
pub(crate) const MESSAGE_BYTES_EXTRA: usize = 8 << 20;

/// Largest message sent: not bounded here. Replies are closed at 4 MiB and one value more, chunks by their own limit.
pub(crate) const REPLY_BYTES_MAX: usize = usize::MAX;

/// Flow-control window of one stream, in bytes.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Flow-control window of one connection, in bytes.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Streams at once on one connection.
pub(crate) const STREAMS_MAX: u32 = 1_024;

/// Streams of one connection that were reset before this process got to see them, from which on the connection is closed
/// (a defence against floods of resets). Peers that time out while this process stands still send some tens a second,
/// and their pulls are on the same process: so more than the 20 that are usual.
pub(crate) const RESETS_PENDING_MAX: usize = 1_024;

/// Longest headers of a request, in bytes, as HTTP/2 counts them.
pub(crate) const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// A connection that says nothing for so long is asked whether it lives.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long it may take to answer that.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server with the limits that both have.
pub(crate) fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(RESETS_PENDING_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Whether the head of an answer says that the request was refused before it reached a service: not decodable, too
/// large, or of no method. Services count what they refuse themselves; with these codes they do not answer.
pub(crate) fn is_refused_unread(head: &HeaderMap) -> bool {
    let code = head
        .get("grpc-status")
        .map(|code| Code::from_bytes(code.as_bytes()));
    matches!(
        code,
        Some(Code::Internal | Code::OutOfRange | Code::Unimplemented)
    )
}

/// Whether a stream or a call ended because of what the other side sent (not decodable, too large, compressed), and not
/// because that side or the connection went.
pub(crate) fn is_malformed(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Internal | Code::OutOfRange | Code::Unimplemented
    )
}

/// Why a connection or a call to another process failed, for people: what is behind the layers' own words, which say little.
pub(crate) fn why(error: &(dyn Error + 'static)) -> String {
    let chain = || std::iter::successors(Some(error), |&error| error.source());
    let text = chain().map(ToString::to_string).last().unwrap_or_default();
    // The resolver's own words differ from system to system.
    if chain().any(|error| error.to_string().starts_with("dns error")) {
        return format!("its name does not resolve ({text})");
    }
    let kind = chain()
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
        .last();
    match kind {
        Some(io::ErrorKind::ConnectionRefused) => "connection refused: nothing listens there".to_owned(),
        Some(io::ErrorKind::TimedOut) => "no answer in time".to_owned(),
        _ => text,
    }
}

/// The reflection service over all of softstore's services.
pub(crate) fn reflection()
-> Result<ServerReflectionServer<impl ServerReflection>, tonic_reflection::server::Error> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(softstore_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
}

#[cfg(test)]
mod tests {
    use tonic::transport::Endpoint;

    use super::*;

    /// Plan: connect to a port where nothing listens, and to a name that does not exist. Each is told as what it is.
    #[tokio::test]
    async fn a_failure_is_told_by_its_reason() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        for (address, word) in [
            (address.as_str(), "refused"),
            ("nowhere.invalid:1", "does not resolve"),
        ] {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let error = endpoint.connect().await.unwrap_err();
            assert!(why(&error).contains(word), "{}", why(&error));
        }
    }
}
