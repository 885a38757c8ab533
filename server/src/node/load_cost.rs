//! What it costs to measure load, as a share of a get. Not run by itself:
//!
//! ```sh
//! cargo test --release -p softstore-server --features rustix/use-libc --lib -- --ignored --nocapture --test-threads 1 cost_of_measuring
//! ```
//!
//! counts instructions, which repeat: it runs itself under valgrind's callgrind, where one node that measures its load and
//! one that does not serve the same gets from one store in turns, and fails if measuring takes more than
//! [`SHARE_MAX_PERCENT`] of a get. Where there is no valgrind it says so, and tells
//! the time only. (`rustix/use-libc`: valgrind hides the kernel's clock page, which rustix reads by itself otherwise.)
//!
//! A get is what a node does of it above HTTP/2, in batches of [`BATCH_OPS`]: the message's frame, the operation in it, its
//! position, admission, the store, metrics, and the reply as it goes out. HTTP/2 and the kernel come on top of that in a
//! node that serves, so the share is less there. To see where the instructions go, keep the profile:
//! `SOFTSTORE_LOAD_PROFILE=FILE` with the command above, then `callgrind_annotate FILE`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use prost::Message;
use softstore_proto::batch::{Assembly, OpView, STREAM_VERSIONS, Value};
use softstore_proto::v1::OpKind;
use softstore_proto::v1::cache_server::CacheServer;
use softstore_sharding::{
    Assignment, NodeEntry, NodeState as DirectoryState, RangeAssignment, Readers, Slice, SliceKey, Timestamp,
};
use softstore_store::{MokaStore, MokaStoreConfig};
use softstore_transfer::handoff::HandoffCore;
use softstore_transfer::{HandoffConfig, chunk};
use tonic::codegen::{Service, http};

use super::cache_service::CacheService;
use super::load::LoadMeter;
use super::mid_pull::{generation, peer};
use super::standing::Leave;
use super::state::NodeState;
use crate::config::NodeConfig;

/// What measuring may cost, in percent of a get's instructions.
const SHARE_MAX_PERCENT: f64 = 2.0;

const BUDGET_BYTES: u64 = 256 << 20;

/// Enough that the store is out of the processor's near caches.
const KEYS: u64 = 100_000;

const VALUE_BYTES: usize = 100;

/// Operations of a batch.
const BATCH_OPS: usize = 64;

/// In a round.
const GETS: u64 = 2_000 * BATCH_OPS as u64;

/// Rounds of which the best counts, for the time.
const ROUNDS: usize = 9;

/// Rounds that are added up, for the instructions.
const ROUNDS_COUNTED: usize = 4;

/// Says to a run that it is one under valgrind.
const RUN: &str = "SOFTSTORE_LOAD_RUN";

/// Where the profile is kept, if anywhere.
const PROFILE: &str = "SOFTSTORE_LOAD_PROFILE";

/// How gets lie over the keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gets {
    /// Evenly, over one range.
    Even,
    /// Half of them are for one key, which has a range of its own.
    Hot,
}

/// The hot key's number.
const HOT: u64 = 7;

/// Two nodes that each serve everything, from one store.
struct Pair {
    measured: Arc<NodeState>,
    unmeasured: Arc<NodeState>,
    gets: Vec<Bytes>,
}

impl Pair {
    fn new(gets: Gets) -> Self {
        let store = Arc::new(MokaStore::new(MokaStoreConfig {
            budget_bytes: BUDGET_BYTES,
            ..MokaStoreConfig::default()
        }));
        let (measured, unmeasured) = (owner(&store, gets, true), owner(&store, gets, false));
        serve(&measured, &stream_of(OpKind::Set, &(0..KEYS).collect::<Vec<_>>()));
        let picks = (0..GETS).map(|pick| match gets {
            Gets::Hot if pick % 2 == 0 => HOT,
            _ => SliceKey::of_key(&pick.to_be_bytes()).get() % KEYS,
        });
        let gets = stream_of(OpKind::Get, &picks.collect::<Vec<_>>());
        Self {
            measured,
            unmeasured,
            gets,
        }
    }

    /// Serves the gets once for each node, so that both find the same; and makes sure that they find what they ask for, and
    /// that one measures that and the other does not.
    fn check(&self) {
        for (state, is_measured) in [(&self.measured, true), (&self.unmeasured, false)] {
            let held: Vec<_> = state.core().held().collect();
            let rate_at = |ms| {
                let measured = state.load.measure(&held, Timestamp::from_ms(ms), 0, |_| 0);
                measured.rates.operations
            };
            rate_at(0);
            serve(state, &self.gets);
            assert_eq!(state.metrics.gets_and_hits(), (GETS, GETS));
            let rate = rate_at(1_000);
            assert_eq!(
                rate >= GETS as f64 * 0.99,
                is_measured,
                "{rate} operations a second"
            );
        }
    }
}

