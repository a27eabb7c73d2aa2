//! Values on the command line that are more than a word or a number.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use refit::learn::calibrate::ENOUGH;
use refit::learn::unknown::SHARE;
use refit::net::Precision;
use refit::{HeadKind, Hint, Model};

use crate::failure::Failure;
use crate::progress::Progress;

/// What a whole network computes with.
#[derive(Debug, Clone, Copy, Args)]
pub struct PrecisionArg {
    /// Type of the numbers in the network: f32, or bf16 on a CPU with AMX or AVX512-BF16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = precision)]
    pub precision: Precision,
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Jsonl,
}

impl Format {
    /// What was asked for; else a table on a terminal, and lines for a program.
    pub fn of(asked: Option<Self>) -> Self {
        let usual = if io::stdout().is_terminal() { Self::Table } else { Self::Jsonl };
        asked.unwrap_or(usual)
    }
}

/// Which images are called unknown.
#[derive(Debug, Clone, Copy, Args)]
pub struct UnknownArg {
    /// Share of images of the model's own kind that may be called unknown; a smaller one calls fewer
    /// images so, `off` none [default: 0.05]
    #[arg(long, value_name = "off|SHARE", value_parser = unknown)]
    unknown: Option<Unknowing>,
}

/// Whether images are called unknown.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unknowing {
    Off,
    Share(f64),
}

impl UnknownArg {
    /// The share that was asked for: none where nothing was said, 0 for `off`.
    pub fn asked(self) -> Option<f64> {
        self.unknown.map(|unknown| match unknown {
            Unknowing::Off => 0.0,
            Unknowing::Share(share) => share,
        })
    }

    /// The share for a model; none where nothing is to be called unknown, or the model does not tell
    /// and nobody asked.
    pub fn share(self, model: &Model, progress: &Progress) -> Result<Option<f64>, Failure> {
        let (Some(found), asked) = (&model.card.unknown, self.unknown) else {
            return match self.unknown {
                Some(Unknowing::Share(_)) => Err(Failure::mistake(
                    "--unknown needs a model that tells images of another kind, and this one does not",
                    format!(
                        "leave it out, or train the model again with at least {ENOUGH} validation images"
                    ),
                )),
                _ => Ok(None),
            };
        };
        let share = match asked {
            Some(Unknowing::Off) => return Ok(None),
            Some(Unknowing::Share(share)) => share,
            None => SHARE,
        };
        if found.threshold(share) == f32::INFINITY {
            progress.say(&format!(
                "warning: nothing is called unknown: the {} images held out cannot tell a share of \
                 {share}, but one of {:.3}",
                found.held_out(),
                1.0 / (found.held_out() as f64 + 1.0)
            ));
        }
        Ok(Some(share))
    }
}

fn unknown(text: &str) -> Result<Unknowing, String> {
    match (text, text.parse::<f64>()) {
        ("off", _) => Ok(Unknowing::Off),
        (_, Ok(share)) if share > 0.0 && share < 1.0 => Ok(Unknowing::Share(share)),
        _ => Err("write `off`, or a share between 0 and 1 such as 0.05".into()),
    }
}

/// By how many views of an image a model judges.
#[derive(Debug, Clone, Copy, Args)]
pub struct ViewsArg {
    /// Views of each image whose probabilities are averaged: 2 adds the mirror image, up to 10 the
    /// corners (5 without mirror images, where the model tells them apart)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub tta: usize,
}

/// A count of one or more.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..) => Ok(n),
        _ => Err("write a whole number, at least 1".into()),
    }
}

/// A count from one to `most`.
pub fn up_to(most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("write a whole number from 1 to {most}")),
    }
}

/// `4GiB`, `500MB`, `1.5 GB`, or `0`: in bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "write a number and a unit, such as 500MB or 4GiB; 0 keeps nothing".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "b" => 1.0,
        "" if number == 0.0 => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let bytes = number * scale;
    if bytes <= 1e18 {
        Ok(bytes.round() as u64)
    } else {
        Err("that is more than a disk holds".into())
    }
}

/// A share from 0 to below 1.
pub fn share(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "give a share from 0 to below 1, such as 0.2".to_owned())
}

