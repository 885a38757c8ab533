//! Where the `softstore` binary is that the tests start.
//!
//! Cargo tells only the tests of the package `softstore` itself where its binary is. These are in another package, so it
//! is looked for where cargo puts it: beside the directory of the test's own executable, in the same profile. If no source
//! of the packages that it is made of is newer, it is used as it stands, which is so under `cargo test --workspace`. Otherwise (`cargo test -p softstore-tests`) cargo builds it, once per run of the tests.
//! `SOFTSTORE_BINARY=/path` in the environment overrides all of that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The packages that the binary is made of.
const PACKAGES: [&str; 8] = [
    "cli", "drill", "server", "client", "proto", "store", "transfer", "sharding",
];

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

/// Whether the binary is at least as new as everything that it is built from.
fn is_up_to_date(binary: &Path) -> bool {
    let Ok(built) = binary.metadata().and_then(|metadata| metadata.modified()) else {
        return false;
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = ["Cargo.toml", "Cargo.lock"].map(|name| workspace.join(name));
    let packages = PACKAGES.map(|name| workspace.join(name));
    files.iter().chain(&packages).all(|path| is_older(path, built))
}

/// Whether a file, or every file below a folder that cargo compiles, was last changed before `moment`.
fn is_older(path: &Path, moment: SystemTime) -> bool {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        // A package's own tests, examples and benches do not go into the binary.
        return entries
            .filter(|entry| !matches!(entry.file_name().to_str(), Some("tests" | "examples" | "benches")))
            .all(|entry| is_older(&entry.path(), moment));
    }
    path.metadata()
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|changed| changed <= moment)
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
