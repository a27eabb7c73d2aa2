//! A folder of its own in which the binary runs, and what it said there.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::images::two_classes;

/// The binary.
pub const REFIT: &str = env!("CARGO_BIN_EXE_refit");

/// A folder in which commands run.
pub struct Scene(TempDir);

/// What a command said.
pub struct Said {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    /// An empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder with `photos/red` and `photos/blue`, `count` images each.
    pub fn with_photos(count: usize) -> Self {
        let scene = Self::new();
        two_classes(&scene.path("photos"), count);
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, its folder too.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A program that runs here as in a terminal of 80 columns, but not a terminal.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        command_in(self.0.path(), program)
    }

    /// Runs refit.
    pub fn refit<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Said {
        self.said(self.program(REFIT).args(arguments))
    }

    /// Runs refit with arguments separated by spaces.
    pub fn run(&self, arguments: &str) -> Said {
        self.refit(arguments.split_whitespace())
    }

    /// Runs a script in which `$REFIT` is the binary.
    pub fn bash(&self, script: &str) -> Said {
        self.said(self.program("bash").args(["-c", script]).env("REFIT", REFIT))
    }

    /// Waits for a command and takes what it said, this folder's name left out.
    pub fn said(&self, command: &mut Command) -> Said {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let real = fs::canonicalize(self.0.path()).unwrap();
            let text = text.replace(&*real.to_string_lossy(), "[dir]");
            text.replace(&*self.0.path().to_string_lossy(), "[dir]")
        };
        Said {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

fn command_in(folder: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("REFIT_CACHE", folder.join("cache"))
        .env("COLUMNS", "80")
        .env("NO_COLOR", "1")
        .env_remove("RUST_BACKTRACE");
    command
}

impl Said {
    /// Checks the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }

    /// A mistake of the user's: exit code 1, nothing on stdout. Gives what stderr says.
    #[track_caller]
    pub fn refused(self) -> String {
        let said = self.exits(1);
        assert_eq!(said.stdout, "");
        said.stderr
    }

    /// What stdout holds, as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// Text with numbers that change from run to run replaced: times, rates, versions.
pub fn steady(text: &str) -> String {
    let mut steady = String::new();
    for line in text.split_inclusive('\n') {
        let words: Vec<&str> = line.split(' ').collect();
        let mut out: Vec<String> = Vec::new();
        for (i, word) in words.iter().enumerate() {
            let next = words.get(i + 1).map_or("", |next| next.trim_end());
            let is_time = word.trim_start_matches('(').parse::<f64>().is_ok()
                && matches!(next.trim_end_matches([')', ',']), "s" | "min");
            let is_rate = word.trim_end().ends_with("/s)") && word.starts_with('(');
            out.push(match (is_time, is_rate) {
                (true, _) if word.starts_with('(') => "([time]".into(),
                (true, _) => "[time]".into(),
                (_, true) => format!("([rate]/s){}", if word.ends_with('\n') { "\n" } else { "" }),
                _ => (*word).to_owned(),
            });
        }
        steady.push_str(&out.join(" "));
    }
    steady
}

/// A folder with `photos` (12 images a class) and `run`, what `refit train` made of them; shared by
/// tests that only read.
pub fn trained() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let scene = Scene::with_photos(12);
        scene.run("train photos --strategy features --seed 1 --out run").exits(0);
        scene
    })
}

/// A safetensors file of one f32 tensor.
pub fn small_safetensors(name: &str, shape: &[usize]) -> Vec<u8> {
    let values: usize = shape.iter().product();
    let header = serde_json::json!({
        name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * values]}
    });
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; 4 * values]);
    bytes
}

/// A .npy file in C or Fortran order.
pub fn npy(kind: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let extents: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let head = format!("{{'descr': '{kind}', 'fortran_order': {fortran}, 'shape': ({extents}), }}");
    let length = (10 + head.len() + 1).next_multiple_of(64) - 10;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(format!("{head:<width$}\n", width = length - 1).as_bytes());
    bytes.extend(data);
    bytes
}
