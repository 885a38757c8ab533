//! What nobody in a node notices in passing, and a person needs to know: counters that grow by floods, and the node's own name.
//!
//! Not here: what is said of it, and how often (`conditions`).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::state::NodeState;
use crate::conditions::Kind;
use crate::http::Readiness;
use crate::listener::Growth;

/// Between two looks whether the node's own name resolves.
const OWN_NAME_INTERVAL: Duration = Duration::from_secs(10);

impl Readiness for NodeState {
    fn readiness(&self) -> Result<(), &'static str> {
        Self::readiness(self)
    }

    fn conditions(&self) -> &crate::conditions::Conditions {
        &self.conditions
    }
}

/// Tells the node's conditions until `stop`, and notices those that counters show.
pub(super) async fn conditions(state: Arc<NodeState>, stop: CancellationToken) {
    let (mut accept_errors, mut refused) = (Growth::default(), Growth::default());
    let look = || {
        state.listeners.look(&mut accept_errors, &state.conditions);
        let messages = refused.of(&state.metrics.peer_messages_refused);
        if messages > 0 {
            let why = "of other nodes: for another life, of a dead one, or malformed";
            state
                .conditions
                .observe_times(Kind::MessagesRefused, "", messages, why);
        }
    };
    state.conditions.tell(stop, look).await;
}

/// Looks up the name under which others are told to reach this node, if it has one, until `stop`.
pub(super) async fn own_name(state: Arc<NodeState>, stop: CancellationToken) {
    let Some(advertised) = state.config.advertise.clone() else {
        return;
    };
    if advertised.parse::<std::net::SocketAddr>().is_ok() {
        return;
    }
    let mut looks = tokio::time::interval(OWN_NAME_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = tokio::net::lookup_host(&advertised) => found,
        };
        match found {
            Ok(_) => state.conditions.clear(Kind::OwnName, ""),
            Err(error) => {
                let why = format!("{advertised}: {error}");
                state.conditions.observe(Kind::OwnName, "", why);
            }
        }
    }
}
