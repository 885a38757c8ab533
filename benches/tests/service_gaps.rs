//! The program that measures gaps in service runs and reports; its figures are no verdict.

use std::process::Command;

/// Plan: one drain, one kill and one loss of the Assigner in the quicker mode. Each has gaps to report; a planned move is over
/// sooner than the failure timeout, which a killed node's slices wait for.
#[test]
fn it_reports_each_event() {
    let run = Command::new(env!("CARGO_BIN_EXE_service_gaps"))
        .args([
            "--json",
            "--ownership",
            "available",
            "--keys",
            "12",
            "--every-ms",
            "5",
        ])
        .args([
            "--entries",
            "500",
            "--drains",
            "1",
            "--kills",
            "1",
            "--assigner-kills",
            "1",
        ])
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&run.stdout);
    let errors = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{errors}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("one JSON object");
    let mode = &report["modes"][0];
    assert_eq!(mode["ownership"], "available");
    let figure = |event: &str, of: &str| mode[event][of].as_f64().expect("a figure");
    for event in ["calm", "planned", "killed", "detection", "assigner"] {
        assert!(figure(event, "gaps") > 0.5, "{event}: {mode}");
        assert!(figure(event, "max_ms") > 0.0, "{event}: {mode}");
    }
    assert!(figure("killed", "p50_ms") > 1_000.0, "{mode}");
    assert!(figure("planned", "max_ms") < figure("killed", "max_ms"), "{mode}");
}
