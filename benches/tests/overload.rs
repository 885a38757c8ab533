//! The overload program runs and reports; its figures are no verdict.

use std::process::Command;

/// Plan: a second of overload with few keys, and a hand-off in its middle. Every phase must report what was offered and
/// accepted, the hand-off must have ended, and nothing may have failed in a way that says nothing.
#[test]
fn it_reports_each_phase_and_the_hand_off() {
    let run = Command::new(env!("CARGO_BIN_EXE_overload"))
        .args(["--json", "--keys", "5000", "--value-bytes", "100"])
        .args([
            "--overload-s",
            "1",
            "--calm-s",
            "1",
            "--sustainable",
            "2000",
            "--hand-off",
        ])
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let report: serde_json::Value = serde_json::from_str(&said).expect("one JSON object");
    for phase in ["before", "overload", "after"] {
        let figure = |name: &str| report[phase][name].as_f64().expect("a number");
        assert!(figure("offered_per_second") > 0.0, "{phase}: {report}");
        assert!(figure("accepted_per_second") > 0.0, "{phase}: {report}");
        assert!(figure("failed_per_second") == 0.0, "{phase}: {report}");
    }
    assert_eq!(
        report["hand_off"]["outcome"].as_str(),
        Some("Drained"),
        "{report}"
    );
}
