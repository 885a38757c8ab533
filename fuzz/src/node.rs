//! A node's cores, [`Slicelet`] and [`HandoffCore`], joined as the node's shell joins them, under whatever messages and
//! moments: from the Assigner, from takers, from givers, from clients.
//!
//! Nothing panics; what a message makes them do and answer grows with what they were told, not with the product of it;
//! the same for what they remember; and what they want to be woken for does not stay due.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use softstore_proto::transfer::Relayed;
use softstore_proto::v1;
use softstore_sharding::session::{AssignerMessage, AssignmentUpdate, LoadReport, VersionRange};
use softstore_sharding::slicelet::Identity;
use softstore_sharding::{
    Assignment, AssignmentDiff, Generation, Incarnation, Life, ProcessId, PullId, Slice, SliceKey, Slicelet,
    SliceletAction, SliceletConfig, SliceletEvent, Timestamp, Version,
};
use softstore_transfer::chunk::{self, CHUNK_VERSIONS};
use softstore_transfer::handoff::{Clearance, PullEnd};
use softstore_transfer::message::{
    Invalidate, LeaseReply, LeaseRequest, PeekKey, PeekRequest, PullRequest, Release, Take, TakeAnswer,
    TakeRange, TakeReply, TakenRange, Verdict,
};
use softstore_transfer::{Action, Admission, HandoffConfig, HandoffCore};

use crate::heap;
use crate::script::{Argument, Script, Step, later, life, peer};

/// State, actions and answers of one input together; see also [`Told::bound`].
const HEAP_FACTOR: usize = 4_096;

/// Questions of the node under test that a script can answer.
const OPEN_TAKES_MAX: usize = 8;

/// Tries one input.
pub fn run(input: &[u8]) {
    heap::in_proportion(input, HEAP_FACTOR, || {
        let Some((&setting, steps)) = input.split_first() else {
            return;
        };
        let mut node = Node::new(setting);
        for step in Script::of(steps) {
            node.step(step);
        }
    });
}

/// How many bounds of ranges the node has been told of: what it cuts its state at.
#[derive(Default)]
struct Told(usize);

impl Told {
    fn ranges(&mut self, ranges: usize) {
        self.0 += 2 * ranges;
    }

    fn assignment(&mut self, assignment: &Assignment) {
        self.ranges(assignment.ranges().len());
    }

    /// How many parts of the key space there can be, with some room for what a step does to each.
    fn bound(&self, each: usize) -> usize {
        each * (self.0 + 2)
    }
}

struct Node {
    slicelet: Slicelet,
    core: HandoffCore,
    now: Timestamp,
    told: Told,
    pull: Option<PullId>,
    takes: Vec<Take>,
}

impl Node {
    fn new(setting: u8) -> Self {
        let now = Timestamp::from_ms(1 << 20);
        let me = peer(life(0, 0));
        let handoff = HandoffConfig {
            transfer: setting & 1 == 0,
            ..HandoffConfig::default()
        };
        let session = SliceletConfig::default();
        let identity = Identity {
            peer: me.clone(),
            http_address: "".into(),
            zone: "".into(),
            capacity_bytes: 1 << 20,
            process: ProcessId::new(7).expect("not 0"),
            cluster: None,
        };
        Self {
            slicelet: Slicelet::new(session, identity, now),
            core: HandoffCore::new(me, handoff, CHUNK_VERSIONS),
            now,
            told: Told::default(),
            pull: None,
            takes: Vec::new(),
        }
    }

