//! The [`Assigner`] under whatever nodes say to it, on however many sessions and at whatever moments.
//!
//! Nothing panics; what it publishes is newer than what it published before; what it says can be said on the wire and
//! understood there; what one message makes it do grows with members and ranges, not with their product.

use prost::Message;
use softstore_proto::v1;
use softstore_sharding::assigner::Notice;
use softstore_sharding::generation::GENERATION_EPOCH_UNIX_MS;
use softstore_sharding::session::{
    AssignerMessage, ClaimPhase, HandoffOutcome, HandoffReport, Hello, LoadReport, NodeMessage, RangeClaim,
    SESSION_VERSIONS,
};
use softstore_sharding::sharder::even_range::EvenRange;
use softstore_sharding::{
    Assigner, AssignerAction, AssignerConfig, AssignerEvent, ClusterId, Founding, Generation, Incarnation,
    ProcessId, SessionId, Timestamp,
};

use crate::heap;
use crate::script::{Argument, Script, Step, later, peer};

/// State, assignments and messages of one input together.
const HEAP_FACTOR: usize = 16_384;

/// Of the wall clock since its epoch: 34 years.
const WALL_MS_MAX: u64 = 1 << 40;

/// How many sessions a script can speak on.
const SESSIONS: u8 = 8;

/// Tries one input.
pub fn run(input: &[u8]) {
    heap::in_proportion(input, HEAP_FACTOR, || {
        let Some((&setting, steps)) = input.split_first() else {
            return;
        };
        let mut cluster = Cluster::new(setting);
        for step in Script::of(steps) {
            cluster.step(step);
        }
    });
}

struct Cluster {
    assigner: Assigner,
    now: Timestamp,
    published: Generation,
    /// How many ranges it was told of.
    told: usize,
}

impl Cluster {
    fn new(setting: u8) -> Self {
        let now = Timestamp::from_ms(1 << 20);
        let config = AssignerConfig {
            lease_ms: (setting & 1 != 0).then_some(2_000),
            expect_nodes: (setting & 2 != 0).then_some(2),
            founds_at_once: setting & 8 != 0,
            rebalance_delay_ms: if setting & 4 != 0 { 0 } else { 30_000 },
            ..AssignerConfig::default()
        };
        Self {
            assigner: Assigner::new(config, Incarnation::new(1), Box::new(EvenRange), now),
            now,
            published: Generation::NONE,
            told: 0,
        }
    }

    fn step(&mut self, step: Step<'_>) {
        self.now = later(self.now, step.time);
        let mut argument = step.argument;
        let operation = step.operation % 16;
        if operation == 0 {
            let session = session(argument.byte());
            if let Ok(Ok(message)) = v1::NodeMessage::decode(argument.bytes()).map(NodeMessage::try_from) {
                self.told += ranges_in(&message);
                self.happens(AssignerEvent::FromNode { session, message });
            }
            return;
        }
        let event = match operation {
            1 | 2 => AssignerEvent::Tick,
            3 => AssignerEvent::SessionClosed {
                session: session(argument.byte()),
            },
            4 => AssignerEvent::DrainNode {
                node: argument.life().node,
            },
            _ => {
                let session = session(argument.byte());
                let message = self.said(operation, &mut argument);
                self.told += ranges_in(&message);
                AssignerEvent::FromNode { session, message }
            }
        };
        self.happens(event);
    }

    /// A message in its short form.
    fn said(&self, operation: u8, argument: &mut Argument<'_>) -> NodeMessage {
        match operation {
            5..=7 => NodeMessage::Hello(hello(argument)),
            8 | 9 => NodeMessage::Heartbeat {
                sequence: argument.byte().into(),
                generation: self.generation(argument),
                load: LoadReport::default(),
                lease_ms: (argument.byte() & 1 != 0).then_some(2_000),
            },
            10 => NodeMessage::NeedFull,
            11 => NodeMessage::Draining,
            12 => NodeMessage::Goodbye,
            13 => NodeMessage::Handoffs(self.reports(argument)),
            14 => NodeMessage::HeldAssignment(argument.assignment()),
            _ => NodeMessage::Relay {
                to: argument.life(),
                payload: argument.bytes().to_vec(),
            },
        }
    }

    /// What is published, or something else.
    fn generation(&self, argument: &mut Argument<'_>) -> Generation {
        if argument.byte() % 4 == 0 {
            argument.generation()
        } else {
            self.published
        }
    }

