//! A client of the cluster that flags name, and how keys and values come in and go out: as bytes, whatever they are.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use eyre::{Result, WrapErr, ensure, eyre};
use serde_json::{Map, Value};
use softstore_client::{Client, ReadError, ReadPolicy, SEEDS_MAX, Version, WriteError};
use softstore_server::config::VALUE_BYTES_LIMIT;

use crate::control::{ClusterArgs, Control};
use crate::exit::in_one_line;
use crate::settings::client::ClientConfig;
use crate::settings::written::span;

/// How long the Assigner may take to say which nodes there are, in milliseconds: without it, the first node is asked.
const DIRECTORY_MS_MAX: u64 = 1_000;

/// Where the first node of a machine listens by default.
const FIRST_NODE: &str = "127.0.0.1:7401";

/// A connected client. Its reads tell a node that cannot be reached from an absent key.
pub(crate) async fn connect(cluster: &ClusterArgs) -> Result<Client> {
    let config = cluster.config()?;
    let (seeds, help) = seeds(&config).await;
    ensure!(!seeds.is_empty(), "cannot use the cluster: {help}");
    Client::builder()
        .seeds(seeds)
        .operation_timeout(Duration::from_millis(config.deadline_ms))
        .read_policy(ReadPolicy::Error)
        .configure(|client| client.cluster = config.cluster)
        .require_cluster(true)
        .connect()
        .await
        .wrap_err_with(|| format!("cannot use the cluster: {help}"))
}

/// Whom to ask for the cluster, and what to do if none of them answers: the nodes that were named, else those that the Assigner
/// knows. If nothing was named and it does not answer, the usual first node of this machine, which may live without an
/// Assigner; beside an Assigner elsewhere, it might be another cluster's.
async fn seeds(config: &ClientConfig) -> (Vec<String>, String) {
    let named: Vec<String> = config
        .seeds
        .iter()
        .filter(|seed| !seed.is_empty())
        .cloned()
        .collect();
    if !named.is_empty() {
        let help = "name other nodes with --seeds, or leave it out and name the Assigner with --assigner";
        return (named, help.to_owned());
    }
    let assigner = &config.assigner;
    let help = match directory(assigner).await {
        Ok(mut nodes) if !nodes.is_empty() => {
            nodes.truncate(SEEDS_MAX);
            let help = format!("softstore status tells what the Assigner at {assigner} knows of its nodes");
            return (nodes, help);
        }
        Ok(_) => format!("the Assigner at {assigner} knows no node: start one (softstore node)"),
        Err(error) => in_one_line(&error),
    };
    let is_default = *assigner == ClientConfig::default().assigner;
    let seeds = if is_default {
        vec![FIRST_NODE.to_owned()]
    } else {
        Vec::new()
    };
    (
        seeds,
        format!("{help}; or name some nodes with --seeds (SOFTSTORE_SEEDS)"),
    )
}

/// Where the nodes listen that the Assigner knows.
async fn directory(assigner: &str) -> Result<Vec<String>> {
    let status = Control::within(assigner, DIRECTORY_MS_MAX)?.status().await?;
    Ok(status.nodes.into_iter().map(|node| node.address).collect())
}

/// What to do about a read that failed.
pub(crate) fn unread(error: ReadError) -> eyre::Report {
    let help = match error {
        ReadError::Unreachable(_) => Some(OUT_OF_REACH),
        ReadError::Busy => Some(OVERLOADED),
        ReadError::InvalidKey(_) | ReadError::Refused { .. } => None,
    };
    advised(error.into(), help)
}

/// What to do about a write that failed.
pub(crate) fn unwritten(error: WriteError) -> eyre::Report {
    let help = match error {
        WriteError::Unavailable(_) => Some(OUT_OF_REACH),
        WriteError::Busy => Some(OVERLOADED),
        _ => None,
    };
    advised(error.into(), help)
}

const OUT_OF_REACH: &str = "if its node died, another one takes over within seconds: try again; softstore status tells who is \
                            there and what is without an owner";

