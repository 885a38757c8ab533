//! [`Spells`]: when a condition began, whether it has been told, and when it has to be told again. Pure: moments go in, tellings
//! come out.

use std::collections::BTreeMap;

use softstore_sharding::Timestamp;

use super::kind::{End, Kind};

/// Between two lines about a condition that lasts, in milliseconds.
pub const REMIND_MS: u64 = 60_000;

/// Lines of one kind within a minute.
pub(super) const LINES_PER_MINUTE: u32 = 12;

/// Of one kind, so many are told apart (of different nodes, say). What comes then is told as one.
const ABOUT_MAX: usize = 32;

/// Bytes of the words that say why: some come from others.
const WHY_BYTES_MAX: usize = 256;

const MINUTE_MS: u64 = 60_000;

/// The conditions of one process.
#[derive(Debug, Default)]
pub(super) struct Spells {
    spells: BTreeMap<(Kind, String), Spell>,
    lines: BTreeMap<Kind, Lines>,
}

/// One condition, from its beginning to its end.
#[derive(Debug)]
struct Spell {
    began: Timestamp,
    noticed: Timestamp,
    ended: Option<Timestamp>,
    times: u64,
    why: String,
    /// When it was told last; `None`: not yet.
    told: Option<Timestamp>,
}

/// The lines that a kind had within the present minute.
#[derive(Debug)]
struct Lines {
    since: Timestamp,
    count: u32,
    left_out: u64,
}

/// A condition that is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct On {
    /// Which.
    pub kind: Kind,
    /// With whom; empty if that says nothing.
    pub about: String,
    /// Why, as it was noticed last.
    pub why: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// How many times it was noticed.
    pub times: u64,
}

impl std::fmt::Display for On {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, words, seconds) = (self.kind.name(), self.kind.words(), self.for_ms / 1_000);
        write!(text, "{name}: {words}, for {seconds} s")?;
        for more in [&self.about, &self.why] {
            if !more.is_empty() {
                write!(text, "; {more}")?;
            }
        }
        Ok(())
    }
}

/// What is to be said of a condition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Telling {
    pub(super) kind: Kind,
    pub(super) about: String,
    pub(super) why: String,
    pub(super) stage: Stage,
    /// How many times it was noticed.
    pub(super) times: u64,
    /// Lines of this kind that were left out before this one.
    pub(super) left_out: u64,
}

/// Where in its course a condition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Begins,
    Lasts { for_ms: u64 },
    Ends { after_ms: u64 },
}

impl Spells {
    /// It is so. Whether that is new.
    pub(super) fn observe(
        &mut self,
        kind: Kind,
        about: &str,
        times: u64,
        why: String,
        now: Timestamp,
    ) -> bool {
        let about = self.about(kind, about);
        let why = shortened(why);
        let key = (kind, about);
        if let Some(spell) = self.spells.get_mut(&key).filter(|spell| spell.ended.is_none()) {
            spell.noticed = now;
            spell.times += times;
            spell.why = why;
            return spell.told.is_none() && is_due(kind, spell, now);
        }
        let spell = Spell {
            began: now,
            noticed: now,
            ended: None,
            times,
            why,
            told: None,
        };
        // One that has ended and is not told yet gives way: it goes on, as far as anybody knows.
        let before = self.spells.remove(&key).filter(|before| before.told.is_some());
        let spell = match before {
            Some(before) => Spell {
                ended: None,
                noticed: now,
                times: before.times + times,
                why: spell.why,
                ..before
            },
            None => spell,
        };
        self.spells.insert(key, spell);
        true
    }

    /// It is so no more. Whether somebody thought that it was.
    pub(super) fn clear(&mut self, kind: Kind, about: &str, now: Timestamp) -> bool {
        let about = self.about(kind, about);
        let spell = self.spells.get_mut(&(kind, about));
        let is_on = spell.filter(|spell| spell.ended.is_none());
        is_on.map(|spell| spell.ended = Some(now)).is_some()
    }

    /// What it is about, or the word for all those that are not told apart any more.
    fn about(&self, kind: Kind, about: &str) -> String {
        let about = shortened(about.to_owned());
        let of_kind = self.spells.keys().filter(|(known, _)| *known == kind);
        if self.spells.contains_key(&(kind, about.clone())) || of_kind.count() < ABOUT_MAX {
            about
        } else {
            "others".to_owned()
        }
    }

