//! Where the `softstore` binary is that the tests start.
//!
//! Cargo tells only the tests of the package `softstore` itself where its binary is. These are in another package, so it
//! is looked for where cargo puts it: beside the directory of the test's own executable, in the same profile. Cargo
//! writes down next to it which source files went into it; if none is newer, it is used as it stands, which is so under
//! `cargo test --workspace`. Otherwise (`cargo test -p softstore-tests`) cargo builds it, once per run of the tests.
//! `SOFTSTORE_BINARY=/path` in the environment overrides all of that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The binary, built from the present sources.
///
/// # Panics
/// If it is not there and cannot be built.
pub fn softstore() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("SOFTSTORE_BINARY") {
            return given.into();
        }
        let binary = profile_dir().join(format!("softstore{}", std::env::consts::EXE_SUFFIX));
        if is_up_to_date(&binary) {
            return binary;
        }
        build()
    })
}

/// `target/<profile>`: tests run from `deps` in it.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own executable");
    let dir = test.parent().and_then(Path::parent);
    dir.expect("cargo puts tests into target/<profile>/deps")
        .to_owned()
}

/// Whether the binary is at least as new as all its sources, by the list that cargo wrote beside it.
fn is_up_to_date(binary: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let (Ok(built), Ok(list)) = (
        changed(binary),
        std::fs::read_to_string(binary.with_extension("d")),
    ) else {
        return false;
    };
    let is_older = |path: &Path| changed(path).is_ok_and(|changed: SystemTime| changed <= built);
    let Some((_, sources)) = list.split_once(": ") else {
        return false;
    };
    // The list escapes spaces in names with a backslash; such a name is not found, and cargo decides.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    is_older(&workspace)
        && sources
            .split_whitespace()
            .all(|source| is_older(Path::new(source)))
}

/// Has cargo build it, in the profile and the target directory of this test, and tell where it is.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let dir = profile_dir();
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(named) => named,
    };
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--package=softstore",
            "--bin=softstore",
            "--profile",
            profile,
        ])
        .args(["--message-format=json-render-diagnostics"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    // Cargo marks the root of its target directory with this file; with `--target` a level lies between.
    if let Some(target) = dir.ancestors().find(|above| above.join("CACHEDIR.TAG").exists()) {
        command.arg("--target-dir").arg(target);
    }
    let output = command.output().expect("cargo can be run");
    assert!(
        output.status.success(),
        "cargo could not build the softstore binary"
    );
    let told = String::from_utf8_lossy(&output.stdout);
    let messages = told
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let binary = messages
        .filter(|message| message["target"]["name"] == "softstore")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    binary.expect("cargo names what it built")
}
