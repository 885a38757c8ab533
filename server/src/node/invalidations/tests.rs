//! What replicas are told, with an owner's state and a replica that answers, is deaf, or cannot be reached.

use std::collections::BTreeSet;

use bytes::Bytes;
use softstore_proto::v1;
use softstore_proto::v1::transfer_server::TransferServer;
use softstore_proto::v1::{OpKind, SetCondition, Status};
use softstore_sharding::Generation;
use softstore_sync::atomic::Ordering;
use softstore_transfer::handoff::READ_LEASE_OUT_MS_MAX;
use tokio::net::TcpListener;

use super::*;
use crate::node::lent::{Lent, any_port};
use crate::node::transfer_service::TransferService;
use crate::node::waiting;

/// An owner of everything, which has lent all of it to a replica.
struct Owner {
    state: Arc<NodeState>,
    lent: Lent,
}

impl Owner {
    /// With its replica at this address.
    fn of_replica_at(address: &str) -> Self {
        let lent = Lent::between("", address);
        let state = lent.node(&lent.owner);
        let owner = Self { state, lent };
        assert!(owner.lends());
        owner
    }

    /// Whether the replica is lent something when it asks.
    fn lends(&self) -> bool {
        !self.lent.lend(&self.state).grants.is_empty()
    }

    async fn set(&self, said_ms: u64) -> Status {
        let op = v1::Op {
            kind: OpKind::Set.into(),
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"value"),
            condition: SetCondition::Always.into(),
            ..Default::default()
        };
        let replies = waiting::run(&self.state, &op, Generation::NONE, Some(said_ms)).await;
        replies.unwrap().into_single().unwrap().status()
    }

    async fn forget(&self, what: Forget) -> bool {
        let until = self.state.clock.now().plus_ms(READ_LEASE_OUT_MS_MAX);
        Invalidations::forget(&self.state, &self.lent.reader, what, until).await
    }

    /// The replica answers from now on.
    fn serve_replica(&self, listener: TcpListener) -> Arc<NodeState> {
        let state = self.lent.node(&self.lent.reader);
        let service = TransferServer::new(TransferService(state.clone()));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        state
    }
}

/// The slice between two of 16 equal parts of the key space.
fn sixteenths(low: u64, high: u64) -> Slice {
    let part = 1 << 60;
    Slice::between(SliceKey::new(low * part), SliceKey::new(high * part - 1)).unwrap()
}

/// Plan: flushes of the same, of overlapping, and of touching slices at once, and a key twice. The replica is told each
/// position once, takes it for well formed, and all are answered before a lease could end.
#[tokio::test]
async fn slices_that_overlap_are_told_as_one() {
    let (listener, address) = any_port().await;
    let owner = Owner::of_replica_at(&address);
    let replica = owner.serve_replica(listener);
    let key = Forget::Key(SliceKey::new(5));
    let slices = [(0, 4), (0, 4), (2, 6), (6, 8), (9, 10)].map(|(low, high)| sixteenths(low, high));
    let told = slices.map(Forget::Leases).into_iter().chain([key, key]);
    let forgotten = futures::future::join_all(told.clone().map(|what| owner.forget(what))).await;
    assert!(forgotten.into_iter().all(|is_forgotten| is_forgotten));
    assert_eq!(replica.metrics.peer_messages_refused.load(Ordering::Relaxed), 0);
    let told: BTreeSet<Forget> = told.collect();
    let message = message(&owner.state, &owner.lent.reader, told.iter());
    assert_eq!(message.keys, [SliceKey::new(5)]);
    assert_eq!(message.revoked, [sixteenths(0, 8), sixteenths(9, 10)]);
}

/// Plan: more writes of one key wait at once than there may be orders. They are one order, and there is room for another key.
#[tokio::test]
async fn writes_of_one_key_are_one_order() {
    let owner = Owner::of_replica_at("");
    let (state, reader) = (&owner.state, &owner.lent.reader);
    let order = |at: u64| {
        let what = Forget::Key(SliceKey::new(at));
        state.invalidations.order(state, reader, what, Timestamp::NEVER)
    };
    let waiting: Vec<_> = (0..=ORDERS_MAX).map(|_| order(5)).collect();
    assert!(waiting.iter().all(Option::is_some));
    assert!(order(6).is_some());
    assert_eq!(state.invalidations.take(&reader.life).len(), 2);
}

/// A replica whose leases are renewed and that is never heard; clients have a tenth of a second for a write. One of the first
/// thirty is applied, since the replica is lent nothing when it does not answer.
async fn is_written_in_spite_of_a_deaf_replica(owner: &Owner) {
    for _ in 0..30 {
        owner.lends();
        if owner.set(100).await == Status::Ok {
            return;
        }
    }
    panic!("no write was applied while the replica asked for leases");
}

#[tokio::test]
async fn h7_writes_of_little_patience_get_past_a_replica_that_is_deaf() {
    // Connections are made, and nothing is said.
    let (_listener, address) = any_port().await;
    is_written_in_spite_of_a_deaf_replica(&Owner::of_replica_at(&address)).await;
}

#[tokio::test]
async fn h7_writes_of_little_patience_get_past_a_replica_that_cannot_be_reached() {
    let (listener, address) = any_port().await;
    let owner = Owner::of_replica_at(&address);
    drop(listener);
    is_written_in_spite_of_a_deaf_replica(&owner).await;
}

/// Plan: a replica is silent until it is lent nothing, then answers what it was told before. The write goes on, and the replica
/// is lent to at once.
#[tokio::test]
async fn h7_the_first_answer_ends_that_a_replica_is_lent_nothing() {
    let (listener, address) = any_port().await;
    let owner = Owner::of_replica_at(&address);
    let silent = async {
        while owner.lends() {
            tokio::task::yield_now().await;
        }
    };
    let told = owner.forget(Forget::Key(SliceKey::new(5)));
    tokio::pin!(told);
    tokio::select! {
        _ = &mut told => panic!("it was told"),
        () = silent => {}
    }
    let _replica = owner.serve_replica(listener);
    assert!(told.await, "it has answered in time");
    assert!(owner.lends());
}
