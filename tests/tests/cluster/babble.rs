//! An Assigner and a giver whose answers cannot be understood: each is counted, and asked again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use softstore_proto::v1;
use softstore_proto::v1::assigner_server::{Assigner, AssignerServer};
use softstore_proto::v1::transfer_server::{Transfer, TransferServer};
use softstore_server::node::Node;
use softstore_sharding::session::{AssignerMessage, AssignmentUpdate, NodeMessage};
use softstore_sharding::{Incarnation, Life, NodeId, Peer};
use softstore_tests::embedded::{PATIENCE, any_port, node_config};
use softstore_tests::handed_over::handed_over;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Both at once: it gives whoever says hello everything, to be taken from itself.
struct Babbler {
    me: Peer,
}

#[tonic::async_trait]
impl Assigner for Babbler {
    type SessionStream = Boxed<v1::AssignerMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // The hello comes with the call's headers or after them; the node sends it once it has the answer's.
        let (mut inbound, me) = (request.into_inner(), self.me.clone());
        let answers = futures::stream::once(async move {
            let hello = inbound.message().await?;
            let said = hello.map(NodeMessage::try_from).transpose()?;
            let Some(NodeMessage::Hello(hello)) = said else {
                return Err(Status::invalid_argument("no hello"));
            };
            let assignment = Arc::new(handed_over(&hello.peer, &me));
            let update = AssignerMessage::Update(AssignmentUpdate::Full(assignment));
            Ok(v1::AssignerMessage::from(&update))
        });
        let empty = futures::stream::once(std::future::ready(Ok(v1::AssignerMessage::default())));
        let silence = futures::stream::pending();
        let answers = futures::StreamExt::chain(futures::StreamExt::chain(answers, empty), silence);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::ClusterStatus>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn plan(&self, _: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn freeze(&self, _: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn unfreeze(&self, _: Request<v1::UnfreezeRequest>) -> Result<Response<v1::UnfreezeReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn forget(&self, _: Request<v1::ForgetRequest>) -> Result<Response<v1::ForgetReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

#[tonic::async_trait]
impl Transfer for Babbler {
    type PullStream = Boxed<v1::PullItem>;

    async fn take(&self, _: Request<v1::TakeRequest>) -> Result<Response<v1::TakeReply>, Status> {
        // Says not even who answers.
        Ok(Response::new(v1::TakeReply::default()))
    }

    async fn peek(&self, _: Request<v1::PeekRequest>) -> Result<Response<v1::PeekReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn pull(&self, _: Request<v1::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn read_lease(&self, _: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fill(&self, _: Request<v1::FillRequest>) -> Result<Response<v1::FillReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn invalidate(
        &self,
        _: Request<v1::InvalidateRequest>,
    ) -> Result<Response<v1::InvalidateReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn identify(&self, _: Request<v1::IdentifyRequest>) -> Result<Response<v1::IdentifyReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

async fn more_than(counter: &AtomicU64, count: u64) {
    let grown = async {
        while counter.load(Ordering::Relaxed) <= count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let grown = tokio::time::timeout(PATIENCE, grown).await;
    assert!(grown.is_ok(), "{} times only", counter.load(Ordering::Relaxed));
}

/// Plan: an Assigner that says something empty on every session, after an assignment by which the node is to take
/// everything from a giver whose answers are empty, too. Both are counted, again and again: the node opens its session anew
/// and repeats its question. It never takes silence for consent: it serves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_cannot_be_understood_are_counted() {
    let listener = TcpListener::bind(any_port()).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let babbler = || Babbler {
        me: Peer {
            life: Life {
                node: NodeId::new("babbler").expect("a valid name"),
                incarnation: Incarnation::new(9),
            },
            address: address.to_string().into(),
        },
    };
    let serving = Server::builder()
        .add_service(AssignerServer::new(babbler()))
        .add_service(TransferServer::new(babbler()))
        .serve_with_incoming(TcpIncoming::from(listener));
    let serving = tokio::spawn(serving);
    let node = Node::start(node_config("n1", address)).await.expect("it starts");
    let metrics = &node.state().metrics;
    more_than(&metrics.assigner_messages_refused, 1).await;
    more_than(&metrics.peer_messages_refused, 1).await;
    let counts = node.state().core().counts();
    assert_eq!((counts.held, counts.pending), (0, 1));
    serving.abort();
}
