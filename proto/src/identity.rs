//! Which cluster and which process speaks, to and from `softstore_sharding::identity`.
//!
//! Calls and streams declare their cluster in gRPC metadata, as text: [`NAME_KEY`] and [`FOUNDING_KEY`]. So no service's
//! messages need to, a call by hand can leave it out, and whoever belongs elsewhere is refused before its message is read.

use softstore_sharding::{ClusterId, Life, ProcessId};

use crate::assignment::founding_to_wire;
use crate::v1;

/// The metadata of a call that says the caller's cluster; and of a refusal, the refusing side's.
pub const NAME_KEY: &str = "softstore-cluster";

/// The same for the founding, 32 hexadecimal digits.
pub const FOUNDING_KEY: &str = "softstore-founding";

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

#[cfg(feature = "services")]
pub use metadata::{declare, declared, foreign_status, refused_by};

#[cfg(feature = "services")]
mod metadata {
    use softstore_sharding::{ClusterId, ClusterName, ForeignCluster, Founding};
    use tonic::metadata::{MetadataMap, MetadataValue};
    use tonic::{Code, Status};

    use super::{FOUNDING_KEY, NAME_KEY};
    use crate::error::WireError;

    /// Says in a call's metadata which cluster its caller belongs to, as far as it knows.
    pub fn declare(cluster: &ClusterId, metadata: &mut MetadataMap) {
        let name = cluster.name.as_ref().map(|name| name.as_str().to_owned());
        let founding = cluster.founding.map(|founding| founding.to_string());
        for (key, value) in [(NAME_KEY, name), (FOUNDING_KEY, founding)] {
            // Names and foundings are plain ASCII.
            if let Some(Ok(value)) = value.map(MetadataValue::try_from) {
                metadata.insert(key, value);
            }
        }
    }

    /// What a call's metadata says of its caller's cluster.
    ///
    /// # Errors
    /// If it says what no cluster can be.
    pub fn declared(metadata: &MetadataMap) -> Result<ClusterId, WireError> {
        fn text<'a>(field: &'static str, metadata: &'a MetadataMap) -> Result<Option<&'a str>, WireError> {
            let value = metadata.get(field).map(MetadataValue::to_str);
            value.transpose().map_err(|error| WireError::bad(field, error))
        }
        let name = text(NAME_KEY, metadata)?.map(str::parse::<ClusterName>);
        let founding = text(FOUNDING_KEY, metadata)?.map(str::parse::<Founding>);
        Ok(ClusterId {
            name: name
                .transpose()
                .map_err(|error| WireError::bad(NAME_KEY, error))?,
            founding: founding
                .transpose()
                .map_err(|error| WireError::bad(FOUNDING_KEY, error))?,
        })
    }

    /// The refusal of a caller that belongs to another cluster: `FAILED_PRECONDITION`, with this side's cluster in its metadata.
    #[must_use]
    pub fn foreign_status(why: &ForeignCluster, ours: &ClusterId) -> Status {
        let text = format!("refused: {why}; nothing was read or changed");
        let mut metadata = MetadataMap::new();
        declare(ours, &mut metadata);
        Status::with_metadata(Code::FailedPrecondition, text, metadata)
    }

    /// The cluster of the side that refused a call because its caller belongs to another one; `None`: it is no such refusal.
    #[must_use]
    pub fn refused_by(status: &Status) -> Option<ClusterId> {
        if status.code() != Code::FailedPrecondition {
            return None;
        }
        let theirs = declared(status.metadata()).ok()?;
        (theirs != ClusterId::default()).then_some(theirs)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_cluster_goes_through_metadata_and_refusals() {
            let ours = ClusterId {
                name: Some(ClusterName::local()),
                founding: Founding::new(7),
            };
            let mut metadata = MetadataMap::new();
            assert_eq!(declared(&metadata), Ok(ClusterId::default()));
            declare(&ours, &mut metadata);
            assert_eq!(declared(&metadata), Ok(ours.clone()));
            let refusal = foreign_status(&ForeignCluster::Unsaid, &ours);
            assert_eq!(refused_by(&refusal), Some(ours));
            assert_eq!(refused_by(&Status::failed_precondition("another life")), None);
            for (key, bad) in [(NAME_KEY, "a b"), (FOUNDING_KEY, "12")] {
                let mut metadata = MetadataMap::new();
                metadata.insert(key, MetadataValue::from_static(bad));
                assert!(declared(&metadata).is_err(), "{bad}");
            }
        }
    }
}
