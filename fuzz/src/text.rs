//! The small parsers: names, sizes, spans, addresses, versions, and the first bytes of a connection.
//!
//! The first byte of an input says which parser the rest is for. What parses and can be written is written and must parse
//! to the same.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use softstore_proto::limits::VALUE_BYTES_CEILING;
use softstore_sharding::{NodeId, SliceKey};

use crate::cli::announce::ClusterAnnouncement;
use crate::client::codec;
use crate::config::{NodeConfig, PullOrder, SharderKind, Transfer};
use crate::heap;
use crate::server::opening::{Opening, Protocol};
use crate::settings::written::{OrOff, Size, Versions, span};
use crate::workload::Mix;

const HEAP_FACTOR: usize = 64;

/// What a typed value may take: bincode makes room for as many elements as a length says before it reads them, up to the
/// size of the largest value, and that for each level at which lists stand in lists: here, strings in lists in a list.
const TYPED_BYTES_MAX: usize = 3 * VALUE_BYTES_CEILING + heap::BYTES_FREE;

/// How many parsers there are: the first byte of an input counts modulo this.
pub const PARSERS: u8 = 12;

/// Tries one input.
pub fn run(input: &[u8]) {
    let Some((&parser, bytes)) = input.split_first() else {
        return;
    };
    if parser % PARSERS == 1 {
        return heap::within(TYPED_BYTES_MAX, || typed(bytes));
    }
    heap::in_proportion(input, HEAP_FACTOR, || {
        match (parser % PARSERS, std::str::from_utf8(bytes)) {
            (0, _) => opening(bytes),
            (2, _) => key(bytes),
            (3, Ok(text)) => node_id(text),
            (4, Ok(text)) => written::<Size>(text),
            (5, Ok(text)) => drop(
                text.parse::<Versions>()
                    .map(String::from)
                    .map(|text| written_versions(&text)),
            ),
            (6, Ok(text)) => drop(text.parse::<OrOff<SocketAddr>>()),
            (7, Ok(text)) => drop(span(text)),
            (8, Ok(text)) => addresses(text),
            (9, Ok(text)) => choices(text),
            (10, Ok(text)) => mix(text),
            (11, Ok(text)) => announcement(text),
            _ => {}
        }
    });
}

/// What is foreign is told once, however the bytes are cut up.
fn opening(bytes: &[u8]) {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let whole = Opening::new(protocol).is_foreign(bytes);
        let mut opening = Opening::new(protocol);
        let told = bytes.chunks(3).filter(|piece| opening.is_foreign(piece)).count();
        assert_eq!(told, usize::from(whole));
    }
}

/// The client's typed values: what other applications have put there.
fn typed(bytes: &[u8]) {
    type Value = (u64, String, Vec<Option<i32>>);
    if let Ok(value) = codec::decode::<Value>(bytes) {
        let again = codec::encode(&value).expect("it fits");
        assert_eq!(codec::decode::<Value>(&again), Ok(value));
    }
    drop(codec::decode::<Vec<Vec<String>>>(bytes));
}

fn key(bytes: &[u8]) {
    assert_eq!(SliceKey::of_key(bytes), SliceKey::of_key(&bytes.to_vec()));
}

fn node_id(text: &str) {
    match NodeId::new(text) {
        Ok(id) => assert_eq!(id.as_str(), text),
        Err(error) => assert!(error.to_string().len() < 2_048),
    }
}

fn written<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str)
where
    T::Err: std::fmt::Debug + PartialEq,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>(), Ok(value));
    }
}

fn written_versions(text: &str) {
    assert_eq!(text.parse::<Versions>().map(String::from).as_deref(), Ok(text));
}

/// Addresses as operators write them, checked where a config is.
fn addresses(text: &str) {
    let config = NodeConfig {
        advertise: Some(text.to_owned()),
        memory_bytes: 1 << 30,
        ..NodeConfig::default()
    };
    drop(config.validate());
}

fn choices(text: &str) {
    written::<Transfer>(text);
    written::<PullOrder>(text);
    written::<SharderKind>(text);
}

/// The drill's mix of operations.
fn mix(text: &str) {
    if let Ok(mix) = Mix::parse(text) {
        assert!(mix.total() > 0);
        assert_eq!(Mix::parse(&mix.to_string()), Ok(mix));
    }
}

/// The line that a child process says when it listens.
fn announcement(text: &str) {
    if let Ok(said) = serde_json::from_str::<ClusterAnnouncement>(text) {
        let again = serde_json::to_string(&said).expect("what was read can be written");
        assert_eq!(
            serde_json::from_str::<ClusterAnnouncement>(&again).ok(),
            Some(said)
        );
    }
}
