//! Nodes with a hash map, an assignment that the test sets, and a script that decides what becomes of each operation.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use softstore_client::{Client, Slice, SliceKey};
use softstore_proto::batch::{OpBatch, ReplyBatch, ReplyBatchNotes};
use softstore_proto::v1;
use softstore_proto::v1::cache_server::{Cache, CacheServer};
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{
    Assignment, Generation, Incarnation, Life, NodeEntry, NodeId, NodeState, RangeAssignment, Readers,
};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, WatchStream};
use tonic::{Request, Response, Streaming};

/// What becomes of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// It is carried out and answered.
    Serve,
    /// It is answered with this status.
    Answer(Status),
    /// It is answered with `MOVED` to this place.
    Moved(v1::Moved),
    /// No answer, ever.
    Silence,
    /// The stream breaks instead of an answer.
    Break,
    /// It is carried out, and the stream breaks instead of an answer.
    ServeAndBreak,
    /// The node speaks no version of the stream that the client speaks.
    RefuseVersion,
}

type Script = Box<dyn FnMut(&v1::Op) -> Act + Send>;

/// What a node has seen, and what it is to do.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) entries: HashMap<Vec<u8>, (Vec<u8>, u64)>,
    pub(crate) ops: Vec<v1::Op>,
    /// The acquisition that came with each operation.
    pub(crate) sinces: Vec<v1::Generation>,
    pub(crate) batches: Vec<usize>,
    /// So many streams are refused before anything is read of them.
    pub(crate) streams_to_refuse: usize,
    next_version: u64,
    script: Option<Script>,
}

impl State {
    pub(crate) fn count(&self, kind: OpKind) -> usize {
        self.ops.iter().filter(|op| op.kind() == kind).count()
    }

    fn act(&mut self, op: &v1::Op) -> Act {
        self.script.as_mut().map_or(Act::Serve, |script| script(op))
    }

    fn serve(&mut self, op: &v1::Op) -> v1::Reply {
        let key = op.key.to_vec();
        let present = self.entries.get(&key).cloned();
        let mut reply = v1::Reply {
            id: op.id,
            status: Status::NotFound.into(),
            ..Default::default()
        };
        self.next_version += 1;
        let version = self.next_version;
        match (op.kind(), present) {
            (OpKind::Get, Some((value, version))) => {
                reply.status = Status::Ok.into();
                reply.value = value.into();
                reply.version = version;
                reply.ttl_ms = 1_234;
            }
            (OpKind::Touch, Some(_)) => reply.status = Status::Ok.into(),
            (OpKind::Delete, Some(_)) => {
                self.entries.remove(&key);
                reply.status = Status::Ok.into();
            }
            (OpKind::Set, present) => {
                let holds = match op.condition() {
                    v1::SetCondition::Always => true,
                    v1::SetCondition::IfAbsent => present.is_none(),
                    v1::SetCondition::IfPresent => present.is_some(),
                    v1::SetCondition::IfVersion => present.as_ref().is_some_and(|(_, v)| *v == op.version),
                };
                if holds {
                    self.entries.insert(key, (op.value.to_vec(), version));
                    reply.status = Status::Ok.into();
                    reply.version = version;
                } else {
                    reply.status = Status::ConditionFailed.into();
                    reply.version = present.map_or(0, |(_, version)| version);
                }
            }
            (OpKind::Add, present) => {
                let text = present.map_or(b"0".to_vec(), |(value, _)| value);
                match String::from_utf8(text)
                    .ok()
                    .and_then(|text| text.parse::<i64>().ok())
                {
                    Some(number) => {
                        reply.number = number + op.delta;
                        reply.status = Status::Ok.into();
                        let value = reply.number.to_string().into_bytes();
                        self.entries.insert(key, (value, version));
                    }
                    None => reply.status = Status::NotANumber.into(),
                }
            }
            (OpKind::Flush, _) => {
                let slice = Slice::try_from(op.slice.expect("a flush names its slice")).expect("valid");
                self.entries
                    .retain(|key, _| !slice.contains(SliceKey::of_key(key)));
                reply.status = Status::Ok.into();
            }
            _ => {}
        }
        reply
    }
}

