//! What it costs to find a key's position: CRC16 for the slot, xxh3 for the rest. Paid once per operation by the client
//! and once by the node.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use softstore_sharding::SliceKey;

fn of_key(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slice_key");
    let plain = [8_usize, 24, 100].map(|bytes| ("plain", vec![b'k'; bytes]));
    let tagged = [24_usize, 100].map(|bytes| {
        (
            "tagged",
            [b"{user1000}.".as_slice(), &vec![b'k'; bytes - 11]].concat(),
        )
    });
    for (kind, key) in plain.into_iter().chain(tagged) {
        group.throughput(Throughput::Bytes(key.len() as u64));
        group.bench_with_input(BenchmarkId::new(kind, key.len()), &key, |bencher, key| {
            bencher.iter(|| SliceKey::of_key(black_box(key)));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    of_key(&mut criterion);
    criterion.final_summary();
}
