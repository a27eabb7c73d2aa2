//! Every network against PyTorch's float64 results, recorded in tests/golden by
//! tools/golden_networks.py.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use std::collections::BTreeMap;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use common::Golden;
use refit_net::{Edit, Layer, Node, NormStatistics, Shape, Training, TrainingOptions, zoo};

/// PyTorch's own f32 error against f64 is 3e-7 to 1.2e-5 here.
const FORWARD: f64 = 1e-4;

fn check_forward(name: &str) {
    let golden = Golden::open(name);
    let batch: usize = golden.json("batch");
    let inner = golden.file.metadata()["inner"].clone();
    let compiled = golden
        .network
        .compile(&[
            &inner,
            golden.network.graph().nodes()[golden.network.graph().output()].name.as_str(),
        ])
        .unwrap();
    for tensor in golden.file.names().filter(|n| n.ends_with(".logits")) {
        let size = tensor.trim_end_matches(".logits");
        let (h, w) = size.split_once('x').unwrap();
        let channels = golden.network.graph().input_shape().channels();
        let input = golden.input([batch, channels, h.parse().unwrap(), w.parse().unwrap()]);
        let values = compiled.run(input);
        let errors = [
            golden.error(&format!("{size}.{inner}"), &values[0].to_vec()),
            golden.error(tensor, &values[1].to_vec()),
        ];
        eprintln!("{name} {size}: {inner} {:.1e}, logits {:.1e}", errors[0], errors[1]);
        assert!(errors.iter().all(|&e| e <= FORWARD), "{name} {size}: {errors:?}");
    }
    check_step(&golden);
}

/// A step of training reaches every parameter, classifiers half-way and all.
fn check_step(golden: &Golden) {
    let graph = golden.network.graph();
    let is_dropout = |n: &&Node| matches!(n.layer, Layer::Dropout(_));
    let dropouts = graph.nodes().iter().filter(is_dropout);
    let freeze: Vec<Edit> = dropouts.map(|n| Edit::Freeze { layers: n.name.clone() }).collect();
    let mut net = golden.network.edit(&freeze, 0).unwrap();
    // The formula's pairs of opposite weights let some gradients vanish.
    for (name, p) in golden.network.parameters().iter().filter(|(_, p)| p.shape.len() > 1) {
        let values = p.to_vec().into_iter().enumerate();
        let uneven: Vec<f32> = values.map(|(i, v)| v * (1.0 + 0.2 * (i % 3) as f32)).collect();
        let len = uneven.len();
        net.set(name, Tensor::from_data(TensorData::new(uneven, [len]), &Device::flex()));
    }
    let Shape::Map { channels, height, .. } = graph.input_shape() else { unreachable!() };
    let whole = |size: usize| {
        let shapes = graph.shapes_at(size, size);
        shapes.is_ok_and(|shapes| shapes.iter().all(|s| s.elements() > 0))
    };
    // Without norms, few pixels are not enough for every filter to be active somewhere.
    let normed = graph.nodes().iter().any(|n| matches!(n.layer, Layer::BatchNorm(_)));
    let sizes = [64, 96, 128, height];
    let size =
        sizes.into_iter().skip(if normed { 0 } else { 2 }).find(|&size| whole(size)).unwrap();
    let training = Training::new(&net);
    let boundary = training.run_frozen(golden.input([2, channels, size, size]));
    let options = TrainingOptions { norms: NormStatistics::Batch, dropout_key: 0 };
    let mut pass = training.pass(&net, boundary, options);
    assert_eq!(pass.auxiliary.len(), graph.auxiliary().len());
    let mut loss = log_softmax(pass.logits.clone(), 1).slice([0..2, 3..5]).sum();
    for (logits, share) in &pass.auxiliary {
        loss = loss + log_softmax(logits.clone(), 1).slice([0..2, 3..5]).sum() * *share;
    }
    let gradients = pass.gradients(&loss);
    for (name, _) in net.trainable() {
        let gradient: Vec<f32> = gradients[name].to_data().iter::<f32>().collect();
        assert!(gradient.iter().all(|g| g.is_finite()), "{name} at {size} px");
        // The batch's mean takes the bias before a norm away again.
        let layer = name.trim_end_matches(".bias");
        let id = graph.nodes().iter().position(|n| n.name == layer);
        let normed = graph.nodes().iter().any(|n| {
            matches!(n.layer, Layer::BatchNorm(_)) && id.is_some_and(|id| n.inputs.contains(&id))
        });
        if !normed {
            assert!(gradient.iter().any(|g| *g != 0.0), "{name} at {size} px is not reached");
        }
    }
}

macro_rules! forward {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            check_forward(stringify!($name));
        }
    )*};
}

forward! {
    efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 efficientnet_lite3 efficientnet_lite4
    resnet18 resnet34 resnet50 resnet101 resnet152
    resnext50_32x4d resnext101_32x8d wide_resnet50_2 wide_resnet101_2
    lenet5 lenet5_28 alexnet alexnet_2012
    vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
    googlenet inception_v3 inception_v4 inception_resnet_v2
    nasnetalarge nasnetamobile pnasnet5large
    squeezenet1_0 squeezenet1_1 densenet121 densenet161 densenet169 densenet201
    mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
    efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
    efficientnet_v2_s efficientnet_v2_m
    regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf
    regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf
    convnext_tiny convnext_small convnext_base convnext_large
}

