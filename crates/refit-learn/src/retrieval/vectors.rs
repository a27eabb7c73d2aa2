//! Vectors as they are kept: `f32`, `f16` or `i8`, in memory or in a mapped file.

use half::f16;
use refit_data::parts::Bytes;
use refit_kernels::{dot, dot_bytes, dot_halves, prefetch};
use serde::{Deserialize, Serialize};

/// The largest of an `i8` vector's numbers.
const MOST: f32 = 127.0;

/// What the numbers of a vector are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Element {
    /// Four bytes, as they were computed.
    F32,
    /// Two bytes: similarities differ in the fourth digit.
    #[default]
    F16,
    /// One byte, and a scale for each vector: similarities differ in the third digit.
    I8,
}

impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
        })
    }
}

impl std::str::FromStr for Element {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "i8" => Ok(Self::I8),
            _ => Err("write `f32`, `f16` or `i8`".into()),
        }
    }
}

impl Element {
    /// Bytes of a vector of `dim` numbers, a multiple of four; of `i8`, the scale stands first.
    pub fn stride(self, dim: usize) -> usize {
        match self {
            Self::F32 => 4 * dim,
            Self::F16 => (2 * dim).next_multiple_of(4),
            Self::I8 => 4 + dim.next_multiple_of(4),
        }
    }

    /// Puts a vector behind others.
    fn push(self, vector: &[f32], words: &mut Vec<u32>) {
        let start = words.len();
        words.resize(start + self.stride(vector.len()) / 4, 0);
        let row: &mut [u8] = bytemuck::cast_slice_mut(&mut words[start..]);
        match self {
            Self::F32 => row.copy_from_slice(bytemuck::cast_slice(vector)),
            Self::F16 => {
                for (to, x) in row.as_chunks_mut::<2>().0.iter_mut().zip(vector) {
                    *to = f16::from_f32(*x).to_bits().to_ne_bytes();
                }
            }
            Self::I8 => {
                let (scale, bytes) = quantized(vector);
                row[..4].copy_from_slice(&scale.to_ne_bytes());
                row[4..][..bytes.len()].copy_from_slice(bytemuck::cast_slice(&bytes));
            }
        }
    }
}

/// A vector in steps of its own scale.
fn quantized(vector: &[f32]) -> (f32, Vec<i8>) {
    let largest = vector.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let scale = largest / MOST;
    let step = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    (scale, vector.iter().map(|x| (x * step).round() as i8).collect())
}

/// Scales a vector to length 1; one of zeros stays.
pub(crate) fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
}

/// A vector to compare others with.
#[derive(Debug, Clone)]
pub(crate) enum Probe {
    Floats(Vec<f32>),
    Bytes(f32, Vec<i8>),
}

/// Vectors one behind the other, in one or several pieces.
#[derive(Debug, Clone)]
pub(crate) struct Vectors {
    element: Element,
    dim: usize,
    stride: usize,
    /// The number of the first vector, and the bytes, of each piece.
    pieces: Vec<(usize, Bytes)>,
    rows: usize,
}

impl Vectors {
    pub fn new(element: Element, dim: usize) -> Self {
        Self { element, dim, stride: element.stride(dim), pieces: vec![], rows: 0 }
    }

    /// Encoded as a piece of its own: `vectors` are `[n, dim]`.
    pub fn encode(element: Element, dim: usize, vectors: &[f32]) -> Vec<u32> {
        let mut words = Vec::with_capacity(vectors.len() / dim * element.stride(dim) / 4);
        vectors.chunks_exact(dim).for_each(|vector| element.push(vector, &mut words));
        words
    }

