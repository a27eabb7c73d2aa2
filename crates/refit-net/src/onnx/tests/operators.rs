//! Operators by their definition: an imported graph gives what ONNX says, or is refused.

use burn::tensor::{Device, Tensor as Images, TensorData};

use super::*;

/// A constant of floats.
fn floats(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    let raw_data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        raw_data: raw_data.into(),
        ..Tensor::default()
    }
}

/// A constant of integers.
fn integers(name: &str, values: &[i64]) -> Tensor {
    let dims = vec![values.len() as i64];
    Tensor {
        name: name.into(),
        dims,
        data_type: 7,
        int64_data: values.to_vec(),
        ..Tensor::default()
    }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), i: Some(value), ..Attribute::default() }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: name.into(), ints: values.to_vec(), ..Attribute::default() }
}

fn word(name: &str, value: &'static str) -> Attribute {
    Attribute { name: name.into(), s: value.as_bytes().into(), ..Attribute::default() }
}

/// `[n, 3, height, width]` times one number a channel, then these nodes from `x` to `y`.
fn scaled([height, width]: [i64; 2], nodes: Vec<Node>, constants: Vec<Tensor>) -> Model {
    let scale = node("Mul", &["images", "factors"], "x", vec![]);
    let factors = floats("factors", &[3, 1, 1], &[1.0, 1.5, -2.0]);
    let mut model = model(
        std::iter::once(scale).chain(nodes).collect(),
        std::iter::once(factors).chain(constants).collect(),
    );
    let info = &mut model.graph.as_mut().unwrap().input[0];
    let shape = info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().shape.as_mut().unwrap();
    shape.dim[2].dim_value = Some(height);
    shape.dim[3].dim_value = Some(width);
    model
}

/// Values of the images, and what stands behind the factors of [`scaled`].
fn inputs(n: usize, [height, width]: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
    let pixel = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
    let values: Vec<f32> = (0..n * 3 * height * width).map(pixel).collect();
    let factor = |i: usize| [1.0, 1.5, -2.0][i / (height * width) % 3];
    let scaled = values.iter().enumerate().map(|(i, v)| v * factor(i)).collect();
    (values, scaled)
}

/// What a model gives for [`inputs`]; what it is refused with.
fn outputs(model: &Model, n: usize, [height, width]: [usize; 2]) -> Result<Vec<f32>, String> {
    let net = read(model.encode_to_vec()).map_err(|e| e.to_string())?;
    let (values, _) = inputs(n, [height, width]);
    let images = TensorData::new(values, [n, 3, height, width]);
    let images = Images::<4>::from_data(images, &Device::default());
    Ok(net.compile_all().run(images).remove(0).to_vec())
}

fn flat() -> Node {
    node("Flatten", &["p"], "y", vec![])
}

#[track_caller]
fn assert_close(given: &[f32], wanted: &[f32], what: &str) {
    assert_eq!(given.len(), wanted.len(), "{what}");
    for (a, b) in given.iter().zip(wanted) {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{what}: {a}, not {b}");
    }
}

/// A pool as the format defines it.
#[derive(Debug, Clone, Copy)]
struct Pool {
    op: &'static str,
    window: usize,
    stride: usize,
    /// Rows and columns before, rows and columns behind.
    pads: [usize; 4],
    ceil: bool,
    same: Option<&'static str>,
    zeros_count: bool,
}

impl Pool {
    fn node(&self) -> Node {
        let [window, stride] = [self.window, self.stride].map(|v| v as i64);
        let mut attributes = vec![
            ints("kernel_shape", &[window; 2]),
            ints("strides", &[stride; 2]),
            int("ceil_mode", self.ceil.into()),
        ];
        match self.same {
            Some(same) => attributes.push(word("auto_pad", same)),
            None => attributes.push(ints("pads", &self.pads.map(|p| p as i64))),
        }
        if self.zeros_count {
            attributes.push(int("count_include_pad", 1));
        }
        node(self.op, &["x"], "p", attributes)
    }

