//! [`Policy`]: the sharders that a scenario can be run with, behind one question: who is to own what now?

use std::collections::BTreeMap;
use std::sync::Arc;

use softstore_sharding::sharder::auto::{
    self, Cluster, Forecast, HotSpot, Move, Node, NodeIndex, Part, Piece, Settings, Standing,
};
use softstore_sharding::sharder::{AutoSharder, ClusterView, EvenRange, NodeRole, NodeView, Ring, Sharder};
use softstore_sharding::{
    Assignment, Generation, Incarnation, Life, NodeId, NodeState, RangeAssignment, Readers, Slice,
};

use super::description::Sees;
use super::fleet::{LifeNumber, Seat};

/// Who owns what, in order and complete: primary first.
pub(super) type Owned = Vec<(Slice, Vec<LifeNumber>)>;

/// Which sharder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SharderName {
    /// Equal shares of the key space.
    Even,
    /// A consistent-hash ring.
    Ring,
    /// The AutoSharder.
    Auto,
}

impl SharderName {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Even, Self::Ring, Self::Auto];

    /// The one that the Assigner runs.
    pub(super) fn shipped(self, settings: &Settings) -> Box<dyn Sharder> {
        match self {
            Self::Even => Box::new(EvenRange),
            Self::Ring => Box::new(Ring::default()),
            Self::Auto => Box::new(AutoSharder::new(settings.clone()).unwrap_or_default()),
        }
    }

    /// As it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Ring => "ring",
            Self::Auto => "auto",
        }
    }
}

/// A sharder, with what it remembers.
pub(super) enum Policy {
    Fixed(Box<dyn Sharder>),
    Auto {
        settings: Settings,
        forecast: Option<Forecast>,
    },
}

/// What a policy is told, ready made: what it does with it is what is timed.
pub(super) enum Question {
    Fixed {
        previous: Option<Assignment>,
        nodes: Vec<NodeView>,
    },
    Auto(Cluster, Vec<LifeNumber>),
}

impl Policy {
    pub(super) fn new(name: SharderName, settings: &Settings, sees: Sees) -> Self {
        match name {
            SharderName::Even => Self::Fixed(Box::new(EvenRange)),
            SharderName::Ring => Self::Fixed(Box::new(Ring::default())),
            SharderName::Auto => Self::Auto {
                settings: settings.clone(),
                // What is known needs no forecast.
                forecast: (sees == Sees::PreviousRound).then(Forecast::default),
            },
        }
    }

    pub(super) fn question(
        &self,
        seats: &[Seat],
        owned: &Owned,
        (loads, hot_keys): (Vec<Part>, Vec<HotSpot>),
    ) -> Question {
        match self {
            Self::Fixed(_) => Question::Fixed {
                previous: assignment(seats, owned),
                nodes: seats.iter().filter(|seat| seat.is_living()).map(view).collect(),
            },
            Self::Auto { .. } => {
                let (mut cluster, lives) = cluster(seats, owned);
                (cluster.loads, cluster.hot_keys) = (loads, hot_keys);
                Question::Auto(cluster, lives)
            }
        }
    }

    /// Who is to own what, and why, where the sharder says.
    pub(super) fn answer(&mut self, question: Question, seats: &[Seat]) -> (Owned, Vec<Move>) {
        match (self, question) {
            (Self::Fixed(sharder), Question::Fixed { previous, nodes }) => {
                let view = ClusterView {
                    previous: previous.as_ref(),
                    nodes,
                    loads: Vec::new(),
                    hot_keys: Vec::new(),
                    churn_max: 1.0,
                };
                let lives: BTreeMap<NodeId, LifeNumber> = seats
                    .iter()
                    .filter(|seat| seat.is_living())
                    .map(|seat| (node_id(seat), seat.life))
                    .collect();
                let placement = sharder.place(&view);
                let owned = placement
                    .ranges()
                    .iter()
                    .map(|(slice, node)| (*slice, vec![lives[node]]))
                    .collect();
                (owned, Vec::new())
            }
            (Self::Auto { settings, forecast }, Question::Auto(mut cluster, lives)) => {
                if let Some(forecast) = forecast {
                    forecast.observe(&cluster);
                    cluster = forecast.believed(cluster);
                }
                let plan = auto::plan(&cluster, settings);
                let life = |owner: &NodeIndex| lives[*owner as usize];
                let owned = plan
                    .pieces
                    .iter()
                    .map(|piece| (piece.slice, piece.owners.iter().map(life).collect()))
                    .collect();
                (owned, plan.moves)
            }
            _ => (Owned::new(), Vec::new()),
        }
    }
}

fn name(seat: &Seat) -> Arc<str> {
    format!("node-{}", seat.node).into()
}

fn node_id(seat: &Seat) -> NodeId {
    NodeId::new(&name(seat)).expect("made of allowed characters")
}

/// Who it is to the Assigner.
pub(super) fn life_of(seat: &Seat) -> Life {
    Life {
        node: node_id(seat),
        incarnation: Incarnation::new(u64::from(seat.life) + 1),
    }
}

fn view(seat: &Seat) -> NodeView {
    NodeView {
        life: life_of(seat),
        state: match seat.standing {
            Standing::Leaving => NodeState::Draining,
            _ => NodeState::Serving,
        },
        capacity_bytes: seat.capacity_bytes,
        zone: format!("zone-{}", seat.zone).into(),
        role: match seat.standing {
            Standing::Eligible => NodeRole::Eligible,
            Standing::Reserve => NodeRole::Reserve,
            Standing::Leaving | Standing::Dead => NodeRole::Leaving,
        },
    }
}

/// The present owners as an assignment; `None` before the first.
fn assignment(seats: &[Seat], owned: &Owned) -> Option<Assignment> {
    let ranges = owned.iter().map(|(slice, owners)| {
        let range = RangeAssignment {
            owner: life_of(&seats[owners[0] as usize]),
            since: Generation::NONE,
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        (*slice, range)
    });
    let ranges: Vec<(Slice, RangeAssignment)> = ranges.collect();
    Assignment::new(Generation::NONE, ranges, BTreeMap::new()).ok()
}

/// The living nodes and those dead ones that still own something, and which life each is.
fn cluster(seats: &[Seat], owned: &Owned) -> (Cluster, Vec<LifeNumber>) {
    let mut is_named: Vec<bool> = seats.iter().map(Seat::is_living).collect();
    for owner in owned.iter().flat_map(|(_, owners)| owners) {
        is_named[*owner as usize] = true;
    }
    let named: Vec<&Seat> = seats.iter().filter(|seat| is_named[seat.life as usize]).collect();
    let mut index_of = vec![NodeIndex::MAX; seats.len()];
    for (index, seat) in (0..).zip(&named) {
        index_of[seat.life as usize] = index;
    }
    let nodes = named.iter().map(|seat| Node {
        name: name(seat),
        capacity_load: seat.capacity_load,
        capacity_bytes: seat.capacity_bytes,
        zone: format!("zone-{}", seat.zone).into(),
        standing: seat.standing,
    });
    let pieces = owned.iter().map(|(slice, owners)| Piece {
        slice: *slice,
        owners: owners.iter().map(|owner| index_of[*owner as usize]).collect(),
        is_pinned: false,
    });
    let cluster = Cluster {
        nodes: nodes.collect(),
        pieces: pieces.collect(),
        ..Cluster::default()
    };
    (cluster, named.iter().map(|seat| seat.life).collect())
}
