//! What the overload program must show wherever it runs: that too much is refused, early, and the rest is done. Its latencies are no
//! verdict, since other work on the machine is in them.

use std::process::Command;

/// The program's report.
fn report(arguments: &[&str]) -> serde_json::Value {
    let run = Command::new(env!("CARGO_BIN_EXE_overload"))
        .arg("--json")
        .args(arguments)
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{errors}");
    serde_json::from_str(&said).expect("one JSON object")
}

fn figure(report: &serde_json::Value, phase: &str, name: &str) -> f64 {
    report[phase][name].as_f64().expect("a number")
}

/// Plan: a second of overload with few keys, and a hand-off in its middle. Every phase must report what was offered and
/// accepted, the hand-off must have ended, and nothing may have failed in a way that says nothing.
#[test]
fn it_reports_each_phase_and_the_hand_off() {
    let report = report(&[
        "--keys=5000",
        "--value-bytes=100",
        "--overload-s=1",
        "--calm-s=1",
        "--sustainable=2000",
        "--hand-off",
    ]);
    for phase in ["before", "overload", "after"] {
        assert!(
            figure(&report, phase, "offered_per_second") > 0.0,
            "{phase}: {report}"
        );
        assert!(
            figure(&report, phase, "accepted_per_second") > 0.0,
            "{phase}: {report}"
        );
        assert!(
            figure(&report, phase, "failed_per_second") == 0.0,
            "{phase}: {report}"
        );
    }
    let outcome = report["hand_off"]["outcome"].as_str();
    assert_eq!(outcome, Some("Drained"), "{report}");
}

/// Plan: a node that has half a core sustains so much; for eight seconds twice that is offered. At least half of what was
/// sustained must be accepted, a tenth or more of all must be refused, and next to nothing may run into its deadline or fail in
/// a way that says nothing. Within three seconds after the load has dropped a second begins in which all is accepted. (With `--queue-target-ms=0` most
/// operations run into their deadline.)
#[test]
fn too_much_is_refused_and_the_rest_is_done_in_time() {
    let report = report(&["--keys=300000", "--memory-mib=48", "--overload-s=8", "--calm-s=4"]);
    let of_overload = |name| figure(&report, "overload", name);
    let offered = of_overload("offered_per_second");
    let sustained = report["sustainable_per_second"].as_f64().expect("a number");
    let accepted = of_overload("accepted_per_second");
    assert!(accepted > sustained / 2.0, "too much was refused: {report}");
    let refused = of_overload("shed_per_second");
    assert!(refused > offered / 10.0, "too little was refused: {report}");
    let lost = of_overload("late_per_second") + of_overload("unknown_per_second");
    assert!(lost < offered / 50.0, "too much was not done in time: {report}");
    assert!(report["all_accepted_ms"].is_u64(), "still refused: {report}");
}
