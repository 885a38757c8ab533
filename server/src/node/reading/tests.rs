//! What a replica's reads do when the owner is slow.

use std::time::Instant;

use softstore_sharding::Generation;
use softstore_sync::atomic::Ordering;

use super::*;
use crate::node::lent::{Lent, any_port};

/// Plan: an owner takes connections and says nothing. A read waits for it for a quarter of a second and goes to the owner; one that
/// comes while the call goes on goes there at once, and does not have the owner asked again.
#[tokio::test]
async fn h7_a_read_does_not_wait_for_a_deaf_owner() {
    let (_listener, address) = any_port().await;
    let lent = Lent::between(&address, "");
    let (owner, replica) = (lent.node(&lent.owner), lent.node(&lent.reader));
    let reply = lent.lend(&owner);
    replica.with_core(|core, now| {
        let actions = core.lease_answered(&reply, u64::MAX, now, now);
        ((), actions.unwrap())
    });
    let key = Bytes::from_static(b"key");
    let at = SliceKey::of_key(&key);
    let reading = replica
        .core()
        .admit_read(at, Generation::NONE, replica.clock.now())
        .expect("it may read");
    let begun = Instant::now();
    assert_eq!(Copies::fill(&replica, &key, at, &reading).await, Filled::Unread);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(FILL_TIMEOUT_MS), "{waited:?}");
    assert!(waited < Duration::from_millis(FILL_CALL_TIMEOUT_MS), "{waited:?}");
    assert_eq!(Copies::fill(&replica, &key, at, &reading).await, Filled::Unread);
    assert_eq!(replica.metrics.fills_asked.load(Ordering::Relaxed), 1);
}
