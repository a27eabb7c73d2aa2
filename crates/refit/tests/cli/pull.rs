//! `pull`, against a hub on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use crate::scene::{REFIT, Said, Scene};

/// What the hub serves as weights, and its SHA-256.
const CONTENT: &[u8] = b"weights";
const SHA256: &str = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";

/// Answers a few requests with the description of a repository or its file.
fn hub(sha256: &'static str) -> String {
    const MOST: usize = 10;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().take(MOST) {
            answer(stream.unwrap(), sha256);
        }
    });
    endpoint
}

fn answer(mut stream: TcpStream, sha256: &str) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let described = lines[0].contains("/api/models/timm/resnet18.tv_in1k?");
    let lfs = serde_json::json!({"sha256": sha256, "size": CONTENT.len()});
    let repository = serde_json::json!({
        "sha": "abc123",
        "cardData": {"license": "bsd-3-clause"},
        "siblings": [{"rfilename": "model.safetensors", "lfs": lfs}],
    });
    let body = if described { repository.to_string().into_bytes() } else { CONTENT.to_vec() };
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(&[head.into_bytes(), body].concat()).unwrap();
}

fn pull(scene: &Scene, name: &str, endpoint: &str) -> Said {
    let mut command = scene.program(REFIT);
    command.args(["pull", name]).env("HF_ENDPOINT", endpoint).env_remove("HF_HUB_OFFLINE");
    scene.said(&mut command)
}

#[test]
fn weights_are_pulled_once() {
    let scene = Scene::new();
    let endpoint = hub(SHA256);
    let said = pull(&scene, "resnet18", &endpoint).exits(0);
    assert_eq!(said.stdout, "[dir]/cache/weights/resnet18/model.safetensors\n");
    assert!(said.stderr.contains("licence BSD-3-Clause"), "{}", said.stderr);
    let folder = scene.path("cache/weights/resnet18");
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), CONTENT);
    let source = fs::read_to_string(folder.join("source.json")).unwrap();
    let source: serde_json::Value = serde_json::from_str(&source).unwrap();
    assert_eq!(source["repository"], "timm/resnet18.tv_in1k");
    assert_eq!((&source["sha256"], &source["revision"]), (&SHA256.into(), &"abc123".into()));
    let again = pull(&scene, "resnet18", "http://127.0.0.1:1").exits(0);
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
}

#[test]
fn what_cannot_be_pulled_says_what_to_do() {
    let scene = Scene::new();
    let offline = pull(&scene, "resnet18", "http://127.0.0.1:1").refused();
    assert!(offline.contains("error: cannot reach http://127.0.0.1:1/api"), "{offline}");
    assert!(offline.contains("resnet18.tv_in1k/resolve/main/model.safetensors"), "{offline}");
    assert!(offline.contains("put it here as `[dir]/cache/weights/resnet18"), "{offline}");
    let wrong = pull(&scene, "resnet18", &hub("00")).refused();
    assert!(wrong.contains("it tells no hash"), "{wrong}");
    const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000000";
    let wrong = pull(&scene, "resnet18", &hub(OTHER)).refused();
    assert!(wrong.contains("gave other bytes than the hub describes"), "{wrong}");
    assert!(!scene.path("cache/weights/resnet18/model.safetensors").exists());
    let embedded = pull(&scene, "efficientnet_lite0", "http://127.0.0.1:1").refused();
    assert!(embedded.contains("come with refit"), "{embedded}");
    let unknown = pull(&scene, "lenet5", "http://127.0.0.1:1").refused();
    assert!(unknown.contains("--weights FILE"), "{unknown}");
}
