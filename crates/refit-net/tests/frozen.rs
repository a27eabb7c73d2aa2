//! Frozen is frozen; everything else moves.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use refit_net::{
    BatchNorm, Builder, Compiled, Conv, Edit, Graph, HeadKind, Network, NormStatistics, Precision,
    Shape, Training, TrainingOptions, Windows,
};

/// A small residual network with everything in it: strides, a depthwise part, a shortcut.
fn small() -> Graph {
    let (mut g, x) = Builder::new("small", Shape::map(3, 16, 16));
    let y = g.conv("stem", x, Conv::k3(8).stride(2));
    let y = g.batch_norm("bn", y, BatchNorm::default());
    let x = g.relu("act", y);
    let block = |g: &mut Builder, x| {
        let y = g.conv("dw", x, Conv::k3(8).groups(8));
        let y = g.batch_norm("bn1", y, BatchNorm::default());
        let y = g.relu("act", y);
        let y = g.conv("pw", y, Conv::k1(8).biased());
        let y = g.batch_norm("bn2", y, BatchNorm::default());
        let y = g.add("add", y, x);
        g.relu("out", y)
    };
    let x = g.scope("block1", |g| block(g, x));
    let x = g.max_pool("pool", x, Windows::new(3, 2).padded(1));
    let x = g.scope("block2", |g| block(g, x));
    let y = g.global_avg_pool("mean", x);
    let y = g.dropout("drop", y, 0.5);
    let y = g.linear("fc", y, 5);
    g.finish(y, "fc").unwrap()
}

fn images(n: usize, seed: f32) -> Tensor<4> {
    let len = n * 3 * 16 * 16;
    let values: Vec<f32> = (0..len).map(|i| ((i as f32 + seed) * 12.9898).sin()).collect();
    Tensor::from_data(TensorData::new(values, [n, 3, 16, 16]), &Device::flex())
}

fn bits(net: &Network) -> BTreeMap<String, Vec<u32>> {
    let of = |p: &refit_net::Parameter| p.to_vec().iter().map(|v| v.to_bits()).collect();
    net.parameters().iter().map(|(name, p)| (name.clone(), of(p))).collect()
}

fn steps(mut net: Network, count: usize, n: usize) -> Network {
    let training = Training::new(&net);
    for step in 0..count {
        let boundary = training.run_frozen(images(n, step as f32));
        let options = TrainingOptions { norms: NormStatistics::Batch, dropout_key: step as u64 };
        let mut pass = training.pass(&net, boundary, options);
        let loss = pass.logits.clone().powf_scalar(2.0).mean()
            + pass.logits.clone().slice([0..n, 0..1]).mean();
        let gradients = pass.gradients(&loss);
        for (name, gradient) in gradients {
            let value = net.parameters()[&name].value.clone();
            net.set(&name, value - gradient * 0.1);
        }
        pass.update_statistics(&mut net);
    }
    net
}

fn network() -> Network {
    Network::initialize(small(), 7, &Device::flex())
}

#[test]
fn what_is_frozen_is_bit_equal_after_steps_and_all_else_moved() {
    for (edits, frozen) in [
        (vec![Edit::FreezeBody], vec!["stem", "bn", "block1", "block2"]),
        (vec![Edit::UnfreezeFrom { layer: "block2".into() }], vec!["stem", "bn", "block1"]),
        // A frozen layer above trained ones: its gradient passes, its values stay.
        (vec![Edit::Freeze { layers: "block2".into() }], vec!["block2"]),
        (
            vec![Edit::Freeze { layers: "*bn*".into() }],
            vec!["bn", "block1.bn1", "block1.bn2", "block2.bn1", "block2.bn2"],
        ),
        (vec![], vec![]),
    ] {
        let before = network().edit(&edits, 0).unwrap();
        let after = bits(&steps(before.clone(), 3, 4));
        for (name, old) in bits(&before) {
            let is_under = |name: &str| frozen.iter().any(|f| name.starts_with(&format!("{f}.")));
            let is_frozen = is_under(&name);
            // The batch's mean takes a bias before it away again: its gradient is exactly zero.
            let norm = name.replace("pw.bias", "bn2.bias");
            let is_taken_away = norm != name && !is_under(&norm);
            let stays = is_frozen || is_taken_away;
            assert_eq!(after[&name] == old, stays, "{name} with {edits:?}");
        }
    }
}

