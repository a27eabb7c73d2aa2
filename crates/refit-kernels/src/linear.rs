//! A linear layer over few vectors, in training: its weights are read where they lie.
//!
//! The general kernels pack a layer's weights and then multiply. For AlexNet's 9216 x 4096 weights
//! and 16 images, packing them three times a step takes several times as long as the products. Here
//! the few vectors are packed instead, and the weights take the pixels' place in the tiles.

use crate::buffer::Buffer;
use crate::conv::ConvShape;
use crate::simd::Isa;
use crate::threads::{Shared, parallel, with_scratch};
use crate::tile::{Ahead, Packed, Run, Tile, TileExit, cut, run_tile};

/// Vectors up to which reading the weights is what takes time.
const FEW: usize = 64;

/// Weights from which packing them is felt.
const MANY: usize = 1 << 18;

/// Values of the sums' depth that are taken at a time: so much of the packed vectors stays in the
/// second-level cache.
const DEPTH: usize = 2048;

/// Rows of weights that a task takes at most, whole tiles of them.
const ROWS: usize = 112;

/// Columns of weights that a task takes at most.
const COLUMNS: usize = 512;

/// Rows of weights that are copied together.
const COPIED: usize = 32;

/// Tasks wanted at least.
const TASKS: usize = 8;

