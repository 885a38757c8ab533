//! Who owns a position, at 64, 4,096 and 65,536 slices, cut at random: our lookup against a consistent-hash ring with as many points.
//!
//! - `range_at`: what a node's assignment says of a position (owner, since, providers).
//! - `route`: what a client's clerk says (owner, address, since); this is the one on the path of every operation.
//! - `hashring`: the crate of that name, as it comes: it hashes what it is given with SipHash, then searches.
//! - `hashring_foldhash`: the same with a fast hash, so that what remains is its search.
//!
//! Positions are picked at random and read from a table, the next while the one before is looked up; so neither the
//! branch predictor nor the cache knows them. Two ways of timing: `latency` makes each position depend on the answer
//! before, `throughput` does not.

use std::hash::BuildHasher;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion};
use foldhash::fast::FixedState;
use hashring::HashRing;
use softstore_benches::assignments;
use softstore_benches::workload::Picks;
use softstore_sharding::clerk::Route;
use softstore_sharding::{Clerk, SliceKey};

const SLICE_COUNTS: [u32; 3] = [64, 4_096, 65_536];
const NODES: u32 = 16;
/// A power of two, small enough (512 KiB) that reading it costs little beside a lookup.
const POSITIONS: usize = 1 << 16;

/// A point of the ring: which node, and which of its points.
type Point = (u32, u32);

fn ring_of<S: BuildHasher>(points: u32, hasher: S) -> HashRing<Point, S> {
    let mut ring = HashRing::with_hasher(hasher);
    ring.batch_add((0..points).map(|index| (index % NODES, index / NODES)).collect());
    ring
}

/// The number of a route, so that an answer is used.
fn since_of(clerk: &Clerk, position: SliceKey) -> u64 {
    match clerk.route(position) {
        Route::To { since, .. } => since.number,
        Route::Unreachable { .. } | Route::Unknown => unreachable!("every owner lives"),
    }
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    slices: u32,
    positions: &[SliceKey],
    look_up: impl Fn(SliceKey) -> u64,
) {
    let mask = POSITIONS - 1;
    group.bench_function(
        BenchmarkId::new(format!("{name}/throughput"), slices),
        |bencher| {
            let mut next = 0;
            bencher.iter(|| {
                next = (next + 1) & mask;
                black_box(look_up(positions[next]))
            });
        },
    );
    group.bench_function(BenchmarkId::new(format!("{name}/latency"), slices), |bencher| {
        let (mut next, mut answer) = (0, 0_u64);
        bencher.iter(|| {
            // The answer's top bit is never set: the index stays as it is, but the processor must wait for the answer.
            next = (next + 1 + usize::from(answer >> 63 == 1)) & mask;
            answer = look_up(positions[next]);
        });
        black_box(answer);
    });
}

fn owner_lookup(criterion: &mut Criterion) {
    let mut picks = Picks::seeded(7);
    let positions: Vec<SliceKey> = (0..POSITIONS).map(|_| SliceKey::new(picks.number())).collect();
    let mut group = criterion.benchmark_group("owner_lookup");
    for slices in SLICE_COUNTS {
        let assignment = assignments::random(slices, NODES);
        bench(&mut group, "range_at", slices, &positions, |at| {
            assignment.range_at(at).since.number
        });
        let clerk = assignments::clerk(assignment);
        bench(&mut group, "route", slices, &positions, |at| since_of(&clerk, at));
        let ring = ring_of(slices, hashring::DefaultHashBuilder);
        bench(&mut group, "hashring", slices, &positions, |at| {
            u64::from(ring.get(&at).expect("a ring with points").0)
        });
        let ring = ring_of(slices, FixedState::default());
        bench(&mut group, "hashring_foldhash", slices, &positions, |at| {
            u64::from(ring.get(&at).expect("a ring with points").0)
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    owner_lookup(&mut criterion);
    criterion.final_summary();
}
