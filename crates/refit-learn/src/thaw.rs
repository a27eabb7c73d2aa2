//! Gradual unfreezing: the uppermost layers first, then one group of layers more at a time
//! (Howard and Ruder 2018, <https://arxiv.org/abs/1801.06146>).

use refit_net::{Edit, Network};

use crate::error::LearnError;

/// Groups that the trained layers of a network fall into.
const GROUPS: usize = 4;

/// Which of the layers to be trained rest, and until when.
pub(crate) struct Thaw {
    /// Names of layers, from the uppermost group down.
    groups: Vec<Vec<String>>,
    /// Epochs after which one group more is trained.
    every: usize,
}

impl Thaw {
    /// Of what `net` is to train, one group more every so many epochs; 0 trains all at once.
    pub fn new(net: &Network, every: usize) -> Self {
        let graph = net.graph();
        let open: Vec<usize> =
            (1..graph.nodes().len()).rev().filter(|id| !net.is_frozen(*id)).collect();
        let learns = |id: &&usize| net.node_parameters(**id).next().is_some();
        let each = open.iter().filter(learns).count().div_ceil(GROUPS).max(1);
        let mut groups: Vec<Vec<String>> = Vec::new();
        let mut learners = 0;
        for id in &open {
            // What has nothing to learn goes with what stands below it.
            let group = learners / each;
            groups.resize_with(groups.len().max(group + 1), Vec::new);
            groups[group].push(graph.nodes()[*id].name.clone());
            learners += usize::from(learns(&id));
        }
        Self { groups, every }
    }

    /// Epochs after which all are trained.
    pub fn epochs(&self) -> usize {
        self.groups.len().saturating_sub(1) * self.every
    }

    /// Groups that are trained in an epoch, from 0.
    fn thawed(&self, epoch: usize) -> usize {
        match epoch.checked_div(self.every) {
            Some(more) => more.saturating_add(1).min(self.groups.len()),
            None => self.groups.len(),
        }
    }

    /// The network with nothing resting that is to be trained at last.
    pub fn open(&self, net: &Network) -> Result<Network, LearnError> {
        match self.every {
            0 => Ok(net.clone()),
            _ => self.apply(net, usize::MAX),
        }
    }

    /// Whether an epoch trains other layers than the one before it.
    pub fn changes(&self, epoch: usize) -> bool {
        epoch > 0 && self.thawed(epoch) != self.thawed(epoch - 1)
    }

    /// The network with what rests in an epoch frozen.
    pub fn apply(&self, net: &Network, epoch: usize) -> Result<Network, LearnError> {
        let (open, resting) = self.groups.split_at(self.thawed(epoch));
        let name = |name: &String| name.clone();
        let thaw = open.iter().flatten().map(|n| Edit::Unfreeze { layers: name(n) });
        let freeze = resting.iter().flatten().map(|n| Edit::Freeze { layers: name(n) });
        Ok(net.edit(&thaw.chain(freeze).collect::<Vec<_>>(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use refit_net::{Training, zoo};

    use super::*;

    #[test]
    fn one_group_more_at_a_time() {
        let net = zoo::find("resnet18").unwrap().random(0, &Device::flex());
        let net = net.edit(&[Edit::Freeze { layers: "conv1".into() }], 0).unwrap();
        let thaw = Thaw::new(&net, 2);
        let trained = |epoch| {
            let net = thaw.apply(&net, epoch).unwrap();
            net.trainable().map(|(_, p)| p.len()).sum::<usize>()
        };
        let counts: Vec<usize> = (0..8).map(trained).collect();
        assert!((0..8).step_by(2).all(|e| counts[e] == counts[e + 1]));
        assert!((2..8).step_by(2).all(|e| counts[e] > counts[e - 1]));
        assert_eq!(counts[7], net.trainable().map(|(_, p)| p.len()).sum::<usize>());
        assert_eq!((0..9).filter(|e| thaw.changes(*e)).collect::<Vec<_>>(), [2, 4, 6]);
        // What comes first is what stands highest.
        let first = thaw.apply(&net, 0).unwrap();
        assert!(Training::new(&first).boundary(&first)[0].starts_with("layer3.1"));
        // What was frozen stays so, and what an earlier epoch froze thaws.
        let last = thaw.apply(&first, 9).unwrap();
        assert_eq!(
            last.trainable().map(|(n, _)| n.to_owned()).collect::<Vec<_>>(),
            net.trainable().map(|(n, _)| n.to_owned()).collect::<Vec<_>>()
        );
        let at_once = Thaw::new(&net, 0);
        assert!(!(0..9).any(|e| at_once.changes(e)));
        assert_eq!(at_once.thawed(0), GROUPS);
    }
}
