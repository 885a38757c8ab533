//! [`Probes`]: who answers at the address of a node whose session broke. The core decides when to look, and what follows.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use softstore_proto::v1::transfer_client::TransferClient;
use softstore_proto::{identity, v1};
use softstore_sharding::assigner::{AssignerEvent, PROBE_MS_MAX, ProbeAnswer};
use softstore_sharding::{ClusterId, ClusterName, Life, ProcessId};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::Endpoint;

use super::driver::Call;

/// Addresses that are looked at at once. What comes beyond is not looked at: it is asked for again.
const PROBES_MAX: usize = 64;

/// Looks at addresses, each in a task of its own that is over after [`PROBE_MS_MAX`].
#[derive(Debug)]
pub(super) struct Probes {
    /// To the driver. Weak: what looks keeps no driver waiting for its end.
    calls: mpsc::WeakSender<Call>,
    places: Arc<Semaphore>,
    /// The Assigner's cluster: another one's node that answers there is not who was looked for.
    cluster: ClusterId,
}

impl Probes {
    pub(super) fn new(calls: &mpsc::Sender<Call>, name: ClusterName) -> Self {
        Self {
            calls: calls.downgrade(),
            places: Arc::new(Semaphore::new(PROBES_MAX)),
            cluster: ClusterId {
                name: Some(name),
                founding: None,
            },
        }
    }

    /// Begins to look for a life where it should be.
    pub(super) fn look(&self, life: Life, address: Arc<str>) {
        let (Some(calls), Ok(place)) = (self.calls.upgrade(), self.places.clone().try_acquire_owned()) else {
            return;
        };
        let cluster = self.cluster.clone();
        tokio::spawn(async move {
            let limit = Duration::from_millis(PROBE_MS_MAX);
            let answer = tokio::time::timeout(limit, who_answers(&address, &cluster)).await;
            let answer = answer.unwrap_or(ProbeAnswer::Unknown);
            tracing::info!(%life, %address, ?answer, "looked for a node whose session broke");
            // The driver may have gone.
            let _ = calls
                .send(Call::Probed(Box::new(AssignerEvent::Probed { life, answer })))
                .await;
            drop(place);
        });
    }
}

async fn who_answers(address: &str, cluster: &ClusterId) -> ProbeAnswer {
    match TcpStream::connect(address).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return ProbeAnswer::Refused,
        Err(_) => return ProbeAnswer::Unknown,
    }
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else {
        return ProbeAnswer::Unknown;
    };
    let Ok(channel) = endpoint.connect().await else {
        return ProbeAnswer::Unknown;
    };
    let mut request = tonic::Request::new(v1::IdentifyRequest {});
    identity::declare(cluster, request.metadata_mut());
    match TransferClient::new(channel).identify(request).await {
        Ok(reply) => {
            let process = ProcessId::new(reply.into_inner().process);
            process.map_or(ProbeAnswer::Unknown, ProbeAnswer::Process)
        }
        // Another cluster has the address now.
        Err(status) if identity::refused_by(&status).is_some() => ProbeAnswer::Refused,
        Err(_) => ProbeAnswer::Unknown,
    }
}
