//! Features by quantile: each value as the number of the cuts below it.

use rayon::prelude::*;

/// Bins of a feature, at most.
pub(super) const BINS: usize = 64;

/// Rows of features, each value replaced by its bin.
#[derive(Debug)]
pub(super) struct Binned {
    rows: usize,
    /// `[dim, rows]`: a feature's values lie together.
    bins: Vec<u8>,
    /// For each feature, rising: values of bin `b` are above cut `b - 1` and at most cut `b`.
    cuts: Vec<Vec<f32>>,
}

impl Binned {
    /// Of finite `features`, `[rows, dim]`.
    pub fn new(features: &[f32], rows: usize) -> Self {
        let dim = features.len() / rows.max(1);
        let column = |d: usize| {
            let values: Vec<f32> = (0..rows).map(|row| features[row * dim + d]).collect();
            let cuts = cuts(&values);
            let bin = |v: &f32| cuts.partition_point(|cut| cut < v) as u8;
            (values.iter().map(bin).collect::<Vec<u8>>(), cuts)
        };
        let (bins, cuts): (Vec<Vec<u8>>, Vec<Vec<f32>>) =
            (0..dim).into_par_iter().map(column).unzip();
        Self { rows, bins: bins.concat(), cuts }
    }

    pub fn dim(&self) -> usize {
        self.cuts.len()
    }

    /// The bins of a feature, one a row.
    pub fn of(&self, feature: usize) -> &[u8] {
        &self.bins[feature * self.rows..][..self.rows]
    }

    /// How many bins a feature has.
    pub fn count(&self, feature: usize) -> usize {
        self.cuts[feature].len() + 1
    }

    /// What values up to a bin are at most.
    pub fn threshold(&self, feature: usize, bin: usize) -> f32 {
        self.cuts[feature][bin]
    }
}

/// Between all distinct values, or where these are many, at quantiles.
fn cuts(values: &[f32]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let mut distinct = sorted.clone();
    distinct.dedup();
    if distinct.len() <= BINS {
        return distinct.windows(2).map(|pair| between(pair[0], pair[1])).collect();
    }
    let at = |b: usize| {
        let value = sorted[b * sorted.len() / BINS];
        let place = distinct.partition_point(|v| *v < value);
        (place > 0).then(|| between(distinct[place - 1], value))
    };
    let mut cuts: Vec<f32> = (1..BINS).filter_map(at).collect();
    cuts.dedup();
    cuts
}

/// A number from `low` on and below `high`.
fn between(low: f32, high: f32) -> f32 {
    let middle = low + (high - low) / 2.0;
    if (low..high).contains(&middle) { middle } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_have_a_bin_each_and_many_share_them_evenly() {
        let binned = Binned::new(&[3.0, 1.0, 1.0, 2.0, 3.0, 9.0], 6);
        assert_eq!(binned.of(0), [2, 0, 0, 1, 2, 3]);
        assert_eq!((binned.count(0), binned.threshold(0, 1)), (4, 2.5));
        let many: Vec<f32> = (0..6400).map(|i| ((i * 37) % 6400) as f32).collect();
        let binned = Binned::new(&many, 6400);
        assert_eq!(binned.count(0), BINS);
        for bin in 0..BINS {
            assert_eq!(binned.of(0).iter().filter(|b| **b as usize == bin).count(), 100);
        }
        assert_eq!(Binned::new(&[5.0; 4], 4).count(0), 1);
    }

    #[test]
    fn a_value_is_in_its_bin_by_the_threshold_too() {
        let next = f32::from_bits(1.0_f32.to_bits() + 1);
        let values = [1.0, next, -0.5, f32::MAX, f32::MIN];
        let binned = Binned::new(&values, 5);
        for (value, &bin) in values.iter().zip(binned.of(0)) {
            for b in 0..binned.count(0) - 1 {
                assert_eq!(*value <= binned.threshold(0, b), bin as usize <= b, "{value} {b}");
            }
        }
    }
}
