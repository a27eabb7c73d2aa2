//! Golden files: parameters and inputs by formula, results by PyTorch.

#![allow(dead_code, reason = "not every test file uses everything")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use refit_net::state_dict::StateDict;
use refit_net::{Network, zoo};

/// `u(name, i)` of tools/README.md for one name: FNV-1a of it, then splitmix64; 24 bits in `[0, 1)`.
#[derive(Clone, Copy)]
struct Uniform(u64);

impl Uniform {
    fn new(name: &str) -> Self {
        let step = |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, step))
    }

    fn at(self, i: u64) -> f64 {
        let mut z = self.0.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
    }

    fn symmetric(self, i: u64) -> f64 {
        2.0 * self.at(i) - 1.0
    }
}

/// The value of every parameter; `bias` is its centre and reach, `gain` the weights' variance times
/// their fan-in times 3.
fn parameter(name: &str, shape: &[usize], gain: f64, bias: [f64; 2]) -> Vec<f32> {
    let len: usize = shape.iter().product();
    let u = Uniform::new(name);
    let values = |value: &dyn Fn(u64) -> f64| -> Vec<f32> {
        (0..len as u64).map(|i| value(i) as f32).collect()
    };
    if name.ends_with(".running_mean") {
        return values(&|i| 0.2 * u.symmetric(i));
    }
    if name.ends_with(".running_var") {
        return values(&|i| 0.5 + u.at(i));
    }
    if name.ends_with(".bias") {
        return values(&|i| bias[0] + bias[1] * u.symmetric(i));
    }
    if matches!(shape.len(), 1 | 3) {
        return values(&|i| 0.8 + 0.4 * u.at(i));
    }
    let reach = (gain / (len / shape[0]) as f64).sqrt();
    let pair = |i: u64| u.symmetric(i) * reach;
    let weights = (0..len.div_ceil(2) as u64).flat_map(|i| [pair(i) as f32, -pair(i) as f32]);
    weights.take(len).collect()
}

/// A golden file.
pub fn read(name: &str) -> StateDict {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.safetensors"));
    StateDict::read(path).unwrap()
}

/// A golden file with its network.
pub struct Golden {
    pub file: StateDict,
    pub network: Network,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let file = read(name);
        let mut network =
            zoo::find(&file.metadata()["network"]).unwrap().random(0, &Device::flex());
        let gain: f64 = file.metadata()["gain"].parse().unwrap();
        let bias: [f64; 2] = serde_json::from_str(&file.metadata()["bias"]).unwrap();
        let shapes: BTreeMap<String, Vec<usize>> =
            network.parameters().iter().map(|(name, p)| (name.clone(), p.shape.clone())).collect();
        for (name, shape) in shapes {
            let values = parameter(&name, &shape, gain, bias);
            let len = values.len();
            network.set(&name, Tensor::from_data(TensorData::new(values, [len]), &Device::flex()));
        }
        Self { file, network }
    }

    pub fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_str(&self.file.metadata()[key]).unwrap()
    }

    /// The input of that shape.
    pub fn input(&self, shape: [usize; 4]) -> Tensor<4> {
        let name = &self.file.metadata()["input"];
        let len: usize = shape.iter().product();
        let u = Uniform::new(name);
        let values: Vec<f32> = (0..len as u64).map(|i| u.symmetric(i) as f32).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// The largest difference between `ours` and the golden tensor, as a share of the golden
    /// tensor's largest value.
    pub fn error(&self, tensor: &str, ours: &[f32]) -> f64 {
        let strides: BTreeMap<String, usize> = self.json("strides");
        let stride = strides.get(tensor).copied().unwrap_or(1);
        let theirs = self.file.get_f32(tensor).unwrap();
        let ours: Vec<f32> = ours.iter().copied().step_by(stride).collect();
        assert_eq!(ours.len(), theirs.len(), "values of {tensor}");
        let largest = theirs.iter().fold(0.0_f64, |m, v| m.max(f64::from(v.abs())));
        assert!(largest > 0.0, "{tensor} is all zeros");
        let worst =
            ours.iter().zip(&theirs).fold(0.0_f64, |m, (a, b)| m.max(f64::from((a - b).abs())));
        worst / largest
    }
}
