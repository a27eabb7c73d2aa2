//! EfficientNet-Lite0's inverted residual blocks, fused and layer by layer: gigaflops and the share
//! of the multiply-add units' peak, for batches of 32 and 1.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Instant;

use refit_kernels::{
    Activation, BlockStages, Buffer, ConvShape, Exit, Filter, InvertedResidual, InvertedShape,
    Stage, convolve, depthwise, measure_peak,
};

/// Size, channels, expanded, output channels, kernel, stride, and how many follow each other.
const BLOCKS: [(&str, [usize; 6], usize); 12] = [
    ("blocks.0.0", [112, 32, 32, 16, 3, 1], 1),
    ("blocks.1.0", [112, 16, 96, 24, 3, 2], 1),
    ("blocks.1.1", [56, 24, 144, 24, 3, 1], 1),
    ("blocks.2.0", [56, 24, 144, 40, 5, 2], 1),
    ("blocks.2.1", [28, 40, 240, 40, 5, 1], 1),
    ("blocks.3.0", [28, 40, 240, 80, 3, 2], 1),
    ("blocks.3.1", [14, 80, 480, 80, 3, 1], 2),
    ("blocks.4.0", [14, 80, 480, 112, 5, 1], 1),
    ("blocks.4.1", [14, 112, 672, 112, 5, 1], 2),
    ("blocks.5.0", [14, 112, 672, 192, 5, 2], 1),
    ("blocks.5.1", [7, 192, 1152, 192, 5, 1], 3),
    ("blocks.6.0", [7, 192, 1152, 320, 3, 1], 1),
];

fn seconds(call: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64()
}

fn filled(len: usize) -> Buffer {
    let mut buffer = Buffer::zeros(len);
    buffer.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 7 % 101) as f32 / 50.0 - 1.0);
    buffer
}

/// A block and its layers, ready to run.
struct Block {
    shape: InvertedShape,
    layers: [ConvShape; 3],
    fused: InvertedResidual,
    dense: [Filter; 2],
    filter: depthwise::Filter,
    shift: Buffer,
    maps: [Buffer; 4],
}

impl Block {
    fn new(batch: usize, [size, channels, expanded, out_channels, k, stride]: [usize; 6]) -> Self {
        let conv = |size, channels, out_channels, k: usize, stride, groups| ConvShape {
            batch,
            height: size,
            width: size,
            channels,
            out_channels,
            kernel: [k; 2],
            stride: [stride; 2],
            padding: [(k / 2, k / 2); 2],
            dilation: [1; 2],
            groups,
        };
        let middle = conv(size, expanded, expanded, k, stride, expanded);
        let [out, _] = middle.out_size();
        let up = conv(size, channels, expanded, 1, 1, 1);
        let layers = [up, middle, conv(out, expanded, out_channels, 1, 1, 1)];
        let weights = layers.map(|l| filled(l.weight_len()));
        let shift = filled(expanded.max(out_channels));
        let stage = |i: usize, activation| Stage {
            weight: &weights[i],
            shift: Some(&shift[..layers[i].out_channels]),
            activation,
            curve: None,
        };
        let expand = (channels != expanded).then_some(up);
        let shape = InvertedShape { expand, depthwise: middle, out_channels };
        let expand = expand.map(|_| stage(0, Activation::Relu6));
        let depthwise = stage(1, Activation::Relu6);
        let stages =
            BlockStages { expand, depthwise, project: Some(stage(2, Activation::Identity)) };
        Self {
            shape,
            fused: InvertedResidual::new(&shape, stages),
            dense: [0, 2].map(|i| Filter::new(&layers[i], &weights[i])),
            filter: depthwise::Filter::new(&middle, &weights[1]),
            maps: [
                filled(up.input_len()),
                filled(middle.input_len()),
                filled(middle.output_len()),
                filled(layers[2].output_len()),
            ],
            layers,
            shift,
        }
    }

    fn fused(&mut self) {
        let [x, _, _, y] = &mut self.maps;
        let residual = (x.len() == y.len()).then_some(&**x);
        self.fused.run(&self.shape, x, residual, y);
    }

    fn by_layers(&mut self) {
        let [x, a, b, y] = &mut self.maps;
        let exit = |i: usize, activation, residual| Exit {
            shift: Some(&self.shift[..self.layers[i].out_channels]),
            residual,
            activation,
            curve: None,
        };
        let mut from = &*x;
        if self.shape.expand.is_some() {
            convolve(&self.layers[0], x, None, &self.dense[0], exit(0, Activation::Relu6, None), a);
            from = a;
        }
        let relu6 = exit(1, Activation::Relu6, None);
        depthwise::convolve(&self.layers[1], from, None, &self.filter, relu6, b);
        let residual = (x.len() == y.len()).then_some(&**x);
        let last = exit(2, Activation::Identity, residual);
        convolve(&self.layers[2], b, None, &self.dense[1], last, y);
    }

    fn flops(&self) -> f64 {
        let first = usize::from(self.shape.expand.is_none());
        2.0 * self.layers[first..].iter().map(|l| l.multiply_adds() as f64).sum::<f64>()
    }
}

fn main() {
    // `THREADS=1 BATCH=1 cargo bench --bench inverted -- fused`: on one thread, without layers.
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse().ok());
    let threads = number("THREADS").unwrap_or(2);
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        println!("{error}");
    }
    let layers = !std::env::args().any(|a| a == "fused");
    for batch in number("BATCH").map_or(vec![32, 1], |batch| vec![batch]) {
        println!("batch {batch}{:>22}{:>8}{:>8}{:>9}{:>8}", "ms", "GF/s", "peak", "layers", "gain");
        let mut total = [0.0; 2];
        for (name, sizes, count) in BLOCKS {
            let mut block = Block::new(batch, sizes);
            let (mut best, mut top) = ([f64::INFINITY; 2], 0.0f64);
            let begin = Instant::now();
            while begin.elapsed().as_secs_f64() < 0.4 {
                best[0] = best[0].min(seconds(&mut || block.fused()));
                if layers {
                    best[1] = best[1].min(seconds(&mut || block.by_layers()));
                }
                top = top.max(measure_peak() / 1e9);
            }
            let rate = block.flops() / best[0] / 1e9;
            println!(
                "{name} {:<18}{:>7.3}{rate:>8.1}{:>7.0}%{:>9.3}{:>8.2}",
                format!("{sizes:?}").replace(' ', ""),
                best[0] * 1e3,
                rate / top * 100.0,
                best[1] * 1e3,
                best[1] / best[0]
            );
            total.iter_mut().zip(best).for_each(|(t, b)| *t += b * count as f64);
        }
        let [fused, by_layers] = total.map(|t| t * 1e3 / batch as f64);
        println!("all: {fused:.3} ms an image fused, {by_layers:.3} layer by layer");
    }
}
