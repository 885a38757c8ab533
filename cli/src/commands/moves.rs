//! Moves as `softstore status --moves` and `softstore plan` show them.

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use softstore_proto::v1::{Change, Move};

/// Most moves of one change that are shown as text; `--json` has all that the Assigner tells.
const MOVES_SHOWN: usize = 20;

/// A change as `--json` prints it. Stable.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct ChangeJson {
    generation: String,
    unix_ms: u64,
    /// first, membership or balance.
    cause: String,
    moves_total: u64,
    predicted_bytes: f64,
    /// What the takers have pulled since, keys and values.
    pulled_bytes: u64,
    pulled_entries: u64,
    /// At most 256.
    moves: Vec<MoveJson>,
}

/// A move as `--json` prints it. Stable.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct MoveJson {
    /// First and last position, 16 hexadecimal digits each.
    low: String,
    last: String,
    /// Null: nobody had it, or nobody gives anything up.
    from: Option<String>,
    /// Null: nobody takes it.
    to: Option<String>,
    reason: String,
    /// Operations per second less above nodes' fair shares.
    gain: f64,
    cost_bytes: f64,
    cost_misses: f64,
    /// completed, gave up, cold, overtaken, nothing to hand over; null: under way, or only planned.
    end: Option<String>,
    took_ms: u64,
}

impl From<Change> for ChangeJson {
    fn from(change: Change) -> Self {
        let generation = change.generation.unwrap_or_default();
        Self {
            generation: format!("{}.{:x}", generation.number, generation.assigner),
            unix_ms: change.unix_ms,
            cause: change.cause,
            moves_total: change.moves_total,
            predicted_bytes: change.predicted_bytes,
            pulled_bytes: change.pulled_bytes,
            pulled_entries: change.pulled_entries,
            moves: change.moves.into_iter().map(MoveJson::from).collect(),
        }
    }
}

impl From<Move> for MoveJson {
    fn from(change: Move) -> Self {
        let slice = change.slice.unwrap_or_default();
        let some = |text: String| (!text.is_empty()).then_some(text);
        Self {
            low: format!("{:016x}", slice.low),
            last: format!("{:016x}", slice.high.wrapping_sub(1)),
            from: some(change.from),
            to: some(change.to),
            reason: change.reason,
            gain: change.gain,
            cost_bytes: change.cost_bytes,
            cost_misses: change.cost_misses,
            end: some(change.end),
            took_ms: change.took_ms,
        }
    }
}

/// A change for people: what it was for and cost, and its moves below.
pub(crate) fn change_text(change: &ChangeJson, now_unix_ms: u64) -> String {
    let ago_s = now_unix_ms.saturating_sub(change.unix_ms) / 1_000;
    format!(
        "{} ({}, {ago_s} s ago): {} moves, expected {}, pulled {} in {} entries\n{}\n",
        change.generation,
        change.cause,
        change.moves_total,
        bytes(change.predicted_bytes),
        ByteSize(change.pulled_bytes).display().iec(),
        change.pulled_entries,
        table(&change.moves, change.moves_total, true)
    )
}

/// Moves as a table.
pub(crate) fn table(moves: &[MoveJson], total: u64, have_ends: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let mut header = vec!["  REASON", "FROM", "TO", "GAIN", "BYTES", "MISSES", "RANGE"];
    if have_ends {
        header.extend(["END", "MS"]);
    }
    table.set_header(header);
    for change in moves.iter().take(MOVES_SHOWN) {
        let name = |node: &Option<String>| node.clone().unwrap_or_else(|| "-".to_owned());
        let mut row = vec![
            format!("  {}", change.reason),
            name(&change.from),
            name(&change.to),
            format!("{:.0}", change.gain),
            bytes(change.cost_bytes),
            format!("{:.0}", change.cost_misses),
            format!("{}-{}", change.low, change.last),
        ];
        if have_ends {
            row.push(change.end.clone().unwrap_or_else(|| "under way".to_owned()));
            row.push(change.took_ms.to_string());
        }
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(3).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = table.trim_fmt();
    let shown = moves.len().min(MOVES_SHOWN) as u64;
    if total > shown {
        text.push_str(&format!("\n  and {} more (--json has up to 256)", total - shown));
    }
    text
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an amount of bytes for people"
)]
pub(crate) fn bytes(bytes: f64) -> String {
    ByteSize(bytes.max(0.0) as u64).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use softstore_proto::v1::{Generation, Slice};

    fn change() -> ChangeJson {
        let change = Move {
            slice: Some(Slice {
                low: 0x10,
                high: 0x20,
            }),
            from: "cache-0".into(),
            to: "cache-1".into(),
            reason: "over tolerance".into(),
            gain: 1_200.4,
            cost_bytes: 2_048.0,
            cost_misses: 3.0,
            end: "completed".into(),
            took_ms: 41,
        };
        let generation = Generation {
            number: 7,
            assigner: 0xab,
        };
        ChangeJson::from(Change {
            generation: Some(generation),
            unix_ms: 10_000,
            cause: "balance".into(),
            moves: vec![change],
            moves_total: 300,
            predicted_bytes: 2_048.0,
            pulled_bytes: 1_024,
            pulled_entries: 5,
        })
    }

    #[test]
    fn a_change_says_why_what_it_was_to_cost_and_what_it_did() {
        let text = change_text(&change(), 15_500);
        for expected in [
            "7.ab (balance, 5 s ago): 300 moves, expected 2.0 KiB, pulled 1.0 KiB in 5 entries",
            "over tolerance",
            "cache-0",
            "cache-1",
            "1200",
            "0000000000000010-000000000000001f",
            "completed",
            "41",
            "and 299 more",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
    }

    #[test]
    fn json_has_null_where_nobody_is() {
        let mut held = change();
        held.moves[0].end = None;
        held.moves.push(MoveJson::from(Move::default()));
        let line = serde_json::to_string(&held).unwrap();
        assert!(
            line.contains(r#""from":"cache-0","to":"cache-1","reason":"over tolerance""#),
            "{line}"
        );
        assert!(
            line.contains(r#""from":null,"to":null"#) && line.contains(r#""end":null"#),
            "{line}"
        );
    }
}