    fn step(&mut self, step: Step<'_>) {
        self.now = later(self.now, step.time);
        let mut argument = step.argument;
        match step.operation % 36 {
            0 => self.hear_bytes(argument.bytes()),
            1 => decoded::<v1::TakeRequest, Take>(argument.bytes(), |take| self.take(&take)),
            2 => decoded::<v1::TakeReply, TakeReply>(argument.bytes(), |reply| self.take_answered(&reply)),
            3 => decoded::<v1::PullRequest, PullRequest>(argument.bytes(), |pull| self.pull_requested(&pull)),
            4 => decoded::<v1::PeekRequest, PeekRequest>(argument.bytes(), |peek| self.peek(&peek)),
            5 => decoded::<v1::ReleaseRequest, Release>(argument.bytes(), |release| self.release(&release)),
            6 => self.pull_item(argument.bytes()),
            7 => self.operation(argument.bytes()),
            8 => self.deliver(&argument.life(), argument.bytes()),
            9 => self.slicelet(SliceletEvent::SessionOpened {
                claims: self.core.claims(),
                offers: self.core.offers(),
            }),
            10 => self.slicelet(SliceletEvent::SessionClosed),
            11 => self.slicelet(SliceletEvent::DrainRequested),
            12 => self.slicelet(SliceletEvent::Drained),
            13 => self.slicelet(SliceletEvent::StoppedServing),
            14 | 15 => self.tick(),
            16 => self.end_pull(argument.byte()),
            17 => self.flush(&mut argument),
            18 => self.hear(AssignerMessage::HeartbeatAnswer {
                sequence: argument.byte().into(),
                generation: argument.generation(),
                lease_ms: (argument.byte() & 1 != 0).then_some(2_000),
            }),
            19 => self.hear(
                [
                    AssignerMessage::YouAreDead,
                    AssignerMessage::Drain,
                    AssignerMessage::NoTaker,
                ][usize::from(argument.byte() % 3)]
                .clone(),
            ),
            20 => self.update(&mut argument),
            21..=23 => self.adopt(&mut argument),
            24 | 25 => self.take(&short_take(&mut argument, &self.core)),
            26..=28 => self.answer(&mut argument),
            29 => self.pull_requested(&PullRequest {
                to: self.core.me().life.clone(),
                taker: argument.life(),
                ranges: taken(&mut argument),
                cursor: Bytes::new(),
                chunk_versions: CHUNK_VERSIONS,
            }),
            30 => self.release(&Release {
                to: self.core.me().life.clone(),
                taker: argument.life(),
                ranges: taken(&mut argument),
            }),
            31 => self.admit(argument.position(), argument.generation()),
            32 => decoded::<v1::LeaseRequest, LeaseRequest>(argument.bytes(), |request| self.lend(&request)),
            33 => {
                decoded::<v1::LeaseReply, LeaseReply>(argument.bytes(), |reply| self.lease_answered(&reply))
            }
            34 => decoded::<v1::InvalidateRequest, Invalidate>(argument.bytes(), |told| self.revoked(&told)),
            _ => self.lend(&LeaseRequest {
                to: self.core.me().life.clone(),
                reader: argument.life(),
                ranges: taken(&mut argument),
            }),
        }
        self.check();
    }

    /// What must hold between any two steps.
    fn check(&self) {
        let counts = self.core.counts();
        assert!(counts.held <= self.told.bound(1), "{} ranges held", counts.held);
        assert!(
            counts.pending <= self.told.bound(1),
            "{} ranges pending",
            counts.pending
        );
        assert!(counts.giving <= self.told.bound(1), "{} copies", counts.giving);
        assert!(counts.pulling <= counts.held);
        assert!(self.core.pulls_open() <= self.told.bound(1));
        assert!(self.core.claims().len() <= self.told.bound(5));
    }

    fn tick(&mut self) {
        let actions = self.core.tick(self.now);
        self.carry_out(actions);
        // At the end of time no later moment is left to wake at.
        if self.now.plus_ms(1 << 30) < Timestamp::NEVER {
            assert!(
                self.core.wake_at().is_none_or(|at| at > self.now),
                "it ticks for ever"
            );
        }
        let counts = self.core.counts();
        let load = LoadReport {
            ranges_taking: (counts.pending + counts.pulling) as u64,
            ranges_giving: counts.giving as u64,
            ..LoadReport::default()
        };
        self.slicelet(SliceletEvent::Tick { load });
        if self.slicelet.is_draining() && self.core.is_empty() {
            self.slicelet(SliceletEvent::Drained);
        }
    }

    fn slicelet(&mut self, event: SliceletEvent) {
        let actions = self.slicelet.step(event, self.now);
        self.carry_out_session(actions);
    }

