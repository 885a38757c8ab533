//! [`Fleet`]: who lives in each round, and what each may be given.

use softstore_sharding::sharder::auto::Standing;

use super::description::{Membership, Scenario};
use super::policy::Owned;
use super::truth::equal_parts;
use crate::random::Random;

/// One life of a node: no two have the same number.
pub(super) type LifeNumber = u32;

/// A node in one of its lives.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) life: LifeNumber,
    /// Which node: its name is made of this.
    pub(super) node: u32,
    pub(super) zone: u32,
    pub(super) capacity_load: f64,
    pub(super) capacity_bytes: u64,
    pub(super) standing: Standing,
    /// It came back empty in this round and waits until that one.
    reserve_until: Option<u32>,
}

impl Seat {
    pub(super) fn is_living(&self) -> bool {
        self.standing != Standing::Dead
    }
}

/// All lives so far, by number.
pub(super) struct Fleet<'a> {
    scenario: &'a Scenario,
    random: Random,
    pub(super) seats: Vec<Seat>,
    /// The present life of each node; a node whose life has ended is not there.
    present: Vec<LifeNumber>,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let mut fleet = Self {
            scenario,
            random: Random::new(seed ^ 0xf1ee),
            seats: Vec::new(),
            present: Vec::new(),
        };
        for node in 0..scenario.cluster.nodes {
            let life = fleet.begin(node, Standing::Eligible, None);
            fleet.present.push(life);
        }
        if let Membership::Rolling { surge: true, .. } = scenario.membership {
            let life = fleet.begin(scenario.cluster.nodes, Standing::Reserve, None);
            fleet.present.push(life);
        }
        fleet
    }

    fn begin(&mut self, node: u32, standing: Standing, reserve_until: Option<u32>) -> LifeNumber {
        let shape = &self.scenario.cluster;
        let size = shape.sizes[node as usize % shape.sizes.len()];
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole bytes are enough, and what is too much saturates"
        )]
        let capacity_bytes = (shape.node_bytes as f64 * size) as u64;
        let life = LifeNumber::try_from(self.seats.len()).unwrap_or(LifeNumber::MAX);
        self.seats.push(Seat {
            life,
            node,
            zone: node % shape.zones,
            capacity_load: shape.node_load * size,
            capacity_bytes,
            standing,
            reserve_until,
        });
        life
    }

    fn set(&mut self, node: u32, standing: Standing) {
        let life = self.present[node as usize];
        self.seats[life as usize].standing = standing;
    }

    fn is_living(&self, node: u32) -> bool {
        self.seats[self.present[node as usize] as usize].is_living()
    }

    fn come_back(&mut self, node: u32, reserve_until: Option<u32>) {
        let standing = reserve_until.map_or(Standing::Eligible, |_| Standing::Reserve);
        self.present[node as usize] = self.begin(node, standing, reserve_until);
    }

    /// Who owns what before the first round.
    pub(super) fn dealt(&mut self) -> Owned {
        let mut takers: Vec<LifeNumber> = self
            .seats
            .iter()
            .filter(|seat| seat.standing == Standing::Eligible)
            .map(|seat| seat.life)
            .collect();
        for index in 0..takers.len() {
            let other = index + self.random.index(takers.len() - index);
            takers.swap(index, other);
        }
        let slices = match self.scenario.cluster.slices_at_start {
            0 => Vec::new(),
            count => equal_parts(count),
        };
        let owners = takers.iter().cycle();
        slices
            .iter()
            .zip(owners)
            .map(|(part, owner)| (part.slice, vec![*owner]))
            .collect()
    }

    /// Who there is in this round.
    pub(super) fn step(&mut self, round: u32) {
        for seat in &mut self.seats {
            if seat.standing == Standing::Leaving {
                // It has handed over all it had, and exited.
                seat.standing = Standing::Dead;
            }
            if seat.standing == Standing::Reserve && seat.reserve_until.is_some_and(|until| until <= round) {
                seat.standing = Standing::Eligible;
            }
        }
        match self.scenario.membership {
            Membership::Steady => {}
            Membership::Chaos { alive_min } => self.redraw(alive_min),
            Membership::Rolling { surge, every_rounds } => self.roll(round, surge, every_rounds),
            Membership::ZoneLoss {
                at_round,
                back_at_round,
            } => self.lose_zone(round, at_round, back_at_round),
            Membership::Deaths { every_rounds } => self.die_in_turn(round, every_rounds),
        }
    }

    /// So many as are drawn live; who that is is drawn too.
    fn redraw(&mut self, alive_min: u32) {
        let nodes = self.scenario.cluster.nodes;
        let alive = self.random.between(alive_min.into(), nodes.into());
        let mut drawn: Vec<u32> = (0..nodes).collect();
        for index in 0..drawn.len() {
            let other = index + self.random.index(drawn.len() - index);
            drawn.swap(index, other);
        }
        for (place, node) in (0_u64..).zip(drawn) {
            match (place < alive, self.is_living(node)) {
                (true, false) => self.come_back(node, None),
                (false, true) => self.set(node, Standing::Dead),
                _ => {}
            }
        }
    }

    fn roll(&mut self, round: u32, surge: bool, every: u32) {
        let nodes = self.scenario.cluster.nodes;
        let Some(since) = round.checked_sub(self.scenario.warm_up_rounds) else {
            return;
        };
        let (node, phase) = (since / every, since % every);
        if node < nodes && phase == 0 {
            self.set(node, Standing::Leaving);
        }
        // The last that comes back is one too many where there was one more.
        let stays_away = surge && node + 1 == nodes;
        if node < nodes && phase == 2 && !stays_away {
            self.come_back(node, Some(round + every));
        }
    }

    fn lose_zone(&mut self, round: u32, at: u32, back_at: u32) {
        for node in 0..self.scenario.cluster.nodes {
            if node % self.scenario.cluster.zones != 0 {
                continue;
            }
            if round == at {
                self.set(node, Standing::Dead);
            }
            if round == back_at && !self.is_living(node) {
                self.come_back(node, None);
            }
        }
    }

    fn die_in_turn(&mut self, round: u32, every: u32) {
        let Some(since) = round.checked_sub(self.scenario.warm_up_rounds) else {
            return;
        };
        let node = (since / every) % self.scenario.cluster.nodes;
        match since % every {
            0 => self.set(node, Standing::Dead),
            2 => self.come_back(node, None),
            _ => {}
        }
    }
}
