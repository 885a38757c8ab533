//! Whether members answer where they say that they listen: what a client would find that follows the assignment.
//!
//! A member that lives on its session may be reached by nobody: its advertised name does not resolve, its address leads to
//! another process or nowhere, or it just stopped. So each is asked for nothing, as the life that it is, again and again; the core
//! makes of the answers what it does ([`AssignerEvent::Probed`](softstore_sharding::AssignerEvent::Probed)).

use std::collections::HashMap;
use std::time::Duration;

use softstore_proto::v1::transfer_client::TransferClient;
use softstore_proto::{identity, v1};
use softstore_sharding::{ClusterId, Life, Peer};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::driver::Call;

/// How often it is looked who is to be asked: a member that is new is asked so soon.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often each is asked. Of a large cluster each less often: so many at once, and no more.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Asked at the same time.
const PROBES_MAX: usize = 64;

/// After so long without an answer a member was not reached.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A member, as it is asked.
struct Probed {
    peer: Peer,
    /// None: its address is none.
    channel: Option<Channel>,
    due: Instant,
    is_asked: bool,
}

/// Asks until `stop`.
pub(super) async fn run(calls: mpsc::Sender<Call>, cluster: ClusterId, stop: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut members: HashMap<Life, Probed> = HashMap::new();
    let mut asked: JoinSet<(Life, bool)> = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(answer) = asked.join_next(), if !asked.is_empty() => {
                let Ok((life, reached)) = answer else { continue };
                if let Some(member) = members.get_mut(&life) {
                    member.is_asked = false;
                }
                if calls.send(Call::Probed { life, reached }).await.is_err() {
                    return;
                }
            }
            _ = looks.tick() => {
                let (answer, told) = oneshot::channel();
                if calls.send(Call::Members { answer }).await.is_err() {
                    return;
                }
                let Ok(peers) = told.await else { return };
                follow(&mut members, peers);
                ask_due(&mut members, &cluster, &mut asked);
            }
        }
    }
}

/// Keeps to who is a member now.
fn follow(members: &mut HashMap<Life, Probed>, peers: Vec<Peer>) {
    let mut before = std::mem::take(members);
    for peer in peers {
        let known = before.remove(&peer.life);
        let member = known
            .filter(|known| known.peer == peer)
            .unwrap_or_else(|| Probed {
                channel: channel(&peer.address),
                peer: peer.clone(),
                due: Instant::now(),
                is_asked: false,
            });
        members.insert(peer.life, member);
    }
}

fn ask_due(members: &mut HashMap<Life, Probed>, cluster: &ClusterId, asked: &mut JoinSet<(Life, bool)>) {
    let now = Instant::now();
    let mut due: Vec<&mut Probed> = members
        .values_mut()
        .filter(|member| !member.is_asked && member.due <= now)
        .collect();
    due.sort_by_key(|member| member.due);
    for member in due.into_iter().take(PROBES_MAX.saturating_sub(asked.len())) {
        (member.is_asked, member.due) = (true, now + PROBE_INTERVAL);
        let (channel, life) = (member.channel.clone(), member.peer.life.clone());
        let cluster = cluster.clone();
        asked.spawn(async move {
            let reached = tokio::time::timeout(PROBE_TIMEOUT, reaches(channel, &life, &cluster)).await;
            (life, reached.unwrap_or(false))
        });
    }
}

fn channel(address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(
        endpoint
            .connect_timeout(PROBE_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy(),
    )
}

/// Whether a life answers. It is told to release nothing: every build understands that, does nothing, and refuses it if it is
/// meant for another life.
async fn reaches(channel: Option<Channel>, life: &Life, cluster: &ClusterId) -> bool {
    let Some(channel) = channel else { return false };
    let nothing = v1::ReleaseRequest {
        to: Some(life.into()),
        taker: Some(life.into()),
        ranges: Vec::new(),
    };
    let mut request = tonic::Request::new(nothing);
    identity::declare(cluster, request.metadata_mut());
    TransferClient::new(channel).release(request).await.is_ok()
}
