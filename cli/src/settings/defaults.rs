//! Shows in `--help` the defaults that a config struct holds. clap cannot know them: a flag that is not given must stay
//! "not given", so that a file may say it.

use clap::Command;

use super::Settings;

/// `command`, with the default of each setting of `S` after its help.
pub(crate) fn shown<S: Settings>(command: Command) -> Command {
    let defaults = toml::Table::try_from(S::of(&S::Config::default())).unwrap_or_default();
    command.mut_args(|arg| {
        let key = arg.get_id().as_str();
        let value = defaults.get(key).filter(|_| !S::MACHINE_DEPENDENT.contains(&key));
        // A list without anything in it: the help says what is done then.
        let value = value.filter(|value| value.as_array().is_none_or(|list| !list.is_empty()));
        let (Some(value), Some(help)) = (value, arg.get_help()) else {
            return arg;
        };
        let help = format!("{help} [default: {}]", plain(value));
        arg.help(help)
    })
}

/// As one would type it: without a file's quotes.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if text.is_empty() => "empty".to_owned(),
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
