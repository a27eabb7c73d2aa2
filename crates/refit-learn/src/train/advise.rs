//! What is measured before anything is trained.

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use refit_data::{DecodeOptions, Loader, LoaderOptions, Sample, Strictness, decode_file_in};
use refit_net::{Edit, HeadKind, Layer, Network, Shape};

use super::auto::Behind;
use super::images::{Images, SplitFeatures};
use super::start::{Start, open_dataset, starting_point};
use super::{Run, RunContext, labels};
use crate::advice::curve::LearningCurve;
use crate::advice::ranking::{self, Ranked};
use crate::advice::similarity::{ChannelSums, Depths, Reference, Similarity, groups};
use crate::advice::transfer::{NEIGHBOURS, Transferability, leep, log_me, neighbour_accuracy};
use crate::advice::{Advice, Amount, Facts};
use crate::error::LearnError;
use crate::logistic::{LogisticOptions, LogisticRegression};
use crate::metrics::softmax;
use crate::settings::{Settings, Strategy, TrainingSettings};
use crate::subsets::over_classes;
use crate::watch::{Event, Watch, stage};

/// Training images that layers are looked at with.
const SAMPLE: usize = 128;

/// Training images that networks are ranked by, at most: more would make LogME slow, not surer.
const RANKED: usize = 256;

/// Training images that the learning curve is drawn from, at most.
const MOST: usize = 4000;

/// Images that go through the network together: all layers' maps are held.
const TOGETHER: usize = 2;