fn ranges_of(gets: Gets) -> Vec<Slice> {
    let hot = SliceKey::of_key(key(HOT).as_bytes());
    let cut = || {
        let (below, rest) = Slice::FULL.split_before(hot)?;
        let (alone, above) = rest.split_before(hot.next()?)?;
        Some(vec![below, alone, above])
    };
    match gets {
        Gets::Even => vec![Slice::FULL],
        Gets::Hot => cut().expect("it lies inside"),
    }
}

fn key(number: u64) -> String {
    format!("{number:024}")
}

/// A node that serves everything, alone.
fn owner(store: &Arc<MokaStore>, gets: Gets, is_measured: bool) -> Arc<NodeState> {
    let config = NodeConfig {
        memory_bytes: BUDGET_BYTES,
        ..NodeConfig::default()
    };
    let me = peer("n", 1);
    let core = HandoffCore::new(me.clone(), HandoffConfig::default(), chunk::CHUNK_VERSIONS);
    let (mut state, _) = NodeState::new(config, core, store.clone());
    if !is_measured {
        Arc::get_mut(&mut state).expect("nobody else has it").load = LoadMeter::off();
    }
    state.slicelet_stepped(Leave::without_end());
    let entry = NodeEntry {
        incarnation: me.life.incarnation,
        process: None,
        address: me.address.clone(),
        http_address: "".into(),
        zone: "".into(),
        state: DirectoryState::Serving,
    };
    // Neighbours that were acquired at once would be one range.
    let range = |(number, slice): (usize, Slice)| {
        let range = RangeAssignment {
            owner: me.life.clone(),
            since: generation(1 + number as u64 % 2),
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        (slice, range)
    };
    let ranges = ranges_of(gets).into_iter().enumerate().map(range).collect();
    let directory = BTreeMap::from([(me.life.node.clone(), entry)]);
    let assignment = Assignment::new(generation(2), ranges, directory);
    state.adopt(&Arc::new(assignment.expect("valid")));
    state
}

/// What a client sends, frame by frame.
fn stream_of(kind: OpKind, numbers: &[u64]) -> Vec<Bytes> {
    let value = [7; VALUE_BYTES];
    let frame = |numbers: &[u64]| {
        let mut batch = Assembly::default();
        for number in numbers {
            let key = key(*number);
            let op = OpView {
                id: *number,
                kind: kind.into(),
                key: key.as_bytes(),
                deadline_ms: 1_000,
                ..OpView::default()
            };
            let value = if kind == OpKind::Set { &value[..] } else { &[] };
            batch.push_op(&op, Value::Copied(value));
        }
        let batch = batch.into_op_batch(&[generation(1)], 0, Some(STREAM_VERSIONS));
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(batch.len_bytes()).expect("a short message"));
        batch.encode(&mut frame).expect("it grows");
        frame.freeze()
    };
    numbers.chunks(BATCH_OPS).map(frame).collect()
}

/// A request's body.
struct Frames(std::vec::IntoIter<Bytes>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Serves a client's stream to its end.
fn serve(state: &Arc<NodeState>, frames: &[Bytes]) {
    let frames = frames.to_vec();
    let request = http::Request::builder()
        .method(http::Method::POST)
        .uri("/softstore.v1.Cache/Stream")
        .header("content-type", "application/grpc")
        .body(Frames(frames.into_iter()))
        .expect("a request");
    let mut context = Context::from_waker(Waker::noop());
    let calling = CacheServer::new(CacheService(state.clone())).call(request);
    let Poll::Ready(Ok(response)) = pin!(calling).poll(&mut context) else {
        panic!("a stream opens at once");
    };
    let mut body = pin!(response.into_body());
    loop {
        match body.as_mut().poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(replies) => {
                    black_box(replies);
                }
                Err(end) => {
                    let status = end
                        .trailers_ref()
                        .and_then(|trailers| trailers.get("grpc-status"));
                    assert_eq!(status.expect("it ends with a status"), "0");
                    return;
                }
            },
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            Poll::Ready(None) => panic!("it ends with a status"),
            // It lets its connection go first, between two parts of a batch.
            Poll::Pending => {}
        }
    }
}

// What is told apart in a profile.

#[inline(never)]
fn gets_measured(pair: &Pair) {
    serve(&pair.measured, &pair.gets);
}

