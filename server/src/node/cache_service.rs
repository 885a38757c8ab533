//! The `Cache` service: the data stream, its unary forms, and the assignment for clients.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use softstore_proto::v1;
use softstore_proto::v1::OpKind;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{Assignment, AssignmentDiff, Generation};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use super::data_stream::{DataStream, REPLIES_BYTES_MAX, check_batch, since_of};
use super::metrics::count;
use super::operation;
use super::state::NodeState;

/// The service of one node.
#[derive(Clone, Debug)]
pub(super) struct CacheService(pub(super) Arc<NodeState>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl CacheService {
    /// A single operation as a unary call, on whichever node the client asked.
    async fn single(&self, kind: OpKind, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        let op = v1::Op {
            kind: kind.into(),
            ..request.into_inner()
        };
        Ok(Response::new(
            operation::run(&self.0, &op, Generation::NONE).await,
        ))
    }
}

#[tonic::async_trait]
impl v1::cache_server::Cache for CacheService {
    type StreamStream = Boxed<v1::ReplyBatch>;
    type WatchStream = Boxed<v1::AssignmentUpdate>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::OpBatch>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Ok(Response::new(Box::pin(DataStream::new(
            self.0.clone(),
            request.into_inner(),
        ))))
    }

    async fn execute(&self, request: Request<v1::OpBatch>) -> Result<Response<v1::ReplyBatch>, Status> {
        let batch = request.into_inner();
        let sinces = check_batch(&batch).inspect_err(|_| count(&self.0.metrics.bad_requests))?;
        let replies = batch
            .ops
            .iter()
            .map(|op| operation::run(&self.0, op, since_of(op, &sinces)));
        let mut replies = futures::future::join_all(replies).await;
        shed_surplus(&batch, &mut replies);
        Ok(Response::new(v1::ReplyBatch {
            replies,
            closing: false,
        }))
    }

    async fn get(&self, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.single(OpKind::Get, request).await
    }

    async fn set(&self, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.single(OpKind::Set, request).await
    }

    async fn delete(&self, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.single(OpKind::Delete, request).await
    }

    async fn touch(&self, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.single(OpKind::Touch, request).await
    }

    async fn add(&self, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.single(OpKind::Add, request).await
    }

    async fn flush(&self, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.single(OpKind::Flush, request).await
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let held = softstore_proto::assignment::generation_or_none(request.into_inner().held)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let updates = WatchStream::new(self.0.assignments())
            .filter_map(std::future::ready)
            .scan(None, move |sent, next| {
                std::future::ready(Some(update(sent, next, held)))
            })
            .filter_map(std::future::ready)
            .map(|update| Ok(v1::AssignmentUpdate::from(&update)))
            .take_until(self.0.closing.clone().cancelled_owned());
        Ok(Response::new(Box::pin(updates)))
    }
}

/// A unary call has one reply message, which a batch of gets of large values could make larger than any client takes.
/// Once the values come to [`REPLIES_BYTES_MAX`], the gets after that are answered `Busy`: asked again, they are the first.
fn shed_surplus(batch: &v1::OpBatch, replies: &mut [v1::Reply]) {
    let mut bytes = 0;
    for (op, reply) in batch.ops.iter().zip(replies) {
        if bytes >= REPLIES_BYTES_MAX && op.kind == i32::from(OpKind::Get) && !reply.value.is_empty() {
            *reply = operation::reply(op, v1::Status::Busy);
        }
        bytes += reply.value.len();
    }
}

/// What a watcher gets for the next assignment, given the last one that it was sent and the one that it came with.
fn update(
    sent: &mut Option<Arc<Assignment>>,
    next: Arc<Assignment>,
    held: Generation,
) -> Option<AssignmentUpdate> {
    let before = sent.replace(next.clone());
    match before {
        Some(before) => Some(AssignmentUpdate::Diff(Arc::new(AssignmentDiff::between(
            &before, &next,
        )))),
        None if next.generation() <= held => {
            // The watcher holds it already; but a diff needs to know that it does.
            if next.generation() < held {
                *sent = None;
            }
            None
        }
        None => Some(AssignmentUpdate::Full(next)),
    }
}
