//! What neighbours tell on real photographs, found through `REFIT_DATA`: planted copies, planted wrong
//! labels, images of the same class.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/photographs.rs"]
mod folder;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use folder::photographs;
use image::imageops::{self, FilterType};
use image::{DynamicImage, RgbImage};
use refit_data::{Dataset, Sample, SourceOptions, Stream, list_images};
use refit_learn::retrieval::{
    Copies, Entry, Index, IndexOptions, Query, Source, duplicates, evaluate, suspects,
};
use refit_learn::{Features, Model, RunOptions};
use refit_net::Precision;

struct Eyes {
    model: Model,
    source: Source,
}

impl Eyes {
    fn open() -> Self {
        let name = "efficientnet_lite0";
        let model = Model::open(name, &Default::default()).unwrap();
        let source = Source::of(&model, name, None, Precision::F32).unwrap();
        Self { model, source }
    }

    fn see(&self, paths: &[PathBuf]) -> Features {
        let samples: Vec<Sample> =
            paths.iter().map(|path| Sample { path: path.clone(), label: 0 }).collect();
        let cache = std::env::var_os("REFIT_CACHE").map(|dir| PathBuf::from(dir).join("features"));
        self.source.features(&self.model, &samples, &RunOptions::default(), cache, &()).unwrap()
    }
}

/// A copy of an image, changed in the way that its number says, as JPEG.
fn copy(image: &RgbImage, kind: usize, stream: &mut Stream) -> (RgbImage, u8) {
    let (w, h) = image.dimensions();
    let mut between = |low: f64, high: f64| stream.range(low, high);
    let scaled = |image: &RgbImage, by: f64| {
        let side = |n: u32| ((f64::from(n) * by) as u32).max(80);
        imageops::resize(image, side(image.width()), side(image.height()), FilterType::Triangle)
    };
    match kind % 5 {
        0 => (scaled(image, between(0.3, 0.8)), 80),
        1 => (image.clone(), between(20.0, 50.0) as u8),
        2 | 3 => {
            let (cw, ch) = (between(0.7, 0.95), between(0.7, 0.95));
            let (cw, ch) = ((f64::from(w) * cw) as u32, (f64::from(h) * ch) as u32);
            let (x, y) =
                (between(0.0, f64::from(w - cw)) as u32, between(0.0, f64::from(h - ch)) as u32);
            let cut = imageops::crop_imm(image, x, y, cw, ch).to_image();
            match kind % 5 {
                2 => (cut, 85),
                _ => (imageops::brighten(&scaled(&cut, between(0.5, 1.0)), 25), 60),
            }
        }
        _ => (imageops::flip_horizontal(&scaled(image, between(0.5, 1.0))), 75),
    }
}

/// Writes copies of every fourth image; gives each one's path and the original's position.
fn plant(paths: &[PathBuf], folder: &Path, seed: u64) -> Vec<(PathBuf, usize)> {
    let mut planted = Vec::new();
    for (kind, i) in (0..paths.len()).step_by(4).enumerate() {
        let mut stream = Stream::new(seed, "copy", &[i as u64]);
        let Ok(image) = refit_data::decode_file(&paths[i], &Default::default()) else { continue };
        let image = RgbImage::from_raw(image.width(), image.height(), image.into_pixels()).unwrap();
        let (copy, quality) = copy(&image, kind, &mut stream);
        let path = folder.join(format!("{i}-{}.jpg", kind % 5));
        let mut file = fs::File::create(&path).unwrap();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality);
        DynamicImage::from(copy).write_with_encoder(encoder).unwrap();
        planted.push((path, i));
    }
    planted
}

/// Planted copies are found, and nothing else but what a set had of its own before.
#[test]
fn planted_copies_are_found_in_any_set() {
    let eyes = Eyes::open();
    for (name, seed) in [("flowers", 1), ("ants_bees", 2), ("clothing", 3), ("imagenet_samples", 4)]
    {
        let Some(folder) = photographs(name) else { continue };
        let all = list_images(&[folder]).unwrap();
        let readable = eyes.see(&all).readable;
        let mut paths: Vec<PathBuf> = readable.iter().map(|i| all[*i].clone()).collect();
        let originals = paths.len();
        let copies = tempfile::tempdir().unwrap();
        let planted = plant(&paths, copies.path(), seed);
        paths.extend(planted.iter().map(|(path, _)| path.clone()));
        let seen = eyes.see(&paths);
        assert_eq!(seen.readable.len(), paths.len());
        let found = duplicates(&paths, &seen.hashes, &seen.rows, seen.dim, &()).unwrap();
        let truth: BTreeSet<[usize; 2]> =
            planted.iter().enumerate().map(|(copy, (_, i))| [*i, originals + copy]).collect();
        let mut hits = BTreeSet::new();
        let mut own = Vec::new();
        for pair in &found.pairs {
            match truth.contains(&pair.images) {
                true => _ = hits.insert(pair.images),
                false => own.push(pair),
            }
        }
        for pair in &own {
            let [a, b] = pair.images.map(|i| paths[i].display());
            eprintln!("  not planted: {a} {b} {:?}", pair.copies);
        }
        for missed in truth.difference(&hits) {
            eprintln!("  missed: {}", paths[missed[1]].display());
        }
        let recall = hits.len() as f64 / truth.len() as f64;
        let precision = hits.len() as f64 / (hits.len() + own.len()) as f64;
        let least = found.pairs.iter().filter_map(|pair| match pair.copies {
            Copies::Alike { agreement, .. } => Some(agreement.correlation),
            Copies::Same => None,
        });
        eprintln!(
            "{name}: {originals} images, {} copies, recall {recall:.3}, precision {precision:.3}, {} compared, least correlation {:.2}",
            truth.len(),
            found.compared,
            least.fold(1.0, f32::min)
        );
        assert!(recall >= 0.95 && precision >= 0.95, "{name}: {recall} {precision}");
    }
}

