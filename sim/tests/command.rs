//! The binary `simulate` as CI and people use it: its exit status, its JSON, and that the command which it prints for a failing
//! seed shows the same again.

use std::path::PathBuf;
use std::process::{Command, Output};

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    command
        .args(arguments)
        .output()
        .expect("the binary was built for this test")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Plan: a few clean seeds in each mode. Status 0, and a JSON object with exactly the agreed fields, which add up.
#[test]
fn a_clean_run_ends_with_0_and_tells_its_totals() {
    for mode in ["available", "leased"] {
        let path = scratch(&format!("{mode}.json"));
        let json = path.to_str().expect("a plain path");
        let output = simulate(&[
            "--seeds",
            "3",
            "--from",
            "11",
            "--active-ms",
            "4000",
            "--mode",
            mode,
            "--json",
            json,
        ]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = std::fs::read_to_string(&path).expect("it was written");
        let totals: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let mut fields: Vec<&str> = totals
            .as_object()
            .expect("an object")
            .keys()
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "handoffs",
                "operations",
                "seeds",
                "simulated_seconds",
                "violations",
                "wall_seconds"
            ]
        );
        assert_eq!(totals["seeds"], 3);
        assert_eq!(totals["violations"], 0);
        assert!(totals["operations"].as_u64() > Some(100));
        assert!(totals["simulated_seconds"].as_f64() > Some(12.0));
    }
}

/// The same command twice prints the same, but for the time that it took.
#[test]
fn the_same_command_prints_the_same() {
    let counters = || {
        let output = simulate(&["--seeds", "2", "--from", "5", "--trace", "--active-ms", "3000"]);
        let last = stdout(&output).lines().last().map(str::to_owned);
        (last, output.stderr)
    };
    let (first, second) = (counters(), counters());
    assert!(first.1.len() > 10_000, "the trace tells what happens");
    assert!(first == second);
}

#[test]
fn anything_but_a_verdict_ends_with_2() {
    let missing = scratch("no-such-folder").join("totals.json");
    let refused: [&[&str]; 6] = [
        &["--seeds", "many"],
        &["--mode", "both"],
        &["--no-such-flag"],
        &["--seeds", "1", "--faults", "1,x"],
        &["--seeds", "2", "--from", "18446744073709551615"],
        &[
            "--seeds",
            "1",
            "--active-ms",
            "100",
            "--json",
            missing.to_str().expect("a plain path"),
        ],
    ];
    for arguments in refused {
        let output = simulate(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

#[test]
fn planted_bugs_are_listed_and_need_their_feature() {
    let output = simulate(&["--list-plants"]);
    let (text, status) = (stdout(&output), output.status.code());
    assert_eq!(status, Some(0));
    assert!(text.lines().count() >= 25 && text.lines().any(|line| line == "no-fence-wait"));
    let output = simulate(&["--seeds", "1", "--plant", "no-such-bug"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    if cfg!(not(feature = "planted-bugs")) {
        let output = simulate(&["--seeds", "1", "--plant", "no-fence-wait"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

/// The words of a command as a shell takes them; only plain and single-quoted ones are printed.
#[cfg(feature = "planted-bugs")]
fn words(command: &str) -> Vec<String> {
    command
        .split_whitespace()
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

/// Plan: bugs are planted, of either mode; the first seed that shows one ends the run with 1, and a command is printed. It
/// names this package and binary; its arguments, as printed, show a violation of the same invariant, with a trace.
#[cfg(feature = "planted-bugs")]
#[test]
fn a_violation_ends_with_1_and_its_replay_shows_the_same() {
    for (bug, mode, seeds) in [
        ("serves-before-fence", "available", "50"),
        ("lease-from-reply", "leased", "2000"),
    ] {
        let output = simulate(&["--seeds", seeds, "--mode", mode, "--plant", bug]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = stdout(&output);
        let found = text.lines().next().expect("what was found");
        let (_, found) = found.split_once(": ").expect("seed: what");
        let (invariant, _) = found.split_once(" broken").expect("which invariant");
        let replay = text
            .lines()
            .find_map(|line| line.strip_prefix("replay: "))
            .expect("how to replay it");
        let (cargo, arguments) = replay.split_once(" -- ").expect("cargo and arguments");
        assert_eq!(
            cargo,
            "cargo run --release -p softstore-sim --features planted-bugs --bin simulate"
        );
        let arguments = words(arguments);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let again = simulate(&arguments);
        assert_eq!(again.status.code(), Some(1), "{replay}");
        assert!(
            stdout(&again).contains(&format!("{invariant} broken")),
            "{replay}"
        );
        assert!(again.stderr.len() > 1_000, "{replay} tells what happens");
    }
}
