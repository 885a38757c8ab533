//! The TOML file: one table per command, so that one file can serve a whole deployment. An unknown table or key is an
//! error that names it, because a misspelt limit that is silently ignored is found out in production.

use std::fs;
use std::path::{Path, PathBuf};

use eyre::{Result, WrapErr};
use serde::Deserialize;

use super::Settings;
use super::assigner::AssignerSettings;
use super::client::ClientSettings;
use super::node::NodeSettings;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the file is.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct FileArgs {
    /// A TOML file with settings; `softstore config` prints one. Flags and environment win over it.
    #[arg(long, env = "SOFTSTORE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What a file may hold.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    /// For `softstore node`.
    pub(crate) node: NodeSettings,
    /// For `softstore assigner`.
    pub(crate) assigner: AssignerSettings,
    /// For the commands that use a cluster.
    pub(crate) client: ClientSettings,
}

impl File {
    /// Reads a file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Reads a file.
    fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let bytes = fs::metadata(path)
            .wrap_err_with(|| format!("cannot read the config file {name}"))?
            .len();
        eyre::ensure!(
            bytes <= FILE_BYTES_MAX,
            "the config file {name} has {bytes} bytes; at most {FILE_BYTES_MAX} are read"
        );
        let text =
            fs::read_to_string(path).wrap_err_with(|| format!("cannot read the config file {name}"))?;
        Self::parse(&text).map_err(|error| in_one_line(&text, &error).wrap_err(format!("config file {name}")))
    }
}

/// toml's own text spans lines with a drawing; here it becomes `line N: what`.
fn in_one_line(text: &str, error: &toml::de::Error) -> eyre::Report {
    let what = error.message().trim().replace('\n', "; ");
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map(|before| before.matches('\n').count() + 1);
    match line {
        Some(line) => eyre::eyre!("line {line}: {what} (`softstore config` prints all settings)"),
        None => eyre::eyre!("{what} (`softstore config` prints all settings)"),
    }
}

/// The config that `given` (flags and environment), the file's table and the defaults make together.
pub(crate) fn layered<S: Settings>(
    given: S,
    file: &FileArgs,
    table: impl FnOnce(File) -> S,
) -> Result<S::Config> {
    let from_file = match &file.config {
        Some(path) => table(File::read(path)?),
        None => S::default(),
    };
    Ok(given.or(from_file).over(S::Config::default()))
}
