//! The tests' own network: a fault that does nothing would leave every cell green.

use std::time::{Duration, Instant};

use softstore_tests::embedded::PATIENCE;
use softstore_tests::http;
use softstore_tests::network::Network;
use softstore_tests::process::{Process, softstore};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::matrix;

/// Longer than anything takes on a link that carries.
const A_WHILE: Duration = Duration::from_millis(300);

/// The links of this test: the test itself and one host.
const HERE: &str = "client";
const THERE: &str = "there";

/// Plan: a process with an HTTP port on another host. Cut in either direction, it can not even be connected to; with messages
/// held, it can, but nothing comes; with a slow link, what comes takes its time. Healed, it answers as before.
#[test]
fn links_lose_hold_and_carry_again() {
    if std::env::var_os(matrix::INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("a runtime").block_on(inside());
    }
    if matrix::can_run("links_lose_hold_and_carry_again") {
        let binary = softstore_tests::binary::softstore();
        let output = matrix::again_inside("links::links_lose_hold_and_carry_again", "links", binary);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(WENT_THROUGH), "nothing was run: {said}");
    }
}

const WENT_THROUGH: &str = "all links were tried";

async fn inside() {
    let network = Network::lay(&[HERE, THERE]);
    let address = format!("{}:7500", network.address(THERE));
    let flags = ["assigner", "--announce", "--exit-with-parent", "--insecure"].map(String::from);
    let mut flags = flags.to_vec();
    flags.push(format!("--http-listen={address}"));
    let logs = tempfile::tempdir().expect("the temporary directory is writable");
    let command = network.on(THERE, &softstore(&flags));
    let (_process, _) = Process::start_command("there", logs.path(), command).await;
    // A question that is longer than what a held link lets through.
    let question = format!("/metrics?{}", "long".repeat(64));
    let answers = async || timeout(A_WHILE, http::get(&address, &question)).await.is_ok();
    let connects = async || timeout(A_WHILE, TcpStream::connect(&address)).await.is_ok();
    let answers_at_last = async || {
        let got = timeout(PATIENCE, http::get(&address, "/metrics")).await;
        got.expect("a healed link carries").expect("it answers").1
    };

    let bytes = answers_at_last().await.len();
    for (from, to) in [(HERE, THERE), (THERE, HERE)] {
        network.cut(from, to);
        assert!(!connects().await, "{from} to {to} is cut");
        network.heal(from, to);
        answers_at_last().await;
    }
    for (from, to) in [(HERE, THERE), (THERE, HERE)] {
        network.hold_messages(from, to);
        assert!(connects().await, "connections get through from {from} to {to}");
        assert!(!answers().await, "no message does");
        network.heal(from, to);
        answers_at_last().await;
    }
    let fifth = u32::try_from(bytes / 5).expect("a short text");
    network.slow(THERE, HERE, fifth);
    // The first packets go out at once; the rest takes seconds.
    let begun = Instant::now();
    answers_at_last().await;
    assert!(begun.elapsed() > A_WHILE, "{:?}", begun.elapsed());
    network.hasten(THERE, HERE);
    assert!(answers().await, "fast again");
    eprintln!("{WENT_THROUGH}");
}
