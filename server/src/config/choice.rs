//! The settings that are a choice of words. Each is written in flags and files as its word in lower case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A word that is none of a setting's choices.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{word:?} is none of the choices: {choices}")]
pub struct ChoiceError {
    word: String,
    choices: &'static str,
}

/// Gives an enum its words: `FromStr`, `Display` and serde agree on them.
macro_rules! words {
    ($choice:ty { $($variant:ident = $word:literal),+ }, $all:literal) => {
        impl FromStr for $choice {
            type Err = ChoiceError;
            fn from_str(word: &str) -> Result<Self, ChoiceError> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ChoiceError { word: word.chars().take(64).collect(), choices: $all }),
                }
            }
        }
        impl fmt::Display for $choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

/// Whether entries move with their slices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// A taker pulls the giver's entries (the default).
    #[default]
    On,
    /// Only ownership moves: a taker starts cold. What a plain sharded cache does.
    Off,
}
words!(Transfer { On = "on", Off = "off" }, "on, off");

/// In which order a giver sends what it froze.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullOrder {
    /// Hottest frequency class first, across all that the taker takes (the default).
    #[default]
    Hottest,
    /// In an order that has nothing to do with heat. Exists to measure what the order is worth.
    Shuffled,
}
words!(PullOrder { Hottest = "hottest", Shuffled = "shuffled" }, "hottest, shuffled");

/// Which policy cuts the key space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SharderKind {
    /// Equal shares, moving as little as can be.
    Even,
    /// A consistent-hash ring: the static baseline.
    Ring,
    /// By load, memory and hot keys (the default).
    #[default]
    Auto,
}
words!(SharderKind { Even = "even", Ring = "ring", Auto = "auto" }, "even, ring, auto");

/// What becomes of a node that is cut off from the Assigner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// It goes on serving what it had (the default).
    #[default]
    Available,
    /// It serves under a lease that its heartbeats renew, and stops when that is over.
    Leased,
}
words!(Ownership { Available = "available", Leased = "leased" }, "available, leased");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back() {
        for order in [PullOrder::Hottest, PullOrder::Shuffled] {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        let error = "hot".parse::<PullOrder>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"hot\" is none of the choices: hottest, shuffled"
        );
    }
}