/// One life of a node, on a runtime of its own: dropping it ends all its connections at once, as a killed process does.
pub(crate) struct Node {
    pub(crate) life: Life,
    pub(crate) address: String,
    pub(crate) state: Arc<Mutex<State>>,
    closings: watch::Sender<u64>,
    assignment: watch::Sender<Option<v1::AssignmentUpdate>>,
    runtime: Option<Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Node {
    pub(crate) fn start(name: &str, incarnation: u64) -> Self {
        Self::start_at(name, incarnation, "127.0.0.1:0")
    }

    pub(crate) fn start_at(name: &str, incarnation: u64, listen: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = std::net::TcpListener::bind(listen).expect("a free port");
        listener.set_nonblocking(true).expect("supported");
        let address = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(Mutex::new(State {
            next_version: 100,
            ..State::default()
        }));
        let (closings, _) = watch::channel(0);
        let (assignment, _) = watch::channel(None);
        let service = Service {
            state: state.clone(),
            closings: closings.clone(),
            assignment: assignment.clone(),
        };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("non-blocking");
            tonic::transport::Server::builder()
                .add_service(CacheServer::new(service).max_decoding_message_size(usize::MAX))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
        });
        Self {
            life: Life {
                node: NodeId::new(name).expect("a name"),
                incarnation: Incarnation::new(incarnation),
            },
            address,
            state,
            closings,
            assignment,
            runtime: Some(runtime),
        }
    }

    /// Decides from now on what becomes of each operation.
    pub(crate) fn script(&self, script: impl FnMut(&v1::Op) -> Act + Send + 'static) {
        self.state.lock().script = Some(Box::new(script));
    }

    /// The same acts for the first operations, in order; then everything is served.
    pub(crate) fn first(&self, acts: impl IntoIterator<Item = Act>) {
        let mut acts: Vec<Act> = acts.into_iter().collect();
        acts.reverse();
        self.script(move |_| acts.pop().unwrap_or(Act::Serve));
    }

    /// Tells its watchers of an assignment.
    pub(crate) fn publish(&self, assignment: &Assignment) {
        let update = v1::assignment_update::Update::Full(assignment.into());
        self.assignment
            .send_replace(Some(v1::AssignmentUpdate { update: Some(update) }));
    }

    /// Ends the data streams that are open, the planned way.
    pub(crate) fn close_streams(&self) {
        self.closings.send_modify(|closings| *closings += 1);
    }

    pub(crate) fn moved(&self, slice: Slice, since: u64) -> v1::Moved {
        v1::Moved {
            slice: Some(slice.into()),
            owner: Some((&self.life).into()),
            address: self.address.clone(),
            since: Some(generation(since).into()),
        }
    }

    /// How many watchers it has: they hold receivers of its assignment.
    pub(crate) fn watchers(&self) -> usize {
        self.assignment.receiver_count()
    }
}

pub(crate) fn generation(number: u64) -> Generation {
    Generation {
        number,
        assigner: Incarnation::new(1),
    }
}

