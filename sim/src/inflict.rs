//! How a [`Fault`] is done to a running simulation.

use crate::control::Control;
use crate::env::Event;
use crate::faults::Fault;
use crate::message::Endpoint;
use crate::node::Node;
use crate::run::{Simulation, Slot};
use crate::trap::{Deed, Role};

/// A node kept from the Assigner is left alone for this long after, in microseconds.
const SILENCE_PAUSE_US: u64 = 2_500_000;

/// A process that goes on runs its tasks in any order: the session's may be up to so much later than those that serve, in
/// microseconds.
const SESSION_LAG_US_MAX: u64 = 5_000;

impl Simulation {
    /// Does what a fault says, unless the cluster is in no state for it.
    pub(crate) fn fault(&mut self, fault: Fault) {
        let now_us = self.env.now_us;
        if self.faults_ended
            && !matches!(
                fault,
                Fault::Start { .. } | Fault::StartAssigner | Fault::Wake { .. }
            )
        {
            return;
        }
        self.env.trace(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Drain { slot, back_after_us } => self.drain(slot, back_after_us),
            Fault::DrainForGood { slot } => self.drain(slot, None),
            Fault::Surge { slot } => {
                if self.slots[slot].takes_part() && self.start_elsewhere().is_some() {
                    let after_us = self.env.random.between(100_000, 1_500_000);
                    self.env
                        .after(after_us, Event::Fault(Fault::DrainForGood { slot }));
                }
            }
            Fault::ScaleOut => {
                self.start_elsewhere();
            }
            Fault::Bounce {
                cut_from,
                is_killed,
                leaves_after_us,
            } => self.bounce(cut_from, is_killed, leaves_after_us),
            Fault::Kill { slot, back_after_us } => {
                if self.others_take_part(slot) && self.slots[slot].node.is_some() {
                    self.env.counters.kills += 1;
                    self.slots[slot].back_after_us = back_after_us;
                    self.end_process(slot);
                }
            }
            Fault::Start { slot } => {
                self.slots[slot].is_start_planned = false;
                if self.slots[slot].node.is_none() {
                    self.slots[slot].node = Some(Node::start(slot, slot, &mut self.env));
                }
            }
            Fault::Pause { slot, for_us } => {
                if self.slots[slot].node.is_some() && self.may_silence(&[slot], for_us) {
                    if self.slots[slot].paused_until_us <= now_us {
                        self.slots[slot].paused_from_us = now_us;
                    }
                    self.slots[slot].paused_until_us = now_us + for_us;
                    self.slots[slot].session_sleeps_until_us = now_us + for_us + for_us % SESSION_LAG_US_MAX;
                    self.slots[slot].stood_still = true;
                    self.env.counters.pauses += 1;
                    if let Some(node) = &mut self.slots[slot].node {
                        node.stand_still(&mut self.env);
                    }
                    self.env.after(for_us, Event::Fault(Fault::Wake { slot }));
                }
            }
            Fault::Wake { slot } => self.wake(slot),
            Fault::PauseAssigner { for_us } => {
                if let Some(control) = &mut self.control {
                    self.env.counters.assigner_pauses += 1;
                    control.pause(for_us, &self.env);
                }
            }
            Fault::Cut {
                from,
                to,
                both,
                for_us,
            } => self.cut(from, to, both, for_us),
            Fault::Heal { from, to, both } => {
                self.env.heal(from, to);
                if both {
                    self.env.heal(to, from);
                }
            }
            Fault::BreakSession { slot } => {
                if self.may_silence(&[slot], 300_000) {
                    for connection in self.env.connections_of(Some(slot)) {
                        self.env.break_connection(connection);
                    }
                }
            }
            Fault::ScaleIn { slots, apart_us } => {
                self.drain(slots[0], None);
                let slot = slots[1];
                self.env
                    .after(apart_us, Event::Fault(Fault::DrainForGood { slot }));
            }
            Fault::Rack {
                slots,
                apart_us,
                for_us,
            } => {
                self.fault(Fault::Pause {
                    slot: slots[0],
                    for_us,
                });
                let slot = slots[1];
                self.env
                    .after(apart_us, Event::Fault(Fault::Pause { slot, for_us }));
            }
            Fault::Waver {
                from,
                to,
                there_us,
                lag_us,
                back_us,
                worsens,
            } => {
                let for_us = there_us.max(lag_us + back_us);
                if self.may_cut(from, to, for_us) {
                    self.env.counters.stalls += 1;
                    self.env.stall(from, to, there_us);
                    let stall = |from, to| {
                        let for_us = back_us;
                        Event::Fault(Fault::Stall { from, to, for_us })
                    };
                    self.env.after(lag_us, stall(to, from));
                    if worsens {
                        self.env.after(lag_us, stall(from, to));
                    }
                }
            }
            Fault::Stall { from, to, for_us } => self.env.stall(from, to, for_us),
            Fault::Takeover {
                slot,
                silent_us,
                after_us,
                down_us,
            } => {
                self.cut(Endpoint::Node(slot), Endpoint::Assigner, true, silent_us);
                let plan = &self.env.plan;
                let others_restart = plan.other_lease_ms != plan.assigner.lease_ms;
                let others = (0..self.slots.len()).filter(|other| others_restart && *other != slot);
                for other in others {
                    let kill = Fault::Kill {
                        slot: other,
                        back_after_us: Some(down_us),
                    };
                    self.env.after(after_us, Event::Fault(kill));
                }
                self.env
                    .after(after_us, Event::Fault(Fault::RestartAssigner { down_us }));
            }
            Fault::Set(trap) => self.env.set_trap(trap),
            Fault::Disarm => self.env.disarm(),
            Fault::Strike { deed, giver, taker } => self.strike(deed, giver, taker),
            Fault::RestartAssigner { down_us } => {
                let all: Vec<usize> = (0..self.slots.len()).collect();
                if self.may_silence(&all, down_us + 500_000)
                    && let Some(control) = self.control.take()
                {
                    self.env.counters.assigner_restarts += 1;
                    control.end(&mut self.env);
                    self.env.after(down_us, Event::Fault(Fault::StartAssigner));
                }
            }
            Fault::StartAssigner => {
                if self.control.is_none() {
                    self.control = Some(Control::start(false, &mut self.env));
                }
            }
            Fault::End => {
                self.faults_ended = true;
                self.env.heal_all();
                for client in &mut self.clients {
                    client.end_of_faults(&mut self.env);
                }
            }
        }
    }