#[test]
fn a_batch_of_one_trains() {
    let before = network();
    let after = steps(before.clone(), 2, 1);
    assert!(after.parameters().values().all(|p| p.to_vec().iter().all(|v| v.is_finite())));
    assert_ne!(bits(&before)["stem.weight"], bits(&after)["stem.weight"]);
}

#[test]
fn one_value_a_channel_is_normalized_by_what_is_stored() {
    let (mut g, x) = Builder::new("tiny", Shape::map(3, 1, 1));
    let y = g.conv("conv", x, Conv::k1(4));
    let y = g.batch_norm("bn", y, BatchNorm::default());
    let y = g.global_avg_pool("mean", y);
    let y = g.linear("fc", y, 2);
    let net = Network::initialize(g.finish(y, "fc").unwrap(), 1, &Device::flex());
    let training = Training::new(&net);
    let input = Tensor::<4>::from_data([[[[1.0]], [[2.0]], [[-3.0]]]], &Device::flex());
    let pass = training.pass(&net, training.run_frozen(input.clone()), Default::default());
    let trained: Vec<f32> = pass.logits.to_data().iter::<f32>().collect();
    let frozen = net.compile_all().run(input).remove(0).to_vec();
    assert!(trained.iter().zip(&frozen).all(|(a, b)| (a - b).abs() < 1e-6));
    let mut updated = net.clone();
    pass.update_statistics(&mut updated);
    assert_eq!(bits(&updated), bits(&net));
}

/// Linear layers run in f32 in any case, so that with a head alone to train the mixture is a
/// network in bf16.
#[test]
fn mixed_precision_rounds_the_frozen_part_alone() {
    if !Precision::Bf16.is_supported() {
        eprintln!("skipped: this CPU has neither AMX nor AVX512-BF16");
        return;
    }
    let run = |compiled: Compiled| compiled.run(images(3, 1.0)).remove(0).to_vec();
    let net = steps(network(), 2, 4);
    let full = run(net.compile_all());
    let half = run(net.compile_in(&["fc"], Precision::Bf16).unwrap());
    assert_ne!(full, half);
    assert_eq!(run(net.compile_mixed(Precision::Bf16)), full, "nothing is frozen");
    let headed = net.edit(&[Edit::FreezeBody], 0).unwrap();
    assert_eq!(run(headed.compile_mixed(Precision::F32)), full);
    assert_eq!(run(headed.compile_mixed(Precision::Bf16)), half);
    let upper = net.edit(&[Edit::UnfreezeFrom { layer: "block2".into() }], 0).unwrap();
    let mixed = run(upper.compile_mixed(Precision::Bf16));
    assert!(mixed != full && mixed != half);
    // Training sees the same: from rounded values on, a network in f32.
    let training = Training::new_in(&upper, Precision::Bf16);
    let boundary = training.run_frozen(images(3, 1.0));
    let rounded = upper.compile_in(&["pool"], Precision::Bf16).unwrap();
    assert_eq!(boundary[0].to_vec(), run(rounded));
    let upwards = upper.compile_between(&training.boundary(&upper), &["fc"]).unwrap();
    assert_eq!(upwards.run_from(boundary).remove(0).to_vec(), mixed);
    // With the dropout frozen too, the features lie inside what is frozen.
    let top = net.edit(&[Edit::UnfreezeFrom { layer: "fc".into() }], 0).unwrap();
    assert_eq!(Training::new(&top).boundary(&top), ["drop"]);
    let graph = top.graph();
    let both = vec![graph.find("mean").unwrap(), graph.output()];
    let both = top.compile_mixed_to(both, Precision::Bf16).run(images(3, 1.0));
    assert_eq!(both[0].to_vec(), run(top.compile_in(&["mean"], Precision::Bf16).unwrap()));
    assert_eq!(both[1].to_vec(), half);
}