    /// Pixels before and behind, and the number of windows.
    fn side(&self, axis: usize, size: usize) -> Option<(usize, usize, usize)> {
        if let Some(same) = self.same {
            let count = size.div_ceil(self.stride);
            let total = ((count - 1) * self.stride + self.window).saturating_sub(size);
            let (less, more) = (total / 2, total - total / 2);
            let (before, behind) = if same == "SAME_UPPER" { (less, more) } else { (more, less) };
            return Some((before, behind, count));
        }
        let (before, behind) = (self.pads[axis], self.pads[axis + 2]);
        let slack = (size + before + behind).checked_sub(self.window)?;
        let count = if self.ceil { slack.div_ceil(self.stride) } else { slack / self.stride };
        let beyond = self.ceil && count * self.stride >= size + before;
        Some((before, behind, if beyond { count } else { count + 1 }))
    }

    /// One plane of `size` by `size`.
    fn plane(&self, x: &[f32], size: usize) -> Option<Vec<f32>> {
        let (rows, columns) = (self.side(0, size)?, self.side(1, size)?);
        let mut y = Vec::new();
        for row in 0..rows.2 {
            for column in 0..columns.2 {
                let reach = |index: usize, (before, behind, _): (usize, usize, usize)| {
                    let start = (index * self.stride) as isize - before as isize;
                    let end = start + self.window as isize;
                    let inside = start.clamp(0, size as isize)..end.clamp(0, size as isize);
                    let counted = end.min((size + behind) as isize) - start;
                    (inside.start as usize..inside.end as usize, counted as f32)
                };
                let ((ys, high), (xs, wide)) = (reach(row, rows), reach(column, columns));
                let pixels: Vec<f32> =
                    ys.clone().flat_map(|i| xs.clone().map(move |j| x[i * size + j])).collect();
                let sum: f32 = pixels.iter().sum();
                y.push(match (self.op, self.zeros_count) {
                    ("MaxPool", _) => pixels.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                    (_, true) => sum / (high * wide),
                    (_, false) => sum / pixels.len() as f32,
                });
            }
        }
        Some(y)
    }
}

#[test]
fn pools_are_met_window_by_window_or_refused() {
    let mut imported = 0;
    let sizes = [5, 6, 7, 8];
    let windows = [(2, 2), (3, 2), (3, 3), (4, 2), (8, 1)];
    let pads =
        [[0; 4], [1; 4], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 2, 2], [0, 1, 0, 1], [1, 0, 1, 0]];
    let ways = pads.iter().map(|&pads| (pads, None));
    let same = ["SAME_UPPER", "SAME_LOWER"].map(|same| ([0; 4], Some(same)));
    let ways: Vec<_> = ways.chain(same).collect();
    for (op, zeros_count) in [("MaxPool", false), ("AveragePool", false), ("AveragePool", true)] {
        for (&size, &(window, stride)) in
            sizes.iter().flat_map(|s| windows.iter().map(move |w| (s, w)))
        {
            for (&(pads, same), ceil) in ways.iter().flat_map(|w| [(w, false), (w, true)]) {
                // A window of nothing but padding has no maximum and no mean.
                if window == 2 && pads.contains(&2) {
                    continue;
                }
                let pool = Pool { op, window, stride, pads, ceil, same, zeros_count };
                let model = scaled([size as i64; 2], vec![pool.node(), flat()], vec![]);
                let Ok(given) = outputs(&model, 1, [size; 2]) else { continue };
                imported += 1;
                let (_, x) = inputs(1, [size; 2]);
                let planes = x.chunks(size * size).map(|plane| pool.plane(plane, size).unwrap());
                assert_close(
                    &given,
                    &planes.collect::<Vec<_>>().concat(),
                    &format!("{pool:?} {size}"),
                );
            }
        }
    }
    assert!(imported > 700, "{imported} of 1032 were imported");
}

