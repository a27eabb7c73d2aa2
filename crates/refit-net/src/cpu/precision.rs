//! The numbers that frozen layers compute with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Hint;

/// The numbers that the frozen part of a network computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Brain floats: f32 with 8 bits of mantissa. Maps and weights are rounded to them, sums are
    /// taken in f32. Needs a CPU with AMX or AVX512-BF16.
    Bf16,
}

/// A precision that this machine has no instructions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this CPU has neither AMX nor AVX512-BF16, which {0} needs")]
pub struct UnsupportedPrecision(pub Precision);

impl Precision {
    /// Whether this machine computes in it faster than in f32.
    pub fn is_supported(self) -> bool {
        self == Self::F32 || refit_kernels::bf16::is_supported()
    }

    /// Refuses what [`is_supported`](Self::is_supported) denies.
    ///
    /// # Errors
    /// If this machine has no instructions for it.
    pub fn check(self) -> Result<(), UnsupportedPrecision> {
        if self.is_supported() { Ok(()) } else { Err(UnsupportedPrecision(self)) }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("networks run in `f32` or `bf16`".into()),
        }
    }
}

impl Hint for UnsupportedPrecision {
    fn hint(&self) -> Option<String> {
        Some("use --precision f32".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for precision in [Precision::F32, Precision::Bf16] {
            assert_eq!(precision.to_string().parse(), Ok(precision));
            let json = serde_json::to_string(&precision).unwrap();
            assert_eq!(json, format!("\"{precision}\""));
        }
        assert_eq!("f16".parse::<Precision>().unwrap_err(), "networks run in `f32` or `bf16`");
    }

    #[test]
    fn what_a_cpu_lacks_is_refused_with_the_way_out() {
        assert_eq!(Precision::F32.check(), Ok(()));
        assert_eq!(Precision::Bf16.check().is_ok(), Precision::Bf16.is_supported());
        let error = UnsupportedPrecision(Precision::Bf16);
        assert_eq!(error.to_string(), "this CPU has neither AMX nor AVX512-BF16, which bf16 needs");
        assert_eq!(error.hint().unwrap(), "use --precision f32");
    }
}
