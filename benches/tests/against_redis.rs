//! The side-by-side program runs and reports; its figures are no verdict.

use std::process::Command;

/// Plan: a short comparison with few keys. It must report every load it was asked for, with an answer from each
/// contestant. Where Redis is not installed it must say that it was skipped; in CI that is a failure.
#[test]
fn it_reports_each_load_or_says_that_it_was_skipped() {
    let run = Command::new(env!("CARGO_BIN_EXE_against_redis"))
        .args(["--json", "--keys", "1000", "--rounds", "1", "--millis", "50"])
        .args(["--in-flight", "1,8", "--get-percent", "100,50"])
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let report: serde_json::Value = serde_json::from_str(&said).expect("one JSON object");
    if let Some(why) = report["skipped"].as_str() {
        assert!(why.contains("redis-server"), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let cells = report["cells"].as_array().expect("a list");
    let loads: Vec<_> = cells
        .iter()
        .map(|cell| (cell["in_flight"].as_u64(), cell["get_percent"].as_u64()))
        .collect();
    let wanted =
        [(1, 100), (8, 100), (1, 50), (8, 50)].map(|(in_flight, gets)| (Some(in_flight), Some(gets)));
    assert_eq!(loads, wanted);
    for cell in cells {
        for contestant in ["softstore", "redis", "redis_untimed"] {
            let rate = cell[contestant]["ops_per_second"].as_f64();
            assert!(rate.is_some_and(|rate| rate > 0.0), "{contestant}: {cell}");
        }
        assert!(cell["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{cell}");
    }
}