#[inline(never)]
fn gets_unmeasured(pair: &Pair) {
    serve(&pair.unmeasured, &pair.gets);
}

/// Runs this under callgrind.
fn profile(file: &Path, gets: Gets) {
    let test = match gets {
        Gets::Even => "node::load_cost::cost_of_measuring",
        Gets::Hot => "node::load_cost::cost_of_measuring_a_hot_key",
    };
    let this = std::env::current_exe().expect("this binary");
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=*load_cost::gets_*")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(this)
        .args(["--ignored", "--exact", test])
        .env(RUN, "1");
    let output = command.output().expect("valgrind runs");
    assert!(
        output.status.success(),
        "is this built with --features rustix/use-libc?\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Instructions of a function and all that it calls, per get, from what `callgrind_annotate` says.
fn instructions_of(function: &str, annotated: &str) -> f64 {
    let line = annotated.lines().find(|line| line.contains(function));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.map(|number| number.replace(',', ""));
    let collected: f64 = number.expect("it is in the profile").parse().expect("a number");
    collected / (GETS * ROUNDS_COUNTED as u64) as f64
}

/// Instructions per get, with load measured and without. `None`: there is no valgrind.
fn instructions(gets: Gets) -> Option<(f64, f64)> {
    Command::new("valgrind").arg("--version").output().ok()?;
    let kept = std::env::var_os(PROFILE).map(PathBuf::from);
    let file = kept.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("softstore-load-{gets:?}-{}", std::process::id()))
    });
    profile(&file, gets);
    let output = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--auto=no"])
        .arg(&file)
        .output()
        .expect("callgrind_annotate comes with valgrind");
    let annotated = String::from_utf8_lossy(&output.stdout);
    let counts = ["load_cost::gets_measured", "load_cost::gets_unmeasured"]
        .map(|function| instructions_of(function, &annotated));
    if kept.is_none() {
        std::fs::remove_file(file).expect("it was written");
    }
    Some(counts.into())
}

/// The least time of several rounds, in turns: whatever else the machine does only adds to it. In nanoseconds per get.
fn times(pair: &Pair) -> (f64, f64) {
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        for (least, serve) in least.iter_mut().zip([gets_measured, gets_unmeasured]) {
            let started = Instant::now();
            serve(pair);
            *least = started.elapsed().min(*least);
        }
    }
    least.map(|took| took.as_secs_f64() * 1e9 / GETS as f64).into()
}

/// The least time that measuring takes a heartbeat, with what two thousand batches have left in the tallies.
fn heartbeat(pair: &Pair) -> Duration {
    let state = &pair.measured;
    let held: Vec<_> = state.core().held().collect();
    let looks = (0..ROUNDS as u64).map(|round| {
        gets_measured(pair);
        let now = Timestamp::from_ms(2_000 + round * 500);
        let bytes_of = |part| state.store.part_stats(part).bytes;
        let started = Instant::now();
        state.load.measure(&held, now, 0, bytes_of);
        started.elapsed()
    });
    looks.min().expect("some rounds")
}

fn tell(what: &str, (with, without): (f64, f64)) -> f64 {
    let (more, percent) = (with - without, (with / without - 1.0) * 100.0);
    println!("a get takes {without:.1} {what}; with its load measured {with:.1}: {more:+.1}, {percent:+.2}%");
    percent
}

/// Plan: the same gets by two nodes, of which one measures its load. In instructions the difference is at most
/// [`SHARE_MAX_PERCENT`]; time wavers too much to be held to anything.
#[test]
#[ignore = "a measurement"]
fn cost_of_measuring() {
    cost_of(Gets::Even);
}

/// Plan: the same where half of the gets are for a key that was isolated: it is counted by its piece of a slot.
#[test]
#[ignore = "a measurement"]
fn cost_of_measuring_a_hot_key() {
    cost_of(Gets::Hot);
}

fn cost_of(gets: Gets) {
    let pair = Pair::new(gets);
    pair.check();
    if std::env::var_os(RUN).is_some() {
        for _ in 0..ROUNDS_COUNTED {
            gets_measured(&pair);
            gets_unmeasured(&pair);
        }
        return;
    }
    tell("ns", times(&pair));
    println!("once a heartbeat: {:?}", heartbeat(&pair));
    let Some(counts) = instructions(gets) else {
        println!("no valgrind here: instructions were not counted");
        return;
    };
    let percent = tell("instructions", counts);
    assert!(percent <= SHARE_MAX_PERCENT, "above {SHARE_MAX_PERCENT}%");
}
