//! Connections to other nodes, and the hand-off's calls over them. Up to three per address: a pull has its own, so that a peek's
//! answer, for which an operation waits, never queues behind megabytes of chunks. So have fills: a replica that begins, or
//! begins anew, has as many under way as a connection bears calls, and some bring large values; its leases, and what has it
//! forget, must not wait behind them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use softstore_proto::error::WireError;
use softstore_proto::identity::refused_by;
use softstore_proto::v1;
use softstore_proto::v1::transfer_client::TransferClient;
use softstore_transfer::handoff::READ_LEASE_MS;
use softstore_transfer::message::{
    FillAnswer, FillRequest, Invalidate, LeaseReply, LeaseRequest, PeekAnswer, PeekRequest, PullRequest,
    Release, Take, TakeReply,
};
use thiserror::Error;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::identity::NodeIdentity;
use super::state::PEER_CALL_TIMEOUT_MS;
use crate::grpc;

/// How long connecting to another node may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection that says nothing for so long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Flow-control window of a pull's stream and of its connection: what may be in flight of it, in bytes.
const PULL_WINDOW_BYTES: u32 = 2 << 20;

/// Largest message of a pull: the largest chunk and its cursor.
const PULL_MESSAGE_BYTES_MAX: usize = softstore_transfer::chunk::CHUNK_PAYLOAD_BYTES_MAX + (64 << 10);

/// Connections kept; more than any cluster has nodes in one rolling restart. Then the one that was used least lately goes.
const CHANNELS_MAX: usize = 4_096;

/// Why a call to another node failed.
#[derive(Debug, Error)]
pub enum PeerError {
    /// No connection, or it broke.
    #[error("{0}")]
    Call(#[from] Box<tonic::Status>),
    /// There was no whole answer in time.
    #[error("no answer within {0} ms")]
    Late(u64),
    /// The address is none.
    #[error("{0:?} is no address")]
    Address(String),
    /// The answer was not one.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl PeerError {
    /// Whether there was an answer that could not be understood.
    pub(super) fn is_malformed(&self) -> bool {
        match self {
            Self::Call(status) => grpc::is_malformed(status),
            Self::Address(_) | Self::Late(_) => false,
            Self::Wire(_) => true,
        }
    }

    /// Whether the other node has answered that it does not do what it was asked: another call will hardly change that.
    pub(super) fn is_refusal(&self) -> bool {
        self.is_invalid() || matches!(self, Self::Call(status) if status.code() == Code::FailedPrecondition)
    }

    /// Why, for people.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Call(status) => grpc::why(status.as_ref()),
            other => other.to_string(),
        }
    }

    /// Whether it called what it was asked malformed.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self, Self::Call(status) if status.code() == Code::InvalidArgument)
    }
}

impl From<tonic::Status> for PeerError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// Lazily connected, shared, and reconnecting by themselves.
#[derive(Debug)]
pub struct Channels {
    open: Mutex<Kept>,
    /// Who calls.
    identity: Arc<NodeIdentity>,
}

/// The connections that are kept.
#[derive(Debug, Default)]
struct Kept {
    channels: HashMap<(Arc<str>, Lane), (Channel, Use)>,
    uses: Use,
}

/// When a connection was used last: the number of that use.
type Use = u64;

impl Kept {
    /// A connection, if it is here.
    fn get(&mut self, to: &(Arc<str>, Lane)) -> Option<Channel> {
        self.uses += 1;
        let (channel, used) = self.channels.get_mut(to)?;
        *used = self.uses;
        Some(channel.clone())
    }

