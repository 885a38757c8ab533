//! The file that `softstore config` prints: every setting with its documentation and its default, from the same
//! declaration that makes flags and reads files.

use clap::{Arg, Command};
use eyre::{Result, WrapErr};

use super::Settings;

/// Width of the printed comments, in columns.
const COLUMNS: usize = 100;

/// The table of one command, commented.
pub(crate) fn table<S: Settings>() -> Result<String> {
    let defaults = toml::Table::try_from(S::of(&S::Config::default())).wrap_err("defaults as TOML")?;
    let command = S::augment_args(Command::new(S::TABLE));
    let mut text = format!("[{}]\n", S::TABLE);
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        text.push('\n');
        push_comment(&mut text, arg);
        push_setting(&mut text, arg.get_id().as_str(), &defaults, S::MACHINE_DEPENDENT);
    }
    Ok(text)
}

/// What `--help` says about it, and the flag and variable that win over the file.
fn push_comment(text: &mut String, arg: &Arg) {
    let help = arg
        .get_long_help()
        .or(arg.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let flag = arg.get_long().unwrap_or_default();
    let variable = arg
        .get_env()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    // clap takes the last stop away.
    for paragraph in [help + ".", format!("(--{flag}, {variable})")] {
        push_wrapped(text, &paragraph);
    }
}

fn push_wrapped(text: &mut String, paragraph: &str) {
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        if column > 0 && column + 1 + word.chars().count() > COLUMNS {
            text.push('\n');
            column = 0;
        }
        text.push_str(if column == 0 { "# " } else { " " });
        column += if column == 0 { 2 } else { 1 } + word.chars().count();
        text.push_str(word);
    }
    text.push('\n');
}

/// The setting at its default; commented out where it has none, or one that fits only this machine.
fn push_setting(text: &mut String, key: &str, defaults: &toml::Table, machine_dependent: &[&str]) {
    let commented = if machine_dependent.contains(&key) {
        "# "
    } else {
        ""
    };
    match defaults.get(key) {
        Some(value) => text.push_str(&format!("{commented}{key} = {value}\n")),
        None => text.push_str(&format!("# {key} = \"\"\n")),
    }
}
