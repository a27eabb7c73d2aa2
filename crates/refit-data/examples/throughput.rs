//! Images a second through reading, decoding and preprocessing, and where the time goes.
//!
//! ```text
//! cargo run --release -p refit-data --example throughput -- FOLDER [WORKERS]
//! ```

use std::time::Instant;

use refit_data::{
    Augment, DataError, DecodeOptions, Detail, Interpolation, Loader, LoaderOptions, Preprocess,
    Resize, Sample, Stream, Strictness, decode, decode_in, list_images,
};

const PREPROCESS: Preprocess = Preprocess {
    size: 224,
    resize: Resize::ShorterSide { to: 256 },
    interpolation: Interpolation::Bicubic,
    mean: [0.5; 3],
    std: [0.5; 3],
};

#[expect(clippy::print_stdout, reason = "a program's result")]
fn main() -> Result<(), DataError> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| ".".into());
    let workers = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(2);
    let samples: Vec<Sample> =
        list_images(&[folder.into()])?.into_iter().map(|path| Sample { path, label: 0 }).collect();

    let options = LoaderOptions {
        batch_size: 32,
        size: PREPROCESS.size,
        workers,
        ahead: 2,
        strictness: Strictness::Skip,
    };
    let decode_options = DecodeOptions::default();
    for augment in [Augment::none(), Augment::medium()] {
        let start = Instant::now();
        let mut loader = Loader::new(
            samples.clone(),
            (0..samples.len()).collect(),
            options,
            move |sample, index, out| {
                let detail = PREPROCESS.detail();
                let image = refit_data::decode_file_in(&sample.path, &decode_options, detail)?;
                augment.apply_into(
                    &image,
                    &PREPROCESS,
                    &mut Stream::new(0, "augment", &[0, index as u64]),
                    out,
                );
                Ok(())
            },
        );
        let images: usize = loader.by_ref().filter_map(Result::ok).map(|batch| batch.n).sum();
        let rate = images as f64 / start.elapsed().as_secs_f64();
        let name = if augment.is_none() { "evaluation" } else { "augmented" };
        println!(
            "{name}: {images} images, {rate:.0} images/s on {workers} threads, {} left out",
            loader.skipped().len()
        );
    }

    let views: Vec<Sample> = samples.iter().flat_map(|s| [s.clone(), s.clone()]).collect();
    let start = Instant::now();
    let order = (0..views.len()).collect();
    let open = move |sample: &Sample| {
        refit_data::decode_file_in(&sample.path, &decode_options, PREPROCESS.detail())
    };
    let loader = Loader::of_views(views, order, options, open, |image, index, out| {
        match index % 2 {
            0 => PREPROCESS.apply_into(image, out),
            _ => PREPROCESS.apply_into(&image.flipped_horizontal(), out),
        }
        Ok(())
    });
    let inputs: usize = loader.filter_map(Result::ok).map(|batch| batch.n).sum();
    let rate = inputs as f64 / start.elapsed().as_secs_f64();
    println!("plain and mirrored: {inputs} inputs, {rate:.0} inputs/s on {workers} threads");

    let mut seconds = [0.0; 8];
    let mut timed = |which: usize, start: Instant| seconds[which] += start.elapsed().as_secs_f64();
    let mut out = vec![0.0; PREPROCESS.len()];
    for sample in &samples {
        let start = Instant::now();
        let Ok(bytes) = std::fs::read(&sample.path) else { continue };
        timed(0, start);
        let start = Instant::now();
        let Ok(image) = decode(&bytes, &decode_options) else { continue };
        timed(1, start);
        let start = Instant::now();
        let square = PREPROCESS.square(&image);
        timed(2, start);
        let start = Instant::now();
        PREPROCESS.normalize_into(&square, &mut out);
        timed(3, start);
        let start = Instant::now();
        Augment::medium().square(&image, &PREPROCESS, &mut Stream::new(0, "augment", &[]));
        timed(4, start);
        let start = Instant::now();
        let Ok(_) = decode_in(&bytes, &decode_options, PREPROCESS.detail()) else { continue };
        timed(5, start);
        let start = Instant::now();
        let Ok(_) = decode_in(&bytes, &decode_options, Detail::Least) else { continue };
        timed(6, start);
        let start = Instant::now();
        PREPROCESS.normalize_channels_last_into(&square, &mut out);
        timed(7, start);
    }
    let [read, decode, resize, normalize, augment, detail, check, channels_last] =
        seconds.map(|s| s * 1e3 / samples.len() as f64);
    println!("one thread, ms an image: read {read:.2}");
    println!("decode {decode:.2}, in the detail needed {detail:.2}, to check {check:.2}");
    println!("resize {resize:.2}, augment instead {augment:.2}");
    println!("normalize {normalize:.2}, channels last {channels_last:.2}");
    Ok(())
}
