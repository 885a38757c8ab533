//! The `Transfer` service: what takers ask of this node as a giver, and replicas and owners of each other.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use softstore_proto::v1;
use softstore_sharding::SliceKey;
use softstore_sharding::slicelet::SliceletEvent;
use softstore_transfer::handoff::CopyGrant;
use softstore_transfer::message::{
    Entry, FillAnswer, FillRequest, Invalidate, LeaseRequest, PeekAnswer, PeekKey, PeekRequest, PullRequest,
    Refusal, Release, Take, TakeReply,
};
use tonic::{Request, Response, Status};

use super::metrics::{add, count};
use super::peeks::{Asked, Peeks};
use super::state::NodeState;
use super::{giving, lending, reading};
use crate::guard;

/// How long a `Take` waits for the assignment that it is under: less than the 50 ms after which it is sent again by default.
const UNHEARD_WAIT: Duration = Duration::from_millis(40);

/// So many wait at once; others are refused, and sent again.
pub(super) const UNHEARD_TAKES_MAX: usize = 256;

/// Bytes of entries in the answer to one peek. One larger entry is answered alone.
const PEEK_REPLY_BYTES_MAX: usize = 1 << 20;

/// The service of one node.
#[derive(Clone, Debug)]
pub(super) struct TransferService(pub(super) Arc<NodeState>);

/// Counts a message of another node that is refused, however it came.
pub(super) fn count_refused(state: &NodeState, refusal: Refusal) {
    match refusal {
        Refusal::Gone => return,
        // The taker may just have been told of its assignment sooner.
        Refusal::Unheard => count(&state.metrics.takes_unheard),
        Refusal::Invented => {
            count(&state.metrics.acquisitions_invented);
            count(&state.metrics.peer_messages_refused);
        }
        _ => count(&state.metrics.peer_messages_refused),
    }
    tracing::debug!(%refusal, "refused a message of another node");
}

/// Carries a refusal's name to the other side.
pub(super) fn refuse(state: &NodeState, refusal: Refusal) -> Status {
    count_refused(state, refusal);
    match refusal {
        Refusal::Gone => Status::not_found(refusal.to_string()),
        Refusal::Malformed(_) => Status::invalid_argument(refusal.to_string()),
        Refusal::WrongIncarnation
        | Refusal::SenderDead
        | Refusal::NoCommonVersion
        | Refusal::Invented
        | Refusal::Unlisted => Status::failed_precondition(refusal.to_string()),
        Refusal::Unheard => Status::unavailable(refusal.to_string()),
    }
}

impl TransferService {
    fn decoded<W, T: TryFrom<W, Error = softstore_proto::error::WireError>>(
        &self,
        wire: W,
    ) -> Result<T, Status> {
        T::try_from(wire).map_err(|error| {
            count(&self.0.metrics.bad_requests);
            Status::invalid_argument(error.to_string())
        })
    }

    /// What takers are told: how long they may have to wait for an answer though nothing is wrong.
    fn longest_pause_ms(&self) -> u32 {
        u32::try_from(self.0.pauses.longest_ms()).unwrap_or(u32::MAX)
    }

    /// What this node has of one key that it froze for a taker.
    async fn peek_one(&self, asked: &PeekKey, request: &PeekRequest) -> PeekAnswer {
        let at = SliceKey::of_key(&asked.key);
        let copy = || self.0.core().copy_at(at, asked.since, &request.taker);
        let Some(grant) = copy() else {
            return PeekAnswer::Gone;
        };
        // Looked at before the copy: what is imported in between is then found there, and no absence is called final that
        // an import is just about to end.
        let mut is_final = match grant.upstream {
            Some(upstream) => self.0.store.is_written(upstream, at),
            None => true,
        };
        let mut found = self.frozen(&grant, at, asked);
        if let Some(upstream) = grant.upstream.filter(|_| found.is_none() && !is_final) {
            // This node is itself in mid-pull: its own giver may have the key. What comes is imported into the frozen copy.
            is_final = Peeks::ask(&self.0, upstream, at, &asked.key).await == Asked::Known;
            found = self.frozen(&grant, at, asked);
        }
        match found {
            Some(entry) => PeekAnswer::Found(entry),
            // A copy that was dropped meanwhile has nothing to say.
            None if copy().is_none() => PeekAnswer::Gone,
            None if is_final => PeekAnswer::Absent,
            None => PeekAnswer::Unknown,
        }
    }