/// Measures amount, similarity and transferability, and concludes. Nothing is trained but linear
/// heads on features, which are kept in the cache for a run to come.
///
/// `settings.strategy` does not matter.
///
/// # Errors
/// See [`LearnError`].
pub fn advise(
    settings: &Settings,
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Advice, LearnError> {
    advise_among(std::slice::from_ref(settings), context, watch)
}

/// The same for the best of several networks to start from, by the features of their heads
/// ([`Ranked`]); one is advised on without any ranking. `networks` differ in backbone, weights and edits
/// alone, and all are read before anything is measured.
///
/// # Errors
/// See [`LearnError`].
///
/// # Panics
/// If there are no networks.
pub fn advise_among(
    networks: &[Settings],
    context: &RunContext,
    watch: &dyn Watch,
) -> Result<Advice, LearnError> {
    assert!(!networks.is_empty(), "advise_among: no networks");
    let plain = |settings: &Settings| {
        let settings = Settings { strategy: Strategy::Features, ..settings.clone() };
        settings.validate().map(|()| settings)
    };
    let networks: Vec<Settings> = networks.iter().map(plain).collect::<Result<_, _>>()?;
    let dataset = open_dataset(&networks[0], watch)?;
    let read = |settings| starting_point(settings, &Device::flex(), watch);
    let starts: Vec<Start> = networks.iter().map(read).collect::<Result<_, _>>()?;
    let mut ranking = Vec::new();
    if starts.len() > 1 {
        let (behind, total) = (Behind(watch), dataset.samples().count());
        for (settings, start) in networks.iter().zip(&starts) {
            let run = Run::to_measure(settings, context, &behind, dataset.clone());
            let name = format!("features of {}", settings.backbone);
            ranking.push(stage(watch, name, total, || run.rank(start))?);
        }
        ranking::sort(&mut ranking);
    }
    let best = ranking.first().map(|best| best.backbone.as_str());
    let at = networks.iter().position(|s| Some(s.backbone.as_str()) == best).unwrap_or(0);
    let run = Run::to_measure(&networks[at], context, watch, dataset);
    let (mut advice, _) = run.advise(&starts[at], &TrainingSettings::for_strategy)?;
    advice.conclusion.evidence.splice(0..0, ranking::in_words(&ranking));
    Ok(Advice { ranking, ..advice })
}

/// What a look at the layers found.
struct Looked {
    similarity: Option<Similarity>,
    transfer: Vec<Transferability>,
}

impl Run<'_> {
    /// What the features of the head say of some training images.
    fn rank(&self, start: &Start) -> Result<Ranked, LearnError> {
        let features = self.features(start)?;
        let truth = labels(&self.images_with(&features)?.train);
        let chosen = over_classes(&truth, RANKED);
        let (rows, own) =
            (plain_rows(&features, &chosen), chosen.iter().map(|i| truth[*i]).collect::<Vec<_>>());
        let classes = self.dataset.classes.len();
        Ok(Ranked {
            backbone: self.settings.backbone.clone(),
            log_me: log_me(&rows, &own, classes),
            leep: self.old_classes(start, &rows, &own).1,
            neighbours: neighbour_accuracy(&rows, &own, classes, NEIGHBOURS),
            images: own.len(),
            features: features.learned.dim,
            image_ms: 1e3 * seconds_of_an_image(&start.network, start.preprocess.size),
            parameters: self.parameters(start)?[1],
        })
    }

    /// The advice, and the images that could be read; `training` gives the settings of a strategy.
    pub(super) fn advise(
        &self,
        start: &Start,
        training: &dyn Fn(Strategy) -> TrainingSettings,
    ) -> Result<(Advice, Images), LearnError> {
        let features = self.features(start)?;
        let images = self.images_with(&features)?;
        let classes = self.dataset.classes.len();
        let truth = labels(&images.train);
        let used = over_classes(&truth, MOST);
        let (rows, own) =
            (plain_rows(&features, &used), used.iter().map(|i| truth[*i]).collect::<Vec<_>>());
        let curve = stage(self.watch, "learning curve", 0, || {
            let options = LogisticOptions { seed: self.settings.seed, ..Default::default() };
            let strength = LogisticRegression::fit(&rows, &own, classes, &options)?.strength;
            LearningCurve::of(&rows, &own, classes, strength, self.settings.seed)
        })?;
        if self.watch.stops() {
            return Err(LearnError::Stopped);
        }
        let mut by_class = vec![0; classes];
        truth.iter().for_each(|l| by_class[*l] += 1);
        let mirroring = match self.looks_at_mirroring() {
            true => self.mirroring(start, &images)?,
            false => Vec::new(),
        };
        let amount = Amount::new(by_class, self.parameters(start)?);
        let depths = Depths::of(&start.network);
        let looked = self.look(start, &depths, &images, &features)?;
        let (energy, leep) = self.old_classes(start, &rows, &own);
        let seconds = self.seconds_of(start, training, images.train.len(), images.val.len());
        let facts = Facts {
            amount: &amount,
            similarity: looked.similarity.as_ref(),
            transfer: &looked.transfer,
            curve: &curve,
            classes: &self.dataset.classes,
            mirroring: &mirroring,
            starts: &depths.starts,
            seconds: &seconds,
        };
        let conclusion = facts.conclude();
        let advice = Advice {
            backbone: self.settings.backbone.clone(),
            ranking: Vec::new(),
            classes: self.dataset.classes.clone(),
            amount,
            similarity: looked.similarity,
            energy,
            leep,
            transfer: looked.transfer,
            curve,
            mirroring,
            conclusion,
        };
        Ok((advice, images))
    }

    /// Parameters of a new linear head, and of the network with it.
    fn parameters(&self, start: &Start) -> Result<[usize; 2], LearnError> {
        let (classes, kind) = (self.dataset.classes.len(), HeadKind::Linear);
        let head = Edit::ReplaceHead { classes, kind, keep: Vec::new() };
        let network = start.network.edit(&[head, Edit::FreezeBody], self.settings.seed)?;
        let trained = network.trainable().map(|(_, p)| p.len()).sum();
        Ok([trained, network.parameter_count()])
    }

    /// Runs some training images through the network and watches its layers.
    fn look(
        &self,
        start: &Start,
        depths: &Depths,
        images: &Images,
        features: &SplitFeatures,
    ) -> Result<Looked, LearnError> {
        let chosen = over_classes(&labels(&images.train), SAMPLE);
        let samples: Vec<Sample> = chosen.iter().map(|&i| images.train[i].clone()).collect();
        let taken = depths.norms.iter().map(|(input, _)| input.as_str());
        let cuts: Vec<&str> = depths.cuts.iter().map(String::as_str).collect();
        let outputs: Vec<&str> = taken.chain(cuts.iter().copied()).collect();
        let compiled = start.network.compile(&outputs)?;
        let mut sums = vec![ChannelSums::default(); depths.norms.len()];
        let mut rows = vec![Vec::new(); cuts.len()];
        stage(self.watch, "layers", samples.len(), || -> Result<(), LearnError> {
            for batch in self.loader(start, &samples) {
                let batch = batch?;
                let shape = [batch.n, 3, batch.size, batch.size];
                let data = TensorData::new(batch.images, shape);
                let values = compiled.run(Tensor::from_data(data, start.network.device()));
                let (inputs, maps) = values.split_at(depths.norms.len());
                sums.par_iter_mut().zip(inputs).for_each(|(sums, value)| sums.add(value));
                for (rows, map) in rows.iter_mut().zip(maps) {
                    rows.extend(map.clone().pooled().to_data().iter::<f32>());
                }
                self.watch.event(Event::Advance { items: batch.n });
                if self.watch.stops() {
                    return Err(LearnError::Stopped);
                }
            }
            Ok(())
        })?;
        let truth: Vec<usize> = samples.iter().map(|s| s.label).collect();
        let classes = self.dataset.classes.len();
        let score = |layer: &str, rows: &[f32]| Transferability {
            layer: layer.to_owned(),
            log_me: log_me(rows, &truth, classes),
            neighbours: neighbour_accuracy(rows, &truth, classes, NEIGHBOURS),
        };
        let transfer = stage(self.watch, "transferability", 0, || {
            // A block's input is what a head would take if the network were cut before it.
            let below = cuts.iter().zip(&rows).map(|(cut, rows)| score(cut, rows));
            let graph = start.network.graph();
            let top: Vec<f32> =
                chosen.iter().flat_map(|&i| features.learned.row(i, 0)).copied().collect();
            below.chain([score(&graph.nodes()[graph.features()].name, &top)]).collect()
        });
        Ok(Looked {
            similarity: similarity(&start.network, depths, &sums, samples.len()),
            transfer,
        })
    }

    fn loader(&self, start: &Start, samples: &[Sample]) -> Loader {
        let pipeline = start.preprocess;
        let options = LoaderOptions {
            batch_size: TOGETHER,
            size: pipeline.size,
            workers: self.context.workers,
            ahead: 4,
            strictness: Strictness::Strict,
        };
        let make = move |sample: &Sample, _: usize, out: &mut [f32]| {
            let decode = DecodeOptions::default();
            pipeline.apply_into(&decode_file_in(&sample.path, &decode, pipeline.detail())?, out);
            Ok(())
        };
        Loader::new(samples.to_vec(), (0..samples.len()).collect(), options, make)
    }

    /// What the old classes make of the new images: energy and LEEP, from the old head on features.
    fn old_classes(
        &self,
        start: &Start,
        rows: &[f32],
        truth: &[usize],
    ) -> (Option<f64>, Option<f64>) {
        let graph = start.network.graph();
        let name = |id: usize| graph.nodes()[id].name.as_str();
        // A head that a checkpoint lacks, or that an edit made, knows nothing.
        let known = start.knows_classes && self.settings.edits.is_empty();
        let vector = matches!(graph.nodes()[graph.features()].shape, Shape::Vector { .. });
        if !known || !vector || start.classes.is_empty() || graph.features() == graph.output() {
            return (None, None);
        }
        let head =
            start.network.compile_between(&[name(graph.features())], &[name(graph.output())]);
        let Ok(head) = head else { return (None, None) };
        let dim = rows.len() / truth.len().max(1);
        let data = TensorData::new(rows.to_vec(), [truth.len(), dim]);
        let rows = refit_net::Value::Vector(Tensor::from_data(data, start.network.device()));
        let logits = head.run_from(vec![rows]).remove(0).to_vec();
        let old = logits.len() / truth.len().max(1);
        let free = |row: &[f32]| {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
            f64::from(top) + sum.ln()
        };
        let energy = logits.chunks_exact(old).map(free).sum::<f64>() / truth.len() as f64;
        let known = softmax(&logits, old);
        (Some(energy), Some(leep(&known, truth, self.dataset.classes.len())))
    }

    /// Seconds that strategies take: from the time of an image forward, at what a step costs relative to
    /// it.
    fn seconds_of<'a>(
        &'a self,
        start: &'a Start,
        training: &'a dyn Fn(Strategy) -> TrainingSettings,
        train: usize,
        val: usize,
    ) -> impl Fn(Strategy, Option<&str>) -> f64 + 'a {
        let image = seconds_of_an_image(&start.network, start.preprocess.size);
        let views = self.settings.views;
        move |strategy, unfreeze_from| {
            let TrainingSettings { epochs, fixed_views, .. } = training(strategy);
            let (epochs, fixed, train, val) =
                (epochs as f64, fixed_views as f64, train as f64, val as f64);
            let trained = unfreeze_from.map_or(1.0, |layer| share_above(&start.network, layer));
            // A step forward and back costs three to five times as much as a compiled pass.
            const STEP: f64 = 4.5;
            let features = if strategy.runs_frozen() { train * views as f64 + val } else { 0.0 };
            let passes = match strategy {
                Strategy::AsIs | Strategy::Features => 0.0,
                // What is frozen runs once a view.
                _ if fixed_views > 0 => {
                    let kept = (train * fixed + val) * (1.0 - trained);
                    kept + epochs * trained * (train * STEP + val)
                }
                _ => epochs * (train * (1.0 - trained + trained * STEP) + val),
            };
            image * (features + passes)
        }
    }
}