/// Names, shapes, parameter and multiply-add counts, and what images a network takes.
#[test]
fn names_shapes_and_counts_are_the_published_ones() {
    // refit's own has no other implementation to compare with.
    for architecture in zoo::all().filter(|a| a.name != "small") {
        let (name, graph) = (architecture.name, architecture.graph());
        let file = common::read(name);
        let json = |key: &str| -> serde_json::Value {
            serde_json::from_str(&file.metadata()[key]).unwrap()
        };
        let theirs: Vec<(String, Vec<usize>)> = serde_json::from_value(json("state")).unwrap();
        let theirs: BTreeMap<String, Vec<usize>> = theirs.into_iter().collect();
        let mut ours = BTreeMap::new();
        let mut parameters = 0;
        for id in 0..graph.nodes().len() {
            for spec in graph.parameters(id) {
                if spec.role.is_trained() {
                    parameters += spec.shape.iter().product::<usize>();
                }
                ours.insert(graph.parameter_name(id, spec.suffix), spec.shape);
            }
        }
        assert_eq!(ours, theirs, "{name}");
        let facts = json("facts");
        assert_eq!(facts["parameters"], parameters, "{name}");
        assert_eq!(facts["multiply_adds"], graph.total_multiply_adds(), "{name}");
        let input = serde_json::to_value(architecture.input).unwrap();
        assert_eq!(facts["interpolation"], input["interpolation"], "{name}");
        assert_eq!(facts["resize"], input["resize"], "{name}");
        assert_eq!(facts["input_size"], input["size"], "{name}");
    }
}

fn check_gradients(name: &str, norms: NormStatistics, tolerance: f64) {
    let mut golden = Golden::open(name);
    let shape: [usize; 4] = golden.json("input_shape");
    let labels: Vec<usize> = golden.json("labels");
    let net = golden.network.edit(&[refit_net::Edit::Freeze { layers: "dropout".into() }], 0);
    golden.network = net.unwrap_or(golden.network);
    let training = Training::new(&golden.network);
    let boundary = training.run_frozen(golden.input(shape));
    let options = TrainingOptions { norms, dropout_key: 0 };
    let mut pass = training.pass(&golden.network, boundary, options);

    let logits: Vec<f32> = pass.logits.to_data().iter::<f32>().collect();
    assert!(golden.error("logits", &logits) <= FORWARD, "{name}: logits");
    let mut one_hot = vec![0.0_f32; labels.len() * 1000];
    labels.iter().enumerate().for_each(|(row, &l)| one_hot[row * 1000 + l] = -0.5);
    let targets = TensorData::new(one_hot, [labels.len(), 1000]);
    let targets = Tensor::<2>::from_data(targets, &Device::flex()).autodiff();
    let loss = (log_softmax(pass.logits.clone(), 1) * targets).sum();
    let value: f32 = loss.clone().into_scalar();
    assert!(golden.error("loss", &[value]) <= FORWARD, "{name}: loss {value}");

    let gradients = pass.gradients(&loss);
    let values = |name: &str| -> Vec<f32> { gradients[name].to_data().iter::<f32>().collect() };
    for tensor in golden.file.names().filter(|n| n.starts_with("gradient.")) {
        let error = golden.error(tensor, &values(&tensor["gradient.".len()..]));
        eprintln!("{name} {tensor}: {error:.1e}");
        assert!(error <= tolerance, "{name} {tensor}: {error:.1e}");
    }
    check_norms(&golden, &values, tolerance);
    pass.update_statistics(&mut golden.network);
    for tensor in golden.file.names().filter(|n| n.starts_with("updated.")) {
        let name = &tensor["updated.".len()..];
        let error = golden.error(tensor, &golden.network.parameters()[name].to_vec());
        assert!(error <= FORWARD, "{name}: {error:.1e}");
    }
}

/// The norm of every parameter's gradient; those that vanish on paper are noise.
fn check_norms(golden: &Golden, values: &dyn Fn(&str) -> Vec<f32>, tolerance: f64) {
    let names: Vec<String> = golden.json("gradient_norms");
    let vanishing: Vec<String> = golden.json("vanishing");
    let theirs = golden.file.get_f32("gradient_norms").unwrap();
    assert_eq!(names.len(), theirs.len());
    for (name, theirs) in names.iter().zip(theirs).filter(|(name, _)| !vanishing.contains(name)) {
        let norm = values(name).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let error = (norm / f64::from(theirs) - 1.0).abs();
        assert!(error <= tolerance, "{name}: {norm} instead of {theirs}");
    }
}

/// PyTorch's own f32 gradients differ from f64 by 1e-6 here.
#[test]
fn gradients_with_stored_statistics() {
    check_gradients("resnet18.eval", NormStatistics::Stored, 1e-4);
    check_gradients("efficientnet_lite0.eval", NormStatistics::Stored, 1e-4);
}

/// PyTorch's own f32 gradients differ from f64 by up to 1.6e-5 here.
#[test]
fn gradients_with_batch_statistics() {
    check_gradients("resnet18.train", NormStatistics::Batch, 2e-4);
    check_gradients("efficientnet_lite0.train", NormStatistics::Batch, 2e-4);
}