/// The key space, evenly over the nodes in order, all acquired at `since`.
pub(crate) fn even(number: u64, since: u64, nodes: &[&Node]) -> Assignment {
    let width = u64::MAX / nodes.len() as u64;
    let ranges = nodes.iter().zip(0_u64..).map(|(node, index)| {
        let low = SliceKey::new(index * width);
        let is_last = index + 1 == nodes.len() as u64;
        let high = (!is_last).then(|| SliceKey::new((index + 1) * width));
        let range = RangeAssignment {
            owner: node.life.clone(),
            since: generation(since),
            providers: vec![],
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        (Slice::new(low, high).expect("ascending"), range)
    });
    let directory: BTreeMap<NodeId, NodeEntry> = nodes
        .iter()
        .map(|node| {
            let entry = NodeEntry {
                incarnation: node.life.incarnation,
                process: None,
                address: node.address.as_str().into(),
                http_address: "".into(),
                zone: "".into(),
                state: NodeState::Serving,
            };
            (node.life.node.clone(), entry)
        })
        .collect();
    Assignment::new(generation(number), ranges.collect(), directory).expect("valid")
}

/// Nodes that share the key space evenly and know so.
pub(crate) fn cluster(count: u64) -> Vec<Node> {
    let nodes: Vec<Node> = (0..count)
        .map(|index| Node::start(&format!("n{index}"), index + 1))
        .collect();
    let listed: Vec<&Node> = nodes.iter().collect();
    let assignment = even(10, 10, &listed);
    nodes.iter().for_each(|node| node.publish(&assignment));
    nodes
}

pub(crate) async fn client_of(nodes: &[Node]) -> Client {
    let seeds = nodes.iter().map(|node| node.address.clone());
    Client::builder()
        .seeds(seeds)
        .require_cluster(true)
        .connect()
        .await
        .expect("the nodes listen")
}

/// A key that `nodes[index]` of an even cluster owns.
pub(crate) fn key_of(index: u64, count: u64) -> String {
    let width = u64::MAX / count;
    (0..)
        .map(|number| format!("key-{number}"))
        .find(|key| (SliceKey::of_key(key.as_bytes()).get() / width) == index)
        .expect("there are enough keys")
}

/// An address of loopback at which nobody listens.
pub(crate) fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

/// Asks again and again until `holds`, without a fixed wait; panics after 5 s.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(5);
    while !holds().await {
        assert!(std::time::Instant::now() < end, "did not come to be: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Service {
    state: Arc<Mutex<State>>,
    closings: watch::Sender<u64>,
    assignment: watch::Sender<Option<v1::AssignmentUpdate>>,
}

type Replies = Pin<Box<dyn Stream<Item = Result<ReplyBatch, tonic::Status>> + Send>>;
type Updates = Pin<Box<dyn Stream<Item = Result<v1::AssignmentUpdate, tonic::Status>> + Send>>;

/// Carries a batch out. `Err`: the stream breaks.
fn answer(state: &Mutex<State>, batch: OpBatch) -> Result<ReplyBatch, tonic::Status> {
    let mut state = state.lock();
    let batch = batch.open()?;
    state.batches.push(batch.len());
    let mut replies = vec![];
    for index in 0..batch.len() {
        let view = batch.get(index)?;
        let op = v1::Op {
            // As a duration, which is what the tests look at.
            deadline_ms: batch.patience_ms(&view).unwrap_or_default(),
            ..view.to_op()
        };
        state.ops.push(op.clone());
        state.sinces.push(batch.since_of(&view).into());
        let plain = |status: Status| v1::Reply {
            id: op.id,
            status: status.into(),
            ..Default::default()
        };
        match state.act(&op) {
            Act::Serve => replies.push(state.serve(&op)),
            Act::Answer(status) => replies.push(plain(status)),
            Act::Moved(moved) => replies.push(v1::Reply {
                moved: Some(Box::new(moved)),
                ..plain(Status::Moved)
            }),
            Act::Silence => {}
            Act::RefuseVersion => return Err(tonic::Status::failed_precondition("scripted")),
            Act::Break => return Err(tonic::Status::aborted("scripted")),
            Act::ServeAndBreak => {
                state.serve(&op);
                return Err(tonic::Status::aborted("scripted"));
            }
        }
    }
    Ok(ReplyBatch::of(&replies, ReplyBatchNotes::default()))
}

#[tonic::async_trait]
impl Cache for Service {
    type StreamStream = Replies;
    type WatchStream = Updates;

    async fn stream(&self, request: Request<Streaming<OpBatch>>) -> Result<Response<Replies>, tonic::Status> {
        let (state, mut closings) = (self.state.clone(), self.closings.subscribe());
        {
            let mut state = state.lock();
            if state.streams_to_refuse > 0 {
                state.streams_to_refuse -= 1;
                return Err(tonic::Status::unavailable("scripted"));
            }
        }
        let mut ops = request.into_inner();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut said_closing = false;
            loop {
                tokio::select! {
                    _ = closings.changed(), if !said_closing => {
                        said_closing = true;
                        let notes = ReplyBatchNotes { closing: true, ..ReplyBatchNotes::default() };
                        let notice = ReplyBatch::of(&[], notes);
                        if sender.send(Ok(notice)).await.is_err() {
                            return;
                        }
                    }
                    batch = ops.next() => {
                        let Some(Ok(batch)) = batch else { return };
                        let replies = answer(&state, batch);
                        let is_broken = replies.is_err();
                        if sender.send(replies).await.is_err() || is_broken {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn watch(&self, _: Request<v1::WatchRequest>) -> Result<Response<Updates>, tonic::Status> {
        let updates = WatchStream::new(self.assignment.subscribe());
        let updates = updates.filter_map(|update| std::future::ready(update.map(Ok)));
        Ok(Response::new(Box::pin(updates)))
    }

    async fn execute(&self, _: Request<OpBatch>) -> Result<Response<ReplyBatch>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn get(&self, _: Request<v1::Op>) -> Result<Response<v1::Reply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn set(&self, _: Request<v1::Op>) -> Result<Response<v1::Reply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn delete(&self, _: Request<v1::Op>) -> Result<Response<v1::Reply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn touch(&self, _: Request<v1::Op>) -> Result<Response<v1::Reply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn add(&self, _: Request<v1::Op>) -> Result<Response<v1::Reply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn flush(&self, _: Request<v1::Op>) -> Result<Response<v1::Reply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not asked for by the client"))
    }
    async fn hot_keys(
        &self,
        _: Request<v1::HotKeysRequest>,
    ) -> Result<Response<v1::HotKeysReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("as by a node of an older build"))
    }
}
