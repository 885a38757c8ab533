//! What a person sees while the drill runs: one live line on stderr, and a line for each thing that happens.
//!
//! Without a terminal there is no live line; the others are printed plainly. `--quiet` prints nothing.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Prints progress. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    arm: Arc<str>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (!quiet && terminal).then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix:<9} {elapsed:>4}  {wide_msg}");
            let bar = ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            plain: !quiet && !terminal,
            arm: "".into(),
        }
    }

    /// The same for an arm.
    pub(crate) fn arm(&self, name: &str) -> Self {
        if let Some(bar) = &self.bar {
            bar.reset_elapsed();
            bar.set_prefix(name.to_owned());
        }
        Self {
            arm: name.into(),
            ..self.clone()
        }
    }

    /// Something happened.
    pub(crate) fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.println(format!("{:<9} {text}", self.arm));
        } else if self.plain {
            // Who cannot take it (a full disk) does without.
            let _ = writeln!(std::io::stderr(), "{:<9} {text}", self.arm);
        }
    }

    /// The live line.
    pub(crate) fn show(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// Takes the live line away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
