//! Layers, the printed file, and that flags, file keys, variables and config fields stay one set of names.

use clap::Args;

use super::assigner::AssignerSettings;
use super::client::ClientSettings;
use super::file::{File, FileArgs, layered};
use super::node::NodeSettings;
use super::template::table;
use super::written::{OrOff, Size, Versions, span};
use super::*;
use crate::arguments::Arguments;
use softstore_server::config::{NodeConfig, PullOrder};

/// The settings that `arguments` give, as clap reads them (the environment included).
fn given<S: Settings>(arguments: &[&str]) -> S {
    let command = S::augment_args(clap::Command::new("test").no_binary_name(true));
    S::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
}

/// A file in the temporary directory, removed when dropped.
struct TomlFile(FileArgs);

impl TomlFile {
    fn with(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("softstore-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(FileArgs { config: Some(path) })
    }
}

impl Drop for TomlFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0.config.as_ref().unwrap());
    }
}

/// Plan: print the file, read it back; every setting must be there at its default, none missing but the hidden ones and
/// those without a default or with one that depends on the machine.
#[test]
fn the_printed_file_gives_the_defaults() {
    let text = [
        table::<NodeSettings>().unwrap(),
        table::<AssignerSettings>().unwrap(),
        table::<ClientSettings>().unwrap(),
    ]
    .join("\n");
    let file = File::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));

    let mut node = NodeSettings::of(&NodeConfig::default());
    (node.id, node.memory_bytes) = (None, None);
    assert_eq!(file.node, node);
    let mut assigner = AssignerSettings::of(&Default::default());
    assigner.founds_at_once = None;
    assert_eq!(file.assigner, assigner);
    assert_eq!(file.client, ClientSettings::of(&Default::default()));

    // What is commented out is a valid line too, once its mark is taken away.
    assert!(
        text.contains("\n# memory_bytes = ") && text.contains("\n# advertise = "),
        "{text}"
    );
    assert!(!text.contains("chunk_versions"), "a hidden setting was printed");
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let cases = [
        ("[node]\nmemory_byts = 1\n", "memory_byts", "line 2"),
        ("[nodes]\n", "nodes", "line 1"),
        ("[client]\nseeds = []\nseed = []\n", "seed", "line 3"),
    ];
    for (text, key, line) in cases {
        let file = TomlFile::with("unknown", text);
        let error = layered(NodeSettings::default(), &file.0, |file| file.node).unwrap_err();
        let said = format!("{error:#}");
        assert!(
            said.contains(&format!("`{key}`")) && said.contains(line),
            "{said}"
        );
        assert!(!said.contains('\n'), "more than one line: {said}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_an_error_with_its_line() {
    let file = TomlFile::with("kind", "[node]\n\nlisten = \"nowhere\"\n");
    let error = layered(NodeSettings::default(), &file.0, |file| file.node).unwrap_err();
    assert!(format!("{error:#}").contains("line 3"), "{error:#}");
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = TomlFile::with(
        "layers",
        "[node]\nheartbeat_ms = 111\npeek_timeout_ms = 22\nmemory_bytes = \"3MiB\"\n",
    );
    let flags = given::<NodeSettings>(&["--heartbeat-ms", "99", "--pull-order=shuffled", "--insecure"]);
    let config = layered(flags, &file.0, |file| file.node).unwrap();
    assert_eq!(config.heartbeat_ms, 99);
    assert_eq!(config.peek_timeout_ms, 22);
    assert_eq!(config.memory_bytes, 3 << 20);
    assert_eq!(config.pull_order, PullOrder::Shuffled);
    assert!(config.insecure);
    assert_eq!(config.hold_ms_max, NodeConfig::default().hold_ms_max);
}

#[test]
fn every_setting_has_the_variable_of_its_name() {
    fn check<S: Settings>() {
        for arg in S::augment_args(clap::Command::new("test")).get_arguments() {
            let variable = format!("SOFTSTORE_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(
                arg.get_env().and_then(|name| name.to_str()),
                Some(variable.as_str())
            );
            assert!(arg.get_help().is_some(), "{} is not documented", arg.get_id());
        }
    }
    check::<NodeSettings>();
    check::<AssignerSettings>();
    check::<ClientSettings>();
}

#[test]
fn what_is_not_a_value_is_refused_with_advice() {
    let refuse = |arguments: &[&str]| {
        let command = NodeSettings::augment_args(clap::Command::new("test").no_binary_name(true));
        command.try_get_matches_from(arguments).unwrap_err().to_string()
    };
    assert!(refuse(&["--memory", "lots"]).contains("512MiB"));
    assert!(refuse(&["--transfer", "maybe"]).contains("on, off"));
    assert!(refuse(&["--id", "a b"]).contains("A-Z a-z 0-9"));
    assert!(refuse(&["--http-listen", "here"]).contains("off"));
}

#[test]
fn quiet_hours_are_written_in_flags_and_files() {
    let file = TomlFile::with("quiet", "[assigner]\nbalance_quiet_hours = [\"22:00-06:00\"]\n");
    let hours =
        |settings| layered(settings, &file.0, |file| file.assigner).map(|config| config.balance_quiet_hours);
    let in_file = hours(AssignerSettings::default()).unwrap();
    assert_eq!(in_file, ["22:00-06:00".parse().unwrap()]);
    let flags = given::<AssignerSettings>(&["--balance-quiet-hours", "12:00-13:00,18:00-18:30"]);
    assert_eq!(hours(flags).unwrap().len(), 2);
    let wrong = TomlFile::with("not-quiet", "[assigner]\nbalance_quiet_hours = [\"at night\"]\n");
    let error = layered(AssignerSettings::default(), &wrong.0, |file| file.assigner).unwrap_err();
    assert!(
        format!("{error:#}").contains("write HH:MM-HH:MM in UTC"),
        "{error:#}"
    );
}

#[test]
fn written_forms_come_back() {
    for (text, bytes) in [("1GiB", 1 << 30), ("3MiB", 3 << 20), ("1000", 1000), ("0", 0)] {
        assert_eq!(text.parse(), Ok(Size(bytes)));
        assert_eq!(Size(bytes).to_string(), text);
    }
    assert_eq!("1MB".parse(), Ok(Size(1_000_000)));
    assert_eq!("off".parse(), Ok(OrOff::<u16>::Off));
    assert_eq!(String::from("2-3".parse::<Versions>().unwrap()), "2-3");
    assert!("3-2".parse::<Versions>().is_err());
    assert_eq!(span("30").unwrap(), span("30s").unwrap());
    assert_eq!(span("2m").unwrap().as_secs(), 120);
    for bad in ["", "s", "1w", "-1", "99999999999999999999", "99999999999999999d"] {
        assert!(span(bad).is_err(), "{bad}");
    }
}

#[test]
fn help_renders_for_every_command() {
    Arguments::documented().debug_assert();
    for command in Arguments::documented().get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        assert!(
            help.contains("Exit codes") || help.contains("Example"),
            "{}: {help}",
            command.get_name()
        );
    }
    let mut node = Arguments::documented().find_subcommand("node").unwrap().clone();
    let help = node.render_long_help().to_string();
    for expected in [
        "[default: 25000]",
        "[default: 8MiB]",
        "[default: 127.0.0.1:7401]",
        "SOFTSTORE_HEARTBEAT_MS",
    ] {
        assert!(help.contains(expected), "{expected} is missing:\n{help}");
    }
    assert!(!help.contains("chunk-versions"), "a hidden setting is shown");
}