    /// What is on, longest first.
    pub(super) fn on(&self, now: Timestamp) -> Vec<On> {
        let counted = self.spells.iter().filter(|(_, spell)| spell.told.is_some());
        let mut on: Vec<On> = counted
            .filter(|(_, spell)| spell.ended.is_none())
            .map(|((kind, about), spell)| On {
                kind: *kind,
                about: about.clone(),
                why: spell.why.clone(),
                for_ms: now.ms_since(spell.began),
                times: spell.times,
            })
            .collect();
        on.sort_by_key(|on| std::cmp::Reverse(on.for_ms));
        on
    }

    /// What is to be said by now. Forgets what is over.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Telling> {
        let mut tellings = Vec::new();
        let lines = &mut self.lines;
        self.spells.retain(|(kind, about), spell| {
            if let End::Quiet(ms) = kind.end()
                && spell.ended.is_none()
                && now.ms_since(spell.noticed) >= ms
            {
                spell.ended = Some(now);
            }
            let stage = match (spell.ended, spell.told) {
                (None, None) if is_due(*kind, spell, now) => Some(Stage::Begins),
                (None, Some(told)) if now.ms_since(told) >= REMIND_MS => Some(Stage::Lasts {
                    for_ms: now.ms_since(spell.began),
                }),
                (Some(ended), Some(_)) => Some(Stage::Ends {
                    after_ms: ended.ms_since(spell.began),
                }),
                _ => None,
            };
            if let Some(stage) = stage {
                spell.told = Some(now);
                tellings.extend(told(lines, *kind, about, spell, stage, now));
            }
            spell.ended.is_none()
        });
        tellings
    }
}

/// A line about a spell, if its kind may have another within this minute.
fn told(
    lines: &mut BTreeMap<Kind, Lines>,
    kind: Kind,
    about: &str,
    spell: &Spell,
    stage: Stage,
    now: Timestamp,
) -> Option<Telling> {
    let lines = lines.entry(kind).or_insert(Lines {
        since: now,
        count: 0,
        left_out: 0,
    });
    if now.ms_since(lines.since) >= MINUTE_MS {
        (lines.since, lines.count) = (now, 0);
    }
    if lines.count >= LINES_PER_MINUTE {
        lines.left_out += 1;
        return None;
    }
    lines.count += 1;
    Some(Telling {
        kind,
        about: about.to_owned(),
        why: spell.why.clone(),
        stage,
        times: spell.times,
        left_out: std::mem::take(&mut lines.left_out),
    })
}

/// Whether a condition that nobody was told of has lasted, and been noticed, for as long and as often as it takes.
fn is_due(kind: Kind, spell: &Spell, now: Timestamp) -> bool {
    now.ms_since(spell.began) >= kind.begins_after_ms() && spell.times >= kind.times_min()
}

