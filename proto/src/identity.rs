//! Which cluster and which process speaks, to and from `softstore_sharding::identity`.

use softstore_sharding::{ClusterId, Life, ProcessId};

use crate::assignment::founding_to_wire;
use crate::v1;

/// A cluster's name; empty if it is not known.
pub(crate) fn name_to_wire(cluster: &ClusterId) -> String {
    let name = cluster.name.as_ref();
    name.map_or_else(String::new, |name| name.as_str().to_owned())
}

/// Who answers at an address.
#[must_use]
pub fn identify_reply(life: &Life, process: ProcessId, cluster: &ClusterId) -> v1::IdentifyReply {
    v1::IdentifyReply {
        life: Some(life.into()),
        process: process.get(),
        cluster: name_to_wire(cluster),
        founding: founding_to_wire(cluster.founding),
    }
}