const OVERLOADED: &str = "try again; softstore status tells which node is busy";

fn advised(error: eyre::Report, help: Option<&str>) -> eyre::Report {
    match help {
        Some(help) => eyre!("{error} ({help})"),
        None => error,
    }
}

/// A time to live as typed. Zero would be over at once.
pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = span(text)?;
    if ttl.is_zero() {
        return Err(
            "an entry lives for 1ms at least; without --ttl it does not expire, and del deletes it"
                .to_owned(),
        );
    }
    Ok(ttl)
}

/// A version as typed, or as `jq` prints the string in which JSON holds it: with quotes.
pub(crate) fn version(text: &str) -> Result<Version, String> {
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let version = digits.unwrap_or(text).parse().map(Version::new);
    version.map_err(|_| "not a version: copy it from get --json".to_owned())
}

/// A version as it stands in JSON: as text, for JavaScript and jq round numbers above 2^53.
pub(crate) fn version_text(version: Version) -> String {
    version.get().to_string()
}

/// A key as typed: any bytes.
pub(crate) fn key(typed: &OsString) -> Vec<u8> {
    typed.clone().into_vec()
}

/// Where a value comes from.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ValueArgs {
    /// The value; - reads it from stdin.
    value: Option<OsString>,
    /// Read the value from a file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ValueArgs {
    /// The value's bytes.
    pub(crate) fn read(self) -> Result<Vec<u8>> {
        match (self.file, self.value) {
            (Some(path), _) => {
                let name = path.display();
                let file = std::fs::File::open(&path).wrap_err_with(|| format!("cannot open {name}"))?;
                bounded(file).wrap_err_with(|| format!("cannot take {name}"))
            }
            (None, Some(value)) if value == "-" => {
                bounded(std::io::stdin().lock()).wrap_err("cannot take stdin")
            }
            (None, value) => Ok(value.unwrap_or_default().into_vec()),
        }
    }
}

/// All of it, unless it is more than any node takes.
fn bounded(source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source
        .take(VALUE_BYTES_LIMIT as u64 + 1)
        .read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() <= VALUE_BYTES_LIMIT,
        "it is longer than {VALUE_BYTES_LIMIT} bytes, more than any node takes"
    );
    Ok(bytes)
}

/// Writes a value to stdout, byte for byte; a terminal gets a line's end after it.
pub(crate) fn print_value(value: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(value).wrap_err("cannot write to stdout")?;
    if out.is_terminal() {
        out.write_all(b"\n").wrap_err("cannot write to stdout")?;
    }
    out.flush().wrap_err("cannot write to stdout")
}

/// Puts bytes into a JSON object: under `name` if they are text, else in hexadecimal under `name_hex`.
pub(crate) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{name}_hex"), hex.into())
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_become_hexadecimal() {
        let mut object = Map::new();
        put_bytes(&mut object, "key", b"a");
        put_bytes(&mut object, "value", b"\xff\x00");
        assert_eq!(
            Value::from(object).to_string(),
            r#"{"key":"a","value_hex":"ff00"}"#
        );
    }

    #[test]
    fn a_time_to_live_is_more_than_nothing() {
        assert_eq!(ttl("1ms"), Ok(Duration::from_millis(1)));
        for zero in ["0", "0ms", "0d"] {
            assert!(ttl(zero).is_err(), "{zero}");
        }
    }

    #[test]
    fn a_version_is_read_as_json_holds_it() {
        let large = Version::new((1 << 53) + 1);
        assert_eq!(version_text(large), "9007199254740993");
        assert_eq!(version("9007199254740993"), Ok(large));
        assert_eq!(version("\"9007199254740993\""), Ok(large));
        for none in ["", "\"", "\"\"", "9007199254740993\"", "-1", "9.007e15"] {
            assert!(version(none).is_err(), "{none}");
        }
    }

    #[test]
    fn an_endless_value_is_refused() {
        assert!(bounded(std::io::repeat(7)).is_err());
        assert_eq!(bounded(&b"\x00\xff"[..]).unwrap(), b"\x00\xff");
    }
}