    fn frozen(&self, grant: &CopyGrant, at: SliceKey, asked: &PeekKey) -> Option<Entry> {
        let frozen = self.0.store.read_frozen(at, grant.epoch, grant.as_of)?;
        if frozen.key != asked.key {
            return None;
        }
        let ttl_ms = grant.ttl_ms(frozen.deadline).ok()?;
        let (key, value, version, class) = (frozen.key, frozen.value, frozen.version, frozen.class);
        Some(Entry {
            key,
            value,
            version,
            ttl_ms,
            class,
        })
    }
}

#[tonic::async_trait]
impl v1::transfer_server::Transfer for TransferService {
    type PullStream = Pin<Box<dyn Stream<Item = Result<v1::PullItem, Status>> + Send>>;

    async fn identify(&self, _: Request<v1::IdentifyRequest>) -> Result<Response<v1::IdentifyReply>, Status> {
        let life = self.0.core().me().life.clone();
        let identity = &self.0.identity;
        let reply = softstore_proto::identity::identify_reply(&life, identity.process(), &identity.cluster());
        Ok(Response::new(reply))
    }

    async fn take(&self, request: Request<v1::TakeRequest>) -> Result<Response<v1::TakeReply>, Status> {
        let take: Take = self.decoded(request.into_inner())?;
        let reply = answer_when_heard(&self.0, &take).await;
        let reply = reply.map_err(|refusal| refuse(&self.0, refusal))?;
        Ok(Response::new(v1::TakeReply {
            longest_pause_ms: self.longest_pause_ms(),
            ..(&reply).into()
        }))
    }

    async fn peek(&self, request: Request<v1::PeekRequest>) -> Result<Response<v1::PeekReply>, Status> {
        let call = guard::call_of(&request);
        let request: PeekRequest = self.decoded(request.into_inner())?;
        if request.to != self.0.core().me().life {
            return Err(refuse(&self.0, Refusal::WrongIncarnation));
        }
        add(&self.0.metrics.peeks_served, request.keys.len() as u64);
        let answers = request.keys.iter().map(|asked| self.peek_one(asked, &request));
        let mut answers = futures::future::join_all(answers).await;
        answers.truncate(fitting(answers.iter().map(peeked_bytes)));
        let bytes = answers.iter().map(peeked_bytes).sum();
        let reply = v1::PeekReply {
            longest_pause_ms: self.longest_pause_ms(),
            ..softstore_proto::transfer::peek_reply_to_wire(&answers)
        };
        Ok(guard::holding(call.as_ref(), bytes, reply))
    }

