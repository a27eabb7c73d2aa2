//! A first run for someone with no images at hand: a small set of real pictures is written from a
//! package, then what `refit train --strategy features` does is done to it.
//!
//! ```console
//! $ cargo run --release --example quickstart
//! ```
//!
//! The pictures are Twemoji's, copyright Twitter, Inc. and other contributors, licensed CC-BY 4.0
//! (<https://creativecommons.org/licenses/by/4.0/>).

use std::error::Error;
use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};

use refit::{Event, RunContext, Settings, Strategy, Watch, train};
use twemoji_assets::png::PngTwemojiAsset;

/// Classes that a person tells apart at a glance.
const CLASSES: [(&str, &str); 5] = [
    ("birds", "🦃 🐔 🐓 🐣 🐤 🐥 🐦 🐧 🦅 🦆 🦢 🦉 🦤 🦩 🦚 🦜 🪿"),
    ("buildings", "🏠 🏡 🏢 🏣 🏤 🏥 🏦 🏨 🏩 🏪 🏫 🏬 🏭 🏯 🏰 💒 🗼 🗽 ⛪ 🕌 🛕 🕍 🕋 🛖 ⛲"),
    ("fruit", "🍇 🍈 🍉 🍊 🍋 🍌 🍍 🥭 🍎 🍏 🍐 🍑 🍒 🍓 🫐 🥝 🍅 🫒 🥥 🥑 🍆 🥔 🥕 🌽 🫑 🥒"),
    (
        "mammals",
        "🐵 🐒 🦍 🦧 🐶 🐕 🦮 🐩 🐺 🦊 🦝 🐱 🐈 🦁 🐯 🐅 🐆 🐴 🐎 🦄 🦓 🦌 🦬 🐮 🐂 🐃 🐄 🐷 🐖 🐗 \
         🐏 🐑 🐐 🐪 🐫 🦙 🦒 🐘 🦣 🦏 🦛 🐭 🐁 🐀 🐹 🐰 🐇 🦫 🦔 🦇 🐻 🐨 🐼 🦥 🦦 🦨 🦘 🦡",
    ),
    (
        "vehicles",
        "🚂 🚃 🚄 🚅 🚆 🚇 🚈 🚊 🚝 🚞 🚋 🚌 🚍 🚎 🚐 🚑 🚒 🚓 🚔 🚕 🚖 🚗 🚘 🚙 🛻 🚚 🚛 🚜 🛵 🛺 \
         🚲 🛴 ⛵ 🛶 🚤 🚢 🛫 🛬 🚁 🚟 🚠 🚡 🚀",
    ),
];

/// Passes on what is worth knowing.
struct Notes;

impl Watch for Notes {
    fn event(&self, event: Event) {
        if let Event::Note(text) | Event::Warning(text) = event {
            let _ = writeln!(stderr(), "  {text}");
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("target/quickstart");
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let images = folder.join("images");
    let count = write_images(&images)?;
    let mut out = stdout().lock();
    writeln!(out, "{count} pictures in {}\n", images.display())?;

    let settings = Settings { seed: 1, ..Settings::new(&images, Strategy::Features) };
    let run = folder.join("run");
    let context = RunContext { folder: Some(run.clone()), ..RunContext::default() };
    let outcome = train(&settings, &context, &Notes)?;

    if let Some(val) = &outcome.report.val {
        let [low, high] = val.interval95.map(|x| 100.0 * x);
        writeln!(
            out,
            "\naccuracy on {} held-out pictures: {:.1}% (95% interval {low:.0} to {high:.0}%), \
             in {:.1} s",
            val.samples,
            100.0 * val.top1,
            outcome.report.seconds.total
        )?;
    }
    writeln!(out, "\na few predictions (of these, some were learned from):")?;
    for name in ["mammals/🦊.png", "fruit/🍓.png", "vehicles/🚜.png", "buildings/🏰.png"] {
        let probabilities = outcome.model.predict_file(&images.join(name))?;
        let classes = &outcome.model.card.classes;
        let best = (0..classes.len())
            .max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]))
            .ok_or("a model without classes")?;
        writeln!(out, "  {name}: {} ({:.0}%)", classes[best], 100.0 * probabilities[best])?;
    }
    writeln!(
        out,
        "\nthe model is {}; for a folder of your own, one folder a class in it:\n\n  \
         cargo run --release -- train path/to/your/folder",
        run.join("model.safetensors").display()
    )?;
    Ok(())
}

/// Writes a PNG for each emoji into a folder for its class; gives their number.
fn write_images(folder: &Path) -> Result<usize, Box<dyn Error>> {
    let mut count = 0;
    for (class, emojis) in CLASSES {
        let class_folder: PathBuf = folder.join(class);
        fs::create_dir_all(&class_folder)?;
        for emoji in emojis.split_whitespace() {
            let asset = PngTwemojiAsset::from_emoji(emoji)
                .ok_or_else(|| format!("the package has no picture of {emoji}"))?;
            let png: &[u8] = asset;
            fs::write(class_folder.join(format!("{emoji}.png")), png)?;
            count += 1;
        }
    }
    Ok(count)
}