/// The share of a network's multiply-adds from a layer or block on.
pub(super) fn share_above(network: &Network, layer: &str) -> f64 {
    let graph = network.graph();
    let first = graph.find_first(layer).unwrap_or(0);
    let needed = graph.needed();
    let above: u64 =
        needed.iter().filter(|id| **id >= first).map(|id| graph.multiply_adds(*id)).sum();
    above as f64 / graph.total_multiply_adds().max(1) as f64
}

fn seconds_of_an_image(network: &Network, size: usize) -> f64 {
    const BATCH: usize = 8;
    let compiled = network.compile_all();
    let run = || {
        let began = Instant::now();
        compiled.run(Tensor::zeros([BATCH, 3, size, size], network.device()));
        began.elapsed().as_secs_f64() / BATCH as f64
    };
    run();
    run().min(run())
}

fn similarity(
    network: &Network,
    depths: &Depths,
    sums: &[ChannelSums],
    images: usize,
) -> Option<Similarity> {
    if depths.norms.is_empty() {
        return None;
    }
    let graph = network.graph();
    let divergence = |((_, norm), sums): (&(String, String), &ChannelSums)| {
        let stored = |suffix: &str| network.parameters()[&format!("{norm}.{suffix}")].to_vec();
        let id = graph.find(norm).expect("a layer of this graph");
        let Layer::BatchNorm(layer) = graph.nodes()[id].layer else { unreachable!("a norm") };
        sums.divergence(&stored("running_mean"), &stored("running_var"), layer.epsilon)
    };
    let by_norm: Vec<f64> = depths.norms.iter().zip(sums).map(divergence).collect();
    let reference = Reference::embedded();
    let own = reference.network == graph.name();
    Some(Similarity::new(images, depths.starts.clone(), groups(&by_norm), &reference, own))
}

/// The plain views of some training images.
fn plain_rows(features: &SplitFeatures, images: &[usize]) -> Vec<f32> {
    images.iter().flat_map(|&i| features.learned.row(i, 0)).copied().collect()
}
