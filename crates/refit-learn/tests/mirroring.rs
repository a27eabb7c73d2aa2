//! Classes that are each other's mirror images, drawn here with the embedded network looking on.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use refit_data::{Augment, RgbImage, Stream, to_png};
use refit_learn::{
    Event, Mirror, RunContext, Settings, Strategy, Watch, advise, read_settings, train,
};

const SIDE: u32 = 96;

/// A line from one point to another, or a ring about a point with a radius, in units of a quarter of
/// the image, about its centre.
enum Stroke {
    Line([f64; 2], [f64; 2]),
    Ring([f64; 2], f64),
}

impl Stroke {
    fn distance(&self, [x, y]: [f64; 2]) -> f64 {
        match *self {
            Self::Ring([a, b], radius) => ((x - a).hypot(y - b) - radius).abs(),
            Self::Line([a, b], [c, d]) => {
                let (dx, dy) = (c - a, d - b);
                let along = ((x - a) * dx + (y - b) * dy) / (dx * dx + dy * dy);
                let along = along.clamp(0.0, 1.0);
                (x - a - along * dx).hypot(y - b - along * dy)
            }
        }
    }
}

/// What a class's images show: arrows by where they point, letters of a ring and a stem, and three
/// shapes that are their own mirror images.
fn strokes(class: &str, stream: &mut Stream) -> Vec<Stroke> {
    let mut about = |x: f64| x * stream.range(0.85, 1.15);
    let arrow = |side: f64, long: f64, head: f64| {
        let tip = [side * long, 0.0];
        vec![
            Stroke::Line([-side * long, 0.0], tip),
            Stroke::Line([side * (long - head), -head], tip),
            Stroke::Line([side * (long - head), head], tip),
        ]
    };
    let letter = |left: f64, up: f64, ring: f64, stem: f64| {
        vec![
            Stroke::Ring([0.0, 0.4 * up], ring),
            Stroke::Line([-left * ring, 0.9 * up], [-left * ring, -stem * up]),
        ]
    };
    match class {
        "right" => arrow(1.0, about(1.0), about(0.5)),
        "left" => arrow(-1.0, about(1.0), about(0.5)),
        "b" => letter(1.0, 1.0, about(0.5), about(1.1)),
        "d" => letter(-1.0, 1.0, about(0.5), about(1.1)),
        "p" => letter(1.0, -1.0, about(0.5), about(1.1)),
        "q" => letter(-1.0, -1.0, about(0.5), about(1.1)),
        "ring" => vec![Stroke::Ring([0.0, 0.0], about(0.8))],
        "cross" => {
            let arm = about(0.9);
            vec![Stroke::Line([-arm, 0.0], [arm, 0.0]), Stroke::Line([0.0, -arm], [0.0, arm])]
        }
        _ => {
            let (width, height) = (about(0.7), about(0.8));
            let top = [0.0, -height];
            vec![
                Stroke::Line([-width, height], top),
                Stroke::Line(top, [width, height]),
                Stroke::Line([width, height], [-width, height]),
            ]
        }
    }
}

/// Strokes of random width, place, slant and colours, with noise.
fn picture(class: &str, stream: &mut Stream) -> RgbImage {
    let strokes = strokes(class, stream);
    let width = stream.range(0.1, 0.2);
    let (a, b) = (stream.range(-0.3, 0.3), stream.range(-0.3, 0.3));
    let (sin, cos) = stream.range(-0.2, 0.2).sin_cos();
    let paper: [f64; 3] = std::array::from_fn(|_| stream.range(150.0, 240.0));
    let ink: [f64; 3] = std::array::from_fn(|_| stream.range(0.0, 110.0));
    let unit = f64::from(SIDE) / 4.0;
    let mut pixels = Vec::new();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (u, v) = (f64::from(x) / unit - 2.0 - a, f64::from(y) / unit - 2.0 - b);
            let point = [u * cos - v * sin, u * sin + v * cos];
            let near = strokes.iter().map(|s| s.distance(point)).fold(f64::INFINITY, f64::min);
            let colour = if near < width { ink } else { paper };
            pixels.extend(colour.map(|v| (v + 10.0 * stream.normal()) as u8));
        }
    }
    RgbImage::new(SIDE, SIDE, pixels)
}