/// Folding and fusing change no result beyond rounding, wherever a value is tapped.
#[test]
fn compiled_equals_layer_by_layer() {
    let net = steps(network(), 3, 4);
    let names: Vec<String> = net.graph().nodes().iter().map(|n| n.name.clone()).collect();
    // Tapping everything forbids fusing anything.
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let apart = net.compile(&all).unwrap().run(images(2, 9.0));
    for (name, expected) in names.iter().zip(&apart) {
        let fused = net.compile(&[name]).unwrap().run(images(2, 9.0)).remove(0);
        assert_eq!(fused.dims(), expected.dims());
        for (a, b) in fused.to_vec().iter().zip(expected.to_vec()) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{name}: {a} {b}");
        }
    }
}

/// A pass with stored statistics and everything trained equals the compiled network.
#[test]
fn training_with_stored_statistics_equals_the_compiled_network() {
    let net = steps(network(), 3, 4).edit(&[Edit::Freeze { layers: "drop".into() }], 0).unwrap();
    let training = Training::new(&net);
    let options = TrainingOptions { norms: NormStatistics::Stored, dropout_key: 0 };
    let pass = training.pass(&net, training.run_frozen(images(3, 2.0)), options);
    let ours: Vec<f32> = pass.logits.to_data().iter::<f32>().collect();
    let frozen = net.compile_all().run(images(3, 2.0)).remove(0).to_vec();
    assert!(ours.iter().zip(&frozen).all(|(a, b)| (a - b).abs() < 1e-4), "{ours:?} {frozen:?}");
}

/// Every parameter's gradient against central differences of the loss.
#[test]
fn gradients_equal_finite_differences() {
    let net = steps(network(), 2, 4).edit(&[Edit::Freeze { layers: "drop".into() }], 0).unwrap();
    for norms in [NormStatistics::Batch, NormStatistics::Stored] {
        let options = TrainingOptions { norms, dropout_key: 0 };
        let training = Training::new(&net);
        let loss = |net: &Network| {
            let pass = training.pass(net, training.run_frozen(images(4, 5.0)), options);
            let weights = Tensor::<2>::from_data([[1.0, -2.0, 0.5, 1.5, -1.0]], &Device::flex());
            let loss = (pass.logits.clone() * weights.autodiff()).mean() * 10.0;
            (loss, pass)
        };
        let (value, mut pass) = loss(&net);
        let gradients = pass.gradients(&value);
        for (name, gradient) in gradients {
            let gradient: Vec<f32> = gradient.to_data().iter::<f32>().collect();
            let largest = gradient.iter().fold(0.0_f32, |m, g| m.max(g.abs()));
            let index = gradient.iter().position(|g| g.abs() == largest).unwrap();
            let old = net.parameters()[&name].to_vec();
            let at = |offset: f32| -> f32 {
                let mut values = old.clone();
                values[index] += offset;
                let mut moved = net.clone();
                let len = values.len();
                moved
                    .set(&name, Tensor::from_data(TensorData::new(values, [len]), &Device::flex()));
                loss(&moved).0.into_scalar()
            };
            // ReLUs bend: of three steps, one lies within the straight part.
            let close = [1e-2_f32, 3e-3, 1e-3].into_iter().any(|h| {
                let measured = (at(h) - at(-h)) / (2.0 * h);
                (measured - largest.copysign(gradient[index])).abs() <= 0.02 * largest + 2e-3
            });
            assert!(close, "{name}[{index}]: {} {norms:?}", gradient[index]);
        }
    }
}

