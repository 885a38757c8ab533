//! What the moka engine costs: nanoseconds per operation and bytes per entry. Ignored, since figures are no verdicts:
//! `cargo test -p softstore-store --release -- --ignored --nocapture cost`.

use std::time::Instant;

use softstore_sharding::{Epoch, SliceKey, Timestamp, Version, VersionCounter};
use softstore_store::conformance::Config;
use softstore_store::moka_engine::ENTRY_OVERHEAD_BYTES;
use softstore_store::{Absence, OpContext, Outcome, SetCondition};

use crate::conformance::moka_store;

const ENTRIES: u64 = 1_000_000;
const VALUE: [u8; 100] = [b'v'; 100];

/// Plan: a million entries of 24 + 100 bytes set, read evenly, overwritten; then the process's growth per entry beyond
/// key and value, to be compared with the constant that the budget counts.
#[test]
#[ignore = "a measurement, run by hand"]
fn nanoseconds_and_bytes_per_entry() {
    let before_bytes = resident_bytes();
    let store = moka_store(Config {
        budget_bytes: 4 << 30,
        ..Config::default()
    });
    let versions = VersionCounter::starting_at(Version::new(1));
    let context = OpContext {
        now: Timestamp::from_ms(1_000_000),
        epoch: Epoch::new(1),
        versions: &versions,
        pull: None,
        absence: Absence::Final,
    };
    let key = |number: u64| format!("{number:024}");
    let each = |name: &str, act: &dyn Fn(&[u8], SliceKey)| {
        let (started, started_cpu) = (Instant::now(), processor_ns());
        for number in 0..ENTRIES {
            // Spread over the whole, so that no neighbour helps.
            let key = key(number * 7_919 % ENTRIES);
            act(key.as_bytes(), SliceKey::of_key(key.as_bytes()));
        }
        println!(
            "{name}: {} ns, {} of them on the processor",
            started.elapsed().as_nanos() / u128::from(ENTRIES),
            (processor_ns() - started_cpu) / ENTRIES
        );
    };
    let set = |key: &[u8], at: SliceKey| {
        store
            .set(key, at, &VALUE, Timestamp::NEVER, SetCondition::Always, &context)
            .expect("fits");
    };
    each("making the key and position only", &|key, at| {
        std::hint::black_box((key, at));
    });
    each("set, new", &set);
    store.maintain(context.now);
    let per_entry = |bytes: u64| bytes.saturating_sub(before_bytes) / ENTRIES - 124;
    println!("bytes beyond key and value: {}", per_entry(resident_bytes()));
    each("get, hit, first of a turn", &|key, at| {
        assert!(matches!(store.get(key, at, &context), Outcome::Done(Some(_))));
    });
    each("get, hit", &|key, at| {
        assert!(matches!(store.get(key, at, &context), Outcome::Done(Some(_))));
    });
    each("read, hit", &|key, at| {
        let outcome = store.read(key, at, &context, &mut |reading| {
            std::hint::black_box(reading.value.to_vec());
        });
        assert_eq!(outcome, Outcome::Done(true));
    });
    each("get, miss", &|key, at| {
        let elsewhere = SliceKey::new(!at.get());
        assert_eq!(store.get(key, elsewhere, &context), Outcome::Done(None));
    });
    println!(
        "bytes beyond key and value, all read once: {} (the budget counts {}, {ENTRY_OVERHEAD_BYTES} of them beside the \
         entry's own allocation)",
        per_entry(resident_bytes()),
        store.stats().bytes / ENTRIES - 124
    );
    each("set, over, first of a turn", &set);
    each("set, over", &set);
    let started = Instant::now();
    let listing = store.list(
        &[softstore_store::Part {
            slice: softstore_sharding::Slice::FULL,
            epoch: context.epoch,
        }],
        context.now,
    );
    println!("list of {}: {:?}", listing.positions.len(), started.elapsed());
    let started = Instant::now();
    store.maintain(context.now);
    println!("maintain: {:?}", started.elapsed());
}

/// Nanoseconds that this thread has run (Linux): on a busy machine, waiting for the processor is not the engine's.
fn processor_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split_whitespace().next();
    first.and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// Resident memory of this process (Linux).
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
