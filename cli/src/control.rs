//! Questions and orders to the Assigner: what the cluster looks like, "drain this node", what the Sharder would do, "balance
//! nothing".

use std::time::Duration;

use eyre::{Result, WrapErr, eyre};
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::{
    ClusterStatus, DrainReply, DrainRequest, ForgetRequest, FreezeRequest, PlanReply, PlanRequest,
    StatusRequest, UnfreezeRequest,
};
use tonic::transport::{Channel, Endpoint};

use crate::settings::client::{ClientConfig, ClientSettings};
use crate::settings::file::{FileArgs, layered};

/// How long one question may take.
const ANSWER_MS_MAX: u64 = 5_000;

/// How often a command that waits for a change asks again.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Flags of every command that uses a running cluster.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    settings: ClientSettings,
    #[command(flatten)]
    file: FileArgs,
}

impl ClusterArgs {
    /// Where the cluster is, from all layers.
    pub(crate) fn config(&self) -> Result<ClientConfig> {
        layered(self.settings.clone(), &self.file, |file| file.client)
    }
}

/// Longest answer of an Assigner: the status of a large cluster tells each node with its hot keys.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to the Assigner; it is opened when first used and again when it broke.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    address: String,
    answer_ms_max: u64,
    client: AssignerClient<Channel>,
}

impl Control {
    /// For the Assigner at `HOST:PORT`.
    pub(crate) fn at(address: &str) -> Result<Self> {
        Self::within(address, ANSWER_MS_MAX)
    }

    /// The same, for answers that may take so long.
    pub(crate) fn within(address: &str, answer_ms_max: u64) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .wrap_err_with(|| format!("the Assigner's address {address:?} is no HOST:PORT"))?
            .connect_timeout(Duration::from_millis(answer_ms_max))
            .timeout(Duration::from_millis(answer_ms_max));
        Ok(Self {
            address: address.to_owned(),
            answer_ms_max,
            client: AssignerClient::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_BYTES_MAX),
        })
    }

    /// What the cluster looks like.
    pub(crate) async fn status(&mut self) -> Result<ClusterStatus> {
        self.status_with_changes(0).await
    }

    /// The same, with so many of the last changes at most.
    pub(crate) async fn status_with_changes(&mut self, changes_max: u32) -> Result<ClusterStatus> {
        let answer = self.client.status(StatusRequest { changes_max }).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// What the Sharder would do now.
    pub(crate) async fn plan(&mut self) -> Result<PlanReply> {
        let answer = self.client.plan(PlanRequest {}).await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// Has nothing balanced, for so long, or until it is lifted.
    pub(crate) async fn freeze(&mut self, span: Option<Duration>) -> Result<()> {
        let for_ms = span.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        let answer = self.client.freeze(FreezeRequest { for_ms }).await;
        answer.map(drop).map_err(|status| self.explain(&status))
    }

    /// Takes the holder of a node's name for dead.
    pub(crate) async fn forget(&mut self, node: &str) -> Result<()> {
        let node = node.to_owned();
        let answer = self.client.forget(ForgetRequest { node }).await;
        answer.map(drop).map_err(|status| self.explain(&status))
    }

    /// Lifts that.
    pub(crate) async fn unfreeze(&mut self) -> Result<()> {
        let answer = self.client.unfreeze(UnfreezeRequest {}).await;
        answer.map(drop).map_err(|status| self.explain(&status))
    }

    /// Makes a node hand over all it owns and leave.
    pub(crate) async fn drain(&mut self, node: &str) -> Result<DrainReply> {
        let answer = self
            .client
            .drain(DrainRequest {
                node: node.to_owned(),
            })
            .await;
        Ok(answer.map_err(|status| self.explain(&status))?.into_inner())
    }

    /// An answer that is none, and what to do about it.
    fn explain(&self, status: &tonic::Status) -> eyre::Report {
        let address = &self.address;
        match status.code() {
            // Somebody is there: a second Assigner would be the wrong answer. The channel's own timeout is a cancellation.
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => eyre!(
                "the Assigner at {address} has not answered within {} ms: it may be busy; softstore status tells whether its \
                 sharder answers",
                self.answer_ms_max
            ),
            tonic::Code::Unavailable => eyre!(
                "no Assigner answers at {address}: start one (softstore assigner, softstore dev), or name another with \
                 --assigner"
            ),
            tonic::Code::Unimplemented | tonic::Code::Internal | tonic::Code::Unknown => eyre!(
                "{address} is no Assigner (a node's port?): name the Assigner with --assigner ({})",
                status.message()
            ),
            _ => eyre!("the Assigner at {address} refused: {}", status.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plan: somebody listens and never answers, as an Assigner whose sharder hangs; and nobody listens. Only in the second case an
    /// Assigner is to be started.
    #[tokio::test]
    async fn who_is_busy_is_not_taken_for_absent() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("it is bound").to_string();
        let mut control = Control::within(&address, 300).expect("an address");
        let busy = control.plan().await.expect_err("nobody answers").to_string();
        assert!(
            busy.contains("has not answered within 300 ms") && !busy.contains("start one"),
            "{busy}"
        );
        drop(silent);
        let mut control = Control::within(&address, 300).expect("an address");
        let absent = control.plan().await.expect_err("nobody is there").to_string();
        assert!(absent.contains("no Assigner answers"), "{absent}");
    }
}