/// `y = x w'` and its gradients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    isa: Isa,
    /// Vectors.
    n: usize,
    /// Values of an input and of an output.
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// The layer that a convolution is, if it is one and runs faster here.
    pub(crate) fn of(isa: Isa, shape: &ConvShape) -> Option<Self> {
        let vectors = shape.is_pointwise() && [shape.height, shape.width] == [1, 1];
        let pays = (1..=FEW).contains(&shape.batch) && shape.weight_len() >= MANY;
        (vectors && pays).then_some(Self {
            isa,
            n: shape.batch,
            inputs: shape.channels,
            outputs: shape.out_channels,
        })
    }

    /// # Panics
    /// If a length does not fit.
    fn check(&self, inputs: usize, weights: usize, outputs: usize) {
        assert_eq!(inputs, self.n * self.inputs, "linear: length of the inputs");
        assert_eq!(weights, self.inputs * self.outputs, "linear: length of the weights");
        assert_eq!(outputs, self.n * self.outputs, "linear: length of the outputs");
    }

    /// `y`, `[n, outputs]`, from `x`, `[n, inputs]`, and `weight`, `[outputs, inputs]`.
    pub(crate) fn forward(&self, x: &[f32], weight: &[f32], y: &mut [f32]) {
        self.check(x.len(), weight.len(), y.len());
        let Self { isa, n, inputs, outputs } = *self;
        let packed = Packed::new(isa, inputs, n, |k, i| x[i * inputs + k]);
        // Whole panels of sums: their columns, one behind the other.
        let columns = packed.weights.len() / inputs;
        let y = Shared::new(y);
        let most = self.rows();
        parallel(outputs.div_ceil(most), |task| {
            let rows = task * most..((task + 1) * most).min(outputs);
            with_scratch(rows.len() * columns, |sums| {
                for first in (0..inputs).step_by(DEPTH) {
                    let run = Run { offset: 0, len: DEPTH.min(inputs - first) };
                    // Panels come last, so that weights are read from memory once.
                    for (row, count) in cut(rows.len(), isa.tile_rows(2)) {
                        for panel in &packed.panels {
                            let width = panel.vectors * isa.lanes();
                            for (i, count) in cut(count, isa.tile_rows(panel.vectors)) {
                                let row = row + i;
                                let at = row * columns + panel.offset / inputs;
                                let tile = Tile {
                                    a: weight[(rows.start + row) * inputs + first..].as_ptr(),
                                    a_stride: inputs,
                                    runs: &[run],
                                    b: packed.weights[panel.offset + first * width..].as_ptr(),
                                    c: sums[at..].as_mut_ptr(),
                                    c_stride: columns,
                                    n: width,
                                    goes_on: first > 0,
                                    exit: TileExit::NONE,
                                    ahead: Ahead::NOTHING,
                                };
                                // SAFETY: `isa` is this CPU's; rows of weights, the panel and the
                                // sums hold the tile's extent.
                                unsafe { run_tile(isa, count, panel.vectors, &tile) };
                            }
                        }
                    }
                }
                for (sums, row) in sums.chunks_exact(columns).zip(rows) {
                    for panel in &packed.panels {
                        let sums = &sums[panel.offset / inputs..][..panel.width];
                        for (i, sum) in sums.iter().enumerate() {
                            // SAFETY: no other task has these outputs.
                            unsafe { *y.ptr().add((panel.start + i) * outputs + row) = *sum };
                        }
                    }
                }
            });
        });
    }

    /// Rows of weights that a task takes.
    fn rows(&self) -> usize {
        let tile = self.isa.tile_rows(2);
        self.outputs.div_ceil(TASKS).next_multiple_of(tile).min(ROWS.next_multiple_of(tile))
    }

    /// `dx`, `[n, inputs]`, from `dy`, `[n, outputs]`.
    pub(crate) fn input_gradient(&self, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
        self.check(dx.len(), weight.len(), dy.len());
        let Self { isa, n, inputs, outputs } = *self;
        let width = 2 * isa.lanes();
        let dx = Shared::new(dx);
        let most = inputs.div_ceil(TASKS).next_multiple_of(width).min(COLUMNS);
        parallel(inputs.div_ceil(most), |task| {
            let columns = task * most..((task + 1) * most).min(inputs);
            with_scratch(COPIED * width, |panel| {
                for first in (0..outputs).step_by(COPIED) {
                    let depth = COPIED.min(outputs - first);
                    for column in columns.clone().step_by(width) {
                        let len = width.min(columns.end - column);
                        for (i, row) in panel.chunks_exact_mut(width).take(depth).enumerate() {
                            let from = &weight[(first + i) * inputs + column..][..len];
                            row[..len].copy_from_slice(from);
                            row[len..].fill(0.0);
                        }
                        for (i, count) in cut(n, isa.tile_rows(2)) {
                            let tile = Tile {
                                a: dy[i * outputs + first..].as_ptr(),
                                a_stride: outputs,
                                runs: &[Run { offset: 0, len: depth }],
                                b: panel.as_ptr(),
                                c: dx.ptr().wrapping_add(i * inputs + column),
                                c_stride: inputs,
                                n: len,
                                goes_on: first > 0,
                                exit: TileExit::NONE,
                                ahead: Ahead::NOTHING,
                            };
                            // SAFETY: `isa` is this CPU's; the columns of `dx` are this task's.
                            unsafe { run_tile(isa, count, 2, &tile) };
                        }
                    }
                }
            });
        });
    }

    /// `dw`, `[outputs, inputs]`, from `x` and `dy`.
    pub(crate) fn weight_gradient(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        self.check(x.len(), dw.len(), dy.len());
        let Self { isa, n, inputs, outputs } = *self;
        let packed = Packed::new(isa, n, inputs, |i, k| x[i * inputs + k]);
        let mut turned = Buffer::stale(dy.len());
        for (o, row) in turned.chunks_exact_mut(n).enumerate() {
            row.iter_mut().zip(dy[o..].iter().step_by(outputs)).for_each(|(t, v)| *t = *v);
        }
        let dw = Shared::new(dw);
        let most = self.rows();
        parallel(outputs.div_ceil(most), |task| {
            let rows = task * most..((task + 1) * most).min(outputs);
            for (row, count) in cut(rows.len(), isa.tile_rows(2)) {
                let row = rows.start + row;
                for panel in &packed.panels {
                    // A panel of three vectors has room for fewer rows.
                    for (i, count) in cut(count, isa.tile_rows(panel.vectors)) {
                        let tile = Tile {
                            a: turned[(row + i) * n..].as_ptr(),
                            a_stride: n,
                            runs: &[Run { offset: 0, len: n }],
                            b: packed.weights[panel.offset..].as_ptr(),
                            c: dw.ptr().wrapping_add((row + i) * inputs + panel.start),
                            c_stride: inputs,
                            n: panel.width,
                            goes_on: false,
                            exit: TileExit::NONE,
                            ahead: Ahead::NOTHING,
                        };
                        // SAFETY: `isa` is this CPU's; the rows of `dw` are this task's.
                        unsafe { run_tile(isa, count, panel.vectors, &tile) };
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::reference;
    use crate::testing::{assert_close, on_threads, values};

    fn shape([batch, channels, out_channels]: [usize; 3]) -> ConvShape {
        ConvShape {
            batch,
            height: 1,
            width: 1,
            channels,
            out_channels,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [(0, 0); 2],
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// Vectors, inputs and outputs: one panel and several, ragged edges, depths of several pieces.
    const SIZES: [[usize; 3]; 5] =
        [[1, 520, 510], [16, 2100, 130], [17, 515, 513], [40, 130, 2051], [64, 4100, 65]];

    #[test]
    fn products_and_gradients_are_their_definition() {
        for s in SIZES.map(shape) {
            let (x, w) = (values(s.input_len(), 1), values(s.weight_len(), 2));
            let dy = values(s.output_len(), 3);
            let exact = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
            let y = reference::convolve(&s, &x, None, &w, crate::Exit::default());
            let (y, dx) = (exact(y), exact(reference::input_gradient(&s, &w, &dy)));
            let dw = exact(reference::weight_gradient(&s, &x, None, &dy));
            for isa in Isa::available() {
                let linear = Linear::of(isa, &s).expect("many weights and few vectors");
                let all = |threads| {
                    let mut found = [y.len(), dx.len(), dw.len()].map(|len| vec![f32::NAN; len]);
                    on_threads(threads, || {
                        let [y, dx, dw] = &mut found;
                        linear.forward(&x, &w, y);
                        linear.input_gradient(&dy, &w, dx);
                        linear.weight_gradient(&x, &dy, dw);
                    });
                    found
                };
                let found = all(2);
                // Sums of up to 4100 products.
                for (found, exact) in found.iter().zip([&y, &dx, &dw]) {
                    assert_close(found, exact, 2e-5);
                }
                assert!(found == all(3), "threads");
            }
        }
    }

    /// From one vector more on, the general kernels do it: with the same bits, so that a vector does
    /// not depend on how many others there are.
    #[test]
    fn the_general_kernels_give_the_same_bits() {
        let (few, many) = (shape([FEW, 2100, 130]), shape([FEW + 1, 2100, 130]));
        let (x, w) = (values(many.input_len(), 1), values(few.weight_len(), 2));
        let dy = values(many.output_len(), 3);
        let run = |s: &ConvShape| {
            let mut y = vec![f32::NAN; s.output_len()];
            crate::convolve_once(s, &x[..s.input_len()], None, &w, &mut y);
            let mut dx = vec![f32::NAN; s.input_len()];
            crate::input_gradient(s, &w, &dy[..s.output_len()], &mut dx);
            [y, dx]
        };
        for (few, many) in run(&few).iter().zip(run(&many)) {
            assert!(*few == many[..few.len()]);
        }
    }

    #[test]
    fn many_vectors_few_weights_and_maps_are_left_to_others() {
        let isa = Isa::widest();
        assert!(Linear::of(isa, &shape([64, 512, 512])).is_some());
        assert!(Linear::of(isa, &shape([65, 512, 512])).is_none());
        assert!(Linear::of(isa, &shape([0, 512, 512])).is_none());
        assert!(Linear::of(isa, &shape([4, 512, 511])).is_none());
        assert!(Linear::of(isa, &ConvShape { width: 2, ..shape([4, 512, 512]) }).is_none());
    }

    #[test]
    #[should_panic(expected = "linear: length of the outputs")]
    fn lengths_must_fit() {
        let s = shape([1, 512, 512]);
        let linear = Linear::of(Isa::widest(), &s).unwrap();
        linear.forward(&[0.0; 512], &vec![0.0; s.weight_len()], &mut [0.0; 511]);
    }
}
