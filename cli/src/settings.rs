//! Settings: what flags, environment and a TOML file may say, in one declaration per command.
//!
//! A setting is declared once, in `node.rs`, `assigner.rs` or `client.rs`: its documentation is the `--help` text and the
//! comment in the file that `softstore config` prints; its name is the flag, the file's key and, in upper case after
//! `SOFTSTORE_`, the environment variable. Its default lives in the config struct alone ([`Settings::Config`]).
//!
//! Layers, strongest first: flag, environment (clap does these two), file, default.

pub(crate) mod assigner;
pub(crate) mod client;
pub(crate) mod defaults;
pub(crate) mod file;
pub(crate) mod node;
pub(crate) mod template;
pub(crate) mod written;

/// A set of settings, each given or not.
pub(crate) trait Settings: clap::Args + serde::Serialize + Default {
    /// The plain struct that the settings fill; its `Default` holds the defaults.
    type Config: Default;
    /// The table of the file that they stand in.
    const TABLE: &'static str;
    /// Settings whose default depends on the machine: a printed file shows them commented out.
    const MACHINE_DEPENDENT: &'static [&'static str];

    /// These, and where one is not given, the `weaker` ones.
    fn or(self, weaker: Self) -> Self;
    /// `config` with what is given here put in its place.
    fn over(self, config: Self::Config) -> Self::Config;
    /// The settings that say the same as `config`.
    fn of(config: &Self::Config) -> Self;
}

/// Declares a [`Settings`] struct over the fields of a config struct.
macro_rules! settings {
    (
        $(#[$outer:meta])*
        $settings:ident of $config:ty, table $table:literal, machine dependent $machine:expr;
        $( $(#[$inner:meta])* $field:ident: $written:ty, )*
    ) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Default, PartialEq, clap::Args, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[group(skip)]
        pub(crate) struct $settings {
            $(
                $(#[$inner])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub(crate) $field: Option<$written>,
            )*
        }

        impl $crate::settings::Settings for $settings {
            type Config = $config;
            const TABLE: &'static str = $table;
            const MACHINE_DEPENDENT: &'static [&'static str] = &$machine;

            fn or(self, weaker: Self) -> Self {
                Self { $( $field: self.$field.or(weaker.$field), )* }
            }

            fn over(self, mut config: $config) -> $config {
                $(
                    if let Some(written) = self.$field {
                        config.$field = $crate::settings::written::Written::into_field(written);
                    }
                )*
                config
            }

            fn of(config: &$config) -> Self {
                Self { $( $field: $crate::settings::written::Written::of_field(&config.$field), )* }
            }
        }
    };
}
pub(crate) use settings;

#[cfg(test)]
mod tests;