    fn others_take_part(&self, slot: usize) -> bool {
        self.slots
            .iter()
            .enumerate()
            .any(|(other, state)| other != slot && state.takes_part())
    }

    fn drain(&mut self, slot: usize, back_after_us: Option<u64>) {
        let until_us = self.slots[slot].paused_until_us;
        if until_us > self.env.now_us {
            // A process that stands still hears of a signal when it goes on.
            let drain = match back_after_us {
                None => Fault::DrainForGood { slot },
                back_after_us => Fault::Drain { slot, back_after_us },
            };
            return self.env.put_off(until_us, Event::Fault(drain));
        }
        if !self.slots[slot].takes_part() || !self.others_take_part(slot) {
            return;
        }
        self.slots[slot].back_after_us = back_after_us;
        if let Some(node) = &mut self.slots[slot].node {
            node.drain(&mut self.env);
        }
        self.clear(slot);
    }

    fn start_elsewhere(&mut self) -> Option<usize> {
        let free = |slot: &Slot| slot.node.is_none() && !slot.is_start_planned;
        let slot = self.slots.iter().position(free)?;
        self.slots[slot].node = Some(Node::start(slot, slot, &mut self.env));
        Some(slot)
    }

    fn bounce(&mut self, cut_from: Option<usize>, is_killed: bool, leaves_after_us: u64) {
        let Some(slot) = self.start_elsewhere() else {
            return;
        };
        let leaves = if is_killed {
            let back_after_us = None;
            Fault::Kill { slot, back_after_us }
        } else {
            Fault::DrainForGood { slot }
        };
        self.env.after(leaves_after_us, Event::Fault(leaves));
        if let Some(other) = cut_from.filter(|other| *other != slot) {
            let (from, to) = (Endpoint::Node(slot), Endpoint::Node(other));
            self.cut(from, to, true, leaves_after_us + 400_000);
        }
    }

    /// Whether these nodes may be kept from the Assigner that long; if so, they are spared for a while after.
    fn may_silence(&mut self, slots: &[usize], for_us: u64) -> bool {
        let now_us = self.env.now_us;
        if self.env.plan.may_cut_off {
            return true;
        }
        if slots
            .iter()
            .any(|&slot| self.slots[slot].silence_free_us > now_us)
        {
            return false;
        }
        for &slot in slots {
            self.slots[slot].silence_free_us = now_us + for_us + SILENCE_PAUSE_US;
        }
        true
    }

    /// Whether two may be kept from each other that long, in one direction or both.
    fn may_cut(&mut self, from: Endpoint, to: Endpoint, for_us: u64) -> bool {
        let silenced = match (from, to) {
            (Endpoint::Node(slot), Endpoint::Assigner) | (Endpoint::Assigner, Endpoint::Node(slot)) => {
                Some(slot)
            }
            _ => None,
        };
        from != to && silenced.is_none_or(|slot| self.may_silence(&[slot], for_us))
    }

    /// Does what a trap was set for.
    fn strike(&mut self, deed: Deed, giver: usize, taker: usize) {
        let slot_of = |role: Role| match role {
            Role::Giver => giver,
            Role::Taker => taker,
        };
        let way = |role: Role| match role {
            Role::Giver => (Endpoint::Node(giver), Endpoint::Node(taker)),
            Role::Taker => (Endpoint::Node(taker), Endpoint::Node(giver)),
        };
        let fault = match deed {
            Deed::Kill(role, back_after_us) => Fault::Kill {
                slot: slot_of(role),
                back_after_us,
            },
            Deed::Drain(role, back_after_us) => Fault::Drain {
                slot: slot_of(role),
                back_after_us,
            },
            Deed::Pause(role, for_us) => Fault::Pause {
                slot: slot_of(role),
                for_us,
            },
            Deed::Sever(role, for_us) => Fault::Cut {
                from: Endpoint::Node(slot_of(role)),
                to: Endpoint::Assigner,
                both: true,
                for_us,
            },
            Deed::Cut { by, both, for_us } => {
                let (from, to) = way(by);
                Fault::Cut {
                    from,
                    to,
                    both,
                    for_us,
                }
            }
            Deed::Stall { by, for_us } => {
                let (from, to) = way(by);
                self.env.counters.stalls += 1;
                Fault::Stall { from, to, for_us }
            }
            Deed::BreakStreams { for_us } => {
                let (from, to) = way(Role::Giver);
                return self.env.break_streams(from, to, for_us);
            }
            Deed::RestartAssigner { down_us } => Fault::RestartAssigner { down_us },
            Deed::PauseAssigner { for_us } => Fault::PauseAssigner { for_us },
        };
        self.fault(fault);
    }

    fn cut(&mut self, from: Endpoint, to: Endpoint, both: bool, for_us: u64) {
        if !self.may_cut(from, to, for_us) {
            return;
        }
        self.env.cut(from, to);
        if both {
            self.env.cut(to, from);
        }
        self.env
            .after(for_us, Event::Fault(Fault::Heal { from, to, both }));
    }
}
