//! Scalable Vector Graphics: <https://www.w3.org/TR/SVG2/>.

use std::fmt::Write;

use super::Picture;
use super::layout::{Layout, layout};

/// Height of a box, and from one rank to the next, in pixels.
const BOX: f64 = 34.0;
const RANK: f64 = 54.0;
/// Around everything; the title stands in it.
const MARGIN: f64 = 56.0;
/// A character's width, on the safe side: fonts differ.
const LETTER: f64 = 6.6;

/// The network top-down; frozen layers are dashed.
pub fn svg(picture: &Picture) -> String {
    let nodes = picture.graph.nodes();
    let width = |id| {
        let letters = picture.lines(id).iter().map(|line| line.chars().count()).max();
        letters.unwrap_or(0) as f64 * LETTER + 14.0
    };
    let widths: Vec<f64> = (0..nodes.len()).map(width).collect();
    let inputs: Vec<Vec<usize>> = nodes.iter().map(|n| n.inputs.clone()).collect();
    let drawn = layout(&widths, &inputs);
    let title: Vec<&str> = picture.title.split("; ").collect();
    let letters = title.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let title_width = letters as f64 * LETTER * 1.2;
    let (w, h) =
        (drawn.width.max(title_width) + 2.0 * MARGIN, top(drawn.ranks) + MARGIN - RANK + BOX);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w:.0}\" height=\"{h:.0}\" \
         viewBox=\"0 0 {w:.0} {h:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
",
    );
    for (i, line) in title.iter().enumerate() {
        let (y, line) = (20 + 17 * i, escaped(line));
        let _ = writeln!(text, "<text x=\"{MARGIN}\" y=\"{y}\" font-size=\"13\">{line}</text>");
    }
    text += "<g fill=\"none\" stroke=\"#868e96\">\n";
    for wire in drawn.wires.iter().flatten() {
        let _ = writeln!(text, "<path d=\"{}\"/>", path(wire));
    }
    text += "</g>\n<g text-anchor=\"middle\">\n";
    for (id, &width) in widths.iter().enumerate() {
        text += &boxed(picture, id, width, &drawn);
    }
    text + "</g>\n</svg>\n"
}

/// The upper edge of a rank's boxes.
fn top(rank: usize) -> f64 {
    MARGIN + rank as f64 * RANK
}

/// A wire from under one box to the top of another, straight past ranks and bent between them.
fn path(wire: &[(usize, f64)]) -> String {
    let mut text = String::new();
    for (i, pair) in wire.windows(2).enumerate() {
        let [(rank, x), (next, to)] = [pair[0], pair[1]].map(|(rank, x)| (rank, x + MARGIN));
        let (from_y, to_y) = (top(rank) + BOX, top(next));
        let bend = (from_y + to_y) / 2.0;
        let start = if i == 0 { 'M' } else { 'L' };
        let _ = write!(
            text,
            "{start}{x:.1} {from_y:.1}C{x:.1} {bend:.1} {to:.1} {bend:.1} {to:.1} {to_y:.1}"
        );
    }
    text
}

fn boxed(picture: &Picture, id: usize, width: f64, drawn: &Layout) -> String {
    let (rank, x) = drawn.boxes[id];
    let (x, y) = (x + MARGIN, top(rank));
    let dashes = if picture.frozen[id] { " stroke-dasharray=\"4 3\"" } else { "" };
    let [name, what] = picture.lines(id).map(|line| escaped(&line));
    format!(
        "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BOX}\" rx=\"5\" \
         fill=\"{}\" stroke=\"#495057\"{dashes}/>\n\
         <text x=\"{x:.1}\" y=\"{:.1}\" font-weight=\"bold\">{name}</text>\n\
         <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"#495057\">{what}</text>\n",
        x - width / 2.0,
        picture.colour(id),
        y + 14.0,
        y + 28.0,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit::zoo;

    #[test]
    fn every_layer_and_every_wire_is_drawn() {
        let graph = zoo::find("resnet18").unwrap().graph();
        let mut frozen = vec![false; graph.nodes().len()];
        frozen[1] = true;
        let text = svg(&Picture { graph: &graph, frozen: &frozen, title: "a < b" });
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(text.contains("a &lt; b"));
        assert_eq!(text.matches("<rect x=").count(), graph.nodes().len());
        let wires: usize = graph.nodes().iter().map(|n| n.inputs.len()).sum();
        assert_eq!(text.matches("<path").count(), wires);
        assert_eq!(text.matches("dasharray").count(), 1);
        assert!(text.contains(">conv 7x7/2: 64x112x112<"));
    }
}
