//! Which cluster a message belongs to, and which process of a name speaks: [`ClusterName`], [`Founding`], [`ClusterId`],
//! [`ProcessId`].
//!
//! Two clusters never merge, and neither wipes the other, whichever address leads wherever: who hears the name or the
//! founding of another cluster refuses what was said before anything of it is heard or judged. Generations, lives and
//! `since`s mean something within one founding only.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest cluster name in bytes.
pub const CLUSTER_NAME_BYTES_MAX: usize = 128;

/// The name of a cluster that listens on loopback and was given none.
pub const LOCAL_CLUSTER: &str = "local";

/// A cluster's configured name. 1 to 128 bytes of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(Arc<str>);

/// Why a string is no [`ClusterName`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a cluster's name is 1 to {CLUSTER_NAME_BYTES_MAX} characters of A-Z a-z 0-9 . _ -, not {0:?}")]
pub struct ClusterNameError(String);

impl ClusterName {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// If it is empty, too long, or has a character outside the set.
    pub fn new(name: &str) -> Result<Self, ClusterNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > CLUSTER_NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(ClusterNameError(
                name.chars().take(CLUSTER_NAME_BYTES_MAX).collect(),
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name of a cluster that was given none and listens on loopback only.
    ///
    /// # Panics
    /// Never: the name is made of allowed characters.
    #[must_use]
    pub fn local() -> Self {
        Self::new(LOCAL_CLUSTER).expect("the name is made of allowed characters")
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(name: &str) -> Result<Self, ClusterNameError> {
        Self::new(name)
    }
}

impl TryFrom<String> for ClusterName {
    type Error = ClusterNameError;

    fn try_from(name: String) -> Result<Self, ClusterNameError> {
        Self::new(&name)
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cluster's founding: 128 random bits, never 0, drawn when its first assignment is made, and its own for ever. Written as
/// 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Founding(NonZeroU128);

/// Why a text or some bytes are no [`Founding`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a founding is 32 hexadecimal digits that are not all 0")]
pub struct FoundingError;

impl Founding {
    /// The founding with these bits; `None` for 0.
    #[must_use]
    pub const fn new(bits: u128) -> Option<Self> {
        match NonZeroU128::new(bits) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }

    /// Its bits.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

impl FromStr for Founding {
    type Err = FoundingError;

    fn from_str(text: &str) -> Result<Self, FoundingError> {
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(FoundingError);
        }
        let bits = u128::from_str_radix(text, 16).map_err(|_| FoundingError)?;
        Self::new(bits).ok_or(FoundingError)
    }
}

impl fmt::Display for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One process of a node, through all of its lives: random, never 0. Two processes of one name differ in it, and so do one
/// and its restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(NonZeroU64);

impl ProcessId {
    /// The process with this number; `None` for 0.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which cluster someone belongs to, as far as it knows and says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ClusterId {
    /// The configured name; none: a build that knows of no names, or a client that was given none.
    pub name: Option<ClusterName>,
    /// The founding; none: not known yet, or a build that knows of none.
    pub founding: Option<Founding>,
}

/// Someone belongs to another cluster. Nothing that it says is heard.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ForeignCluster {
    /// Its cluster has another name.
    #[error("it belongs to the cluster {theirs}, this is {ours}")]
    Name {
        /// The name here.
        ours: ClusterName,
        /// The other one.
        theirs: ClusterName,
    },
    /// Its cluster was founded another time.
    #[error("it belongs to a cluster of another founding ({theirs}, here {ours})")]
    Founding {
        /// The founding here.
        ours: Founding,
        /// The other one.
        theirs: Founding,
    },
    /// It does not say to which, and holds something; all builds here would say so.
    #[error("it does not say which cluster it belongs to, and no build is listed here that would not")]
    Unsaid,
}

impl ClusterId {
    /// Refuses who belongs to another cluster: another name, or another founding. What either side does not know or say, it
    /// cannot differ in; whether so much silence is acceptable is the caller's to decide.
    ///
    /// # Errors
    /// In what the two differ.
    pub fn admit(&self, other: &Self) -> Result<(), ForeignCluster> {
        if let (Some(ours), Some(theirs)) = (&self.name, &other.name)
            && ours != theirs
        {
            return Err(ForeignCluster::Name {
                ours: ours.clone(),
                theirs: theirs.clone(),
            });
        }
        match (self.founding, other.founding) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(ForeignCluster::Founding { ours, theirs }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}")?,
            None => f.write_str("a cluster without a name")?,
        }
        match self.founding {
            Some(founding) => write!(f, " (founding {founding})"),
            None => f.write_str(" (no founding yet)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: Option<&str>, founding: u128) -> ClusterId {
        ClusterId {
            name: name.map(|name| ClusterName::new(name).unwrap()),
            founding: Founding::new(founding),
        }
    }

    #[test]
    fn f3_another_name_or_founding_is_refused_and_silence_is_neither() {
        let ours = id(Some("a"), 1);
        assert_eq!(ours.admit(&ours), Ok(()));
        for silent in [id(None, 0), id(Some("a"), 0), id(None, 1)] {
            assert_eq!(ours.admit(&silent), Ok(()));
            assert_eq!(silent.admit(&ours), Ok(()));
        }
        assert!(matches!(
            ours.admit(&id(Some("b"), 1)),
            Err(ForeignCluster::Name { .. })
        ));
        assert!(matches!(
            ours.admit(&id(Some("a"), 2)),
            Err(ForeignCluster::Founding { .. })
        ));
    }

    #[test]
    fn names_and_foundings_are_checked() {
        assert!(ClusterName::new("prod.eu-1_x").is_ok());
        for bad in ["", "a b", "ü", &"x".repeat(CLUSTER_NAME_BYTES_MAX + 1)] {
            assert!(ClusterName::new(bad).is_err(), "{bad:?}");
        }
        let founding = Founding::new(0xab).unwrap();
        assert_eq!(founding.to_string().parse(), Ok(founding));
        for bad in [
            "",
            "ab",
            &"0".repeat(32),
            &"g".repeat(32),
            &format!("+{}", "1".repeat(31)),
        ] {
            assert_eq!(bad.parse::<Founding>(), Err(FoundingError), "{bad:?}");
        }
    }
}