    fn carry_out_session(&mut self, actions: Vec<SliceletAction>) {
        assert!(
            actions.len() <= 16,
            "{} actions of the session at once",
            actions.len()
        );
        for action in actions {
            match action {
                SliceletAction::Adopt(assignment) => {
                    self.told.assignment(&assignment);
                    let actions = self.core.adopt(&assignment, self.now);
                    self.carry_out(actions);
                }
                SliceletAction::Deliver { from, payload } => self.deliver(&from, &payload),
                SliceletAction::Reborn => {
                    let mut me = self.core.me().clone();
                    me.life.incarnation = Incarnation::new(me.life.incarnation.get() % 4 + 1);
                    let incarnation = me.life.incarnation;
                    let actions = self.core.reborn(me, self.now);
                    self.carry_out(actions);
                    let actions = self.slicelet.reborn(incarnation, self.now);
                    self.carry_out_session(actions);
                }
                _ => {}
            }
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        assert!(actions.len() <= self.told.bound(16), "{} actions", actions.len());
        for action in actions {
            match action {
                Action::SendTake { take, .. } => {
                    self.takes.truncate(OPEN_TAKES_MAX - 1);
                    self.takes.insert(0, take);
                }
                Action::StartPull { pull, .. } => self.pull = Some(pull),
                Action::Report(reports) => self.slicelet(SliceletEvent::Handoffs(reports)),
                Action::Contradicted => self.slicelet(SliceletEvent::Contradicted),
                _ => {}
            }
        }
    }

    fn hear_bytes(&mut self, bytes: &[u8]) {
        decoded::<v1::AssignerMessage, AssignerMessage>(bytes, |message| self.hear(message));
    }

    fn hear(&mut self, message: AssignerMessage) {
        self.slicelet(SliceletEvent::FromAssigner(message));
    }

    /// An assignment as the Assigner sends it: whole, or as what changed.
    fn update(&mut self, argument: &mut Argument<'_>) {
        let whole = argument.byte() % 2 == 0;
        let Some(next) = argument.assignment() else {
            return;
        };
        let update = match self.slicelet.assignment() {
            Some(held) if !whole => AssignmentUpdate::Diff(Arc::new(AssignmentDiff::between(held, &next))),
            _ => AssignmentUpdate::Full(next),
        };
        self.hear(AssignerMessage::Update(update));
    }

    /// The same past the session, which most inputs do not open.
    fn adopt(&mut self, argument: &mut Argument<'_>) {
        if let Some(assignment) = argument.assignment() {
            self.told.assignment(&assignment);
            let actions = self.core.adopt(&assignment, self.now);
            self.carry_out(actions);
            let again = self.core.adopt(&assignment, self.now);
            assert!(again.is_empty(), "an assignment that is held is no news");
        }
    }

    fn take(&mut self, take: &Take) {
        self.told.ranges(take.ranges.len());
        if let Ok((reply, actions)) = self.core.take(take, self.now) {
            let asked = take.ranges.len();
            assert!(
                reply.answers.len() <= self.told.bound(1) + asked,
                "{} answers",
                reply.answers.len()
            );
            self.carry_out(actions);
            let fenced = reply
                .answers
                .iter()
                .filter(|answer| matches!(answer.verdict, Verdict::Fenced { .. }));
            for answer in fenced {
                // H1: what is fenced is not served, and asking again does not change it.
                let admission = self.core.admit(answer.slice.low(), Generation::NONE);
                assert!(
                    !matches!(admission, Admission::Serve(_)),
                    "it serves what it fenced"
                );
            }
            let again = self.core.take(take, self.now).map(|(reply, _)| reply);
            assert_eq!(again.as_ref(), Ok(&reply), "repeating a Take repeats its answer");
        }
    }

    fn take_answered(&mut self, reply: &TakeReply) {
        self.told.ranges(reply.answers.len());
        let actions = self.core.take_answered(reply, self.now);
        self.carry_out(actions);
    }

    /// An answer to something that the node asked.
    fn answer(&mut self, argument: &mut Argument<'_>) {
        let which = usize::from(argument.byte());
        if self.takes.is_empty() {
            return;
        }
        let take = self.takes[which % self.takes.len()].clone();
        let mut answers = Vec::new();
        for range in &take.ranges {
            let verdict = match argument.byte() % 8 {
                0..=2 => Verdict::Fenced {
                    next_version: Version::new(u64::from(argument.byte()) << 40),
                },
                3 => Verdict::NotStarted,
                4 => Verdict::FencedTo {
                    taker: peer(argument.life()),
                    since: argument.generation(),
                },
                5 => Verdict::Superseded {
                    since: argument.generation(),
                },
                6 => Verdict::Searching,
                _ => Verdict::Dropped,
            };
            let slice = if argument.byte() % 4 == 3 {
                argument.slice()
            } else {
                range.slice
            };
            answers.push(TakeAnswer {
                slice,
                since: range.since,
                from: range.from,
                verdict,
            });
        }
        let chunk_versions = match argument.byte() {
            255 => VersionRange { min: 9, max: 9 },
            _ => CHUNK_VERSIONS,
        };
        self.take_answered(&TakeReply {
            from: take.to,
            chunk_versions,
            answers,
        });
    }

    fn pull_requested(&mut self, request: &PullRequest) {
        self.told.ranges(request.ranges.len());
        if let Ok(grants) = self.core.grant_pull(request) {
            let asked = request.ranges.len();
            assert!(
                grants.len() <= self.told.bound(1) + asked,
                "{} grants",
                grants.len()
            );
            assert!(self.core.chunk_format(request).is_ok());
        }
    }

    fn peek(&mut self, request: &PeekRequest) {
        for PeekKey { key, since } in &request.keys {
            let _ = self.core.copy_at(SliceKey::of_key(key), *since, &request.taker);
        }
    }

    /// A replica asks for leases. What is granted is lent, and what is lent is not written without a word to its reader (H2).
    fn lend(&mut self, request: &LeaseRequest) {
        self.told.ranges(request.ranges.len());
        let Ok(reply) = self.core.lend(request, None, self.now) else {
            return;
        };
        for grant in &reply.grants {
            let at = grant.slice.low();
            assert!(self.core.is_lent(at, &request.reader, grant.number, self.now));
            let unasked = Clearance::default();
            assert!(!self.core.may_write(Slice::single(at), &unasked, self.now));
            let mut asked = self.core.clearance();
            asked.answered(request.reader.clone());
            let others = self.core.waits_for(Slice::single(at), &asked, self.now);
            assert!(others.iter().all(|lease| lease.reader.life != request.reader));
        }
    }

    fn lease_answered(&mut self, reply: &LeaseReply) {
        self.told.ranges(reply.grants.len());
        if let Ok(actions) = self.core.lease_answered(reply, u64::MAX, self.now, self.now) {
            self.carry_out(actions);
        }
        for (slice, _) in self.core.read_parts() {
            let admission = self.core.admit(slice.low(), Generation::NONE);
            assert!(
                !matches!(admission, Admission::Serve(_) | Admission::Hold),
                "it reads what it owns"
            );
        }
    }

    /// An owner takes leases back: nothing of theirs is read after it.
    fn revoked(&mut self, told: &Invalidate) {
        self.told.ranges(told.revoked.len());
        if let Ok(actions) = self.core.revoked(told, self.now) {
            self.carry_out(actions);
            for slice in &told.revoked {
                let reading = self.core.admit_read(slice.low(), Generation::NONE, self.now);
                assert!(reading.is_none_or(|reading| reading.owner.life != told.owner));
            }
        }
    }

    fn release(&mut self, release: &Release) {
        self.told.ranges(release.ranges.len());
        if let Ok(actions) = self.core.release(release) {
            self.carry_out(actions);
            for range in &release.ranges {
                let copy = self.core.copy_at(range.slice.low(), range.since, &release.taker);
                assert_eq!(copy, None, "a released copy is kept");
            }
        }
    }

    /// An item of the stream of the newest pull.
    fn pull_item(&mut self, bytes: &[u8]) {
        let (Ok(item), Some(pull)) = (v1::PullItem::decode(bytes), self.pull) else {
            return;
        };
        if item.gone || item.complete {
            let end = if item.gone {
                PullEnd::Gone
            } else {
                PullEnd::Complete
            };
            let actions = self.core.pull_ended(pull, end);
            return self.carry_out(actions);
        }
        match chunk::decode(&item.chunk) {
            Ok(entries) => {
                for entry in entries {
                    let _ = self.core.import_target(pull, SliceKey::of_key(entry.key));
                }
                self.core.pull_advanced(pull, item.cursor);
            }
            Err(_) => self.core.pull_broken(pull, self.now),
        }
    }

    fn end_pull(&mut self, how: u8) {
        const ENDS: [PullEnd; 8] = [
            PullEnd::Complete,
            PullEnd::Gone,
            PullEnd::GiverDead,
            PullEnd::Deadline,
            PullEnd::Full,
            PullEnd::Overflow,
            PullEnd::Unwanted,
            PullEnd::Malformed,
        ];
        if let Some(pull) = self.pull {
            let actions = match ENDS.get(usize::from(how % 12)) {
                Some(end) => self.core.pull_ended(pull, *end),
                None => {
                    self.core.pull_broken(pull, self.now);
                    Vec::new()
                }
            };
            self.carry_out(actions);
        }
    }

    fn flush(&mut self, argument: &mut Argument<'_>) {
        let slice = argument.slice();
        self.told.ranges(1);
        let (parts, actions) = self.core.flush(slice);
        assert!(parts.len() <= self.told.bound(1));
        self.carry_out(actions);
    }

    fn operation(&mut self, bytes: &[u8]) {
        if let Ok(op) = v1::Op::decode(bytes) {
            self.admit(SliceKey::of_key(&op.key), Generation::NONE);
        }
    }

    fn admit(&mut self, at: SliceKey, since: Generation) {
        match self.core.admit(at, since) {
            Admission::Serve(serving) => {
                assert!(serving.since >= since);
                assert_eq!(
                    serving.versions.peek() > Version::default(),
                    serving.since.number > 0 || serving.versions.peek().get() > 0
                );
                if let Some(pull) = serving.pull {
                    assert!(
                        self.core.peek_target(pull, at).is_some(),
                        "a pull that fills a range knows whom to ask"
                    );
                    assert!(self.core.import_target(pull, at).is_some());
                }
            }
            Admission::Moved(moved) => assert!(moved.slice.contains(at) && moved.since >= since),
            Admission::Hold | Admission::Behind | Admission::NotReady => {}
        }
    }

    /// A hand-off message that came through the Assigner, as the node's shell takes it in.
    fn deliver(&mut self, from: &Life, payload: &[u8]) {
        match Relayed::decode(payload) {
            Ok(Relayed::Take(take)) if take.taker.life == *from => self.take(&take),
            Ok(Relayed::TakeReply(reply)) if reply.from == *from => self.take_answered(&reply),
            _ => {}
        }
    }
}

fn decoded<W, C>(bytes: &[u8], then: impl FnOnce(C))
where
    W: Message + Default,
    C: TryFrom<W>,
{
    if let Ok(Ok(message)) = W::decode(bytes).map(C::try_from) {
        then(message);
    }
}

/// Some ranges for this node to fence. Of a byte that is 255, it is for another life.
fn short_take(argument: &mut Argument<'_>, core: &HandoffCore) -> Take {
    let taker = peer(argument.life());
    let to = match argument.byte() {
        255 => argument.life(),
        _ => core.me().life.clone(),
    };
    let mut ranges = Vec::new();
    while argument.has_more() {
        let (slice, since, from) = (argument.slice(), argument.generation(), argument.generation());
        ranges.push(TakeRange { slice, since, from });
    }
    Take { to, taker, ranges }
}

fn taken(argument: &mut Argument<'_>) -> Vec<TakenRange> {
    let mut ranges = Vec::new();
    while argument.has_more() {
        let (slice, since) = (argument.slice(), argument.generation());
        ranges.push(TakenRange { slice, since });
    }
    ranges
}
