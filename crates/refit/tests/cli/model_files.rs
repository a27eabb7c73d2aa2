//! `layers`, `models`, `info`, `embed`, `run` and `bench`: models looked at and used by programs.

use std::fs;

use insta::assert_snapshot;

use crate::scene::{Scene, npy, small_safetensors, steady, trained};

#[test]
fn networks_are_listed() {
    let scene = Scene::new();
    assert_snapshot!("models", scene.run("models").exits(0).stdout);
    let json = scene.run("models --json").exits(0).json();
    let first = &json[0];
    assert_eq!(first["name"], "efficientnet_lite0");
    assert_eq!(first["parameters"], 4_652_008);
    assert_eq!(first["weights"]["licence"], "Apache-2.0");
    // 75 networks, and four inputs that need none.
    assert_eq!(json.as_array().unwrap().len(), 75 + 4);
}

#[test]
fn layers_are_listed() {
    let scene = Scene::new();
    let said = scene.run("layers resnet18 --long").exits(0);
    assert_snapshot!("layers-long", said.stdout);
    assert_snapshot!("layers-totals", said.stderr);
    let short = scene.run("layers efficientnet_lite0").exits(0).stdout;
    assert_snapshot!("layers", short.lines().take(12).collect::<Vec<_>>().join("\n"));
    let json = scene.run("layers resnet18 --json").exits(0).json();
    assert_eq!(json["head"], "fc");
    let last = json["layers"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["name"], &last["shape"]), (&"fc".into(), &serde_json::json!([1000])));
}

#[test]
fn a_models_layers_say_what_is_frozen() {
    let said = trained().run("layers run/model.safetensors --long").exits(0);
    let line = |name: &str| said.stdout.lines().find(|l| l.starts_with(name)).unwrap();
    assert!(line("conv_stem").contains("frozen"));
    assert!(line("classifier").contains("trained"));
    assert!(said.stderr.contains("of them frozen"), "{}", said.stderr);
}

#[test]
fn a_model_says_what_it_is() {
    let said = trained().run("info run/model.safetensors").exits(0);
    assert_snapshot!("info", said.stdout);
    let json = trained().run("info run/model.safetensors --json").exits(0).json();
    assert_eq!(json["card"]["classes"], serde_json::json!(["blue", "red"]));
    assert_eq!(json["network"], "efficientnet_lite0");
    assert_snapshot!("info-zoo", trained().run("info efficientnet_lite0").exits(0).stdout);
}

#[test]
fn a_bare_checkpoint_is_listed() {
    let scene = Scene::new();
    scene.write("other.safetensors", small_safetensors("encoder.0.weight", &[2, 3]));
    assert_snapshot!("info-checkpoint", scene.run("info other.safetensors").exits(0).stdout);
    let json = scene.run("info other.safetensors --json").exits(0).json();
    assert_eq!(json["values"], 6);
    assert_eq!(json["shapes"][0][0], "encoder.0.weight");
}

#[test]
fn a_bare_checkpoint_says_whose_weights_it_holds() {
    let scene = Scene::new();
    scene.write("five.safetensors", squeezenet(5));
    assert_snapshot!("info-recognized", scene.run("info five.safetensors").exits(0).stdout);
    let json = scene.run("info five.safetensors --json").exits(0).json();
    assert_eq!((&json["networks"][0], &json["classes"]), (&"squeezenet1_1".into(), &5.into()));
    // The name of the network is not needed, wherever one can be given.
    let layers = scene.run("layers five.safetensors --json").exits(0).json();
    assert_eq!(
        layers["layers"].as_array().unwrap().last().unwrap()["shape"],
        serde_json::json!([5])
    );
}

#[test]
fn weights_in_several_files_are_one_checkpoint() {
    let scene = Scene::new();
    scene.write("parts/model-00001-of-00001.safetensors", squeezenet(1000));
    let names = tensors(1000).into_iter().map(|(name, _)| name);
    let map: serde_json::Map<_, _> =
        names.map(|name| (name, "model-00001-of-00001.safetensors".into())).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    scene.write("parts/model.safetensors.index.json", index);
    for path in ["parts", "parts/model.safetensors.index.json"] {
        let json = scene.run(&format!("info {path} --json")).exits(0).json();
        assert_eq!(json["networks"], serde_json::json!(["squeezenet1_1"]));
    }
}

