//! What the embedded network reaches on real photographs, found through `REFIT_DATA`.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/photographs.rs"]
mod folder;
mod support;

use std::path::PathBuf;

use refit_data::Sample;
use refit_learn::{Model, RunContext, RunOptions, Settings, Strategy, train};
use refit_net::{Precision, zoo};

use folder::photographs;
use support::has_bf16;

/// PyTorch scores 174 or 175 of these 200 with the same weights, as resized pixels are rounded.
#[test]
fn the_embedded_network_knows_imagenet() {
    knows_imagenet(Precision::F32, [174, 194]);
}

#[test]
fn the_embedded_network_knows_imagenet_in_bf16() {
    if has_bf16() {
        knows_imagenet(Precision::Bf16, [172, 193]);
    }
}

/// Of 200 photographs at least so many have their class first, and among the first five.
fn knows_imagenet(precision: Precision, least: [usize; 2]) {
    let Some(folder) = photographs("imagenet_samples") else { return };
    let paths = refit_data::list_images(&[folder]).unwrap();
    let ids: Vec<&str> = zoo::imagenet_classes().map(|(id, _)| id).collect();
    let label = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        ids.iter().position(|id| name.starts_with(&format!("{id}_"))).unwrap()
    };
    let samples: Vec<Sample> =
        paths.iter().map(|path| Sample { path: path.clone(), label: label(path) }).collect();
    let model = Model::open("efficientnet_lite0", &Default::default()).unwrap();
    let (mut first, mut fifth) = (0, 0);
    let skipped = model
        .run(
            &samples,
            &[],
            &RunOptions { precision, ..RunOptions::default() },
            &(),
            &mut |output| {
                let right = output.values[samples[output.index].label];
                let better = output.values.iter().filter(|&&v| v > right).count();
                first += usize::from(better == 0);
                fifth += usize::from(better < 5);
            },
        )
        .unwrap();
    assert_eq!((samples.len(), skipped.len()), (200, 0));
    assert!(first >= least[0] && fifth >= least[1], "top-1 {first}, top-5 {fifth} of 200");
}

/// PyTorch's cross-validated logistic regression on the same features reaches 94.8%.
#[test]
fn features_tell_ants_from_bees() {
    features_tell_ants_from_bees_in(Precision::F32);
}

#[test]
fn bf16_features_tell_ants_from_bees() {
    if has_bf16() {
        features_tell_ants_from_bees_in(Precision::Bf16);
    }
}

fn features_tell_ants_from_bees_in(precision: Precision) {
    let Some(folder) = photographs("ants_bees") else { return };
    let settings = Settings { seed: 1, precision, ..Settings::new(folder, Strategy::Features) };
    let context = RunContext { cache: None, ..RunContext::default() };
    let report = train(&settings, &context, &()).unwrap().report;
    let val = report.val.unwrap();
    assert_eq!((report.images, val.samples, report.skipped.len()), (398, 153, 0));
    assert!(val.top1 >= 0.945, "{}", val.top1);
}