    /// Puts a piece behind the others; how many vectors it holds.
    pub fn push(&mut self, bytes: Bytes) -> usize {
        let rows = bytes.len() / self.stride;
        self.pieces.push((self.rows, bytes));
        self.rows += rows;
        rows
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn stride(&self) -> usize {
        self.stride
    }

    /// All bytes, where they are in one piece.
    ///
    /// # Panics
    /// If they are not.
    pub fn only_piece(&self) -> &[u8] {
        let [(_, bytes)] = self.pieces.as_slice() else { panic!("only_piece: of several") };
        bytes
    }

    /// A vector's bytes.
    pub fn row(&self, row: usize) -> &[u8] {
        let piece = match self.pieces.len() {
            1 => 0,
            _ => self.pieces.partition_point(|(first, _)| *first <= row) - 1,
        };
        let (first, bytes) = &self.pieces[piece];
        &bytes[(row - first) * self.stride..][..self.stride]
    }

    /// Has a vector on its way into the cache.
    pub fn prefetch(&self, row: usize) {
        prefetch(self.row(row));
    }

    /// A vector of `dim` numbers, to compare with those that are kept.
    pub fn probe(&self, vector: &[f32]) -> Probe {
        assert_eq!(vector.len(), self.dim, "probe: numbers of a vector");
        match self.element {
            Element::F32 | Element::F16 => Probe::Floats(vector.to_vec()),
            Element::I8 => {
                let (scale, bytes) = quantized(vector);
                Probe::Bytes(scale, bytes)
            }
        }
    }

    /// One that is kept, to compare with others.
    pub fn probe_of(&self, row: usize) -> Probe {
        match self.element {
            Element::I8 => {
                let (scale, bytes) = self.bytes(row);
                Probe::Bytes(scale, bytes.to_vec())
            }
            _ => Probe::Floats(self.floats(row)),
        }
    }

    /// The numbers of one that is kept.
    pub fn floats(&self, row: usize) -> Vec<f32> {
        let bytes = self.row(row);
        match self.element {
            Element::F32 => bytemuck::cast_slice(bytes).to_vec(),
            Element::F16 => {
                let halves: &[u16] = bytemuck::cast_slice(bytes);
                halves[..self.dim].iter().map(|h| f16::from_bits(*h).to_f32()).collect()
            }
            Element::I8 => {
                let (scale, bytes) = self.bytes(row);
                bytes.iter().map(|b| scale * f32::from(*b)).collect()
            }
        }
    }

    fn bytes(&self, row: usize) -> (f32, &[i8]) {
        let (scale, bytes) = self.row(row).split_at(4);
        let scale = f32::from_ne_bytes(std::array::from_fn(|i| scale[i]));
        (scale, bytemuck::cast_slice(&bytes[..self.dim]))
    }

    /// The inner product, which is the cosine, as all are of length 1.
    pub fn similarity(&self, probe: &Probe, row: usize) -> f32 {
        match (probe, self.element) {
            (Probe::Floats(x), Element::F32) => dot(x, bytemuck::cast_slice(self.row(row))),
            (Probe::Floats(x), _) => {
                let halves: &[u16] = bytemuck::cast_slice(self.row(row));
                dot_halves(x, &halves[..self.dim])
            }
            (Probe::Bytes(scale, x), _) => {
                let (other, y) = self.bytes(row);
                dot_bytes(x, y) as f32 * (scale * other)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use refit_data::Stream;

    fn random(rows: usize, dim: usize) -> Vec<f32> {
        let mut stream = Stream::new(3, "test", &[]);
        let mut vectors: Vec<f32> = (0..rows * dim).map(|_| stream.normal() as f32).collect();
        vectors.chunks_exact_mut(dim).for_each(normalize);
        vectors
    }

    #[test]
    fn every_kind_keeps_similarities() {
        for dim in [1, 3, 64, 97] {
            let x = random(8, dim);
            let exact = |i: usize, j: usize| dot(&x[i * dim..][..dim], &x[j * dim..][..dim]);
            for (element, off) in [(Element::F32, 1e-6), (Element::F16, 1e-3), (Element::I8, 0.02)]
            {
                let mut vectors = Vectors::new(element, dim);
                // In two pieces.
                let (a, b) = x.split_at(3 * dim);
                for piece in [a, b] {
                    vectors.push(Bytes::owned(Vectors::encode(element, dim, piece)));
                }
                assert_eq!(vectors.rows(), 8);
                for (i, j) in [(0, 1), (2, 3), (7, 0), (5, 5)] {
                    let probe = vectors.probe(&x[i * dim..][..dim]);
                    let kept = vectors.probe_of(i);
                    for probe in [probe, kept] {
                        let got = vectors.similarity(&probe, j);
                        assert!((got - exact(i, j)).abs() < off, "{element} {dim}: {got}");
                    }
                    let floats = vectors.floats(i);
                    let apart = floats.iter().zip(&x[i * dim..]).map(|(a, b)| (a - b).abs());
                    assert!(apart.fold(0.0, f32::max) < off);
                }
            }
        }
    }

    #[test]
    fn zeros_have_no_direction() {
        let mut zeros = [0.0; 4];
        normalize(&mut zeros);
        assert_eq!(zeros, [0.0; 4]);
        let mut vectors = Vectors::new(Element::I8, 4);
        vectors.push(Bytes::owned(Vectors::encode(Element::I8, 4, &zeros)));
        assert_eq!(vectors.similarity(&vectors.probe(&[1.0; 4]), 0), 0.0);
    }

    #[test]
    fn names_are_read_and_written() {
        for element in [Element::F32, Element::F16, Element::I8] {
            assert_eq!(element.to_string().parse(), Ok(element));
        }
        assert!("f64".parse::<Element>().is_err());
    }
}
