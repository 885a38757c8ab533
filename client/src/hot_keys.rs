//! Hot keys: which keys draw so much load that an application had better know.
//!
//! Each node finds its own, and says so with its heartbeats and to whoever asks. A client asks all nodes of the newest
//! assignment at once and puts together what they say: no Assigner is needed. Where several nodes serve a key, as replicas,
//! their rates add up.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, stream};
use softstore_proto::v1;
use softstore_sharding::session::HotKeyLoad;
use softstore_sharding::{ClusterId, SliceKey};

use crate::client::Client;
use crate::config::ClientConfig;
use crate::lane::{client_of, connect, declared};

/// How many nodes are asked at the same time.
const ASKED_AT_ONCE: usize = 64;

/// The keys that draw a good part of their nodes' load each, hottest first: [`Client::hot_keys`].
#[derive(Clone, Debug, Default)]
pub struct HotKeys {
    /// At most 32 of each node.
    pub keys: Vec<HotKey>,
    /// How many operations all nodes that answered serve per second.
    pub operations_per_second: f64,
    /// Nodes that answered.
    pub nodes_answered: usize,
    /// Nodes that did not answer in time, or are of a build that cannot. What is hot there is not known.
    pub nodes_silent: usize,
}

/// One of them. Rates are decayed, with a half-life of a second, as of the nodes' last heartbeats.
#[derive(Clone, PartialEq)]
pub struct HotKey {
    /// The key: all of it, if [`HotKey::is_whole`] says so; else its first 62 bytes.
    pub key: Bytes,
    /// How long the key is, in bytes.
    pub key_bytes: usize,
    /// Its position in the key space. A key that is cut short can be told by it: [`SliceKey::of_key`].
    pub at: SliceKey,
    /// Operations per second on it.
    pub operations_per_second: f64,
    /// By at most so much that rate is off, either way, but for one look in some hundred.
    pub error_per_second: f64,
    /// How many nodes serve it.
    pub nodes: usize,
}

impl HotKey {
    /// Whether [`HotKey::key`] is all of the key.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.key.len() == self.key_bytes
    }

    fn of(load: HotKeyLoad) -> Self {
        Self {
            key: load.key.into(),
            key_bytes: load.key_bytes.into(),
            at: load.at,
            operations_per_second: load.operations_per_second,
            error_per_second: load.error_per_second,
            nodes: 1,
        }
    }
}

impl fmt::Debug for HotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_whole() { "" } else { "..." };
        write!(
            f,
            "{:?}{end} ({:.0} operations/s, +- {:.0})",
            self.key, self.operations_per_second, self.error_per_second
        )
    }
}

impl HotKeys {
    fn add(&mut self, said: Option<Said>, known: &mut BTreeMap<SliceKey, HotKey>) {
        let Some(said) = said else {
            self.nodes_silent += 1;
            return;
        };
        self.nodes_answered += 1;
        self.operations_per_second += said.operations_per_second;
        for load in said.hot_keys {
            let hot = HotKey::of(load);
            known
                .entry(hot.at)
                .and_modify(|known| {
                    known.operations_per_second += hot.operations_per_second;
                    known.error_per_second += hot.error_per_second;
                    known.nodes += 1;
                })
                .or_insert(hot);
        }
    }

    fn together(answers: impl IntoIterator<Item = Option<Said>>) -> Self {
        let (mut all, mut known) = (Self::default(), BTreeMap::new());
        for said in answers {
            all.add(said, &mut known);
        }
        all.keys = known.into_values().collect();
        all.keys
            .sort_by(|a, b| b.operations_per_second.total_cmp(&a.operations_per_second));
        all
    }
}

/// What a node says.
#[derive(Debug)]
struct Said {
    hot_keys: Vec<HotKeyLoad>,
    operations_per_second: f64,
}

