//! Images of other channels: the first convolution's weights for them, as timm makes them.

use super::EditError;
use super::draft::{Draft, Origin};
use crate::graph::{GraphError, GraphRecord};
use crate::layer::{Layer, Misfit};

impl Draft {
    /// The network for images of `channels`: what reads them keeps its sums. For one channel, the
    /// input channels of each filter are summed; for others they are repeated, scaled by old / new.
    pub(super) fn adapt_input(&self, channels: usize) -> Result<Self, EditError> {
        let graph = &self.graph;
        if channels == graph.input_shape().channels() {
            return Ok(self.clone());
        }
        let name_of = |id: usize| graph.nodes()[id].name.clone();
        let stem = graph.stem();
        let dense = |id: usize| matches!(graph.nodes()[id].layer, Layer::Conv(c) if c.groups == 1);
        if let Some(&other) = stem.iter().find(|&&id| !dense(id)) {
            return Err(EditError::Stem { net: graph.name().to_owned(), layer: name_of(other) });
        }
        if channels == 0 {
            let (net, layer) = (graph.name().to_owned(), name_of(0));
            let misfit = Misfit("is asked to take images of no channels".into());
            return Err(GraphError::Misfit { net, layer, misfit }.into());
        }
        let record = GraphRecord::from(&graph.with_channels(channels)?);
        let mut next = self.with_same_names(&record)?;
        next.frozen.clone_from(&self.frozen);
        for id in stem {
            let name = graph.parameter_name(id, "weight");
            if let Origin::Kept(old) | Origin::Adapted(old) = &self.origins[&name] {
                next.origins.insert(name, Origin::Adapted(old.clone()));
            }
        }
        Ok(next)
    }
}

/// Filters `[out, before, taps]` for another number of input channels.
pub(super) fn adapt(filters: &[f32], before: usize, after: usize, taps: usize) -> Vec<f32> {
    let filters = filters.chunks_exact(before * taps);
    if after == 1 {
        let sum = |filter: &[f32], tap| filter.iter().skip(tap).step_by(taps).sum::<f32>();
        return filters.flat_map(|f| (0..taps).map(move |tap| sum(f, tap))).collect();
    }
    let scale = before as f32 / after as f32;
    let channel = |filter: &[f32], c: usize| {
        let from = c % before * taps;
        filter[from..from + taps].iter().map(|w| w * scale).collect::<Vec<f32>>()
    };
    filters.flat_map(|f| (0..after).flat_map(move |c| channel(f, c))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::Edit;
    use crate::error::Hint;
    use crate::graph::Builder;
    use crate::layer::{BatchNorm, Conv};
    use crate::network::Network;
    use crate::shape::Shape;
    use crate::zoo;

    fn network(name: &str) -> Network {
        zoo::find(name).unwrap().random(1, &Default::default())
    }

    fn adapted(net: &Network, channels: usize) -> Network {
        net.edit(&[Edit::FreezeBody, Edit::AdaptInput { channels }], 0).unwrap()
    }

    #[test]
    fn weights_are_summed_or_repeated_and_scaled() {
        let filters = [1.0, 2.0, 10.0, 20.0, 100.0, 200.0];
        assert_eq!(adapt(&filters, 3, 1, 2), [111.0, 222.0]);
        let five = [0.6, 1.2, 6.0, 12.0, 60.0, 120.0, 0.6, 1.2, 6.0, 12.0];
        assert!(adapt(&filters, 3, 5, 2).iter().zip(five).all(|(a, b)| (a - b).abs() < 1e-4));
        assert_eq!(adapt(&[3.0, 6.0], 1, 3, 1), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn the_stem_alone_changes() {
        let net = network("squeezenet1_1");
        let grey = adapted(&net, 1);
        assert_eq!(grey.graph().input_shape().channels(), 1);
        assert_eq!(grey.parameters()["features.0.weight"].shape, [64, 1, 3, 3]);
        let other = "features.3.squeeze.weight";
        assert_eq!(grey.parameters()[other].to_vec(), net.parameters()[other].to_vec());
        assert!(grey.is_frozen(1) && !grey.is_frozen(grey.graph().output()));
        let same = adapted(&net, 3);
        assert_eq!(same.graph(), net.graph());
        let colour = adapted(&network("lenet5"), 3);
        let third = network("lenet5").parameters()["C1.weight"].to_vec()[0] / 3.0;
        let weight = colour.parameters()["C1.weight"].to_vec();
        assert!([0, 25, 50].iter().all(|&at| (weight[at] - third).abs() < 1e-7));
    }

    #[test]
    fn what_is_no_plain_convolution_is_refused() {
        let (mut g, x) = Builder::new("odd", Shape::map(3, 8, 8));
        let y = g.batch_norm("norm", x, BatchNorm::default());
        let y = g.conv("conv", y, Conv::k3(4));
        let odd = Network::initialize(g.finish(y, "").unwrap(), 0, &Default::default());
        let error = odd.edit(&[Edit::AdaptInput { channels: 1 }], 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`norm`, which takes the images of `odd`, is no convolution over all channels"
        );
        assert!(error.hint().unwrap().contains("images of as many channels"));
        let error = network("lenet5").edit(&[Edit::AdaptInput { channels: 0 }], 0).unwrap_err();
        assert!(error.to_string().ends_with("images of no channels"), "{error}");
    }
}