/// SqueezeNet 1.1 for so many classes, all zeros.
fn squeezenet(classes: usize) -> Vec<u8> {
    let mut end = 0;
    let entries = tensors(classes).into_iter().map(|(name, shape)| {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
        (name, entry)
    });
    let header = serde_json::Value::Object(entries.collect()).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; end]);
    bytes
}

fn tensors(classes: usize) -> Vec<(String, Vec<usize>)> {
    let fires = [
        (3, 16, 64),
        (4, 16, 128),
        (6, 32, 128),
        (7, 32, 256),
        (9, 48, 256),
        (10, 48, 384),
        (11, 64, 384),
        (12, 64, 512),
    ];
    let mut convolutions = vec![("features.0".to_owned(), [64, 3, 3, 3])];
    for (at, squeeze, input) in fires {
        let input = if at == 3 { 64 } else { input };
        let expand = 4 * squeeze;
        convolutions.push((format!("features.{at}.squeeze"), [squeeze, input, 1, 1]));
        convolutions.push((format!("features.{at}.expand1x1"), [expand, squeeze, 1, 1]));
        convolutions.push((format!("features.{at}.expand3x3"), [expand, squeeze, 3, 3]));
    }
    convolutions.push(("classifier.1".into(), [classes, 512, 1, 1]));
    let both = |(name, shape): (String, [usize; 4])| {
        [(format!("{name}.weight"), shape.to_vec()), (format!("{name}.bias"), vec![shape[0]])]
    };
    convolutions.into_iter().flat_map(both).collect()
}

#[test]
fn features_are_written_in_three_formats() {
    let scene = trained();
    let out = Scene::new();
    let embed = |name: &str, more: &str| {
        let target = out.path(name);
        let command =
            format!("embed run/model.safetensors photos {more} --out {}", target.display());
        steady(&scene.run(&command).exits(0).stderr.replace(&*target.to_string_lossy(), name))
    };
    assert_snapshot!("embed", embed("f.npy", ""));
    embed("f.csv", "");
    embed("f.parquet", "");
    embed("small.csv", "--at blocks.0");

    let npy = fs::read(out.path("f.npy")).unwrap();
    let file = npyz::NpyFile::new(&npy[..]).unwrap();
    assert_eq!(file.shape(), [24, 1280]);
    let values: Vec<f32> = file.into_vec().unwrap();
    let paths = fs::read_to_string(out.path("f.npy.paths.txt")).unwrap();
    let paths: Vec<&str> = paths.lines().collect();
    assert_eq!((paths.len(), paths[0]), (24, "photos/blue/00.bmp"));

    let mut csv = csv::Reader::from_path(out.path("f.csv")).unwrap();
    assert_eq!(csv.headers().unwrap().iter().nth(1280), Some("f1279"));
    for (i, row) in csv.records().enumerate() {
        let row = row.unwrap();
        assert_eq!(&row[0], paths[i]);
        let numbers: Vec<f32> = row.iter().skip(1).map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers, values[i * 1280..][..1280]);
    }

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let parquet = fs::File::open(out.path("f.parquet")).unwrap();
    let parquet = SerializedFileReader::new(parquet).unwrap();
    for (i, row) in parquet.get_row_iter(None).unwrap().enumerate() {
        let row = row.unwrap();
        assert_eq!(row.get_string(0).unwrap(), paths[i]);
        assert_eq!(row.get_float(1).unwrap(), values[i * 1280]);
        assert_eq!(row.get_float(1280).unwrap(), values[i * 1280 + 1279]);
    }
    assert_eq!(parquet.metadata().file_metadata().num_rows(), 24);

    let small = fs::read_to_string(out.path("small.csv")).unwrap();
    assert_eq!(small.lines().next(), Some(&*header(16)));
    // Rows wait in hidden files, which are gone.
    assert!(
        fs::read_dir(out.path(""))
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().starts_with('.') })
    );
}