    /// Keeps another; in place of the one that was used least lately, if there are too many. Calls on that one go on.
    fn add(&mut self, to: (Arc<str>, Lane), channel: Channel) {
        if self.channels.len() >= CHANNELS_MAX {
            let oldest = self.channels.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(to, _)| to.clone()) {
                self.channels.remove(&oldest);
            }
        }
        self.channels.insert(to, (channel, self.uses));
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Lane {
    /// Small messages that somebody waits for.
    Calls,
    /// What replicas fetch.
    Fills,
    /// The streams of pulls.
    Pulls,
}

impl Channels {
    /// No connections yet, of this process.
    pub(super) fn new(identity: Arc<NodeIdentity>) -> Self {
        Self {
            open: Mutex::default(),
            identity,
        }
    }

    /// How many connections are open, or were.
    pub fn len(&self) -> usize {
        self.open.lock().channels.len()
    }

    /// A message that says whose it is.
    fn declared<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        self.identity.declare(request.metadata_mut());
        request
    }

    /// A message that tells the other node also how long its answer is waited for.
    fn within<T>(&self, message: T, timeout_ms: u64) -> tonic::Request<T> {
        let mut request = self.declared(message);
        request.set_timeout(Duration::from_millis(timeout_ms));
        request
    }

    /// Counts a refusal by a node of another cluster.
    async fn noted<T>(
        &self,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, tonic::Status> {
        call.await.inspect_err(|status| {
            if refused_by(status).is_some() {
                self.identity.count_refused();
            }
        })
    }

    fn client(&self, address: &Arc<str>, lane: Lane) -> Result<TransferClient<Channel>, PeerError> {
        let mut kept = self.open.lock();
        let to = (address.clone(), lane);
        let channel = match kept.get(&to) {
            Some(channel) => channel,
            None => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|_| PeerError::Address(address.to_string()))?
                    .connect_timeout(CONNECT_TIMEOUT)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                    .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                    .initial_stream_window_size(PULL_WINDOW_BYTES)
                    .initial_connection_window_size(2 * PULL_WINDOW_BYTES);
                let channel = endpoint.connect_lazy();
                kept.add(to, channel.clone());
                channel
            }
        };
        Ok(TransferClient::new(channel).max_decoding_message_size(PULL_MESSAGE_BYTES_MAX))
    }

    /// Sends a `Take`. Beside the answer: the provider's longest pause of late, in milliseconds.
    ///
    /// # Errors
    /// If the provider cannot be reached in time, refuses, or answers nonsense.
    pub async fn take(&self, address: &Arc<str>, take: &Take) -> Result<(TakeReply, u64), PeerError> {
        let request = self.within(v1::TakeRequest::from(take), PEER_CALL_TIMEOUT_MS);
        let mut client = self.client(address, Lane::Calls)?;
        let reply = whole_within(PEER_CALL_TIMEOUT_MS, self.noted(client.take(request))).await?;
        let longest_pause_ms = reply.longest_pause_ms.into();
        Ok((reply.try_into()?, longest_pause_ms))
    }

    /// Sends a release.
    ///
    /// # Errors
    /// If the giver cannot be reached in time, or refuses.
    pub async fn release(&self, address: &Arc<str>, release: &Release) -> Result<(), PeerError> {
        let request = self.within(v1::ReleaseRequest::from(release), PEER_CALL_TIMEOUT_MS);
        let mut client = self.client(address, Lane::Calls)?;
        whole_within(PEER_CALL_TIMEOUT_MS, self.noted(client.release(request))).await?;
        Ok(())
    }

    /// Sends a peek. The answers are for the first keys asked for: one at least, fewer than asked for if the entries are
    /// large. Beside them: the giver's longest pause of late, in milliseconds.
    ///
    /// # Errors
    /// If the giver cannot be reached in time, refuses, or answers nonsense.
    pub async fn peek(
        &self,
        address: &Arc<str>,
        peek: &PeekRequest,
        timeout_ms: u64,
    ) -> Result<(Vec<PeekAnswer>, u64), PeerError> {
        let request = self.within(v1::PeekRequest::from(peek), timeout_ms);
        let mut client = self.client(address, Lane::Calls)?;
        let reply = whole_within(timeout_ms, self.noted(client.peek(request))).await?;
        let longest_pause_ms = reply.longest_pause_ms.into();
        let answers = softstore_proto::transfer::peek_reply_from_wire(reply, peek.keys.len())?;
        Ok((answers, longest_pause_ms))
    }

    /// Asks an owner for read leases.
    ///
    /// # Errors
    /// If the owner cannot be reached in time, refuses, or answers nonsense.
    pub async fn read_lease(
        &self,
        address: &Arc<str>,
        asked: &LeaseRequest,
    ) -> Result<LeaseReply, PeerError> {
        let request = self.within(v1::LeaseRequest::from(asked), READ_LEASE_MS);
        let mut client = self.client(address, Lane::Calls)?;
        let reply = whole_within(READ_LEASE_MS, self.noted(client.read_lease(request))).await?;
        Ok(reply.try_into()?)
    }

    /// Asks an owner for entries. The answers are for the first keys asked for: one at least, fewer than asked for if the
    /// entries are large.
    ///
    /// # Errors
    /// If the owner cannot be reached in time, refuses, or answers nonsense.
    pub async fn fill(
        &self,
        address: &Arc<str>,
        asked: &FillRequest,
        timeout_ms: u64,
    ) -> Result<Vec<FillAnswer>, PeerError> {
        let request = self.within(v1::FillRequest::from(asked), timeout_ms);
        let mut client = self.client(address, Lane::Fills)?;
        let reply = whole_within(timeout_ms, self.noted(client.fill(request))).await?;
        let answers = softstore_proto::readers::fill_reply_from_wire(reply, asked.keys.len());
        Ok(answers?)
    }

    /// Has a replica forget something.
    ///
    /// # Errors
    /// If the replica cannot be reached in time, or refuses.
    pub async fn invalidate(
        &self,
        address: &Arc<str>,
        invalidate: &Invalidate,
        timeout_ms: u64,
    ) -> Result<(), PeerError> {
        let request = self.within(v1::InvalidateRequest::from(invalidate), timeout_ms);
        let mut client = self.client(address, Lane::Calls)?;
        whole_within(timeout_ms, self.noted(client.invalidate(request))).await?;
        Ok(())
    }

    /// Opens the stream of a pull.
    ///
    /// # Errors
    /// If the giver cannot be reached, or refuses.
    pub async fn pull(
        &self,
        address: &Arc<str>,
        pull: &PullRequest,
    ) -> Result<tonic::Streaming<v1::PullItem>, PeerError> {
        let request = self.declared(v1::PullRequest::from(pull));
        let mut client = self.client(address, Lane::Pulls)?;
        whole_within(PEER_CALL_TIMEOUT_MS, self.noted(client.pull(request))).await
    }
}