fn draw(folder: &Path, classes: &[&str], count: u64) {
    for (number, class) in classes.iter().enumerate() {
        let folder = folder.join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..count {
            let mut stream = Stream::new(1, "picture", &[number as u64, i]);
            fs::write(folder.join(format!("{i}.png")), to_png(&picture(class, &mut stream)))
                .unwrap();
        }
    }
}

/// Keeps what it is warned of.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Watch for Warnings {
    fn event(&self, event: Event) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

impl Warnings {
    fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

#[test]
fn mirror_images_of_other_classes_are_found_and_training_leaves_them_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    draw(&data, &["left", "right"], 24);
    let cache = Some(dir.path().join("cache"));
    let context = RunContext { cache, workers: 2, ..RunContext::default() };
    let settings = Settings::new(&data, Strategy::Features);
    let (advised, warnings) = (advise(&settings, &context, &()).unwrap(), Warnings::default());
    let pairs: Vec<_> = advised.mirroring.iter().map(|c| c.classes).collect();
    assert_eq!(pairs, [[0, 1]]);
    let evidence = advised.conclusion.evidence.join("\n");
    assert!(
        evidence.contains("mirroring turns `left` and `right` into each other ("),
        "{evidence}"
    );

    let run = RunContext { folder: Some(dir.path().join("run")), ..context.clone() };
    let outcome = train(&settings, &run, &warnings).unwrap();
    let warned = warnings.text();
    assert!(
        warned.contains("`left` and `right` into each other") && warned.contains("--mirror always"),
        "{warned}"
    );
    let kept = read_settings(&dir.path().join("run")).unwrap();
    assert_eq!((kept.mirror, kept.training.augment().flip), (Mirror::Never, 0.0));
    // A model that tells mirror images apart is not asked about them.
    let options = refit_learn::RunOptions { views: 6, ..Default::default() };
    let error = outcome.model.evaluate(&data, &options, &()).unwrap_err();
    assert!(error.to_string().starts_with("--tta is 6, but must be 1 to 5"), "{error}");

    let always = Settings { mirror: Mirror::Always, ..settings };
    let (mirrored, silence) = (Warnings::default(), Warnings::default());
    let with = train(&always, &context, &mirrored).unwrap();
    let never = train(&Settings { mirror: Mirror::Never, ..always }, &context, &silence).unwrap();
    assert_eq!(mirrored.text() + &silence.text(), "");
    let loss = |o: &refit_learn::Outcome| o.report.val.as_ref().unwrap().loss;
    assert!(loss(&never) < loss(&with), "{} {}", loss(&never), loss(&with));
    assert_eq!(loss(&never), loss(&outcome));
}

#[test]
fn shapes_that_are_their_own_mirror_images_are_not_told() {
    let dir = tempfile::tempdir().unwrap();
    draw(dir.path(), &["cross", "ring", "tent"], 12);
    let context = RunContext { cache: None, workers: 2, ..RunContext::default() };
    let warnings = Warnings::default();
    let outcome = train(&Settings::new(dir.path(), Strategy::Features), &context, &warnings);
    assert_eq!(outcome.unwrap().model.card.settings.unwrap().mirror, Mirror::Always);
    assert_eq!(warnings.text(), "");
}

#[test]
fn turns_that_make_another_letter_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    draw(dir.path(), &["b", "p"], 24);
    let context = RunContext { cache: None, workers: 2, ..RunContext::default() };
    let mut settings = Settings::new(dir.path(), Strategy::Scratch);
    settings.backbone = "lenet5".into();
    (settings.training.epochs, settings.training.batch) = (1, 16);
    let turns = Augment { vertical_flip: 0.5, quarter_turn: 0.5, ..Augment::none() };
    settings.training.augment = Some(turns);
    let warnings = Warnings::default();
    let outcome = train(&settings, &context, &warnings).unwrap();
    let warned = warnings.text();
    assert!(
        warned.contains("mirroring top and bottom turns `b` and `p` into each other"),
        "{warned}"
    );
    let used = outcome.model.card.settings.unwrap().training.augment();
    assert_eq!(used.vertical_flip, 0.0, "{warned}");
}
