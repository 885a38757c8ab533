//! [`Seekers`]: who answers at the address of a node whose session broke. The core decides when to look, and what follows.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use softstore_proto::v1::transfer_client::TransferClient;
use softstore_proto::{identity, v1};
use softstore_sharding::assigner::{AssignerEvent, HolderAnswer, SEEK_MS_MAX};
use softstore_sharding::{ClusterId, Life, ProcessId};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::Endpoint;

use super::driver::Call;

/// Addresses that are looked at at once. What comes beyond is not looked at: it is asked for again.
const SEEKERS_MAX: usize = 64;

/// Looks at addresses, each in a task of its own that is over after [`SEEK_MS_MAX`].
#[derive(Debug)]
pub(super) struct Seekers {
    /// To the driver. Weak: what looks keeps no driver waiting for its end.
    calls: mpsc::WeakSender<Call>,
    places: Arc<Semaphore>,
    /// The Assigner's cluster: another one's node that answers there is not who was looked for.
    cluster: ClusterId,
}

impl Seekers {
    pub(super) fn new(calls: &mpsc::Sender<Call>, cluster: ClusterId) -> Self {
        Self {
            calls: calls.downgrade(),
            places: Arc::new(Semaphore::new(SEEKERS_MAX)),
            cluster,
        }
    }

    /// Begins to look for a life where it should be.
    pub(super) fn look(&self, life: Life, address: Arc<str>) {
        let (Some(calls), Ok(place)) = (self.calls.upgrade(), self.places.clone().try_acquire_owned()) else {
            return;
        };
        let cluster = self.cluster.clone();
        tokio::spawn(async move {
            let limit = Duration::from_millis(SEEK_MS_MAX);
            let answer = tokio::time::timeout(limit, who_answers(&address, &cluster)).await;
            let answer = answer.unwrap_or(HolderAnswer::Unknown);
            tracing::info!(%life, %address, ?answer, "looked for a node whose session broke");
            // The driver may have gone.
            let _ = calls
                .send(Call::HolderSought(Box::new(AssignerEvent::HolderSought {
                    life,
                    answer,
                })))
                .await;
            drop(place);
        });
    }
}

async fn who_answers(address: &str, cluster: &ClusterId) -> HolderAnswer {
    match TcpStream::connect(address).await {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return HolderAnswer::Refused,
        Err(_) => return HolderAnswer::Unknown,
    }
    let Ok(endpoint) = Endpoint::from_shared(format!("http://{address}")) else {
        return HolderAnswer::Unknown;
    };
    let Ok(channel) = endpoint.connect().await else {
        return HolderAnswer::Unknown;
    };
    let mut request = tonic::Request::new(v1::IdentifyRequest {});
    identity::declare(cluster, request.metadata_mut());
    match TransferClient::new(channel).identify(request).await {
        Ok(reply) => {
            let process = ProcessId::new(reply.into_inner().process);
            process.map_or(HolderAnswer::Unknown, HolderAnswer::Process)
        }
        // Another cluster has the address now.
        Err(status) if identity::refused_by(&status).is_some() => HolderAnswer::Refused,
        Err(_) => HolderAnswer::Unknown,
    }
}
