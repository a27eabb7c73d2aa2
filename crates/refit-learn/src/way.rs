//! How a run comes by its strategy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::settings::Strategy;

/// A strategy, or the one that advice and trials speak for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Way {
    /// By [`auto`](crate::auto()).
    Auto,
    /// By its name.
    Named(Strategy),
}

impl Way {
    /// All strategies, then `auto`.
    pub fn all() -> impl Iterator<Item = Self> {
        Strategy::ALL.into_iter().map(Self::Named).chain([Self::Auto])
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(strategy) => strategy.fmt(f),
        }
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" => Ok(Self::Auto),
            name => name.parse().map(Self::Named).map_err(|error| format!("{error}, auto")),
        }
    }
}

impl From<Way> for String {
    fn from(way: Way) -> Self {
        way.to_string()
    }
}

impl TryFrom<String> for Way {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for way in Way::all() {
            assert_eq!(way.to_string().parse(), Ok(way));
            let json = serde_json::to_string(&way).unwrap();
            assert_eq!(serde_json::from_str::<Way>(&json).unwrap(), way);
        }
        assert!("magic".parse::<Way>().unwrap_err().ends_with("scratch, auto"));
    }
}
