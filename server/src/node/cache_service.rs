//! The `Cache` service: the data stream, its unary forms, and the assignment for clients.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{Stream, StreamExt};
use softstore_proto::batch::{OpBatch, ReplyBatch, ReplyBatchNotes};
use softstore_proto::v1;
use softstore_proto::v1::OpKind;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{Assignment, AssignmentDiff, Generation};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use super::data_stream::DataStream;
use super::identity::Unconfirmed;
use super::metrics::count;
use super::replies::{REPLIES_BYTES_MAX, Replies};
use super::state::NodeState;
use super::waiting;
use crate::guard;

/// The service of one node.
#[derive(Clone, Debug)]
pub(super) struct CacheService(pub(super) Arc<NodeState>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl CacheService {
    /// That a call is of this node's cluster, as far as it says.
    fn confirmed<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let unconfirmed = request.extensions().get::<Unconfirmed>();
        match unconfirmed
            .map(|unconfirmed| unconfirmed.look(&self.0))
            .transpose()?
        {
            Some(None) => Err(Status::unavailable(
                "this node holds no assignment yet: nothing was done",
            )),
            _ => Ok(()),
        }
    }

    /// A single operation as a unary call, on whichever node the client asked.
    async fn single(&self, kind: OpKind, request: Request<v1::Op>) -> Result<Response<v1::Reply>, Status> {
        self.confirmed(&request)?;
        let call = guard::call_of(&request);
        let op = v1::Op {
            kind: kind.into(),
            ..request.into_inner()
        };
        let said_ms = (op.deadline_ms > 0).then_some(op.deadline_ms);
        let replies = waiting::run(&self.0, &op, Generation::NONE, said_ms).await?;
        Ok(guard::holding(
            call.as_ref(),
            replies.len_bytes(),
            replies.into_single()?,
        ))
    }
}

#[tonic::async_trait]
impl v1::cache_server::Cache for CacheService {
    type StreamStream = Boxed<ReplyBatch>;
    type WatchStream = Boxed<v1::AssignmentUpdate>;