impl Client {
    /// Which keys draw so much load, of all clients together, that their nodes notice: each more than a 256th of what its
    /// node serves. Asks all nodes, over connections of their own, until the client's deadline; made for a look now and then,
    /// say every ten seconds, not for each operation. A key that is hot is read better from the application's own memory,
    /// or kept under several names.
    ///
    /// Never fails: who does not answer is counted in [`HotKeys::nodes_silent`].
    ///
    /// ```no_run
    /// # async fn example(client: softstore_client::Client) {
    /// let hot = client.hot_keys().await;
    /// for key in hot.keys.iter().filter(|key| key.operations_per_second > 10_000.0) {
    ///     println!("{key:?} draws {:.0}%", 100.0 * key.operations_per_second / hot.operations_per_second);
    /// }
    /// # }
    /// ```
    pub async fn hot_keys(&self) -> HotKeys {
        let deadline = self.deadline();
        let addresses = self.shared.operator.routing.table().addresses();
        let config = self.config();
        let cluster = self.shared.operator.routing.cluster();
        let asking = addresses
            .iter()
            .map(|address| ask(address, &cluster, config, deadline));
        let said: Vec<_> = stream::iter(asking)
            .buffer_unordered(ASKED_AT_ONCE)
            .collect()
            .await;
        HotKeys::together(said)
    }
}

/// What a node says by the deadline; `None`: nothing that can be understood.
async fn ask(address: &str, cluster: &ClusterId, config: &ClientConfig, deadline: Instant) -> Option<Said> {
    let asking = async {
        let channel = connect(address, config)
            .await
            .inspect_err(|error| tracing::debug!(address, %error, "a node does not tell its hot keys"))
            .ok()?;
        let request = declared(v1::HotKeysRequest {}, cluster);
        let answer = client_of(channel).hot_keys(request).await;
        let answer = answer
            .inspect_err(|status| tracing::debug!(address, %status, "a node does not tell its hot keys"))
            .ok()?;
        said(answer.into_inner())
    };
    tokio::time::timeout_at(deadline.into(), asking)
        .await
        .ok()
        .flatten()
}

/// H8: an answer that says what cannot be, says nothing.
fn said(reply: v1::HotKeysReply) -> Option<Said> {
    let rate = reply.operations_per_second;
    let is_rate = rate.is_finite() && rate >= 0.0;
    if !is_rate || reply.hot_keys.len() > softstore_sharding::load::HOT_KEYS_MAX {
        return None;
    }
    let hot_keys = reply.hot_keys.into_iter().map(HotKeyLoad::try_from);
    Some(Said {
        hot_keys: hot_keys.collect::<Result<_, _>>().ok()?,
        operations_per_second: rate,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hot(key: &str, rate: f64) -> v1::HotKey {
        v1::HotKey {
            at: SliceKey::of_key(key.as_bytes()).get(),
            operations_per_second: rate,
            error_per_second: rate / 10.0,
            key: Bytes::copy_from_slice(&key.as_bytes()[..key.len().min(62)]),
            key_bytes: u32::try_from(key.len()).expect("short"),
        }
    }

    fn reply(hot_keys: Vec<v1::HotKey>) -> v1::HotKeysReply {
        v1::HotKeysReply {
            hot_keys,
            operations_per_second: 1_000.0,
        }
    }

    /// Plan: two nodes serve one key, one of them a long one besides; a third is silent. Rates of the same key add up, the
    /// hottest comes first, the long one says that it is cut, and the silent node is counted.
    #[test]
    fn what_nodes_say_is_put_together() {
        let long = "x".repeat(100);
        let first = said(reply(vec![hot("shared", 300.0), hot(&long, 400.0)]));
        let second = said(reply(vec![hot("shared", 200.0)]));
        let all = HotKeys::together([first, None, second]);
        assert_eq!((all.nodes_answered, all.nodes_silent), (2, 1));
        assert!((all.operations_per_second - 2_000.0).abs() < 1e-9);
        let [shared, cut] = &all.keys[..] else {
            panic!("{all:?}");
        };
        assert_eq!(
            (&shared.key[..], shared.nodes, shared.is_whole()),
            (&b"shared"[..], 2, true)
        );
        assert!((shared.operations_per_second - 500.0).abs() < 1e-9);
        assert!((shared.error_per_second - 50.0).abs() < 1e-9);
        assert_eq!((cut.key.len(), cut.key_bytes, cut.is_whole()), (62, 100, false));
        assert_eq!(cut.at, SliceKey::of_key(long.as_bytes()));
    }

    #[test]
    fn h8_what_cannot_be_is_not_believed() {
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(said(reply(vec![hot("k", bad)])).is_none());
            let total = v1::HotKeysReply {
                operations_per_second: bad,
                ..reply(Vec::new())
            };
            assert!(said(total).is_none());
        }
        assert!(said(reply(vec![hot("k", 1.0); 33])).is_none());
    }
}
