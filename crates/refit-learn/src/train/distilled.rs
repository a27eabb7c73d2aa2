//! A distillation and what it is compared with: the teachers, and the same student without them.

use std::path::Path;

use burn::tensor::Device;
use refit_data::Sample;
use serde::{Deserialize, Serialize};

use super::compare::{latency, mcnemar};
use super::folder::{RunFolder, SETTINGS, damaged, read_file, read_settings};
use super::start::has_no_classes;
use super::{Outcome, RunContext, run_options, train};
use crate::distill::{Teacher, average_softened};
use crate::error::LearnError;
use crate::metrics::{Metrics, arg_max};
use crate::model::Model;
use crate::predictions::Split;
use crate::settings::{Settings, TrainingSettings};
use crate::watch::{Event, Watch};

/// The file of a run's folder that holds a [`Distilled`].
pub(super) const DISTILLED: &str = "distillation.json";

/// The folder, in that of the student, of the student that learned without a teacher.
pub const ALONE: &str = "alone";

/// One of the models of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Party {
    /// Whose model it is: a file, or a network's name.
    pub name: String,
    /// The network.
    pub network: String,
    /// How it did; none where no image with a label was kept apart.
    pub metrics: Option<Metrics>,
    /// Bytes of the model's file.
    pub model_bytes: u64,
    /// Multiply-adds for one image.
    pub multiply_adds: u64,
    /// Milliseconds that it takes for one image, decoding left out.
    pub latency: f64,
    /// The share of the images for which it says what the student says, `[0, 1]`; none for the student.
    pub agreement: Option<f64>,
    /// How likely as many differences from the student would be by chance ([`mcnemar`]); none for the
    /// student.
    pub p_value: Option<f64>,
}

/// A student beside its teachers and itself without them, on the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distilled {
    /// The images that all were judged by.
    pub split: Split,
    /// How many.
    pub images: usize,
    /// The teachers, in the order of the settings; of several also all together.
    pub teachers: Vec<Party>,
    /// The student.
    pub student: Party,
    /// The same student without a teacher, where it was trained too.
    pub alone: Option<Party>,
    /// Whether the training images had no labels, or these were not used.
    pub without_labels: bool,
}

impl Distilled {
    /// What the folder of a run tells, if it was a distillation that has ended.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, LearnError> {
        let Some(text) = read_file(folder, DISTILLED)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|e| damaged(folder, DISTILLED, e))
    }
}

/// Trains a student by its settings' [`distillation`](Settings::distillation), judges its teachers on
/// the same images, and where `with_alone` trains the same student without them, on the same split
/// by the same settings.
///
/// # Errors
/// As [`train`], and if the settings name no teacher.
pub fn distill(
    settings: &Settings,
    context: &RunContext,
    with_alone: bool,
    watch: &dyn Watch,
) -> Result<(Outcome, Distilled), LearnError> {
    let Some(asked) = &settings.distillation else {
        let (name, range) = ("--teacher", "a model, to learn from");
        return Err(LearnError::Setting { name, value: "not given".into(), range });
    };
    let outcome = train(settings, context, watch)?;
    let judged = Judged::of(&outcome);
    let without_labels = asked.ignore_labels || has_no_classes(settings);
    let student = judged.party(&settings.backbone, &outcome.model, None)?;
    let mut teachers = Vec::new();
    let mut all = Vec::new();
    for path in &asked.teachers {
        let teacher = Teacher::open(path, &Device::flex())?.about(&judged.classes)?;
        let logits = teacher.logits(&judged.samples, &run_options(settings, context), watch)?;
        teachers.push(judged.party(&teacher.name, &teacher.model, Some(&logits))?);
        all.push(logits);
    }
    if all.len() > 1 {
        teachers.push(judged.together(&teachers, &all));
    }
    let alone = match (with_alone, without_labels) {
        (true, false) => Some(judged.alone(settings, context, watch)?),
        (true, true) => {
            watch.event(Event::Note("without labels the student cannot learn alone".into()));
            None
        }
        (false, _) => None,
    };
    let (split, images) = (judged.split, judged.samples.len());
    let distilled = Distilled { split, images, teachers, student, alone, without_labels };
    let json = serde_json::to_string_pretty(&distilled).expect("numbers serialize");
    RunFolder(context.folder.clone()).write(DISTILLED, format!("{json}\n").as_bytes())?;
    Ok((outcome, distilled))
}

/// The same settings for a student that learns alone.
fn without_teacher(settings: Settings) -> Settings {
    let usual = TrainingSettings::for_strategy(settings.strategy).fixed_views;
    let training = TrainingSettings { fixed_views: usual, ..settings.training };
    Settings { distillation: None, training, ..settings }
}