fn header(dim: usize) -> String {
    (0..dim).fold("path".into(), |header, i| header + &format!(",f{i}"))
}

#[test]
fn arrays_run_through_a_network() {
    let scene = Scene::new();
    let values: Vec<f32> = (0..2 * 3 * 64 * 32).map(|i| (i % 97) as f32 / 97.0).collect();
    let singles: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let doubles: Vec<u8> = values.iter().flat_map(|&x| f64::from(x).to_be_bytes()).collect();
    scene.write("x.npy", npy("<f4", false, &[2, 3, 64, 32], &singles));
    scene.write("x64.npy", npy(">f8", false, &[2, 3, 64, 32], &doubles));
    let run = |more: &str| {
        scene.run(&format!("run efficientnet_lite0 {more}")).exits(0);
    };
    run("--input x.npy --output y.npy");
    run("--input x64.npy --output y64.npy");
    run("--input x.npy --output map.npy --at blocks.1");
    let read = |name: &str| {
        let bytes = fs::read(scene.path(name)).unwrap();
        let file = npyz::NpyFile::new(&bytes[..]).unwrap();
        (file.shape().to_vec(), file.into_vec::<f32>().unwrap())
    };
    assert_eq!(read("y.npy").0, [2, 1000]);
    assert_eq!(read("y.npy"), read("y64.npy"));
    assert_eq!(read("map.npy").0, [2, 24, 16, 8]);
    scene.run("run resnet18 --random 3 --input x.npy --output r.npy").exits(0);
    assert!(read("r.npy").1.iter().all(|x| x.is_finite()));
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let scene = Scene::new();
    scene.write("nhwc.npy", npy("<f4", false, &[1, 4, 4, 3], &[0; 192]));
    scene.write("bytes.npy", npy("|u1", false, &[1, 3, 4, 4], &[0; 48]));
    scene.write("fortran.npy", npy("<f4", true, &[1, 3, 4, 4], &[0; 192]));
    scene.write("three.npy", npy("<f4", false, &[3, 4, 4], &[0; 192]));
    scene.write("cut.npy", npy("<f4", false, &[9, 3, 4, 4], &[0; 192]));
    scene.write("huge.npy", npy("<f4", false, &[1 << 40, 3, 1 << 40, 4], &[0; 192]));
    scene.write("text.npy", "not an array");
    let mut said = String::new();
    for name in ["nhwc", "bytes", "fortran", "three", "cut", "huge", "text", "gone"] {
        let command = format!("run efficientnet_lite0 --input {name}.npy --output y.npy");
        said += &scene.run(&command).refused();
        assert!(!scene.path("y.npy").exists(), "{name}");
    }
    assert_snapshot!("run-refused", said);
}

#[test]
fn speed_is_measured() {
    let scene = Scene::new();
    let bench = |more: &str| {
        let command = format!("bench {more} --batch 2 --size 64 --seconds 0 --threads 1 --json");
        let said = scene.run(&command).exits(0);
        assert_eq!(said.stdout.lines().count(), 1);
        said.json()
    };
    let infer = bench("efficientnet_lite0");
    let keys: Vec<&str> = infer.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["refit", "model", "mode", "batch", "size", "precision", "threads", "peak_rss_mib"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert_eq!((&infer["steps"], &infer["threads"]), (&3.into(), &1.into()));
    let median = infer["step_seconds"]["median"].as_f64().unwrap();
    let rate = infer["images_per_second"].as_f64().unwrap();
    assert!((rate * median - 2.0).abs() < 1e-6);
    assert_eq!(bench("resnet18 --mode train")["mode"], "train");
    // A network of one channel.
    for mode in ["infer", "train"] {
        assert_eq!(bench(&format!("lenet5 --mode {mode}"))["mode"], *mode);
    }
}
