//! The commands that make the run again, and use its model.

use std::path::Path;

use maud::{Markup, html};
use refit::data::Level;
use refit::learn::{
    ClassBalance, Distillation, Mirror, Norms, OptimizerKind, Parameter, ScheduleKind, Search,
    Setup, TrainingSettings,
};
use refit::net::Precision;
use refit::{HeadKind, Settings, Strategy};

use super::{Run, part};
use crate::commands::train::shell;

pub fn section(run: &Run) -> Option<Markup> {
    let (record, folder) = (run.record, &run.record.folder);
    let model = shell(&record.model_file());
    let (command, missing) = match &record.search {
        Some(search) => tune_command(search),
        None => train_command(&record.settings, record.choice.is_some()),
    };
    let shows = html! {
        pre { (command) }
        @for text in missing { p.soft.small { (text) } }
        pre {
            "refit predict " (model) " IMAGE...\n"
            "refit explain " (model) " IMAGE --out heat.png\n"
            "refit evaluate " (model) " FOLDER\n"
            "refit report " (shell(folder))
        }
    };
    let meaning = html! {
        p { "The same images and the same refit give the same model, bit by bit, on the same kind \
             of CPU." }
    };
    Some(part("reproduce", "Do it again", &meaning, &shows))
}

/// The command that begins a run with such settings, and what it does not cover.
fn train_command(settings: &Settings, advised: bool) -> (String, Vec<&'static str>) {
    let data = shell(&settings.data);
    let mut words = match &settings.distillation {
        Some(asked) => distillation_flags(asked, settings, &data),
        None => vec![format!("refit train {data}")],
    };
    let mut missing = Vec::new();
    let mut flag = |name: &str, value: String| words.push(format!("--{name} {value}"));
    if let Some(val) = &settings.val {
        flag("val", shell(val));
    }
    if let Some(fraction) = settings.val_fraction {
        flag("val-fraction", fraction.to_string());
    }
    if let Some(folds) = settings.folds {
        flag("folds", folds.to_string());
    }
    if settings.repeats != 1 {
        flag("repeats", settings.repeats.to_string());
    }
    match &settings.weights {
        Some(weights) => flag("weights", shell(weights)),
        None if settings.distillation.is_some() => {}
        None if settings.backbone != "efficientnet_lite0" => {
            flag("backbone", settings.backbone.clone());
        }
        None => {}
    }
    if !advised {
        flag("strategy", settings.strategy.to_string());
        if let Some(layer) = &settings.unfreeze_from {
            flag("unfreeze-from", shell(Path::new(layer)));
        }
    }
    if settings.distillation.is_none() && !settings.learner.is_linear() {
        flag("learner", settings.learner.to_string());
    }
    if settings.precision != Precision::F32 {
        flag("precision", settings.precision.to_string());
    }
    if settings.head != HeadKind::Linear {
        flag("head", settings.head.to_string());
    }
    if settings.views != 2 {
        flag("views", settings.views.to_string());
    }
    if settings.seed != 0 {
        flag("seed", settings.seed.to_string());
    }
    match settings.balance {
        ClassBalance::Images => {}
        ClassBalance::Classes => flag("balance", "classes".into()),
        ClassBalance::Sampling => flag("balance", "sampling".into()),
        ClassBalance::Logits => flag("balance", "logits".into()),
    }
    if settings.mirror == Mirror::Never {
        flag("mirror", settings.mirror.name().into());
    }
    if let Some(seconds) = settings.time_budget {
        flag("time-budget", format!("{seconds}s"));
    }
    let known = training_flags(settings, advised, &mut flag);
    if settings.keep_classes {
        words.push("--keep-classes".into());
    }
    if settings.strict {
        words.push("--strict".into());
    }
    if !settings.edits.is_empty() {
        missing.push("With --recipe FILE for the edits of settings.toml, written as `refit edit` takes them.");
    }
    if !known {
        missing.push("With the augmentation of settings.toml.");
    }
    if advised && settings.time_budget.is_some() {
        missing.push("What a time budget leaves room for depends on the machine.");
    }
    (words.join(" \\\n  "), missing)
}

/// What a distillation is told beside a run.
fn distillation_flags(asked: &Distillation, settings: &Settings, data: &str) -> Vec<String> {
    let usual = Distillation::of(Vec::new());
    let mut words = vec![format!("refit distill {data}")];
    words.extend(asked.teachers.iter().map(|teacher| format!("--teacher {}", shell(teacher))));
    match settings.strategy {
        Strategy::Features => {
            words.push(format!("--student {}", settings.learner));
            words.push(format!("--backbone {}", settings.backbone));
        }
        _ => words.push(format!("--student {}", settings.backbone)),
    }
    words.extend(asked.unlabelled.iter().map(|path| format!("--unlabelled {}", shell(path))));
    if asked.ignore_labels {
        words.push("--ignore-labels".into());
    }
    if asked.temperature != usual.temperature {
        words.push(format!("--temperature {}", asked.temperature));
    }
    let weights = asked.weights().into_iter().zip(usual.weights());
    let changed = weights.filter(|((_, weight), (_, usual))| weight != usual);
    words.extend(changed.map(|((flag, weight), _)| format!("{flag} {weight}")));
    let layers = |[student, teacher]: &[String; 2]| format!("--hint-layers {student}={teacher}");
    words.extend(asked.hint_layers.iter().map(layers));
    words
}

