//! Charts as SVG that takes its colours and fonts from the page.

use maud::{Markup, html};

/// The size of a plot, in its own unit: a pixel on a phone.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 210.0;
/// Around the plot: left, top, right, bottom.
const MARGIN: [f64; 4] = [42.0, 10.0, 12.0, 36.0];

/// How values become places along one side.
#[derive(Debug, Clone)]
pub struct Scale {
    from: f64,
    to: f64,
    logarithmic: bool,
    ticks: Vec<(f64, String)>,
    name: String,
}

impl Scale {
    /// From the least to the greatest of some values, widened to whole ticks.
    pub fn around(values: impl IntoIterator<Item = f64>, name: &str) -> Self {
        let (least, most) = range(values);
        let step = step((most - least).max(1e-9), 4.0);
        let (from, to) = ((least / step).floor() * step, (most / step).ceil() * step);
        let to = if to > from { to } else { from + step };
        let count = ((to - from) / step).round() as usize;
        let ticks = (0..=count).map(|i| from + i as f64 * step);
        let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
        let ticks = ticks.map(|v| (v, format!("{v:.digits$}"))).collect();
        Self { from, to, logarithmic: false, ticks, name: name.into() }
    }

    /// The same for shares, as percentages, within 0 and 1.
    pub fn shares(values: impl IntoIterator<Item = f64>, name: &str) -> Self {
        let scale = Self::around(values, name);
        let (from, to) = (scale.from.max(0.0), scale.to.min(1.0));
        let inside = |(v, _): &(f64, String)| (from - 1e-9..=to + 1e-9).contains(v);
        let whole = scale.ticks.iter().all(|(v, _)| (v * 100.0 - (v * 100.0).round()).abs() < 1e-6);
        let digits = if whole { 0 } else { 1 };
        let text = |(v, _): (f64, String)| (v, format!("{:.digits$}%", 100.0 * v));
        let ticks = scale.ticks.into_iter().filter(inside).map(text).collect();
        Self { from, to, ticks, ..Self { ticks: vec![], ..scale } }
    }

    /// All shares from 0 to 1.
    pub fn unit(name: &str) -> Self {
        Self::shares([0.0, 1.0], name)
    }

    /// Whole numbers from the first to the last, some of them named.
    pub fn whole(first: usize, last: usize, name: &str) -> Self {
        let every = step((last - first).max(1) as f64, 8.0).max(1.0) as usize;
        let mut ticks: Vec<usize> = (first..=last).filter(|i| i.is_multiple_of(every)).collect();
        if ticks.first() != Some(&first) && ticks.first().is_none_or(|t| t - first > every / 2) {
            ticks.insert(0, first);
        }
        let ticks = ticks.into_iter().map(|i| (i as f64, i.to_string())).collect();
        let to = if last > first { last as f64 } else { first as f64 + 1.0 };
        Self { from: first as f64, to, logarithmic: false, ticks, name: name.into() }
    }

    /// Decades and their halves and fifths between positive values.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>, name: &str) -> Self {
        let (least, most) = range(values.into_iter().filter(|v| *v > 0.0));
        let (from, to) = (least.max(1e-12) / 1.15, most.max(1e-12) * 1.15);
        let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
        let all = |steps: &[f64]| -> Vec<f64> {
            let decade = |d: i32| steps.iter().map(move |s| s * 10f64.powi(d));
            decades.clone().flat_map(decade).filter(|v| (from..=to).contains(v)).collect()
        };
        let fine = all(&[1.0, 2.0, 5.0]);
        let ticks = if fine.len() > 6 { all(&[1.0]) } else { fine };
        let ticks = ticks.into_iter().map(|v| (v, short(v))).collect();
        Self { from, to, logarithmic: true, ticks, name: name.into() }
    }

    /// The share of the way from the scale's beginning to its end.
    fn share(&self, value: f64) -> f64 {
        match self.logarithmic {
            true => (value.max(self.from) / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        }
    }
}