    async fn pull(&self, request: Request<v1::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let request: PullRequest = self.decoded(request.into_inner())?;
        let grants = self
            .0
            .core()
            .grant_pull(&request)
            .map_err(|refusal| refuse(&self.0, refusal))?;
        let Some(place) = self.0.givings.enter(&request.taker) else {
            count(&self.0.metrics.pulls_put_off);
            return Err(Status::resource_exhausted("too many pulls at once: ask again"));
        };
        let stream =
            giving::stream(&self.0, request, grants, place).map_err(|refusal| refuse(&self.0, refusal))?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn read_lease(
        &self,
        request: Request<v1::LeaseRequest>,
    ) -> Result<Response<v1::LeaseReply>, Status> {
        let request: LeaseRequest = self.decoded(request.into_inner())?;
        let reply = lending::answer_lease(&self.0, &request).map_err(|refusal| refuse(&self.0, refusal))?;
        Ok(Response::new((&reply).into()))
    }

    async fn fill(&self, request: Request<v1::FillRequest>) -> Result<Response<v1::FillReply>, Status> {
        let call = guard::call_of(&request);
        let request: FillRequest = self.decoded(request.into_inner())?;
        let answers = lending::answer_fill(&self.0, &request).await;
        let mut answers = answers.map_err(|refusal| refuse(&self.0, refusal))?;
        let bytes_of = |answer: &FillAnswer| match answer {
            FillAnswer::Found { entry, .. } => entry_bytes(entry),
            FillAnswer::Absent | FillAnswer::NotLent => 0,
        };
        answers.truncate(fitting(answers.iter().map(bytes_of)));
        let bytes = answers.iter().map(bytes_of).sum();
        let reply = softstore_proto::readers::fill_reply_to_wire(&answers);
        Ok(guard::holding(call.as_ref(), bytes, reply))
    }

    async fn invalidate(
        &self,
        request: Request<v1::InvalidateRequest>,
    ) -> Result<Response<v1::InvalidateReply>, Status> {
        let invalidate: Invalidate = self.decoded(request.into_inner())?;
        reading::forget(&self.0, &invalidate).map_err(|refusal| refuse(&self.0, refusal))?;
        Ok(Response::new(v1::InvalidateReply {}))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseReply>, Status> {
        let release: Release = self.decoded(request.into_inner())?;
        let released = self.0.with_core(|core, _| match core.release(&release) {
            Ok(actions) => (Ok(()), actions),
            Err(refusal) => (Err(refusal), Vec::new()),
        });
        released.map_err(|refusal| refuse(&self.0, refusal))?;
        Ok(Response::new(v1::ReleaseReply {}))
    }
}

/// How many answers with so many bytes each fit one reply: at least one.
fn fitting(answers: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |answer: &usize| {
        bytes += answer;
        bytes <= PEEK_REPLY_BYTES_MAX
    };
    answers.take_while(fits).count().max(1)
}

fn peeked_bytes(answer: &PeekAnswer) -> usize {
    match answer {
        PeekAnswer::Found(entry) => entry_bytes(entry),
        PeekAnswer::Absent | PeekAnswer::Unknown | PeekAnswer::Gone => 0,
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.key.len() + entry.value.len()
}

/// Answers a `Take`. One under an acquisition that this node has not heard of waits a moment for the assignment, which is on its
/// way to both as a rule; the Assigner is asked about one that goes on without.
async fn answer_when_heard(state: &Arc<NodeState>, take: &Take) -> Result<TakeReply, Refusal> {
    let mut assignments = state.assignments();
    let mut answer = answer_take(state, take);
    if answer != Err(Refusal::Unheard) {
        return answer;
    }
    let Ok(_place) = state.takes_unheard.try_acquire() else {
        return answer;
    };
    let heard = async {
        while answer == Err(Refusal::Unheard) && assignments.changed().await.is_ok() {
            answer = answer_take(state, take);
        }
    };
    let in_time = tokio::time::timeout(UNHEARD_WAIT, heard).await;
    if in_time.is_err() {
        state.tell_slicelet(SliceletEvent::Unheard);
    }
    answer
}

/// Answers a `Take`, however it came.
pub(super) fn answer_take(state: &Arc<NodeState>, take: &Take) -> Result<TakeReply, Refusal> {
    state.with_core(|core, now| match core.take(take, now) {
        Ok((reply, actions)) => (Ok(reply), actions),
        Err(refusal) => (Err(refusal), Vec::new()),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use softstore_sharding::{FrequencyClass, Slice, Version};
    use softstore_transfer::handoff::PullEnd;
    use softstore_transfer::message::TakenRange;

    use super::*;
    use crate::node::mid_pull::{MidPull, generation, peer};

    async fn peeked(mid_pull: &MidPull) -> PeekAnswer {
        let asked = PeekKey {
            key: Bytes::from_static(b"k"),
            since: generation(3),
        };
        let request = PeekRequest {
            to: mid_pull.state.core().me().life.clone(),
            taker: peer("next", 3).life,
            keys: vec![asked.clone()],
        };
        let service = TransferService(mid_pull.state.clone());
        service.peek_one(&asked, &request).await
    }

    /// Plan: a node in mid-pull has given its range on, and the next taker peeks at a key. Just after the node has looked for it
    /// in vain, its own pull brings the key and is complete. The answer must be the key: an absence would be final.
    #[tokio::test]
    async fn h6_what_arrives_as_a_chain_is_peeked_is_found() {
        let mid_pull = MidPull::start();
        mid_pull.fenced_for(&peer("next", 3));
        let (state, pull) = (mid_pull.state.clone(), mid_pull.pull);
        mid_pull.store.after_frozen(move || {
            MidPull::import(&state, pull, b"k", b"v");
            state.with_core(|core, _| ((), core.pull_ended(pull, PullEnd::Complete)));
        });
        match peeked(&mid_pull).await {
            PeekAnswer::Found(entry) => assert_eq!(entry.value, "v"),
            other => panic!("{other:?}"),
        }
    }

    /// Plan: the same, but after the look the copy is released. That says nothing of the key.
    #[tokio::test]
    async fn a_copy_that_goes_as_it_is_peeked_is_gone() {
        let mid_pull = MidPull::start();
        mid_pull.fenced_for(&peer("next", 3));
        let state = mid_pull.state.clone();
        let release = Release {
            to: state.core().me().life.clone(),
            taker: peer("next", 3).life,
            ranges: vec![TakenRange {
                slice: Slice::FULL,
                since: generation(3),
            }],
        };
        mid_pull.store.after_frozen(move || {
            let released = state.with_core(|core, _| match core.release(&release) {
                Ok(actions) => (Ok(()), actions),
                Err(refusal) => (Err(refusal), Vec::new()),
            });
            assert_eq!(released, Ok(()));
        });
        assert_eq!(peeked(&mid_pull).await, PeekAnswer::Gone);
    }

    /// Plan: a node in mid-pull, whose own giver cannot be reached, is peeked at for a key that it has not got. It does not call
    /// it absent; once the pull is over, it does.
    #[tokio::test]
    async fn a_chain_whose_first_giver_does_not_answer_does_not_know() {
        let mid_pull = MidPull::start();
        mid_pull.fenced_for(&peer("next", 3));
        assert_eq!(peeked(&mid_pull).await, PeekAnswer::Unknown);
        let (state, pull) = (&mid_pull.state, mid_pull.pull);
        state.with_core(|core, _| ((), core.pull_ended(pull, PullEnd::Complete)));
        assert_eq!(peeked(&mid_pull).await, PeekAnswer::Absent);
    }

    fn found(value_bytes: usize) -> PeekAnswer {
        PeekAnswer::Found(Entry {
            key: Bytes::from_static(b"k"),
            value: Bytes::from(vec![0; value_bytes]),
            version: Version::default(),
            ttl_ms: None,
            class: FrequencyClass::COLDEST,
        })
    }

    #[test]
    fn a_reply_holds_so_many_bytes_of_entries_but_one_answer_at_least() {
        let large = PEEK_REPLY_BYTES_MAX / 2;
        let fitting = |answers: &[PeekAnswer]| super::fitting(answers.iter().map(peeked_bytes));
        let answers = [found(large), PeekAnswer::Absent, found(large), PeekAnswer::Absent];
        assert_eq!(fitting(&answers), 2);
        assert_eq!(fitting(&[found(2 * PEEK_REPLY_BYTES_MAX)]), 1);
        assert_eq!(fitting(&[PeekAnswer::Gone, PeekAnswer::Absent]), 2);
    }
}
