//! How an input drives a state machine: a list of steps, each an operation, how much time passes, and what it is about.
//!
//! ```text
//!   operation | time | length | argument ...        one byte each but the last; length 255: two more bytes hold it
//! ```
//!
//! An argument is either the bytes of a message as it travels, or a short form: a few bytes that name nodes, slices and
//! generations out of a small world, so that messages meet each other and the states behind them are reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use softstore_sharding::{
    Assignment, Generation, Incarnation, Life, NodeEntry, NodeId, NodeState, Peer, Provider, RangeAssignment,
    Readers, Slice, SliceKey, Timestamp,
};

/// The steps of an input.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a>(&'a [u8]);

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What to do: each target has its own list.
    pub operation: u8,
    /// How much time passes before it.
    pub time: u8,
    /// What it is about.
    pub argument: Argument<'a>,
}

impl<'a> Script<'a> {
    /// The steps that an input holds.
    #[must_use]
    pub fn of(input: &'a [u8]) -> Self {
        Self(input)
    }
}

impl<'a> Iterator for Script<'a> {
    type Item = Step<'a>;

    /// The next step; a last one that is cut short has the argument that is there.
    fn next(&mut self) -> Option<Step<'a>> {
        let (&[operation, time, short], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match (short, rest.split_first_chunk()) {
            (u8::MAX, Some((long, rest))) => (usize::from(u16::from_le_bytes(*long)), rest),
            _ => (usize::from(short), rest),
        };
        let (argument, rest) = rest.split_at(length.min(rest.len()));
        self.0 = rest;
        Some(Step {
            operation,
            time,
            argument: Argument(argument),
        })
    }
}

/// Writes a step as [`Script`] reads it.
///
/// # Panics
/// If the argument has 64 KiB or more.
pub fn push_step(script: &mut Vec<u8>, operation: u8, time: u8, argument: &[u8]) {
    script.extend([operation, time]);
    match u8::try_from(argument.len()) {
        Ok(short) if short < u8::MAX => script.push(short),
        _ => {
            let long = u16::try_from(argument.len()).expect("below 64 KiB");
            script.push(u8::MAX);
            script.extend(long.to_le_bytes());
        }
    }
    script.extend(argument);
}

/// The moment after `now` that a step's time byte says. Most are short; some lie beyond every timeout, and the last two
/// are a clock that went back and one at its end.
#[must_use]
pub fn later(now: Timestamp, time: u8) -> Timestamp {
    const STEPS_MS: [u64; 14] = [
        0, 0, 1, 5, 20, 50, 100, 500, 1_000, 3_000, 5_000, 30_000, 60_000, 3_600_000,
    ];
    match time % 32 {
        30 => Timestamp::from_ms(now.as_ms().saturating_sub(1_000)),
        31 => now.plus_ms(u64::MAX - (1 << 40)),
        step => now.plus_ms(STEPS_MS[usize::from(step) % STEPS_MS.len()]),
    }
}

/// What a step is about. Short forms are read from its front; what is missing reads as 0.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a>(&'a [u8]);

impl<'a> Argument<'a> {
    /// What is left of it.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    /// Whether something is left.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.0.is_empty()
    }

    /// One of four nodes, in one of four lives.
    pub fn life(&mut self) -> Life {
        let byte = self.byte();
        life(byte % 4, byte / 4 % 4)
    }

    /// A generation of one of two Assigners.
    pub fn generation(&mut self) -> Generation {
        let byte = self.byte();
        Generation {
            number: u64::from(byte % 64),
            assigner: Incarnation::new(1 + u64::from(byte / 64 % 2)),
        }
    }

    /// A slice whose bounds are multiples of a 256th of the key space.
    pub fn slice(&mut self) -> Slice {
        let (one, other) = (self.byte(), self.byte());
        let (low, last) = (u64::from(one.min(other)), u64::from(one.max(other)));
        let last = last << 56 | ((1 << 56) - 1);
        Slice::between(SliceKey::new(low << 56), SliceKey::new(last)).unwrap_or(Slice::FULL)
    }

    /// A position.
    pub fn position(&mut self) -> SliceKey {
        SliceKey::new(u64::from(self.byte()) << 56)
    }

    /// An assignment over the small world: valid, like all that the conversions let through.
    pub fn assignment(&mut self) -> Option<Arc<Assignment>> {
        let generation = self.generation();
        let directory = self.directory();
        let count = 1 + usize::from(self.byte() % 8);
        let mut ranges = Vec::with_capacity(count);
        let mut low = SliceKey::MIN;
        for index in 0..count {
            let step = (u64::from(self.byte()) % 64 + 1) << 56;
            let range = self.range(generation);
            let high = low.get().checked_add(step).map(SliceKey::new);
            let high = high.filter(|_| index + 1 < count);
            ranges.push((Slice::new(low, high)?, range));
            match high {
                Some(high) => low = high,
                None => break,
            }
        }
        Assignment::new(generation, ranges, directory).ok().map(Arc::new)
    }

    fn directory(&mut self) -> BTreeMap<NodeId, NodeEntry> {
        let (listed, lives) = (self.byte(), self.byte());
        let entry = |index: u8| {
            let Life { node, incarnation } = life(index, lives >> (2 * index) & 3);
            let entry = NodeEntry {
                incarnation,
                process: None,
                address: format!("n{index}:1").into(),
                http_address: "".into(),
                zone: "".into(),
                state: match listed >> 4 {
                    0 => NodeState::Joining,
                    1 => NodeState::Draining,
                    _ => NodeState::Serving,
                },
            };
            (node, entry)
        };
        (0..4)
            .filter(|index| listed >> index & 1 == 1)
            .map(entry)
            .collect()
    }

    /// Who owns a range, since when, and who still may have it: providers are older, one after the other.
    pub fn range(&mut self, newest: Generation) -> RangeAssignment {
        let owner = self.life();
        let since = self.generation().min(newest);
        let mut providers = Vec::new();
        let mut before = since;
        for _ in 0..self.byte() % 4 {
            let (life, age) = (self.life(), 1 + u64::from(self.byte() % 8));
            let Some(number) = before.number.checked_sub(age) else {
                break;
            };
            before.number = number;
            providers.push(Provider { life, since: before });
        }
        let mut readers = Readers::default();
        readers.leases_out = !self.byte().is_multiple_of(2);
        readers = readers.replaced((0..self.byte() % 3).map(|_| self.life()).collect());
        RangeAssignment {
            owner,
            since,
            providers,
            readers,
            awaits: Vec::new(),
        }
    }
}

/// A life in the small world.
///
/// # Panics
/// Never: the name is made of allowed characters.
#[must_use]
pub fn life(node: u8, incarnation: u8) -> Life {
    Life {
        node: NodeId::new(&format!("n{node}")).expect("allowed characters"),
        incarnation: Incarnation::new(1 + u64::from(incarnation)),
    }
}

/// A life, with where it listens.
#[must_use]
pub fn peer(life: Life) -> Peer {
    let address = format!("{}:1", life.node).into();
    Peer { life, address }
}
