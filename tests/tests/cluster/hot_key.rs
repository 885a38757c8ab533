//! A short drill of a key that becomes hot, with real processes and the AutoSharder.

use std::process::Stdio;
use std::time::Duration;

use softstore_tests::binary;
use tokio::process::Command;
use tokio::time::timeout;

/// Two arms of some ten seconds, on a machine that does other things as well.
const DRILL_MAX: Duration = Duration::from_secs(180);

/// Plan: three nodes, a load of which one key takes nine tenths from one moment to the next, and is written 50 times a second. The cluster must
/// give the key a slice of its own and spread its reads while it is hot. How fast is not judged here, where the machine is shared with other
/// tests; that nothing is stale and nothing is wrong is.
#[tokio::test]
async fn a_key_that_becomes_hot_is_isolated_and_spread() {
    let drill = Command::new(binary::softstore())
        .args(["drill", "--scenario=hot-key", "--quiet", "--json=/dev/stdout"])
        // More than a fair share, although the AutoSharder reckons with 100 operations a second and node that are nobody's.
        .args([
            "--keys=2000",
            "--rate=3000",
            "--hot-share=0.9",
            "--hot-writes-per-s=50",
        ])
        .args(["--lead-in-s=3", "--hot-s=15", "--cool-s=0.5"])
        .args(["--max-isolated-ms=15000", "--max-spread-ms=15000", "--max-dip=5"])
        .arg("--min-hot-writes=95")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(DRILL_MAX, drill)
        .await
        .expect("it ends")
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["verdict"], "pass", "{said}{report:#}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(
        (&report["stale_reads"], &report["errors"]),
        (&0.into(), &0.into())
    );
    assert!(
        report["hot_reads"]["readers_max"].as_u64() > Some(1),
        "{report:#}"
    );
    // The verdict is that 95% of them were acknowledged.
    assert_eq!(report["hot_writes"]["writes"], 750, "{report:#}");
}
