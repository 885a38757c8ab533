//! The little HTTP that reading `/metrics` and `/readyz` takes.

use std::collections::BTreeMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status code and body of a GET.
///
/// # Errors
/// If nothing listens there, or what comes back is no HTTP.
pub async fn get(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(no_http)?;
    Ok((code, body.to_owned()))
}

/// The values of all metrics at an address, by their name and labels as they stand there, without the leading
/// `softstore_`.
#[derive(Debug, Clone)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads them.
    ///
    /// # Errors
    /// If they cannot be had.
    pub async fn read(address: &str) -> io::Result<Self> {
        let (_, body) = get(address, "/metrics").await?;
        let lines = body.lines().filter_map(|line| line.rsplit_once(' '));
        let values = lines.filter_map(|(name, value)| {
            Some((name.strip_prefix("softstore_")?.to_owned(), value.parse().ok()?))
        });
        Ok(Self(values.collect()))
    }

    /// One value.
    ///
    /// # Panics
    /// If there is no such metric: a misspelt name must not read as 0.
    #[must_use]
    pub fn get(&self, name: &str) -> f64 {
        let value = self.0.get(name);
        *value.unwrap_or_else(|| panic!("no metric softstore_{name} among {:?}", self.0.keys()))
    }

    /// The sum over all labels of a metric.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = self
            .0
            .iter()
            .filter(|(found, _)| found.split('{').next() == Some(name));
        of_name.map(|(_, value)| value).sum()
    }
}
