//! What was taken for what.

use maud::{Markup, html};
use refit::learn::metrics::Metrics;

use super::{Run, images_of, part};

/// Classes up to which the matrix has numbers in it, and up to which it is drawn.
const NUMBERS: usize = 16;
const DRAWN: usize = 100;
/// Mistakes that are listed.
const LISTED: usize = 12;
/// The most of a colour that text on it stays readable on, in percent.
const MOST: f64 = 58.0;

pub fn section(run: &Run) -> Option<Markup> {
    let (split, metrics) = run.judged()?;
    let rows = metrics.confusion.rows();
    let occurs = |&c: &usize| metrics.per_class[c].f1.is_some();
    let classes: Vec<usize> = (0..rows.len()).filter(occurs).collect();
    let name = |c: usize| metrics.per_class[c].class.as_str();
    let mistakes = mistakes(rows);
    let shows = html! {
        @match classes.len() {
            0..=NUMBERS => (table(metrics, &classes)),
            n if n <= DRAWN => (drawing(metrics, &classes)),
            n => p.soft { (n) " classes are too many for a matrix; metrics.json holds it." },
        }
        @if classes.len() > 8 && !mistakes.is_empty() {
            div.scroll { table {
                caption { "Mistaken most often" }
                thead { tr {
                    @for head in ["class", "taken for", "images", "of the class"] {
                        th scope="col" { (head) }
                    }
                } }
                tbody { @for &(n, truth, taken) in mistakes.iter().take(LISTED) { tr {
                    th.name scope="row" { (name(truth)) }
                    td.words { (name(taken)) }
                    td { (n) }
                    td { (format!("{:.0}%", 100.0 * share(rows, truth, taken))) }
                } } }
            } }
        }
    };
    let meaning = html! {
        p { "Rows are true classes, columns what the model said, of " (images_of(split, metrics.samples))
            ". The stronger the colour, the larger the share of the row." }
    };
    Some(part("confusion", "Confusion", &meaning, &shows))
}

/// Wrong pairs (how often, true class, predicted class), the most frequent first.
fn mistakes(rows: &[Vec<u64>]) -> Vec<(u64, usize, usize)> {
    let pairs = rows.iter().enumerate().flat_map(|(truth, row)| {
        let wrong = row.iter().enumerate().filter(move |&(taken, &n)| taken != truth && n > 0);
        wrong.map(move |(taken, &n)| (n, truth, taken))
    });
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_by_key(|&(n, truth, taken)| (std::cmp::Reverse(n), truth, taken));
    pairs
}

/// A cell's share of its row.
fn share(rows: &[Vec<u64>], truth: usize, taken: usize) -> f64 {
    rows[truth][taken] as f64 / rows[truth].iter().sum::<u64>().max(1) as f64
}

/// How much colour a cell has. Few of many are still seen.
fn colour(rows: &[Vec<u64>], truth: usize, taken: usize) -> String {
    match rows[truth][taken] {
        0 => "--p:0%".into(),
        _ => format!("--p:{:.0}%", 8.0 + (MOST - 8.0) * share(rows, truth, taken)),
    }
}

fn table(metrics: &Metrics, classes: &[usize]) -> Markup {
    let rows = metrics.confusion.rows();
    let name = |c: usize| metrics.per_class[c].class.as_str();
    html! {
        div.scroll { table.confusion {
            thead { tr {
                th scope="col" { "true class" }
                @for &c in classes { th.to scope="col" title=(name(c)) { span { (name(c)) } } }
            } }
            tbody { @for &truth in classes { tr {
                th scope="row" title=(name(truth)) { (name(truth)) }
                @for &taken in classes {
                    @let n = rows[truth][taken];
                    td.own[truth == taken].none[n == 0] style=(colour(rows, truth, taken)) { (n) }
                }
            } } }
        } }
    }
}

/// Many classes: squares, names in small print.
fn drawing(metrics: &Metrics, classes: &[usize]) -> Markup {
    let rows = metrics.confusion.rows();
    let cell = if classes.len() <= 40 { 18 } else { 13 };
    let (left, side) = (146, cell * classes.len());
    let name = |c: usize| clipped(&metrics.per_class[c].class);
    let says =
        format!("confusion matrix of {} classes; the list below names its mistakes", classes.len());
    let (width, height) = (left + side + 2, left + side + 2);
    html! {
        div.scroll {
            svg.matrix width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) }
                role="img" aria-label=(says) {
                rect.field x=(left) y=(left) width=(side) height=(side) rx="3" {}
                @for (i, &truth) in classes.iter().enumerate() {
                    @let at = left + cell * i;
                    @let middle = at + cell / 2;
                    text x=(left - 6) y=(middle + 4) text-anchor="end" { (name(truth)) }
                    text x=(left - 6) y="4" text-anchor="start"
                        transform={ "translate(" (middle) " 0) rotate(-90) translate(-" (2 * left - 12) " 0)" } {
                        (name(truth))
                    }
                    @for (j, &taken) in classes.iter().enumerate() {
                        @if rows[truth][taken] > 0 {
                            rect.cell.own[truth == taken] x=(left + cell * j + 1) y=(at + 1)
                                width=(cell - 2) height=(cell - 2) rx="2" style=(colour(rows, truth, taken)) {
                                title { (name(truth)) " taken for " (name(taken)) ": " (rows[truth][taken]) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn clipped(name: &str) -> String {
    match name.chars().count() {
        n if n > 20 => name.chars().take(19).chain(['…']).collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_come_in_the_order_of_their_number() {
        let rows = [vec![5, 1, 0], vec![3, 9, 1], vec![0, 0, 0]];
        assert_eq!(mistakes(&rows), [(3, 1, 0), (1, 0, 1), (1, 1, 2)]);
        assert_eq!(colour(&rows, 2, 0), "--p:0%");
        assert_eq!(colour(&[vec![4, 0], vec![0, 1]], 0, 0), "--p:58%");
    }
}