#[test]
fn bounds_are_all_looked_at() {
    let bound = |name: &str, value: f32| floats(name, &[], &[value]);
    let of = |op: &str, inputs: &[&str]| {
        let nodes = vec![node("Neg", &["x"], "n", vec![]), node(op, inputs, "p", vec![]), flat()];
        let constants = vec![bound("zero", 0.0), bound("below", -1.0), bound("some", 0.7)];
        outputs(&scaled([8, 8], nodes, constants), 2, [8, 8])
    };
    let relu: Vec<f32> = inputs(2, [8, 8]).1.iter().map(|v| v.max(0.0)).collect();
    assert_close(&of("Max", &["x", "below", "zero"]).unwrap(), &relu, "Max");
    assert_close(&of("Max", &["zero", "x"]).unwrap(), &relu, "Max");
    assert!(of("Max", &["x", "zero", "some"]).unwrap_err().contains("it clamps to 0.7"));
    assert!(of("Max", &["x", "zero", "n"]).unwrap_err().contains("it compares two values"));
    assert!(of("Min", &["zero", "x"]).unwrap_err().contains("it clamps to -inf to 0"));
}

#[test]
fn parts_of_split_axes_are_not_whole_ones() {
    let split = |op: &str, more: &[&str], constants: Vec<Tensor>| {
        let taken: Vec<&str> = std::iter::once("r").chain(more.iter().copied()).collect();
        let nodes = vec![
            node("Reshape", &["x", "split"], "r", vec![]),
            node(op, &taken, "s", vec![]),
            node("ReduceMean", &["s"], "y", vec![ints("axes", &[2, 3, 4]), int("keepdims", 0)]),
        ];
        let split = integers("split", &[0, 3, 2, 4, 8]);
        let constants = std::iter::once(split).chain(constants).collect();
        outputs(&scaled([8, 8], nodes, constants), 1, [8, 8]).unwrap_err()
    };
    let picked = ["first", "end", "axis"].map(|n| integers(n, &[i64::from(n == "end")]));
    let mut picked = picked.to_vec();
    picked[2].int64_data = vec![3];
    let said = split("Slice", &["first", "end", "axis"], picked);
    assert!(said.contains("axis 3 of what it takes does not hold the channels"), "{said}");
    let pads = integers("pads", &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert!(split("Pad", &["pads"], vec![pads]).contains("it pads axis 3"));
}

#[test]
fn constants_keep_their_values() {
    let joined = vec![
        node("Concat", &["a", "b"], "c", vec![int("axis", 0)]),
        node("Unsqueeze", &["c", "axes"], "d", vec![]),
        node("Mul", &["x", "d"], "p", vec![]),
        flat(),
    ];
    let constants =
        vec![floats("a", &[1], &[0.5]), floats("b", &[2], &[2.7, -0.3]), integers("axes", &[1, 2])];
    let given = outputs(&scaled([8, 8], joined, constants), 1, [8, 8]).unwrap();
    let (_, x) = inputs(1, [8, 8]);
    let wanted: Vec<f32> =
        x.iter().enumerate().map(|(i, v)| v * [0.5, 2.7, -0.3][i / 64]).collect();
    assert_close(&given, &wanted, "Concat");
}

#[test]
fn constants_do_not_spread_a_value() {
    let by = |dims: &[i64], values: &[f32]| {
        let nodes = vec![
            node("GlobalAveragePool", &["x"], "g", vec![]),
            node("Div", &["g", "c"], "p", vec![]),
            flat(),
        ];
        outputs(&scaled([8, 8], nodes, vec![floats("c", dims, values)]), 1, [8, 8])
    };
    assert!(by(&[1, 3, 2, 1], &[0.5; 6]).unwrap_err().contains("is larger than the value"));
    assert!(by(&[1, 1, 1, 1, 1], &[0.5]).unwrap_err().contains("is larger than the value"));
    assert_eq!(by(&[3, 1, 1], &[0.5; 3]).unwrap().len(), 3);
}

#[test]
fn a_softmax_is_over_the_logits() {
    let at = |axis: Option<i64>, flat: bool, version: i64| {
        let attributes = axis.map(|axis| int("axis", axis)).into_iter().collect();
        let mut nodes = vec![node("GlobalAveragePool", &["x"], "p", vec![])];
        let taken = if flat { "f" } else { "p" };
        if flat {
            nodes.push(node("Flatten", &["p"], "f", vec![]));
        }
        nodes.push(node("Softmax", &[taken], "y", attributes));
        let mut model = scaled([8, 8], nodes, vec![]);
        model.opset_import[0].version = version;
        outputs(&model, 1, [8, 8])
    };
    for (axis, flat, version) in
        [(None, true, 13), (Some(1), false, 13), (None, false, 11), (Some(1), true, 11)]
    {
        assert!(at(axis, flat, version).is_ok(), "{axis:?} {flat} {version}");
    }
    for (axis, flat, version) in [(Some(0), true, 13), (None, false, 13), (Some(0), false, 11)] {
        let said = at(axis, flat, version).unwrap_err();
        assert!(said.contains("it normalizes over axis"), "{axis:?} {flat} {version}: {said}");
    }
}

#[test]
fn the_head_is_the_dense_layer_of_a_single_output() {
    let nodes = vec![
        node("GlobalAveragePool", &["x"], "g", vec![]),
        node("Flatten", &["g"], "f", vec![]),
        node("MatMul", &["f", "w"], "m", vec![]),
        node("Add", &["m", "b"], "y", vec![]),
    ];
    let constants = vec![floats("w", &[3, 1], &[0.5, -1.0, 2.0]), floats("b", &[1], &[0.3])];
    let net = read(scaled([8, 8], nodes, constants).encode_to_vec()).unwrap();
    let head = &net.graph().nodes()[net.graph().find(net.graph().head()).unwrap()];
    assert_eq!((head.layer.kind(), head.shape), ("linear", Shape::vector(1)));
    assert_eq!(net.parameters()[&format!("{}.bias", head.name)].to_vec(), [0.3]);
}

#[test]
fn a_column_is_no_bias() {
    let nodes = vec![
        node("GlobalAveragePool", &["x"], "g", vec![]),
        node("Flatten", &["g"], "f", vec![]),
        node("Gemm", &["f", "w", "c"], "y", vec![]),
    ];
    let constants = vec![floats("w", &[3, 2], &[1.0; 6]), floats("c", &[2, 1], &[0.3, 0.4])];
    let said = outputs(&scaled([8, 8], nodes, constants), 2, [8, 8]).unwrap_err();
    assert!(said.contains("it adds a matrix"), "{said}");
}

#[test]
fn a_value_that_is_called_as_refit_calls_preprocessed_images_is_any() {
    let scale = node("Mul", &["images", "k"], "preprocessed", vec![]);
    let factors = node("Mul", &["preprocessed", "f"], "x", vec![]);
    let constants = vec![floats("k", &[], &[0.5]), floats("f", &[3, 1, 1], &[1.0, 1.5, -2.0])];
    let mut model = model(vec![scale, factors, node("Flatten", &["x"], "y", vec![])], constants);
    let graph = model.graph.as_mut().unwrap();
    graph.value_info =
        vec![proto::ValueInfo { name: "preprocessed".into(), ..graph.input[0].clone() }];
    let halves: Vec<f32> = inputs(1, [8, 8]).1.iter().map(|v| v / 2.0).collect();
    assert_close(&outputs(&model, 1, [8, 8]).unwrap(), &halves, "preprocessed");
}

#[test]
fn parameters_have_names_of_their_own() {
    let nodes = vec![
        Node { name: "conv".into(), ..node("Conv", &["x", "conv.weight"], "c", vec![]) },
        node("Relu", &["c"], "r", vec![]),
        Node { name: "conv.weight".into(), ..node("Mul", &["r", "s"], "p", vec![]) },
        flat(),
    ];
    let weights: Vec<f32> = (0..9).map(|i| i as f32 - 4.0).collect();
    let constants = vec![
        floats("conv.weight", &[3, 3, 1, 1], &weights),
        floats("s", &[3, 1, 1], &[1.0, 2.0, 3.0]),
    ];
    let net = read(scaled([8, 8], nodes, constants).encode_to_vec()).unwrap();
    assert_eq!(net.parameters()["conv.weight"].to_vec(), weights);
    assert_eq!(net.parameters()["conv.weight_1"].to_vec(), [1.0, 2.0, 3.0]);
}

#[test]
fn small_files_do_not_become_large_networks() {
    let refused = |nodes: Vec<Node>, constants: Vec<Tensor>, said: &str| {
        let error = outputs(&scaled([8, 8], nodes, constants), 1, [8, 8]).unwrap_err();
        assert!(error.contains(said), "{error}");
    };
    let name = |i: usize| if i == 0 { "x".to_owned() } else { format!("d{i}") };
    let twice =
        |i: usize| node("Concat", &[&name(i), &name(i)], &name(i + 1), vec![int("axis", 1)]);
    refused((0..66).map(twice).collect(), vec![], "cannot be imported: ");
    let root = |i: usize| node("Sqrt", &["large"], &format!("r{i}"), vec![]);
    let large = floats("large", &[1 << 20], &vec![1.0; 1 << 20]);
    refused((0..3000).map(root).collect(), vec![large], "far more constants than the file holds");
    let none = floats("none", &[8, 0], &[]);
    refused(
        vec![node("MatMul", &["x", "none"], "p", vec![])],
        vec![none],
        "its weights are of shape [8, 0]",
    );
    let many = vec!["factors"; 2000];
    refused(vec![node("Sum", &many, "p", vec![])], vec![], "it takes 2000 inputs");
    let mut nothing = scaled([8, 8], vec![node("Flatten", &["images"], "y", vec![])], vec![]);
    nothing.graph.as_mut().unwrap().node.remove(0);
    let said = outputs(&nothing, 1, [8, 8]).unwrap_err();
    assert!(said.contains("has no weights"), "{said}");
}

#[test]
fn parts_are_counted_before_room_is_made() {
    let attribute = Attribute::default();
    let full = node("Relu", &["x"], "p", vec![attribute; 5_000_000]);
    let bytes = scaled([8, 8], vec![full], vec![]).encode_to_vec();
    assert!(read(bytes).unwrap_err().to_string().contains("more than 100000 nodes or constants"));
    // A group, which the format has not.
    let mut bytes = vec![0x7b, 0x7c];
    bytes.extend(scaled([8, 8], vec![], vec![]).encode_to_vec());
    let said = read(bytes).unwrap_err().to_string();
    assert!(said.contains("it is cut short, or of another format"), "{said}");
}

#[test]
fn layers_may_have_any_names() {
    let (mut g, x) = Builder::new("names", Shape::map(3, 8, 8));
    let y = g.conv("images", x, crate::layer::Conv::k1(4).biased());
    let y = g.activation("scalar 0", y, crate::layer::Activation::Relu6);
    let y = g.slice("int 1", y, 1, 2);
    let y = g.conv("preprocess.conv", y, crate::layer::Conv::k1(4));
    let y = g.batch_norm(
        "preprocessed",
        y,
        crate::layer::BatchNorm { momentum: 0.01, ..Default::default() },
    );
    let y = g.slice("preprocess.half", y, 0, 2);
    let y = g.global_avg_pool("pool", y);
    let y = g.linear("logits", y, 3);
    let graph = g.finish(y, "logits").unwrap();
    let preprocessing = Preprocessing {
        size: 8,
        fit: Fit::Squash,
        interpolation: Interpolation::Bilinear,
        mean: [0.5; 3],
        std: [0.25; 3],
    };
    let options = ExportOptions { batch_norms: BatchNorms::Kept, ..ExportOptions::default() };
    for preprocessing in [None, Some(preprocessing)] {
        let options = ExportOptions { preprocessing, ..options.clone() };
        let back = compare(graph.clone(), &options);
        let norm = back.graph().nodes().iter().find_map(|n| match n.layer {
            Layer::BatchNorm(norm) => Some(norm.momentum),
            _ => None,
        });
        assert!((norm.unwrap() - 0.01).abs() < 1e-6, "momentum goes along");
        let net = Network::initialize(graph.clone(), 1, &Device::default());
        let model = Model::decode(&*export(&net, &options).unwrap()).unwrap();
        assert_eq!(model.graph.unwrap().output[0].name, "logits");
    }
}
