//! From decoded images of any size to a network's input, as nodes before it.

use super::PREPROCESSED;
use super::emit::{Emitter, float, int, ints, word};
use super::proto::data_type;
use crate::zoo::Interpolation;

/// How an image of any shape becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The shorter side is resized to so many pixels, then a square is cut from the centre.
    ShorterSide(usize),
    /// Both sides are resized to the square.
    Squash,
    /// The longer side is resized to the square, and bars of a colour fill the rest.
    Letterbox([u8; 3]),
}

/// What stands before an exported network, so that it takes images as they are decoded: eight bits
/// a channel, RGB, `[n, height, width, 3]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocessing {
    /// Pixels on each side of the network's input.
    pub size: usize,
    /// How the square is made.
    pub fit: Fit,
    /// How a resize weighs pixels; it is antialiased.
    pub interpolation: Interpolation,
    /// Subtracted by channel, from values in `[0, 1]`.
    pub mean: [f32; 3],
    /// Divided by, by channel.
    pub std: [f32; 3],
}

impl Preprocessing {
    /// Adds the nodes from `images` to the network's input, [`PREPROCESSED`].
    pub(super) fn emit(&self, e: &mut Emitter, images: &str) {
        let planes = vec![ints("perm", [0, 3, 1, 2])];
        let planes = e.node("Transpose", "preprocess.planes", [images], planes);
        let square = match self.fit {
            Fit::ShorterSide(to) => self.centre(e, images, &planes, to),
            Fit::Squash => {
                let sides = e.ints("preprocess.sides", &[self.size as i64; 2]);
                self.resize(e, images, &planes, &sides)
            }
            Fit::Letterbox(_) => {
                let sides = self.letterbox_sides(e, images);
                self.resize(e, images, &planes, &sides)
            }
        };
        let to = vec![int("to", data_type::FLOAT.into())];
        let mut pixels = e.node("Cast", "preprocess.float", [&square], to);
        if let Fit::Letterbox(fill) = self.fit {
            let fill = fill.map(f32::from);
            let fill = e.floats("preprocess.fill", &[3, 1, 1], &fill);
            let above = e.node("Sub", "preprocess.above_fill", [&pixels, &fill], vec![]);
            let sides = "preprocess.sides";
            let padded = self.padded(e, &above, sides);
            pixels = e.node("Add", "preprocess.filled", [&padded, &fill], vec![]);
        }
        let factors = self.std.map(|std| 1.0 / (255.0 * std));
        let shifts: [f32; 3] = std::array::from_fn(|c| -self.mean[c] / self.std[c]);
        let factors = e.floats("preprocess.factors", &[3, 1, 1], &factors);
        let shifts = e.floats("preprocess.shifts", &[3, 1, 1], &shifts);
        let scaled = e.node("Mul", "preprocess.scaled", [&pixels, &factors], vec![]);
        e.push("Add", PREPROCESSED.into(), vec![scaled, shifts], vec![]);
    }

    /// torchvision's `Resize(to)` and `CenterCrop(size)`.
    fn centre(&self, e: &mut Emitter, images: &str, planes: &str, to: usize) -> String {
        let extents = part_of_shape(e, images, 1, 3);
        let shorter = e.node("ReduceMin", "preprocess.shorter", [&extents], vec![]);
        let to_side = e.int(to as i64);
        let product = e.node("Mul", "preprocess.product", [&extents, &to_side], vec![]);
        let sides = e.node("Div", "preprocess.sides", [&product, &shorter], vec![]);
        let mut resized = self.resize(e, images, planes, &sides);
        if to < self.size {
            resized = self.padded(e, &resized, &sides);
        }
        let size = e.int(self.size as i64);
        let sides = e.node("Max", "preprocess.padded_sides", [&sides, &size], vec![]);
        let extra = e.node("Sub", "preprocess.extra", [&sides, &size], vec![]);
        let to = |kind: i32| vec![int("to", kind.into())];
        let extra = e.node("Cast", "preprocess.extra_float", [&extra], to(data_type::FLOAT));
        let half = e.scalar(0.5);
        let start = e.node("Mul", "preprocess.half", [&extra, &half], vec![]);
        let start = e.node("Round", "preprocess.rounded", [&start], vec![]);
        let start = e.node("Cast", "preprocess.start", [&start], to(data_type::INT64));
        let end = e.node("Add", "preprocess.end", [&start, &size], vec![]);
        let axes = e.ints("preprocess.axes", &[2, 3]);
        e.node("Slice", "preprocess.cropped", [&resized, &start, &end, &axes], vec![])
    }

    /// The longer side is `size`, the other in proportion, rounded and at least 1.
    fn letterbox_sides(&self, e: &mut Emitter, images: &str) -> String {
        let extents = part_of_shape(e, images, 1, 3);
        let longer = e.node("ReduceMax", "preprocess.longer", [&extents], vec![]);
        let (size, two, one) = (e.int(2 * self.size as i64), e.int(2), e.int(1));
        let product = e.node("Mul", "preprocess.product", [&extents, &size], vec![]);
        let sum = e.node("Add", "preprocess.sum", [&product, &longer], vec![]);
        let twice = e.node("Mul", "preprocess.twice", [&longer, &two], vec![]);
        let sides = e.node("Div", "preprocess.rounded", [&sum, &twice], vec![]);
        e.node("Max", "preprocess.sides", [&sides, &one], vec![])
    }

    /// All four extents are given: ONNX Runtime 1.31 refuses `axes` beside sides that are computed.
    fn resize(&self, e: &mut Emitter, images: &str, planes: &str, sides: &str) -> String {
        let count = part_of_shape(e, images, 0, 1);
        let channels = e.int(3);
        let whole = [&*count, &channels, sides];
        let whole = e.node("Concat", "preprocess.extents", whole, vec![int("axis", 0)]);
        let mode = match self.interpolation {
            Interpolation::Bilinear => "linear",
            Interpolation::Bicubic => "cubic",
        };
        let attributes = vec![
            word("mode", mode),
            word("coordinate_transformation_mode", "half_pixel"),
            float("cubic_coeff_a", -0.5),
            int("antialias", 1),
        ];
        e.node("Resize", "preprocess.resized", [planes, "", "", &whole], attributes)
    }

    /// With zeros around it up to `size` by `size`, the odd one behind.
    fn padded(&self, e: &mut Emitter, planes: &str, sides: &str) -> String {
        let (size, none, two) = (e.int(self.size as i64), e.int(0), e.int(2));
        let missing = e.node("Sub", "preprocess.less", [&size, sides], vec![]);
        let missing = e.node("Max", "preprocess.missing", [&missing, &none], vec![]);
        let before = e.node("Div", "preprocess.before", [&missing, &two], vec![]);
        let behind = e.node("Sub", "preprocess.behind", [&missing, &before], vec![]);
        let axis = vec![int("axis", 0)];
        let pads = [&*none, &none, &before, &none, &none, &behind];
        let pads = e.node("Concat", "preprocess.pads", pads, axis);
        e.node("Pad", "preprocess.padded", [planes, &pads], vec![])
    }
}

/// Extents of the images, from one axis to before another.
fn part_of_shape(e: &mut Emitter, images: &str, from: i64, to: i64) -> String {
    let shape = e.node("Shape", "preprocess.shape", [images], vec![]);
    let [from, to, axis] = [from, to, 0].map(|v| e.int(v));
    e.node("Slice", "preprocess.part", [&shape, &from, &to, &axis], vec![])
}
