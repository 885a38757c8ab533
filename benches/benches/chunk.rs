//! Encoding and decoding a chunk of about 256 KiB: bincode and CRC-32 together, for small and for large values. The
//! throughput counts the bytes of the whole frame.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use softstore_benches::workload::{Key, keys, value};
use softstore_sharding::{FrequencyClass, Version};
use softstore_transfer::chunk::{ChunkBuilder, ChunkEntry, ChunkFormat, decode};

/// More entries than fit a chunk.
const KEYS: u64 = 4_000;

fn encode(keys: &[Key], value: &[u8]) -> Bytes {
    let mut builder = ChunkBuilder::new(ChunkFormat::V1);
    for (key, number) in keys.iter().zip(1..) {
        if builder.is_full() {
            break;
        }
        // A version as large as a real one, and a time to live: both are variable-length numbers.
        let version = Version::new((60_000_000_000 << 22) + number);
        let class = FrequencyClass::clamped(7);
        let entry = ChunkEntry {
            key,
            value,
            version,
            ttl_ms: Some(3_600_000),
            class,
        };
        assert!(builder.push(&entry), "a chunk that is not full takes an entry");
    }
    builder.finish()
}

fn chunk(criterion: &mut Criterion) {
    let keys = keys(KEYS);
    let mut group = criterion.benchmark_group("chunk");
    for value_bytes in [100, 16 << 10] {
        let value = value(value_bytes);
        let frame = encode(&keys, &value);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(BenchmarkId::new("encode", value_bytes), |bencher| {
            bencher.iter(|| encode(black_box(&keys), black_box(&value)));
        });
        group.bench_function(BenchmarkId::new("decode", value_bytes), |bencher| {
            bencher.iter(|| decode(black_box(&frame)).expect("as it was encoded").len());
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    chunk(&mut criterion);
    criterion.final_summary();
}