/// A twentieth of the labels of flowers is wrong; the doubtful ones hold most of them.
#[test]
fn planted_wrong_labels_come_first() {
    let Some(folder) = photographs("flowers") else { return };
    let eyes = Eyes::open();
    let options = SourceOptions { val_fraction: None, ..SourceOptions::default() };
    let dataset = Dataset::open(&folder, &options).unwrap();
    let samples: Vec<Sample> = dataset.samples().cloned().collect();
    let classes = dataset.classes.len();
    let paths: Vec<PathBuf> = samples.iter().map(|s| s.path.clone()).collect();
    let seen = eyes.see(&paths);
    let right: Vec<usize> = seen.readable.iter().map(|i| samples[*i].label).collect();
    let (mut precisions, mut shares) = (Vec::new(), Vec::new());
    for seed in 0..5 {
        let mut stream = Stream::new(seed, "wrong labels", &[]);
        let wrong: BTreeSet<usize> =
            stream.permutation(right.len()).into_iter().take(right.len() / 20).collect();
        let mut labels = right.clone();
        for &i in &wrong {
            labels[i] = (labels[i] + 1 + stream.below(classes - 1)) % classes;
        }
        let found = suspects(&seen.rows, &labels, classes, seed).unwrap().found;
        let needed = (0.7 * wrong.len() as f64).ceil() as usize;
        let hits: Vec<usize> =
            (0..found.len()).filter(|i| wrong.contains(&found[*i].image)).collect();
        let precision = hits.get(needed - 1).map_or(0.0, |at| needed as f64 / (at + 1) as f64);
        precisions.push(precision);
        shares
            .push((hits.len() as f64 / wrong.len() as f64, hits.len() as f64 / found.len() as f64));
    }
    eprintln!(
        "precision at recall 0.7: {precisions:.2?}; of all suspects, recall and precision: {shares:.2?}"
    );
    let mean = precisions.iter().sum::<f64>() / precisions.len() as f64;
    assert!(mean >= 0.5, "{precisions:?}");
}

/// The nearest training image of a test image is mostly of its class.
#[test]
fn flowers_find_flowers_of_their_kind() {
    let Some(folder) = photographs("flowers") else { return };
    let eyes = Eyes::open();
    let dataset = Dataset::open(
        &folder,
        &SourceOptions { val: Some(folder.join("test")), ..SourceOptions::default() },
    );
    let dataset = dataset.unwrap();
    let paths =
        |samples: &[Sample]| -> Vec<PathBuf> { samples.iter().map(|s| s.path.clone()).collect() };
    let train = eyes.see(&paths(&dataset.train));
    let entries: Vec<Entry> = train
        .readable
        .iter()
        .zip(&train.hashes)
        .map(|(&i, &content)| {
            let Sample { path, label } = dataset.train[i].clone();
            Entry { path, content, label: Some(dataset.classes[label].clone()) }
        })
        .collect();
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("index");
    let test = eyes.see(&paths(&dataset.val));
    let ask = |options: &IndexOptions| {
        let source = eyes.source.clone();
        let index = Index::create(&path, source, options, &entries, &train.rows, &()).unwrap();
        let label = |i: &usize| {
            let name = &dataset.classes[dataset.val[*i].label];
            index.labels().iter().position(|label| label == name).unwrap()
        };
        let rows = test.rows.chunks_exact(test.dim).zip(&test.readable);
        let asked: Vec<Query> =
            rows.map(|(row, i)| Query::New { features: row.to_vec(), label: label(i) }).collect();
        let new = evaluate(&index, &asked, &[1, 5, 10]);
        let within: Vec<Query> = index.rows().map(Query::Within).collect();
        (new, evaluate(&index, &within, &[1, 5, 10]))
    };
    for whiten in [None, Some(32), Some(64), Some(128)] {
        let (new, within) = ask(&IndexOptions { whiten, ..IndexOptions::default() });
        eprintln!(
            "whiten {whiten:?}: test mAP {:.3} recall@1 {:.3}, leave-one-out mAP {:.3} recall@1 {:.3}",
            new.map, new.recall[0].1, within.map, within.recall[0].1
        );
        if whiten.is_none() {
            assert!(new.recall[0].1 > 0.6 && new.map > 0.4, "{new:?}");
        }
    }
}
