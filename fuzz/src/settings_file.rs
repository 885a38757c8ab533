//! The settings file of `softstore`: TOML, read as the binary reads it, up to the validated config of each command.
//!
//! The modules that do it belong to the binary and to the server's library; both are compiled in as they stand
//! (`settings` and `config` in this crate's root), which spares this build the server and all it depends on.

use crate::config::{AssignerConfig, NodeConfig};
use crate::heap;
use crate::settings::Settings;
use crate::settings::assigner::AssignerSettings;
use crate::settings::client::ClientSettings;
use crate::settings::file::File;
use crate::settings::node::NodeSettings;
use crate::settings::template;

/// What toml keeps of a file: spans and tables of its own before the settings are made.
const HEAP_FACTOR: usize = 2_048;

/// Tries one input. The binary reads a file's text as UTF-8 and refuses other bytes before it gets here.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    heap::in_proportion(input, HEAP_FACTOR, || {
        if let Ok(file) = File::parse(text) {
            check(file);
        }
    });
}

fn check(file: File) {
    let node = file.node.over(base());
    let _ = node.validate();
    // What was read can be written, and reads the same.
    let again = NodeSettings::of(&node).over(base());
    assert_eq!(again, node);
    let assigner = file.assigner.over(AssignerConfig::default());
    let _ = assigner.validate();
    assert_eq!(
        AssignerSettings::of(&assigner).over(AssignerConfig::default()),
        assigner
    );
    let _ = file.client.over(Default::default());
}

/// The defaults, without asking this machine for its memory each time.
fn base() -> NodeConfig {
    thread_local! {
        static BASE: NodeConfig = NodeConfig { memory_bytes: 1 << 30, ..NodeConfig::default() };
    }
    BASE.with(Clone::clone)
}

/// The file that `softstore config` prints, per table.
///
/// # Panics
/// Never: the defaults can be written.
#[must_use]
pub fn printed() -> [String; 3] {
    [
        template::table::<NodeSettings>(),
        template::table::<AssignerSettings>(),
        template::table::<ClientSettings>(),
    ]
    .map(|table| table.expect("the defaults can be written"))
}