/// A number without digits that say nothing.
fn short(v: f64) -> String {
    if v > 0.0 && v < 1e-3 {
        return format!("{v:.0e}");
    }
    let digits = (-v.abs().max(1e-12).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{v:.digits$}")
}

fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let ends = |(a, b): (f64, f64), v: f64| (a.min(v), b.max(v));
    let finite = values.into_iter().filter(|v| v.is_finite());
    match finite.fold((f64::INFINITY, f64::NEG_INFINITY), ends) {
        (a, b) if a <= b => (a, b),
        _ => (0.0, 1.0),
    }
}

/// A step of 1, 2 or 5 times a power of ten that divides `span` into `parts`, or a few more.
fn step(span: f64, parts: f64) -> f64 {
    let raw = span / parts;
    let power = 10f64.powf(raw.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|r| r * power >= raw * 0.75);
    round.unwrap_or(10.0) * power
}

/// Something in a plot; `one`, `two` and `dim` are the colours.
#[derive(Debug, Clone)]
pub enum Mark {
    /// A line through points.
    Line(&'static str, Vec<(f64, f64)>),
    /// The same, dashed.
    Dashed(&'static str, Vec<(f64, f64)>),
    /// Dots with their radius.
    Dots(&'static str, Vec<(f64, f64, f64)>),
    /// Intervals along y, at x.
    Whiskers(&'static str, Vec<(f64, [f64; 2])>),
    /// Bars from the bottom: from and to along x, and the share of a quarter of the height.
    Bars(&'static str, Vec<(f64, f64, f64)>),
    /// An upright line with a word.
    At(f64, String),
}

/// A plot with a title, keys to its colours, and a sentence for those who do not see it.
pub struct Plot<'a> {
    pub title: &'a str,
    pub keys: &'a [(&'static str, &'a str)],
    pub says: String,
    pub x: Scale,
    pub y: Scale,
    pub marks: Vec<Mark>,
}

impl Plot<'_> {
    pub fn draw(&self) -> Markup {
        let [left, top, right, bottom] = MARGIN;
        let (x0, x1, y0, y1) = (left, WIDTH - right, HEIGHT - bottom, top);
        html! {
            figure.chart {
                figcaption {
                    b { (self.title) }
                    @if !self.keys.is_empty() { div.keys {
                        @for (colour, name) in self.keys {
                            span style={ "--key:var(--" (colour) ")" } { (name) }
                        }
                    } }
                }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(self.says) {
                    @for (value, text) in &self.y.ticks {
                        @let y = y0 - self.y.share(*value) * (y0 - y1);
                        path.grid d={ "M" (x0) " " (n(y)) "H" (x1) } {}
                        text x=(x0 - 6.0) y=(n(y + 3.8)) text-anchor="end" { (text) }
                    }
                    path.axis d={ "M" (x0) " " (y0) "H" (x1) } {}
                    @for (value, text) in &self.x.ticks {
                        @let x = x0 + self.x.share(*value) * (x1 - x0);
                        path.axis d={ "M" (n(x)) " " (y0) "v4" } {}
                        text x=(n(x)) y=(y0 + 16.0) text-anchor="middle" { (text) }
                    }
                    text x=(x1) y=(HEIGHT - 4.0) text-anchor="end" { (self.x.name) }
                    @for mark in &self.marks { (self.mark(mark)) }
                }
            }
        }
    }

    fn place(&self, x: f64, y: f64) -> (String, String) {
        let [left, top, right, bottom] = MARGIN;
        let across = left + self.x.share(x).clamp(0.0, 1.0) * (WIDTH - left - right);
        let down = HEIGHT - bottom - self.y.share(y).clamp(0.0, 1.0) * (HEIGHT - top - bottom);
        (n(across), n(down))
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let step = |(i, &(x, y)): (usize, &(f64, f64))| {
            let (x, y) = self.place(x, y);
            format!("{}{x} {y}", if i == 0 { 'M' } else { 'L' })
        };
        points.iter().filter(|p| p.1.is_finite()).enumerate().map(step).collect()
    }

    fn mark(&self, mark: &Mark) -> Markup {
        let (bottom, top) = (HEIGHT - MARGIN[3], MARGIN[1]);
        match mark {
            Mark::Line(colour, points) => html! {
                g class=(colour) {
                    path.line d=(self.path(points)) {}
                    // A line of one point is no line.
                    @if let [(x, y)] = points[..] {
                        @let (x, y) = self.place(x, y);
                        circle.dot cx=(x) cy=(y) r="3" {}
                    }
                }
            },
            Mark::Dashed(colour, points) => html! {
                g class=(colour) { path.line.dashed d=(self.path(points)) {} }
            },
            Mark::Dots(colour, dots) => html! {
                g class=(colour) { @for (x, y, r) in dots {
                    @let (x, y) = self.place(*x, *y);
                    circle.dot cx=(x) cy=(y) r=(n(*r)) {}
                } }
            },
            Mark::Whiskers(colour, bars) => html! {
                g class=(colour) { @for (x, [low, high]) in bars {
                    @let ((x, low), (_, high)) = (self.place(*x, *low), self.place(*x, *high));
                    path.thin d={ "M" (x) " " (low) "V" (high) } {}
                } }
            },
            Mark::Bars(colour, bars) => html! {
                g class=(colour) { @for (from, to, share) in bars {
                    @let ((left, _), (right, _)) = (self.place(*from, 0.0), self.place(*to, 0.0));
                    @let height = share * (bottom - top) / 4.0;
                    path.bar d={ "M" (left) " " (bottom) "V" (n(bottom - height)) "H" (right) "V" (bottom) "Z" } {}
                } }
            },
            Mark::At(x, text) => {
                let right = self.x.share(*x) > 0.6;
                let (x, _) = self.place(*x, 0.0);
                let (shift, anchor) = if right { (-5, "end") } else { (5, "start") };
                html! {
                    path.mark d={ "M" (x) " " (bottom) "V" (top) } {}
                    text.strong x=(x) y=(top + 8.0) dx=(shift) text-anchor=(anchor) { (text) }
                }
            }
        }
    }
}

/// A row of [`rows`]: its name, its value, and the value that it is compared with.
pub struct Row<'a> {
    pub name: &'a str,
    pub value: f64,
    pub usual: f64,
    pub text: String,
}

/// Values by row on one logarithmic scale, each joined with what it is compared with.
pub fn rows(title: &str, keys: &[(&str, &str)], says: &str, rows: &[Row], name: &str) -> Markup {
    const TALL: f64 = 24.0;
    const NAMES: f64 = 96.0;
    const VALUES: f64 = 44.0;
    let scale = Scale::logarithmic(rows.iter().flat_map(|r| [r.value, r.usual]), name);
    let (x0, x1) = (NAMES, WIDTH - VALUES);
    let x = |v: f64| n(x0 + scale.share(v).clamp(0.0, 1.0) * (x1 - x0));
    let bottom = 8.0 + TALL * rows.len() as f64;
    html! {
        figure.chart {
            figcaption {
                b { (title) }
                div.keys { @for (colour, name) in keys {
                    span style={ "--key:var(--" (colour) ")" } { (name) }
                } }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (bottom + 36.0) } role="img" aria-label=(says) {
                @for (value, text) in &scale.ticks {
                    path.grid d={ "M" (x(*value)) " 4V" (bottom) } {}
                    text x=(x(*value)) y=(bottom + 14.0) text-anchor="middle" { (text) }
                }
                text x=(WIDTH) y=(bottom + 31.0) text-anchor="end" { (scale.name) }
                @for (i, row) in rows.iter().enumerate() {
                    @let y = 8.0 + TALL * (i as f64 + 0.5);
                    text x="0" y=(y + 4.0) { (clipped(row.name, 15)) }
                    g.one { path.thin d={ "M" (x(row.usual)) " " (y) "H" (x(row.value)) } {} }
                    g.dim { circle.dot cx=(x(row.usual)) cy=(y) r="3.5" {} }
                    g.one { circle.dot cx=(x(row.value)) cy=(y) r="4.5" {} }
                    text.strong x=(WIDTH) y=(y + 4.0) text-anchor="end" { (row.text) }
                }
            }
        }
    }
}

/// The beginning of a text that is too long.
fn clipped(text: &str, letters: usize) -> String {
    match text.chars().count() {
        n if n > letters => text.chars().take(letters - 1).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

/// A share as a bar, small enough for a table's cell; grey if it does not count.
pub fn share_bar(share: f64, counts: bool) -> Markup {
    let colour = if counts { "one" } else { "dim" };
    html! {
        svg.inline viewBox="0 0 92 14" aria-hidden="true" {
            path.grid d="M2 7H90" {}
            g class=(colour) { path.bar d={ "M2 2H" (n(2.0 + 88.0 * share)) "V12H2Z" } {} }
        }
    }
}

/// A share with its interval between 0 and 1, small enough for a table's cell.
pub fn small_interval(value: f64, [low, high]: [f64; 2]) -> Markup {
    let x = |v: f64| n(2.0 + 88.0 * v);
    html! {
        svg.inline viewBox="0 0 92 14" aria-hidden="true" {
            path.grid d="M2 7H90" {}
            g.one {
                path.thin d={ "M" (x(low)) " 7H" (x(high)) } {}
                circle.dot cx=(x(value)) cy="7" r="3" {}
            }
        }
    }
}

/// A share with its interval, on a line of its own from 0 to 100%.
pub fn interval(value: f64, [low, high]: [f64; 2]) -> Markup {
    let x = |v: f64| n(4.0 + 312.0 * v);
    html! {
        svg.interval viewBox="0 0 320 34" preserveAspectRatio="xMinYMid meet" aria-hidden="true" {
            path.grid d="M4 12H316" {}
            @for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
                path.grid d={ "M" (x(tick)) " 8v8" } {}
                @let anchor = if tick == 0.0 { "start" } else if tick == 1.0 { "end" } else { "middle" };
                text x=(x(tick)) y="30" text-anchor=(anchor) { (100.0 * tick) "%" }
            }
            g.one {
                path.line d={ "M" (x(low)) " 12H" (x(high)) } {}
                circle.dot cx=(x(value)) cy="12" r="5" {}
            }
        }
    }
}

/// A coordinate with as many digits as are seen.
fn n(v: f64) -> String {
    let text = format!("{v:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(
            texts(&Scale::around([0.13, 0.88], "")),
            ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
        );
        assert_eq!(
            texts(&Scale::shares([0.91, 0.985], "")),
            ["90%", "92%", "94%", "96%", "98%", "100%"]
        );
        assert_eq!(texts(&Scale::whole(0, 4, "")), ["0", "1", "2", "3", "4"]);
        assert_eq!(texts(&Scale::whole(1, 30, "")), ["1", "5", "10", "15", "20", "25", "30"]);
        assert_eq!(texts(&Scale::logarithmic([0.02, 0.4], "")), ["0.02", "0.05", "0.1", "0.2"]);
        assert_eq!(
            texts(&Scale::logarithmic([1e-5, 0.1], "")),
            ["1e-5", "1e-4", "0.001", "0.01", "0.1"]
        );
        assert_eq!(texts(&Scale::unit("")).len(), 6);
    }

    #[test]
    fn scales_of_nothing_and_of_one_value_hold() {
        for scale in [
            Scale::around([], ""),
            Scale::around([0.5, 0.5], ""),
            Scale::around([f64::NAN, f64::INFINITY], ""),
            Scale::whole(1, 1, ""),
            Scale::logarithmic([0.0], ""),
        ] {
            assert!(scale.to > scale.from, "{scale:?}");
            assert!(scale.share(0.5).is_finite());
        }
    }

    #[test]
    fn a_plot_is_drawn_in_the_pages_colours() {
        let plot = Plot {
            title: "loss <x>",
            keys: &[("one", "training")],
            says: "falls".into(),
            x: Scale::whole(1, 3, "epoch"),
            y: Scale::around([0.0, 1.0], "loss"),
            marks: vec![
                Mark::Line("one", vec![(1.0, 1.0), (2.0, f64::NAN), (3.0, 0.0)]),
                Mark::At(2.0, "kept".into()),
            ],
        };
        let text = plot.draw().into_string();
        assert!(text.contains("loss &lt;x&gt;") && text.contains(">kept<"));
        assert!(text.contains("d=\"M42 10L328 174\""), "{text}");
        assert!(!text.contains("fill=\"") && !text.contains("NaN"), "{text}");
    }
}