    async fn stream(
        &self,
        request: Request<Streaming<OpBatch>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let call = guard::call_of(&request);
        let unconfirmed = request.extensions().get::<Unconfirmed>().copied();
        let stream = DataStream::new(self.0.clone(), request.into_inner(), call, unconfirmed);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn execute(&self, request: Request<OpBatch>) -> Result<Response<ReplyBatch>, Status> {
        self.confirmed(&request)?;
        let malformed = |_: &_| count(&self.0.metrics.bad_requests);
        let call = guard::call_of(&request);
        let batch = request.into_inner().open().inspect_err(malformed)?;
        let ops = (0..batch.len())
            .map(|index| batch.get(index))
            .collect::<Result<Vec<_>, _>>();
        let running = ops.inspect_err(malformed)?.into_iter().map(async |view| {
            let op = view.to_op();
            let replies = waiting::run(&self.0, &op, batch.since_of(&view), batch.patience_ms(&view)).await?;
            // While others of the batch wait.
            let mut held = call.as_ref().map(|call| call.held());
            held.iter_mut().for_each(|held| held.set(replies.len_bytes()));
            Ok::<_, Status>((replies, held))
        });
        let mut all = Replies::default();
        let mut all_held = Vec::new();
        for (index, replies) in futures::future::join_all(running).await.into_iter().enumerate() {
            let (replies, held) = replies?;
            let op = batch.get(index)?;
            // One message has room for so much. Asked again, the gets that are left out are the first.
            if all.len_bytes() >= REPLIES_BYTES_MAX && op.kind == i32::from(OpKind::Get) {
                all.push_status(op.id, v1::Status::Busy);
            } else {
                all.append(replies);
                all_held.push(held);
            }
        }
        let bytes = all.len_bytes();
        Ok(guard::holding(
            call.as_ref(),
            bytes,
            all.into_batch(ReplyBatchNotes::default()),
        ))
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
        // A node that is cut off hears of no new assignment, so its watchers go to another one. Subscribed before the look,
        // so that no end is missed in between.
        let mut lease_ends = self.0.lease_ends();
        if self.0.is_lease_over() {
            return Err(Status::unavailable(
                "this node's lease is over: watch another node",
            ));
        }
        let lease_ended = async move {
            // The sender lives as long as the node.
            let _ = lease_ends.changed().await;
        };
        let updates = WatchStream::new(self.0.assignments())
            .filter_map(std::future::ready)
            .scan(None, move |sent, next| {
                std::future::ready(Some(update(sent, next, held)))
            })
            .filter_map(std::future::ready)
            .map(|update| Ok(v1::AssignmentUpdate::from(&update)))
            .take_until(self.0.closing.clone().cancelled_owned())
            .take_until(lease_ended);
        Ok(Response::new(Box::pin(updates)))
    }

    async fn hot_keys(
        &self,
        _request: Request<v1::HotKeysRequest>,
    ) -> Result<Response<v1::HotKeysReply>, Status> {
        let load = &self.0.load;
        Ok(Response::new(v1::HotKeysReply {
            hot_keys: load.hot_keys().iter().map(Into::into).collect(),
            operations_per_second: load.totals().operations_per_second.load(Ordering::Relaxed) as f64,
        }))
    }
}

/// What a watcher gets for the next assignment, given the last one that it was sent and the one that it came with. One that
/// is as new as what it came with is confirmed by a diff that changes nothing, so that the watcher knows that this node
/// knows as much.
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
        None if next.generation() == held => Some(AssignmentUpdate::Diff(Arc::new(AssignmentDiff::between(
            &next, &next,
        )))),
        None if next.generation() < held => {
            // A diff would need it to know this one.
            *sent = None;
            None
        }
        None => Some(AssignmentUpdate::Full(next)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use softstore_sharding::{
        Incarnation, Life, NodeEntry, NodeId, NodeState as DirectoryState, RangeAssignment, Readers, Slice,
    };

    use super::*;

    fn assignment(number: u64) -> Arc<Assignment> {
        let owner = Life {
            node: NodeId::new("n").unwrap(),
            incarnation: Incarnation::new(1),
        };
        let entry = NodeEntry {
            incarnation: owner.incarnation,
            process: None,
            address: "host:1".into(),
            http_address: "".into(),
            zone: "".into(),
            state: DirectoryState::Serving,
        };
        let directory = BTreeMap::from([(owner.node.clone(), entry)]);
        let range = RangeAssignment {
            owner,
            since: generation(number),
            providers: vec![],
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        Arc::new(Assignment::new(generation(number), vec![(Slice::FULL, range)], directory).unwrap())
    }

    fn generation(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    /// Plan: a node at generation 2, then 3, and watchers that come with 1, 2, 3 and 4. Who is behind gets all of it; who is as
    /// new is told so, by a diff that changes nothing; who is ahead hears nothing until the node has more.
    #[test]
    fn a_watcher_learns_whether_the_node_knows_as_much() {
        let updates = |held: u64, numbers: &[u64]| {
            let mut sent = None;
            let said = numbers
                .iter()
                .map(|number| update(&mut sent, assignment(*number), generation(held)));
            said.collect::<Vec<_>>()
        };
        let full = |number| Some(AssignmentUpdate::Full(assignment(number)));
        let diff = |base, next| {
            let diff = AssignmentDiff::between(&assignment(base), &assignment(next));
            Some(AssignmentUpdate::Diff(Arc::new(diff)))
        };
        assert_eq!(updates(1, &[2, 3]), [full(2), diff(2, 3)]);
        assert_eq!(updates(2, &[2, 3]), [diff(2, 2), diff(2, 3)]);
        assert_eq!(updates(3, &[2, 3, 4]), [None, diff(3, 3), diff(3, 4)]);
        assert_eq!(updates(4, &[2, 3, 5]), [None, None, full(5)]);
    }
}