/// The images that all are judged by, and what the student said of them.
struct Judged {
    split: Split,
    samples: Vec<Sample>,
    predicted: Vec<usize>,
    metrics: Option<Metrics>,
    classes: Vec<String>,
}

impl Judged {
    /// The test images, else the validation images.
    fn of(outcome: &Outcome) -> Self {
        let report = &outcome.report;
        let split = if report.test.is_some() { Split::Test } else { Split::Val };
        let judged = outcome.predictions.iter().filter(|j| j.split == split);
        Self {
            split,
            samples: judged
                .clone()
                .map(|j| Sample { path: j.path.clone(), label: j.label })
                .collect(),
            predicted: judged.map(|j| j.predicted).collect(),
            metrics: report.test.clone().or(report.val.clone()),
            classes: report.classes.clone(),
        }
    }

    fn right(&self, predicted: &[usize]) -> Vec<bool> {
        predicted.iter().zip(&self.samples).map(|(p, sample)| *p == sample.label).collect()
    }

    /// A model with its logits for the images; with none it is the student.
    fn party(
        &self,
        name: &str,
        model: &Model,
        logits: Option<&[f32]>,
    ) -> Result<Party, LearnError> {
        let party = Party {
            name: name.to_owned(),
            network: model.network.graph().name().to_owned(),
            metrics: self.metrics.clone(),
            model_bytes: model.saved_bytes()?,
            multiply_adds: model.network.multiply_adds(),
            latency: latency(model),
            agreement: None,
            p_value: None,
        };
        Ok(logits.map_or(party.clone(), |logits| self.compared(party, logits)))
    }

    /// The same with what its logits tell.
    fn compared(&self, party: Party, logits: &[f32]) -> Party {
        let classes = self.classes.len();
        let predicted: Vec<usize> = logits.chunks_exact(classes).map(arg_max).collect();
        let labels: Vec<usize> = self.samples.iter().map(|sample| sample.label).collect();
        Party {
            metrics: Metrics::from_logits(logits, &labels, &self.classes),
            ..self.against(party, &predicted)
        }
    }

    fn against(&self, party: Party, predicted: &[usize]) -> Party {
        let same = predicted.iter().zip(&self.predicted).filter(|(a, b)| a == b).count();
        let n = predicted.len();
        let p_value = mcnemar(&self.right(&self.predicted), &self.right(predicted));
        Party {
            agreement: (n > 0).then(|| same as f64 / n as f64),
            p_value: (n > 0).then_some(p_value),
            ..party
        }
    }

    /// All teachers as one, whose softened outputs are averaged.
    fn together(&self, teachers: &[Party], logits: &[Vec<f32>]) -> Party {
        let mean = average_softened(logits, self.classes.len(), 1.0);
        let logs: Vec<f32> = mean.iter().map(|p| p.max(f32::MIN_POSITIVE).ln()).collect();
        let all = Party {
            name: "all together".into(),
            network: teachers.iter().map(|t| t.network.as_str()).collect::<Vec<_>>().join(", "),
            metrics: None,
            model_bytes: teachers.iter().map(|t| t.model_bytes).sum(),
            multiply_adds: teachers.iter().map(|t| t.multiply_adds).sum(),
            latency: teachers.iter().map(|t| t.latency).sum(),
            agreement: None,
            p_value: None,
        };
        self.compared(all, &logs)
    }

    /// Trains the same student without teachers.
    fn alone(
        &self,
        settings: &Settings,
        context: &RunContext,
        watch: &dyn Watch,
    ) -> Result<Party, LearnError> {
        let folder = context.folder.as_ref().map(|folder| folder.join(ALONE));
        let begun = folder.as_ref().filter(|folder| folder.join(SETTINGS).exists());
        // What the student's run settled holds for both, and for one that goes on.
        let settings = match (begun, &context.folder) {
            (Some(alone), _) => read_settings(alone)?,
            (None, Some(student)) => without_teacher(read_settings(student)?),
            (None, None) => without_teacher(settings.clone()),
        };
        let begun = begun.is_some();
        let context = RunContext { resume: context.resume && begun, folder, ..context.clone() };
        watch.event(Event::Note("the same student without a teacher:".into()));
        let outcome = train(&settings, &context, watch)?;
        let own = Self::of(&outcome);
        let party = own.party(&settings.backbone, &outcome.model, None)?;
        Ok(self.against(party, &own.predicted))
    }
}
