//! A client of the cluster that flags name, and how keys and values come in and go out: as bytes, whatever they are.

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use eyre::{Result, WrapErr, ensure};
use serde_json::{Map, Value};
use softstore_client::{Client, ReadPolicy};
use softstore_server::config::VALUE_BYTES_LIMIT;

use crate::control::ClusterArgs;

/// A connected client. Its reads tell a node that cannot be reached from an absent key.
pub(crate) async fn connect(cluster: &ClusterArgs) -> Result<Client> {
    let config = cluster.config()?;
    Client::builder()
        .seeds(config.seeds)
        .operation_timeout(Duration::from_millis(config.deadline_ms))
        .read_policy(ReadPolicy::Error)
        .configure(|client| client.cluster = config.cluster)
        .connect()
        .await
        .wrap_err(
            "cannot use the cluster; name some of its nodes with --seeds, or start one with `softstore dev`",
        )
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
    fn an_endless_value_is_refused() {
        assert!(bounded(std::io::repeat(7)).is_err());
        assert_eq!(bounded(&b"\x00\xff"[..]).unwrap(), b"\x00\xff");
    }
}