/// The command that begins such a search.
fn tune_command(search: &Search) -> (String, Vec<&'static str>) {
    let (settings, options) = (&search.settings, &search.options);
    let mut words = vec![format!("refit tune {}", shell(&settings.data))];
    let mut flag = |name: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("--{name} {value}")));
    };
    flag("trials", Some(options.trials.to_string()));
    flag("time-budget", settings.time_budget.map(|seconds| format!("{seconds}s")));
    let all = |p: &Parameter| match p {
        Parameter::Depth => options.depth.is_some(),
        p => options.given.has(*p),
    };
    let everything = Parameter::ALL.iter().all(|p| all(p) != options.search.contains(p));
    let searched: Vec<&str> = options.search.iter().map(|p| p.name()).collect();
    flag("search", (!everything).then(|| searched.join(",")));
    flag("val", settings.val.as_deref().map(shell));
    flag("val-fraction", settings.val_fraction.map(|f| f.to_string()));
    flag("weights", settings.weights.as_deref().map(shell));
    let named = settings.weights.is_none() && settings.backbone != "efficientnet_lite0";
    flag("backbone", named.then(|| settings.backbone.clone()));
    let precision = settings.precision;
    flag("precision", (precision != Precision::F32).then(|| precision.to_string()));
    flag("seed", (settings.seed != 0).then(|| settings.seed.to_string()));
    flag("epochs", options.epochs.map(|n| n.to_string()));
    flag("batch", options.batch.map(|n| n.to_string()));
    flag("unfreeze-from", options.depth.as_deref().map(|layer| shell(Path::new(layer))));
    let given = Setup { values: options.given, ..Setup::features() };
    for parameter in Parameter::ALL.into_iter().filter(|p| options.given.has(*p)) {
        flag(parameter.name(), Some(given.value(parameter)));
    }
    if settings.strict {
        words.push("--strict".into());
    }
    let missing = match settings.time_budget {
        Some(_) => vec!["What a time budget leaves room for depends on the machine."],
        None => vec![],
    };
    (words.join(" \\\n  "), missing)
}

/// Flags for what differs from the strategy's defaults; tells whether they say everything.
fn training_flags(settings: &Settings, advised: bool, flag: &mut dyn FnMut(&str, String)) -> bool {
    let (own, usual) = (&settings.training, TrainingSettings::for_strategy(settings.strategy));
    let numbers = [
        ("epochs", own.epochs as f64, usual.epochs as f64),
        ("batch", own.batch as f64, usual.batch as f64),
        ("lr", own.learning_rate, usual.learning_rate),
        ("lowest-rate", own.lowest_rate, usual.lowest_rate),
        ("focal", own.focal, usual.focal),
        ("weight-decay", own.weight_decay, usual.weight_decay),
        ("label-smoothing", own.smoothing, usual.smoothing),
        ("warmup", own.warmup, usual.warmup),
        ("clip", own.clip, usual.clip),
        ("patience", own.patience as f64, usual.patience as f64),
        ("ema", own.average, usual.average),
        ("average-best", own.average_best as f64, usual.average_best as f64),
        ("thaw-every", own.thaw_every as f64, usual.thaw_every as f64),
        ("fixed-views", own.fixed_views as f64, usual.fixed_views as f64),
    ];
    for (name, own, usual) in numbers {
        if own != usual {
            flag(name, own.to_string());
        }
    }
    if own.optimizer != usual.optimizer {
        let rule = if own.optimizer == OptimizerKind::Sgd { "sgd" } else { "adamw" };
        flag("optimizer", rule.into());
    }
    if own.norms != usual.norms {
        let which = if own.norms == Norms::Batch { "batch" } else { "stored" };
        flag("norms", which.into());
    }
    if own.schedule != usual.schedule {
        let course = match own.schedule {
            ScheduleKind::Cosine => "cosine",
            ScheduleKind::OneCycle => "one-cycle",
            ScheduleKind::Constant => "constant",
        };
        flag("schedule", course.into());
    }
    if own.select != usual.select {
        flag("select", own.select.to_string());
    }
    let varied = settings.strategy.trains_body() && own.augment != usual.augment;
    let Some(augment) = own.augment.filter(|_| varied) else { return true };
    let level = Level::ALL.into_iter().find(|level| match settings.mirror {
        Mirror::Never => augment == level.augment().without_flip(),
        _ => augment == level.augment(),
    });
    // Advice gives each strategy its own level.
    let level_is_usual = advised && matches!(level, Some(Level::Light | Level::Medium));
    if let Some(level) = level.filter(|_| !level_is_usual) {
        flag("augment", level.name().into());
    }
    level.is_some()
}

#[cfg(test)]
mod tests {
    use refit::Strategy;
    use refit::data::Augment;

    use super::*;

    #[test]
    fn the_command_says_what_differs_from_the_defaults() {
        let plain = Settings::new("my photos", Strategy::Features);
        assert_eq!(
            train_command(&plain, false).0,
            "refit train 'my photos' \\\n  --strategy features"
        );
        assert_eq!(train_command(&plain, true).0, "refit train 'my photos'");
        let mut tuned = Settings::new("photos", Strategy::FineTune);
        (tuned.seed, tuned.strict, tuned.training.epochs) = (7, true, 99);
        tuned.training.augment = Some(Augment::none());
        let (command, missing) = train_command(&tuned, false);
        let flags = "--strategy fine-tune --seed 7 --epochs 99 --augment none --strict";
        assert_eq!(command.replace(" \\\n ", ""), format!("refit train photos {flags}"));
        assert!(missing.is_empty());
    }
}