/// `90s`, `10m`, `1h`, `1h30m`: in seconds.
pub fn duration(text: &str) -> Result<f64, String> {
    let wrong = || "write a number and a unit, such as 90s, 10m or 1h30m".to_owned();
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, unit) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let scale = match &unit[..end] {
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += number * scale;
        rest = &unit[end..];
    }
    if seconds > 0.0 { Ok(seconds) } else { Err(wrong()) }
}

/// `f32`, or `bf16` where this CPU has it.
pub fn precision(name: &str) -> Result<Precision, String> {
    let precision: Precision = name.parse()?;
    let how = |error: &dyn Hint| error.hint().map(|hint| format!(": {hint}")).unwrap_or_default();
    precision.check().map_err(|error| format!("{error}{}", how(&error)))?;
    Ok(precision)
}

/// `linear` or `mlp:H`.
pub fn head(text: &str) -> Result<HeadKind, String> {
    let wrong = || "write `linear`, or `mlp:H` for a hidden layer of H units".to_owned();
    match text.split_once(':') {
        None if text == "linear" => Ok(HeadKind::Linear),
        Some(("mlp", units)) => match units.parse() {
            Ok(hidden @ 1..=65_536) => Ok(HeadKind::Mlp { hidden }),
            Ok(_) => Err("a hidden layer has 1 to 65536 units".into()),
            Err(_) => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("90s"), Ok(90.0));
        assert_eq!(duration("10m"), Ok(600.0));
        assert_eq!(duration("1.5h"), Ok(5400.0));
        assert_eq!(duration("1h30m"), Ok(5400.0));
        for wrong in ["", "10", "m", "10 m", "0s", "1d", "1..5h", "-3s", "1h30"] {
            assert!(duration(wrong).unwrap_err().contains("1h30m"), "{wrong}");
        }
    }

    #[test]
    fn counts() {
        assert_eq!(at_least_one("3"), Ok(3));
        for wrong in ["", "0", "-1", "2.5", "many"] {
            assert!(at_least_one(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        assert_eq!(bytes("500MB"), Ok(500_000_000));
        assert_eq!(bytes("1.5 gb"), Ok(1_500_000_000));
        assert_eq!((bytes("0"), bytes("12B")), (Ok(0), Ok(12)));
        // A bare number is more likely a forgotten unit than bytes.
        for wrong in ["", "4", "GiB", "-1GB", "4 parsecs", "1e3MB", "1..5GB", "nanGB"] {
            assert!(bytes(wrong).unwrap_err().contains("4GiB"), "{wrong}");
        }
        assert!(bytes("9999999999TB").unwrap_err().contains("disk"));
        assert_eq!(up_to(3)("3"), Ok(3));
        assert_eq!(up_to(3)("4").unwrap_err(), "write a whole number from 1 to 3");
        assert!(up_to(3)("0").is_err());
    }

    #[test]
    fn shares() {
        assert_eq!(unknown("off"), Ok(Unknowing::Off));
        assert_eq!(unknown("0.01"), Ok(Unknowing::Share(0.01)));
        for wrong in ["", "on", "0", "1", "-0.1", "5%", "nan", "inf"] {
            assert!(unknown(wrong).unwrap_err().contains("such as 0.05"), "{wrong}");
        }
    }

    #[test]
    fn shares_of_what_is_left_out() {
        assert_eq!((share("0"), share("0.25")), (Ok(0.0), Ok(0.25)));
        for wrong in ["", "1", "-0.1", "nan", "20%"] {
            assert!(share(wrong).unwrap_err().contains("such as 0.2"), "{wrong}");
        }
    }

    #[test]
    fn precisions() {
        assert_eq!(precision("f32"), Ok(Precision::F32));
        match precision("bf16") {
            Ok(found) => assert_eq!(found, Precision::Bf16),
            Err(said) => assert!(said.ends_with("use --precision f32"), "{said}"),
        }
        for wrong in ["", "f16", "BF16", "32"] {
            assert!(precision(wrong).unwrap_err().contains("`bf16`"), "{wrong}");
        }
    }

    #[test]
    fn heads() {
        assert_eq!(head("linear"), Ok(HeadKind::Linear));
        assert_eq!(head("mlp:256"), Ok(HeadKind::Mlp { hidden: 256 }));
        for wrong in ["", "mlp", "mlp:", "mlp:x", "mlp:0", "cubic", "linear:3", "mlp:-1"] {
            assert!(head(wrong).is_err(), "{wrong}");
        }
    }
}