/// Without what is too much, and in one line.
fn shortened(mut words: String) -> String {
    if words.len() > WHY_BYTES_MAX {
        words.truncate(words.floor_char_boundary(WHY_BYTES_MAX));
    }
    words.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000 + ms)
    }

    fn observe(spells: &mut Spells, kind: Kind, ms: u64) {
        spells.observe(kind, "x", 1, "refused".to_owned(), at(ms));
    }

    fn stages(spells: &mut Spells, ms: u64) -> Vec<Stage> {
        spells
            .tick(at(ms))
            .into_iter()
            .map(|telling| telling.stage)
            .collect()
    }

    /// Plan: a condition that is noticed every 100 ms for three minutes, and then cleared. It is said when it has lasted for as
    /// long as its kind takes, again once a minute, and when it ends.
    #[test]
    fn it_is_said_when_it_begins_again_at_a_low_rate_and_when_it_ends() {
        let mut spells = Spells::default();
        let mut told = Vec::new();
        for ms in (0..180_000).step_by(100) {
            observe(&mut spells, Kind::NoAssigner, ms);
            told.extend(stages(&mut spells, ms).into_iter().map(|stage| (ms, stage)));
        }
        let lasts = |for_ms| Stage::Lasts { for_ms };
        assert_eq!(
            told,
            [
                (1_000, Stage::Begins),
                (61_000, lasts(61_000)),
                (121_000, lasts(121_000))
            ]
        );
        assert_eq!(spells.on(at(180_000))[0].for_ms, 180_000);
        assert!(spells.clear(Kind::NoAssigner, "x", at(180_000)));
        assert_eq!(stages(&mut spells, 180_000), [Stage::Ends { after_ms: 180_000 }]);
        assert_eq!(spells.on(at(180_000)), []);
        assert_eq!(stages(&mut spells, 181_000), []);
    }

    #[test]
    fn what_is_over_before_it_counts_is_not_said() {
        let mut spells = Spells::default();
        observe(&mut spells, Kind::NoAssigner, 0);
        assert_eq!(stages(&mut spells, 900), []);
        assert!(spells.clear(Kind::NoAssigner, "x", at(900)));
        assert_eq!(stages(&mut spells, 1_500), []);
        for ms in 0..19 {
            observe(&mut spells, Kind::MessagesRefused, ms);
        }
        assert_eq!(stages(&mut spells, 20), []);
        observe(&mut spells, Kind::MessagesRefused, 21);
        assert_eq!(stages(&mut spells, 22), [Stage::Begins]);
    }

    #[test]
    fn a_flood_ends_when_it_is_quiet() {
        let mut spells = Spells::default();
        observe(&mut spells, Kind::ChunksRefused, 0);
        assert_eq!(stages(&mut spells, 0), [Stage::Begins]);
        observe(&mut spells, Kind::ChunksRefused, 29_000);
        assert_eq!(stages(&mut spells, 50_000), []);
        assert_eq!(stages(&mut spells, 59_000), [Stage::Ends { after_ms: 59_000 }]);
    }

    /// Plan: a condition begins and ends a thousand times in a minute, about a thousand peers. Its kind has so many lines and no
    /// more, other kinds have theirs, and the next minute says how many were left out.
    #[test]
    fn lines_are_bounded_under_any_flood() {
        let mut spells = Spells::default();
        let mut lines = 0;
        for ms in 0..10_000 {
            let about = format!("peer {}", ms % 1_000);
            spells.observe(Kind::LeaseOver, &about, 1, String::new(), at(ms));
            lines += stages(&mut spells, ms).len();
            spells.clear(Kind::LeaseOver, &about, at(ms));
            lines += stages(&mut spells, ms).len();
        }
        assert_eq!(lines, LINES_PER_MINUTE as usize);
        observe(&mut spells, Kind::Suspended, 10_000);
        assert_eq!(stages(&mut spells, 10_000), [Stage::Begins]);
        observe(&mut spells, Kind::LeaseOver, 60_000);
        let told = spells.tick(at(60_000));
        assert_eq!(told[0].left_out, 20_000 - u64::from(LINES_PER_MINUTE));
    }

    #[test]
    fn peers_that_are_told_apart_are_bounded_too() {
        let mut spells = Spells::default();
        for peer in 0..10 * ABOUT_MAX {
            let why = "x".repeat(10 * WHY_BYTES_MAX) + "\n";
            spells.observe(Kind::NodeRefused, &format!("peer {peer}"), 1, why, at(0));
        }
        assert_eq!(spells.spells.len(), ABOUT_MAX + 1);
        spells.tick(at(0));
        let on = spells.on(at(0));
        assert!(on.iter().all(|on| on.why.len() <= WHY_BYTES_MAX));
    }

    proptest! {
        /// Whatever is noticed and cleared, and whenever: within any minute that begins with a line, a kind has at most twice the
        /// lines of one window, and what is told to begin is told to end.
        #[test]
        fn what_begins_ends_unless_lines_were_left_out(steps in prop::collection::vec((0..3_u8, 0..30_000_u64), 1..200)) {
            let mut spells = Spells::default();
            let (mut now, mut balance, mut left_out) = (0, 0_i64, 0);
            for (what, ms) in steps {
                now += ms;
                match what {
                    0 => observe(&mut spells, Kind::LeaseOver, now),
                    1 => drop(spells.clear(Kind::LeaseOver, "x", at(now))),
                    _ => {}
                }
                for told in spells.tick(at(now)) {
                    left_out += told.left_out;
                    match told.stage {
                        Stage::Begins => balance += 1,
                        Stage::Ends { .. } => balance -= 1,
                        Stage::Lasts { .. } => {}
                    }
                }
                prop_assert!(left_out > 0 || (0..=1).contains(&balance));
            }
        }
    }
}
