//! What people read: tables and numbers.

use std::io::{self, IsTerminal};

/// Whether stderr takes colours: a terminal that may show them (<https://no-color.org>).
pub fn colours() -> bool {
    io::stderr().is_terminal() && shows_colours()
}

/// The same for stdout.
pub fn colours_on_stdout() -> bool {
    io::stdout().is_terminal() && shows_colours()
}

fn shows_colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v: std::ffi::OsString| !v.is_empty());
    !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The side of a column on which short cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

/// Rows in columns that are as wide as their widest cell, two spaces between them.
pub fn table(sides: &[Side], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..sides.len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).zip(sides).map(|((cell, &w), side)| match side {
            Side::Left => format!("{cell:<w$}"),
            Side::Right => format!("{cell:>w$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `4.65 M`.
pub fn short(n: u64) -> String {
    let x = n as f64;
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1} k", x / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", x / 1e6),
        _ => format!("{:.2} G", x / 1e9),
    }
}

/// `18.6 MB`, of a million bytes each.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// `95.4%`.
pub fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// `95.4%`, or `-` for what is not defined.
pub fn percent_or_dash(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), percent)
}

/// `1 image`, `2 images`.
pub fn count(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// `0.3 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        let text = table(&[Side::Left, Side::Right], &[row("name", "n"), row("ä", "100")]);
        assert_eq!(text, "name    n\nä     100\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [999, 1_500, 4_652_008, 7_000_000_000].map(short),
            ["999", "1.5 k", "4.65 M", "7.00 G"]
        );
        assert_eq!(
            [0.04, 9.96, 61.0, 7300.0].map(duration),
            ["0.0 s", "10 s", "1 min 1 s", "2 h 1 min"]
        );
        assert_eq!(percent(0.954_2), "95.4%");
        assert_eq!(percent_or_dash(None), "-");
        assert_eq!(count(1, "image"), "1 image");
    }
}
