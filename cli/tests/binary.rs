//! The binary as an operator sees it: layers of settings, refusals, help, exit codes. Nothing here starts a server that
//! listens: what is looked at is decided before.

use std::process::{Command, Output};

/// Runs `softstore` with these arguments and variables, and no others of ours.
fn softstore(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_softstore"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SOFTSTORE_")) {
        command.env_remove(name);
    }
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .expect("the binary was built for this test")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("errors are text")
}

/// A file in the temporary directory, removed when dropped.
struct TomlFile(std::path::PathBuf);

impl TomlFile {
    fn with(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("softstore-binary-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("the temporary directory is writable");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0
            .to_str()
            .expect("the temporary directory has a name in text")
    }
}

impl Drop for TomlFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Plan: give one setting an impossible value in the file, the environment and as a flag, each a different one; the
/// refusal names the value that won.
#[test]
fn flags_win_over_environment_over_file() {
    let file = TomlFile::with("layers", "[node]\nheartbeat_ms = 70001\n");
    let in_file = ["node", "--config", file.path()];
    let with_flag = [&in_file[..], &["--heartbeat-ms", "70003"]].concat();
    let variable = [("SOFTSTORE_HEARTBEAT_MS", "70002")];
    let winner = |arguments: &[&str], variables: &[(&str, &str)], value: &str| {
        let output = softstore(arguments, variables);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).contains(&format!("heartbeat_ms = {value}")),
            "{}",
            stderr(&output)
        );
    };
    winner(&in_file, &[], "70001");
    winner(&in_file, &variable, "70002");
    winner(&with_flag, &variable, "70003");
    // The file may also be named by the environment.
    let output = softstore(&["node"], &[("SOFTSTORE_CONFIG", file.path())]);
    assert!(
        stderr(&output).contains("heartbeat_ms = 70001"),
        "{}",
        stderr(&output)
    );
}

/// Plan: a time to live that would be over at once, and a watch that would never pause. Both are refused before anybody is asked.
#[test]
fn zero_is_no_time_to_live_and_no_interval() {
    for (arguments, told) in [
        (&["set", "k", "v", "--ttl", "0"][..], "1ms at least"),
        (&["set", "k", "v", "--ttl", "0ms"], "1ms at least"),
        (&["status", "--watch", "0"], "every 100ms at most"),
        (&["status", "--watch", "99ms"], "every 100ms at most"),
    ] {
        let output = softstore(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
}

#[test]
fn listening_beyond_loopback_is_refused_with_the_reason() {
    for arguments in [
        ["node", "--listen", "0.0.0.0:0"],
        ["node", "--http-listen", "0.0.0.0:0"],
        ["assigner", "--listen", "0.0.0.0:0"],
    ] {
        let output = softstore(&arguments, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--insecure") && said.contains("TLS"), "{said}");
        assert_eq!(said.lines().count(), 1, "an error is one line: {said}");
    }
}

#[test]
fn an_unknown_key_in_the_file_is_named() {
    let file = TomlFile::with("unknown", "[assigner]\nsettle = 1\n");
    let output = softstore(&["assigner", "--config", file.path()], &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("`settle`") && said.contains("line 2") && said.contains(file.path()),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "an error is one line: {said}");
}

/// Plan: what `config` prints is fed back with one impossible value; the refusal is about that value, so all else was
/// accepted.
#[test]
fn the_printed_file_is_accepted() {
    let printed = softstore(&["config"], &[]);
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).unwrap();
    let file = TomlFile::with(
        "printed",
        &text.replace("heartbeat_ms = 500", "heartbeat_ms = 70004"),
    );
    let output = softstore(&["node", "--config", file.path()], &[]);
    assert!(
        stderr(&output).contains("heartbeat_ms = 70004"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn help_and_completions_render() {
    let help = softstore(&["--help"], &[]);
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(help.status.success());
    for expected in ["dev", "drill", "Exit codes", "SOFTSTORE_"] {
        assert!(text.contains(expected), "{expected} is missing:\n{text}");
    }
    let bash = softstore(&["completions", "bash"], &[]);
    assert!(bash.status.success() && String::from_utf8(bash.stdout).unwrap().contains("_softstore"));
}

/// Port 1 of loopback: nothing answers there.
#[test]
fn where_nothing_answers_the_error_says_what_to_do() {
    let output = softstore(&["status", "--assigner", "127.0.0.1:1"], &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("127.0.0.1:1") && said.contains("softstore dev"),
        "{said}"
    );
    let output = softstore(&["wait", "--assigner", "127.0.0.1:1", "--timeout", "0"], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}