/// The answer to a call, if all of it is there in time. What a request says itself (`Channels::within`) begins when it leaves, which is
/// after a connection was made, and ends with the answer's head.
async fn whole_within<T>(
    timeout_ms: u64,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, PeerError> {
    let answered = tokio::time::timeout(Duration::from_millis(timeout_ms), call).await;
    let response = answered.map_err(|_| PeerError::Late(timeout_ms))??;
    Ok(response.into_inner())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use softstore_sharding::Slice;
    use softstore_transfer::message::{FillKey, PeekKey, TakeRange, TakenRange};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::node::lent::any_port;
    use crate::node::mid_pull::{generation, peer};

    /// Speaks just enough HTTP/2 to answer the first request with a head, and says nothing after that.
    async fn heads_without_bodies(stream: &mut TcpStream) -> std::io::Result<()> {
        const PREFACE_BYTES: usize = 24;
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        const HEADERS: u8 = 1;
        // Headers that end here, of stream 1: ":status: 200".
        const HEAD: [u8; 10] = [0, 0, 1, HEADERS, 4, 0, 0, 0, 1, 0x88];
        stream.read_exact(&mut [0; PREFACE_BYTES]).await?;
        stream.write_all(&SETTINGS).await?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let bytes = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; bytes as usize]).await?;
            if head[3] == HEADERS {
                stream.write_all(&HEAD).await?;
            }
        }
    }

    /// Somewhere that answers each first request on a connection with the head of an answer, and no more.
    async fn half_answers() -> Arc<str> {
        let (listener, address) = any_port().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move { heads_without_bodies(&mut stream).await });
            }
        });
        address.into()
    }

    /// Plan: a giver answers a take, a release and a peek with the head of an answer and no more. Each call ends in time.
    #[tokio::test]
    async fn h7_no_call_waits_for_an_answer_without_an_end() {
        let (giver, taker) = (peer("giver", 1), peer("taker", 2));
        let ranges = vec![TakenRange {
            slice: Slice::FULL,
            since: generation(2),
        }];
        let take = Take {
            to: giver.life.clone(),
            taker: taker.clone(),
            ranges: vec![TakeRange {
                slice: Slice::FULL,
                since: generation(2),
                from: generation(1),
            }],
        };
        let release = Release {
            to: giver.life.clone(),
            taker: taker.life.clone(),
            ranges,
        };
        let peek = PeekRequest {
            to: giver.life.clone(),
            taker: taker.life.clone(),
            keys: vec![PeekKey {
                key: "key".into(),
                since: generation(2),
            }],
        };
        let calls = async {
            let channels = Channels::new(Arc::new(NodeIdentity::new(None)));
            let taken = channels.take(&half_answers().await, &take).await;
            assert!(
                matches!(taken, Err(PeerError::Late(PEER_CALL_TIMEOUT_MS))),
                "{taken:?}"
            );
            let released = channels.release(&half_answers().await, &release).await;
            assert!(
                matches!(released, Err(PeerError::Late(PEER_CALL_TIMEOUT_MS))),
                "{released:?}"
            );
            let peeked = channels.peek(&half_answers().await, &peek, 300).await;
            assert!(matches!(peeked, Err(PeerError::Late(300))), "{peeked:?}");
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), calls).await;
        assert!(ended.is_ok(), "a call waits for ever");
    }

    /// Plan: as many connections as are kept, the first of them used again, and one more. The second has gone, and no other.
    #[tokio::test]
    async fn the_connection_that_was_used_least_lately_makes_room() {
        let channels = Channels::new(Arc::new(NodeIdentity::new(None)));
        let address = |number: usize| -> Arc<str> { format!("127.0.0.1:{}", 1 + number).into() };
        let connect = |number| channels.client(&address(number), Lane::Calls).map(drop).unwrap();
        (0..CHANNELS_MAX).for_each(connect);
        connect(0);
        connect(CHANNELS_MAX);
        let kept = channels.open.lock();
        let is_kept = |number| kept.channels.contains_key(&(address(number), Lane::Calls));
        assert_eq!(kept.channels.len(), CHANNELS_MAX);
        assert!(!is_kept(1));
        assert!((0..=CHANNELS_MAX).filter(|number| *number != 1).all(is_kept));
    }

    /// Plan: an owner answers a fill with the head of an answer and no more. The call ends in time all the same.
    #[tokio::test]
    async fn h7_an_answer_without_an_end_is_none() {
        let address = half_answers().await;
        let request = FillRequest {
            to: peer("owner", 1).life,
            reader: peer("reader", 2).life,
            keys: vec![FillKey {
                key: "key".into(),
                number: 1,
            }],
        };
        let begun = Instant::now();
        let channels = Channels::new(Arc::new(NodeIdentity::new(None)));
        let call = channels.fill(&address, &request, 300);
        let answer = tokio::time::timeout(Duration::from_secs(5), call).await;
        assert!(matches!(answer, Ok(Err(PeerError::Late(300)))), "{answer:?}");
        assert!(
            begun.elapsed() >= Duration::from_millis(300),
            "it got as far as that"
        );
    }
}