#[test]
fn dropout_depends_on_its_key_alone() {
    let net = network();
    let training = Training::new(&net);
    let run = |key| {
        let options = TrainingOptions { norms: NormStatistics::Stored, dropout_key: key };
        let pass = training.pass(&net, training.run_frozen(images(2, 1.0)), options);
        pass.logits.to_data().iter::<f32>().collect::<Vec<f32>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_boundary_is_where_training_begins() {
    let net = network();
    let boundary = |edits: &[Edit]| {
        let net = net.edit(edits, 0).unwrap();
        Training::new(&net).boundary(&net).iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(boundary(&[]), ["input"]);
    assert_eq!(boundary(&[Edit::FreezeBody]), ["mean"]);
    assert_eq!(boundary(&[Edit::UnfreezeFrom { layer: "block2".into() }]), ["pool"]);
    // From the middle of a block two values enter: the branch's and the shortcut's.
    assert_eq!(
        boundary(&[Edit::UnfreezeFrom { layer: "block2.pw".into() }]),
        ["pool", "block2.act"]
    );
    let head = Edit::ReplaceHead { classes: 2, kind: HeadKind::Linear, keep: vec![] };
    assert_eq!(boundary(&[head, Edit::FreezeBody]), ["mean"]);
}

/// Burn's own operations, composed, are the reference of the fused ones.
#[test]
fn operations_equal_burns_own() {
    use burn::tensor::activation::relu;
    use burn::tensor::module;
    use burn::tensor::ops::ConvOptions;
    use refit_net::ops::{self, Geometry};
    use refit_net::{Activation, Padding};

    let x = images(2, 3.0);
    let conv = Conv::k3(6).stride(2).padding(Padding::Same).groups(3);
    let weight = Tensor::<4>::from_data(
        TensorData::new((0..54).map(|i| (i as f32 * 0.7).cos()).collect(), [6, 1, 3, 3]),
        &Device::flex(),
    );
    let shift = Tensor::<1>::from_data([0.1, -0.2, 0.3, 0.0, 0.5, -0.5], &Device::flex());
    let options = ConvOptions::new_with_padding([2, 2], [(0, 1), (0, 1)], [1, 1], 3);
    let geometry = Geometry::new(&conv, 16, 16);
    let plain = module::conv2d(x.clone(), weight.clone(), Some(shift.clone()), options);
    let skip = plain.clone() * 0.5;
    let fused =
        ops::convolve_fused(x, weight, shift, Some(skip.clone()), geometry, Activation::Relu);
    let close = |a: Tensor<4>, b: Tensor<4>| {
        let worst: f32 = (a - b).abs().max().into_scalar();
        assert!(worst < 1e-5, "{worst}");
    };
    close(fused, relu(plain.clone() + skip.clone()));
    close(
        ops::add_activate(plain.clone(), skip.clone(), Activation::Relu6),
        (plain.clone() + skip).clamp(0.0, 6.0),
    );
    let pool = Windows::new(3, 2).padded(1);
    let pooled = module::max_pool2d(
        plain.clone(),
        burn::tensor::ops::MaxPoolOptions {
            kernel_size: [3, 3],
            stride: [2, 2],
            padding: [(1, 1); 2],
            dilation: [1, 1],
            ceil_mode: false,
        },
    );
    close(ops::max_pool(plain.clone(), pool), pooled);
    let scale = Tensor::<1>::from_data([1.0, 2.0, -1.0, 0.5, 0.0, 3.0], &Device::flex());
    let expected = plain.clone() * scale.clone().reshape([1, 6, 1, 1]) + 0.25;
    close(
        ops::scale_shift(
            plain,
            scale,
            Tensor::full([6], 0.25, &Device::flex()),
            Activation::Identity,
        ),
        expected,
    );
}
