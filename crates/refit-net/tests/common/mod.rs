//! Golden files: parameters and inputs by formula, results by PyTorch.

#![allow(dead_code, reason = "not every test file uses everything")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use refit_net::state_dict::StateDict;
use refit_net::{Network, zoo};

/// `u(name, i)` of tools/README.md: FNV-1a of the name, then splitmix64; 24 bits in `[0, 1)`.
fn uniform(name: &str, i: u64) -> f64 {
    let fnv = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut z = fnv.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
}

fn symmetric(name: &str, i: u64) -> f64 {
    2.0 * uniform(name, i) - 1.0
}

/// The value of every parameter; `bias` is its centre and reach, `gain` the weights' variance times
/// their fan-in times 3.
fn parameter(name: &str, shape: &[usize], gain: f64, bias: [f64; 2]) -> Vec<f32> {
    let len: usize = shape.iter().product();
    let value = |i: u64| -> f64 {
        if name.ends_with(".running_mean") {
            0.2 * symmetric(name, i)
        } else if name.ends_with(".running_var") {
            0.5 + uniform(name, i)
        } else if name.ends_with(".bias") {
            bias[0] + bias[1] * symmetric(name, i)
        } else if matches!(shape.len(), 1 | 3) {
            0.8 + 0.4 * uniform(name, i)
        } else {
            let fan_in = (len / shape[0]) as f64;
            let sign = if i.is_multiple_of(2) { 1.0 } else { -1.0 };
            sign * symmetric(name, i / 2) * (gain / fan_in).sqrt()
        }
    };
    (0..len as u64).map(|i| value(i) as f32).collect()
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
        let values: Vec<f32> = (0..len as u64).map(|i| symmetric(name, i) as f32).collect();
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