    /// Reports of what the assignment has moving, or of anything.
    fn reports(&self, argument: &mut Argument<'_>) -> Vec<HandoffReport> {
        const OUTCOMES: [HandoffOutcome; 4] = [
            HandoffOutcome::Started,
            HandoffOutcome::Completed,
            HandoffOutcome::GaveUp,
            HandoffOutcome::Awaiting,
        ];
        let outcome = OUTCOMES[usize::from(argument.byte()) % OUTCOMES.len()];
        if let (Some(current), false) = (self.assigner.assignment(), argument.has_more()) {
            let all = current.ranges().iter();
            return all
                .map(|(slice, range)| HandoffReport {
                    slice,
                    since: range.since,
                    outcome,
                })
                .collect();
        }
        let mut reports = Vec::new();
        while argument.has_more() {
            let (slice, since) = (argument.slice(), argument.generation());
            reports.push(HandoffReport {
                slice,
                since,
                outcome,
            });
        }
        reports
    }

    fn happens(&mut self, event: AssignerEvent) {
        // The wall clock stays within what generation numbers have room for: it is no input from outside.
        let unix_ms = GENERATION_EPOCH_UNIX_MS + self.now.as_ms() % WALL_MS_MAX;
        let actions = self.assigner.step_at_once(event, self.now, unix_ms);
        let members = self.assigner.status(self.now).nodes.len();
        assert!(
            members <= 4,
            "four nodes have names in short forms, {members} are members"
        );
        assert!(
            actions.len() <= 16 + 4 * (members + 4),
            "{} actions",
            actions.len()
        );
        for action in actions {
            match action {
                AssignerAction::Send { message, .. } => is_understood(&message),
                AssignerAction::Published(assignment) => {
                    assert!(assignment.generation() > self.published);
                    self.published = assignment.generation();
                    let ranges = assignment.ranges().len();
                    assert!(ranges <= 64 + 4 * self.told, "{ranges} ranges");
                }
                AssignerAction::WakeAt(at) => assert!(at >= self.now),
                AssignerAction::Notice(Notice::NotPublished(error)) => panic!("not published: {error}"),
                _ => {}
            }
        }
    }
}

fn session(byte: u8) -> SessionId {
    SessionId::new(u64::from(byte % SESSIONS) + 1)
}

fn hello(argument: &mut Argument<'_>) -> Hello {
    let peer = peer(argument.life());
    let flags = argument.byte();
    let generation = if flags & 1 == 0 {
        Generation::NONE
    } else {
        argument.generation()
    };
    let mut claims = Vec::new();
    while argument.has_more() {
        let (slice, phase) = (argument.slice(), argument.byte());
        let phase = match phase % 4 {
            0 => ClaimPhase::NotStarted,
            1 => ClaimPhase::Serving,
            2 => ClaimPhase::Pulling(argument.life()),
            _ => ClaimPhase::Fenced(argument.life()),
        };
        let range = argument.range(generation);
        claims.push(RangeClaim {
            slice,
            since: range.since,
            providers: range.providers,
            phase,
        });
    }
    Hello {
        peer,
        http_address: "".into(),
        zone: if flags & 4 == 0 { "" } else { "z" }.into(),
        capacity_bytes: u64::from(flags) << 20,
        draining: flags & 2 != 0,
        generation,
        claims,
        versions: SESSION_VERSIONS,
        lease_ms: (flags & 8 != 0).then_some(2_000),
        process: ProcessId::new(u64::from(flags >> 4 & 3)),
        cluster: ClusterId {
            name: None,
            founding: Founding::new(u128::from(flags >> 6)),
        },
        offers: None,
    }
}

fn ranges_in(message: &NodeMessage) -> usize {
    match message {
        NodeMessage::Hello(hello) => hello.claims.len(),
        NodeMessage::Handoffs(reports) => reports.len(),
        NodeMessage::HeldAssignment(Some(held)) => held.ranges().len(),
        _ => 0,
    }
}

/// What it says comes out of the wire as it went in.
fn is_understood(message: &AssignerMessage) {
    let bytes = v1::AssignerMessage::from(message).encode_to_vec();
    let wire = v1::AssignerMessage::decode(&*bytes).expect("what was just encoded");
    let heard = AssignerMessage::try_from(wire);
    assert_eq!(heard.as_ref(), Ok(message));
}
