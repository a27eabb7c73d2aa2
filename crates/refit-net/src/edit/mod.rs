//! Edits of a network as values: described, checked, then applied whole.
//!
//! An edit works on a draft, which knows the graph and where each parameter's values come from;
//! values are touched once, when all edits have been found to fit.

mod changes;
mod draft;
mod error;
mod head;
mod input;
mod kinds;
mod new_layer;
mod rows;
mod select;
mod structure;

use serde::{Deserialize, Serialize};

pub use changes::{Change, LayerState, Weights};
pub use error::EditError;
pub use head::HeadKind;
pub use kinds::Pooling;
pub use new_layer::NewLayer;

use crate::graph::Graph;
use crate::layer::Activation;
use crate::network::Network;
use draft::Draft;
use select::select;

/// A change of a network.
///
/// `layer` is a name, or a block's name (`layer4`), which stands for its last layer, or for all of
/// it where it is removed, replaced or renamed. `layers` may also be a glob (`blocks.*.bn1`),
/// `upto:NAME` or `from:NAME`: everything up to the end of a layer or block, or from its beginning
/// on, in the order of [`Graph::nodes`].
///
/// Parameters keep their values as long as they keep their shapes; a layer whose parameters start
/// anew is not frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Puts a new head of `classes` outputs, freshly initialized and not frozen, in the head's
    /// place, or on top of a network without one.
    ReplaceHead {
        /// Number of classes.
        classes: usize,
        /// What it is made of.
        #[serde(default)]
        kind: HeadKind,
        /// Rows of the old head, a linear one or a 1x1 convolution, that a linear one keeps: pairs
        /// of a class's number in the old head and in the new.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keep: Vec<[usize; 2]>,
    },
    /// Makes the value of a layer the network's output and drops what it does not need.
    CutAt {
        /// The layer or block.
        layer: String,
    },
    /// Takes layers or a block out; what took their value takes their input.
    Remove {
        /// Which layers; each has one input.
        layers: String,
    },
    /// Puts a new layer behind a layer or block: what took its value takes the new layer's.
    Insert {
        /// The layer or block.
        after: String,
        /// What to insert.
        layer: NewLayer,
        /// Its name; if none, that of `after` and the kind: `layer3_dropout`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Puts a new layer in the place, and under the name, of a layer or block.
    Replace {
        /// The layer or block; it has one input.
        layer: String,
        /// What to put there.
        with: NewLayer,
    },
    /// Gives a layer, or all layers of a block, another name.
    Rename {
        /// The layer or block.
        layer: String,
        /// The new name.
        to: String,
    },
    /// Gives parameters new initial values, and lets them be trained.
    Reinitialize {
        /// Which layers.
        layers: String,
    },
    /// Freezes layers: no gradient, stored batch statistics, no dropout.
    Freeze {
        /// Which layers.
        layers: String,
    },
    /// Lets layers be trained.
    Unfreeze {
        /// Which layers.
        layers: String,
    },
    /// Freezes everything that the features (what the head takes) depend on.
    FreezeBody,
    /// Freezes everything before a layer and lets it and all after it be trained.
    UnfreezeFrom {
        /// The first layer or block that is trained.
        layer: String,
    },
    /// Takes images of another number of channels: the first convolution's weights are summed for
    /// one channel, for others repeated and scaled by old / new.
    AdaptInput {
        /// Channels of the images.
        channels: usize,
    },
    /// Changes activations, but for those of gates unless they are named exactly.
    ChangeActivation {
        /// The new one.
        to: Activation,
        /// Which layers.
        #[serde(default = "all")]
        layers: String,
    },
    /// Sets the share of values that dropouts zero in training.
    ChangeDropout {
        /// The share, in `[0, 1)`.
        to: f32,
        /// Which layers.
        #[serde(default = "all")]
        layers: String,
    },
    /// Sets the share of images for which blocks are left out in training: of the layers that do so,
    /// in their order, each leaves out as much more than the one before, up to `to` at the last (the
    /// linear rule of stochastic depth: Huang et al. 2016, <https://arxiv.org/abs/1603.09382>).
    ChangeStochasticDepth {
        /// The share at the last, in `[0, 1)`.
        to: f32,
        /// Which layers.
        #[serde(default = "all")]
        layers: String,
    },
    /// Changes pooling over windows between maximum and mean. A global mean becomes the maximum
    /// over the nominal map; global and adaptive means are never made of a maximum.
    ChangePooling {
        /// What to take of each window.
        to: Pooling,
        /// Which layers.
        #[serde(default = "all")]
        layers: String,
    },
}

fn all() -> String {
    "*".into()
}

impl Network {
    /// Applies edits in their order, all or none; `seed` initializes what is new.
    ///
    /// # Errors
    /// The first refusal; `self` is as it was.
    pub fn edit(&self, edits: &[Edit], seed: u64) -> Result<Self, EditError> {
        Ok(Draft::new(&self.graph, |id| self.is_frozen(id)).edited(edits)?.finish(self, seed))
    }

    /// What edits would change, layer by layer, without doing it.
    ///
    /// # Errors
    /// The first refusal.
    pub fn changes(&self, edits: &[Edit]) -> Result<Vec<Change>, EditError> {
        let before = Draft::new(&self.graph, |id| self.is_frozen(id));
        Ok(changes::between(&before, &before.edited(edits)?))
    }
}

impl Graph {
    /// The graph that edits would make, without any parameters.
    ///
    /// # Errors
    /// The first refusal.
    pub fn edit(&self, edits: &[Edit]) -> Result<Self, EditError> {
        Ok(Draft::new(self, |_| false).edited(edits)?.graph)
    }
}

impl Draft {
    fn edited(&self, edits: &[Edit]) -> Result<Self, EditError> {
        edits.iter().try_fold(self.clone(), |draft, edit| {
            draft.after(edit).map_err(|error| draft.with_nearest(edit, error))
        })
    }

    fn after(&self, edit: &Edit) -> Result<Self, EditError> {
        let mut next = self.clone();
        match edit {
            Edit::ReplaceHead { classes, kind, keep } => {
                return self.replace_head(*classes, *kind, keep);
            }
            Edit::CutAt { layer } => return self.cut_at(layer),
            Edit::Remove { layers } => return self.remove(layers),
            Edit::Insert { after, layer, name } => {
                return self.insert(after, *layer, name.as_deref());
            }
            Edit::Replace { layer, with } => return self.replace(layer, *with),
            Edit::Rename { layer, to } => return self.rename(layer, to),
            Edit::AdaptInput { channels } => return self.adapt_input(*channels),
            Edit::ChangeActivation { to, layers } => return self.change_activation(*to, layers),
            Edit::ChangePooling { to, layers } => return self.change_pooling(*to, layers),
            Edit::ChangeDropout { to, layers } => return self.change_dropout(*to, layers),
            Edit::ChangeStochasticDepth { to, layers } => {
                return self.change_stochastic_depth(*to, layers);
            }
            Edit::Reinitialize { layers } => next.reinitialize(select(&self.graph, layers)?),
            Edit::Freeze { layers } => {
                next.frozen.extend(self.names(&select(&self.graph, layers)?));
            }
            Edit::Unfreeze { layers } => {
                for name in self.names(&select(&self.graph, layers)?) {
                    next.frozen.remove(&name);
                }
            }
            Edit::FreezeBody => {
                let body = self.graph.ancestors(&[self.graph.features()]);
                next.frozen = self.names(&body).collect();
            }
            Edit::UnfreezeFrom { layer } => {
                let first = self.graph.find_first(layer)?;
                next.frozen = self.names(&(0..first).collect()).collect();
            }
        }
        Ok(next)
    }

    /// A refusal that says where the same edit would be possible.
    fn with_nearest(&self, edit: &Edit, error: EditError) -> EditError {
        let EditError::Breaks { net, doing, reason, .. } = error else { return error };
        let nearest = match edit {
            Edit::Remove { layers } => self.nearest_at(layers, |d, name| d.remove(name).is_ok()),
            Edit::Insert { after, layer, .. } => {
                self.nearest_at(after, |d, name| d.insert(name, *layer, None).is_ok())
            }
            Edit::Replace { layer, with } => {
                self.nearest_at(layer, |d, name| d.replace(name, *with).is_ok())
            }
            _ => None,
        };
        EditError::Breaks { net, doing, reason, nearest }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::error::Hint;
    use crate::graph::Builder;
    use crate::layer::{BatchNorm, Conv, Layer, Windows};
    use crate::shape::Shape;
    use crate::zoo;

    fn lite0() -> Network {
        static NET: OnceLock<Network> = OnceLock::new();
        let random = || zoo::find("efficientnet_lite0").unwrap().random(1, &Default::default());
        NET.get_or_init(random).clone()
    }

    #[test]
    fn a_new_head_keeps_the_body() {
        let net = lite0();
        let edits = [
            Edit::ReplaceHead { classes: 7, kind: HeadKind::Mlp { hidden: 32 }, keep: vec![] },
            Edit::FreezeBody,
        ];
        let new = net.edit(&edits, 2).unwrap();
        assert_eq!(new.graph().nodes()[new.graph().output()].shape, Shape::vector(7));
        let trained: Vec<&str> = new.trainable().map(|(name, _)| name).collect();
        assert_eq!(
            trained,
            [
                "classifier.fc1.weight",
                "classifier.fc1.bias",
                "classifier.fc2.weight",
                "classifier.fc2.bias"
            ]
        );
        let body = "blocks.3.1.conv_dw.weight";
        assert_eq!(new.parameters()[body].to_vec(), net.parameters()[body].to_vec());
        // The head is found again and can be replaced once more.
        let again = new
            .edit(&[Edit::ReplaceHead { classes: 3, kind: HeadKind::Linear, keep: vec![] }], 2)
            .unwrap();
        assert_eq!(again.parameters()["classifier.weight"].shape, [3, 1280]);
    }

    #[test]
    fn a_cut_drops_what_is_above() {
        let net = lite0().edit(&[Edit::CutAt { layer: "blocks.2".into() }], 0).unwrap();
        assert_eq!(net.graph().nodes()[net.graph().output()].shape, Shape::map(40, 28, 28));
        assert!(
            net.parameters()
                .keys()
                .all(|k| !k.starts_with("blocks.3") && !k.starts_with("classifier"))
        );
        let head = Edit::ReplaceHead { classes: 2, kind: HeadKind::Linear, keep: vec![] };
        let net = net.edit(&[head], 0).unwrap();
        assert_eq!(net.graph().head(), "head");
        assert_eq!(net.graph().nodes()[net.graph().features()].name, "head_pool");
        assert_eq!(net.parameters()["head.weight"].shape, [2, 40]);
    }

    #[test]
    fn layers_freeze_by_name_block_and_glob() {
        let count = |edits: &[Edit]| lite0().edit(edits, 0).unwrap().trainable().count();
        let freeze = |layers: &str| Edit::Freeze { layers: layers.into() };
        let all = count(&[]);
        assert_eq!(count(&[freeze("classifier")]), all - 2);
        assert_eq!(count(&[freeze("*"), Edit::Unfreeze { layers: "conv_head".into() }]), 1);
        assert_eq!(count(&[freeze("*"), Edit::Unfreeze { layers: "blocks.6".into() }]), 9);
        assert_eq!(count(&[freeze("*"), Edit::Unfreeze { layers: "blocks.6.*.bn1".into() }]), 2);
        assert_eq!(count(&[Edit::UnfreezeFrom { layer: "conv_head".into() }]), 5);
    }

    #[test]
    fn what_does_not_fit_is_refused_whole() {
        let net = lite0();
        let edits =
            [Edit::Freeze { layers: "*".into() }, Edit::Unfreeze { layers: "blocks.9".into() }];
        let error = net.edit(&edits, 0).unwrap_err();
        assert_eq!(error.to_string(), "no layer of `efficientnet_lite0` fits `blocks.9`");
        assert!(error.hint().unwrap().contains("try `blocks."));
        assert_eq!(net.trainable().count(), lite0().trainable().count());
        let error = net.edit(&[Edit::Freeze { layers: "a[".into() }], 0).unwrap_err();
        assert!(error.to_string().starts_with("`a[` is not a pattern"));
        assert!(error.hint().unwrap().contains("glob"));
        let error = net.edit(&[Edit::CutAt { layer: "blocks.99".into() }], 0).unwrap_err();
        assert!(error.to_string().contains("no layer `blocks.99`"));
        let none = Edit::ReplaceHead { classes: 0, kind: HeadKind::Linear, keep: vec![] };
        assert!(net.edit(&[none], 0).unwrap_err().to_string().contains("no outputs"));
    }

    /// A stem, two residual blocks of one width, and a head.
    fn small() -> Network {
        let (mut g, x) = Builder::new("small", Shape::map(3, 8, 8));
        let x = g.conv("stem", x, Conv::k3(4));
        let mut x = g.relu("act", x);
        for block in ["block.0", "block.1"] {
            x = g.scope(block, |g| {
                let y = g.conv("conv", x, Conv::k3(4));
                let y = g.batch_norm("bn", y, BatchNorm::default());
                let y = g.add("add", y, x);
                g.relu("relu", y)
            });
        }
        let y = g.max_pool("down", x, Windows::new(2, 2));
        let y = g.global_avg_pool("pool", y);
        let y = g.linear("fc", y, 5);
        Network::initialize(g.finish(y, "fc").unwrap(), 1, &Default::default())
    }

    fn named(layers: &str) -> String {
        layers.to_owned()
    }

    fn names(net: &Network) -> Vec<&str> {
        net.graph().nodes().iter().map(|n| n.name.as_str()).collect()
    }

    fn values(net: &Network, parameter: &str) -> Vec<f32> {
        net.parameters()[parameter].to_vec()
    }

    /// What is refused, and how to mend it.
    fn refused(edit: Edit) -> [String; 2] {
        let error = small().edit(&[edit], 0).unwrap_err();
        [error.to_string(), error.hint().unwrap()]
    }

    #[test]
    fn a_layer_or_a_block_is_removed() {
        let remove = |layers| Edit::Remove { layers: named(layers) };
        let net = small().edit(&[remove("block.1"), remove("act")], 0).unwrap();
        assert_eq!(
            names(&net),
            ["input", "stem", "block.0.conv", "block.0.bn", "block.0.add", "block.0.relu"]
                .into_iter()
                .chain(["down", "pool", "fc"])
                .collect::<Vec<_>>()
        );
        assert_eq!(values(&net, "block.0.conv.weight"), values(&small(), "block.0.conv.weight"));
        let net = small().edit(&[remove("block.*.bn")], 0).unwrap();
        assert!(names(&net).iter().all(|name| !name.ends_with("bn")));
        let net = small().edit(&[remove("fc")], 0).unwrap();
        assert_eq!(
            (net.graph().head(), &*net.graph().nodes()[net.graph().output()].name),
            ("", "pool")
        );
    }

    #[test]
    fn what_cannot_be_removed_is_refused_with_the_reason_and_what_can() {
        let remove = |layers| refused(Edit::Remove { layers: named(layers) });
        assert_eq!(
            remove("block.1.add"),
            [
                "removing `block.1.add` in `small`: it joins `block.0.relu` and `block.1.bn`, and \
                 none of them can stand for it",
                "the closest layer where this fits is `block.1`"
            ]
        );
        let [said, hint] = remove("stem");
        assert!(
            said.contains("layer `block.0.add` of `small` adds [n, 4, 8, 8] to [n, 3, 8, 8]"),
            "{said}"
        );
        assert!(hint.contains("closest layer"), "{hint}");
        assert!(remove("input")[0].contains("stands for the images"));
        assert_eq!(remove("blok.1")[0], "no layer of `small` fits `blok.1`");
        let (mut g, x) = Builder::new("tapped", Shape::map(3, 8, 8));
        let (a, b) = g.scope("block", |g| (g.relu("a", x), g.relu("b", x)));
        let y = g.add("add", a, b);
        let net = Network::initialize(g.finish(y, "").unwrap(), 0, &Default::default());
        let error = net.edit(&[Edit::Remove { layers: named("block") }], 0).unwrap_err();
        assert!(error.to_string().contains("others take `block.a` and `block.b`"), "{error}");
    }

    #[test]
    fn a_layer_is_inserted_behind_another() {
        let insert = |after, layer, name: Option<&str>| Edit::Insert {
            after: named(after),
            layer,
            name: name.map(str::to_owned),
        };
        let dropout = NewLayer::Dropout { share: 0.5 };
        let edits = [
            insert("block.0", dropout, None),
            insert("block.0", NewLayer::BatchNorm, Some("norm")),
            insert("block.0", dropout, None),
        ];
        let net = small().edit(&edits, 0).unwrap();
        assert_eq!(
            names(&net)[6..10],
            ["block.0.relu", "block.0_dropout_2", "norm", "block.0_dropout"]
        );
        assert!(net.trainable().any(|(name, _)| name == "norm.weight"));
        let [said, hint] = refused(insert("block.0", NewLayer::Flatten, None));
        assert!(
            said.starts_with("inserting `block.0_flatten` after `block.0` in `small`: "),
            "{said}"
        );
        assert_eq!(hint, "the closest layer where this fits is `fc`");
        let [said, _] = refused(insert("stem", dropout, Some("block.0.bn")));
        assert!(said.contains("names two layers `block.0.bn`"), "{said}");
        let [said, hint] = refused(insert("stem", dropout, Some("a b")));
        assert_eq!(said, "`a b` is no name for a layer");
        assert!(hint.contains("letters"));
        let [said, hint] = refused(insert("stem", NewLayer::Dropout { share: 1.5 }, None));
        assert_eq!(said, "a dropout's share is 1.5, but must be in [0, 1)");
        assert!(hint.contains("range"));
        let scale = NewLayer::LayerScale { initial: f32::NAN };
        assert!(refused(insert("stem", scale, None))[0].contains("must be a finite number"));
    }

    #[test]
    fn what_is_left_out_at_random_is_a_setting() {
        let shares = |edits: &[Edit]| -> Vec<(bool, f32)> {
            let graph = zoo::find("efficientnet_b0").unwrap().graph().edit(edits).unwrap();
            let share = |layer: &Layer| match layer {
                Layer::Dropout(d) => Some((d.whole, d.share)),
                _ => None,
            };
            graph.nodes().iter().filter_map(|n| share(&n.layer)).collect()
        };
        let usual = shares(&[]);
        let dropout = Edit::ChangeDropout { to: 0.5, layers: named("*") };
        let depth = |to| Edit::ChangeStochasticDepth { to, layers: named("*") };
        let changed = shares(&[dropout, depth(0.4)]);
        assert_eq!(changed.len(), usual.len());
        let [depths, dropouts]: [Vec<f32>; 2] = [true, false]
            .map(|kind| changed.iter().filter(|(w, _)| *w == kind).map(|(_, s)| *s).collect());
        assert_eq!(dropouts, [0.5]);
        let each = 0.4 / depths.len() as f32;
        assert!(depths.iter().zip(1..).all(|(s, i)| (s - each * i as f32).abs() < 1e-6));
        assert!(shares(&[depth(0.0)]).iter().filter(|(whole, _)| *whole).all(|(_, s)| *s == 0.0));
        let [said, hint] = refused(depth(0.1));
        assert_eq!(said, "no stochastic depth of `small` fits `*`");
        assert_eq!(hint, "`small` has no stochastic depth at all; leave the edit out");
        let [said, _] = refused(Edit::ChangeDropout { to: 1.0, layers: named("*") });
        assert_eq!(said, "a dropout's share is 1, but must be in [0, 1)");
    }

    #[test]
    fn a_replaced_layer_keeps_the_values_that_fit() {
        let conv = |channels, dilation| NewLayer::Conv {
            channels,
            kernel: 3,
            stride: 1,
            groups: 1,
            dilation,
            bias: false,
        };
        let replace = |layer, with| Edit::Replace { layer: named(layer), with };
        let freeze = Edit::Freeze { layers: named("*") };
        let net = small().edit(&[freeze.clone(), replace("stem", conv(4, 2))], 9).unwrap();
        assert_eq!(values(&net, "stem.weight"), values(&small(), "stem.weight"));
        assert_eq!(net.trainable().count(), 0);
        // A block as one layer of another width: what follows starts anew, and is trained.
        let edits = [freeze, replace("block.1", conv(6, 1))];
        let net = small().edit(&edits, 9).unwrap();
        let trained: Vec<&str> = net.trainable().map(|(name, _)| name).collect();
        assert_eq!(trained, ["block.1.weight", "fc.weight", "fc.bias"]);
        assert_eq!(values(&net, "fc.bias"), values(&small(), "fc.bias"));
        assert_eq!(values(&net, "fc.weight").len(), 30);
        let [said, hint] = refused(replace("block.0.conv", conv(6, 1)));
        assert!(
            said.starts_with("replacing `block.0.conv` in `small`: layer `block.0.add`"),
            "{said}"
        );
        assert_eq!(hint, "the closest layer where this fits is `block`");
    }

    #[test]
    fn names_change_with_their_parameters() {
        let rename = |layer, to| Edit::Rename { layer: named(layer), to: named(to) };
        let freeze = Edit::Freeze { layers: named("block.0.conv") };
        let net = small()
            .edit(&[freeze, rename("block.0", "first"), rename("fc", "head.out")], 0)
            .unwrap();
        assert_eq!(values(&net, "first.conv.weight"), values(&small(), "block.0.conv.weight"));
        assert!(net.is_frozen(net.graph().find("first.conv").unwrap()));
        assert_eq!(net.graph().head(), "head.out");
        let [said, _] = refused(rename("block.0", "block.1"));
        assert!(said.starts_with("renaming `block.0` to `block.1` in `small`: "), "{said}");
        assert!(said.contains("names two layers `block.1.conv`"), "{said}");
        assert!(refused(rename("input", "image"))[0].contains("stands for the images"));
        assert_eq!(refused(rename("fc", "fc."))[0], "`fc.` is no name for a layer");
        assert!(refused(rename("f", "g"))[0].contains("no layer `f`"));
    }

    #[test]
    fn what_starts_anew_depends_on_seed_and_name_alone() {
        let edits = [
            Edit::Freeze { layers: named("*") },
            Edit::Reinitialize { layers: named("block.1.conv") },
        ];
        let net = small().edit(&edits, 1).unwrap();
        assert_eq!(
            net.trainable().map(|(name, _)| name).collect::<Vec<_>>(),
            ["block.1.conv.weight"]
        );
        // Seed 1 is the one that it began with.
        assert_eq!(values(&net, "block.1.conv.weight"), values(&small(), "block.1.conv.weight"));
        let other = small().edit(&edits, 2).unwrap();
        assert_ne!(values(&net, "block.1.conv.weight"), values(&other, "block.1.conv.weight"));
        let removed = [Edit::Remove { layers: named("block.0") }, edits[1].clone()];
        let removed = small().edit(&removed, 2).unwrap();
        assert_eq!(values(&removed, "block.1.conv.weight"), values(&other, "block.1.conv.weight"));
    }

    #[test]
    fn layers_freeze_up_to_a_name_and_from_it() {
        let trained = |layers: &str| {
            let net = small().edit(&[Edit::Freeze { layers: layers.into() }], 0).unwrap();
            net.trainable().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        let rest =
            ["block.1.conv.weight", "block.1.bn.weight", "block.1.bn.bias", "fc.weight", "fc.bias"];
        assert_eq!(trained("upto:block.0"), rest);
        let first = ["stem.weight", "block.0.conv.weight", "block.0.bn.weight", "block.0.bn.bias"];
        assert_eq!(trained("from:block.1"), first);
        let [said, hint] = refused(Edit::Freeze { layers: named("upto:blokc.0") });
        assert_eq!(said, "`small` has no layer `blokc.0`");
        assert!(hint.contains("try `block.0`"), "{hint}");
    }

    #[test]
    fn activations_change_but_gates_stay() {
        let change =
            |layers| Edit::ChangeActivation { to: Activation::Silu, layers: named(layers) };
        let functions = |net: Network| {
            let nodes = net.graph().nodes().iter();
            nodes
                .filter(|n| matches!(n.layer, Layer::Activation { .. }))
                .map(|n| n.layer.kind())
                .collect::<Vec<_>>()
        };
        assert_eq!(functions(small().edit(&[change("*")], 0).unwrap()), ["silu"; 3]);
        assert_eq!(
            functions(small().edit(&[change("block.1")], 0).unwrap()),
            ["relu", "relu", "silu"]
        );
        assert_eq!(
            refused(change("stem")),
            ["no activation of `small` fits `stem`", "try `act`; `refit layers small` lists all"]
        );
        let gated = zoo::find("efficientnet_b0").unwrap().graph();
        let changed = gated
            .edit(&[Edit::ChangeActivation { to: Activation::Relu, layers: named("*") }])
            .unwrap();
        assert!(changed.nodes().iter().any(|n| n.layer.kind() == "sigmoid"));
        assert!(changed.nodes().iter().all(|n| n.layer.kind() != "silu"));
    }

    #[test]
    fn pooling_changes_kind() {
        let change = |to, layers| Edit::ChangePooling { to, layers: named(layers) };
        let kinds = |net: &Network| {
            let nodes = net.graph().nodes().iter();
            nodes
                .filter(|n| n.layer.kind().ends_with("pool"))
                .map(|n| n.layer.to_string())
                .collect::<Vec<_>>()
        };
        let avg = small().edit(&[change(Pooling::Avg, "*")], 0).unwrap();
        assert_eq!(kinds(&avg), ["avg_pool 2x2/2", "global_avg_pool"]);
        let max = avg.edit(&[change(Pooling::Max, "*")], 0).unwrap();
        assert_eq!(kinds(&max), ["max_pool 2x2/2", "max_pool 4x4/4", "global_avg_pool"]);
        assert_eq!(names(&max)[11..], ["down", "pool_max", "pool", "fc"]);
        assert_eq!(refused(change(Pooling::Avg, "stem"))[0], "no pooling of `small` fits `stem`");
        let (mut g, x) = Builder::new("wide", Shape::map(3, 8, 9));
        let y = g.global_avg_pool("pool", x);
        let error = g.finish(y, "").unwrap().edit(&[change(Pooling::Max, "*")]).unwrap_err();
        assert_eq!(error.to_string(), "changing `pool` in `wide`: [n, 3, 8, 9] is not square");
        let none = change(Pooling::Max, "*");
        let (mut g, x) = Builder::new("bare", Shape::map(3, 8, 8));
        let y = g.relu("relu", x);
        let error = g.finish(y, "").unwrap().edit(&[none]).unwrap_err();
        assert!(error.hint().unwrap().contains("no pooling at all"));
    }

    #[test]
    fn a_parameter_belongs_to_one_layer() {
        let scale = NewLayer::LayerScale { initial: 1.0 };
        let edit =
            Edit::Insert { after: named("stem"), layer: scale, name: Some(named("stem.weight")) };
        let [said, _] = refused(edit);
        assert!(said.contains("names two layers `stem.weight`"), "{said}");
    }

    #[test]
    fn changes_are_told_layer_by_layer() {
        let edits = [
            Edit::Remove { layers: named("block.0.bn") },
            Edit::Insert {
                after: named("stem"),
                layer: NewLayer::Dropout { share: 0.5 },
                name: None,
            },
            Edit::Rename { layer: named("pool"), to: named("mean") },
            Edit::Freeze { layers: named("stem") },
            Edit::ReplaceHead { classes: 2, kind: HeadKind::Linear, keep: vec![] },
        ];
        let net = small();
        let name = |s: &Option<LayerState>| s.as_ref().map_or("-".into(), |s| s.name.clone());
        let told: Vec<String> = net
            .changes(&edits)
            .unwrap()
            .iter()
            .map(|c| format!("{} {} {:?}", name(&c.before), name(&c.after), c.weights))
            .collect();
        assert_eq!(
            told,
            [
                "stem stem Kept",
                "- stem_dropout None",
                "block.0.bn - None",
                "pool mean None",
                "fc fc Fresh"
            ]
        );
        assert!(net.changes(&[]).unwrap().is_empty());
    }

    #[test]
    fn classifiers_half_way_follow() {
        let net = zoo::find("googlenet").unwrap().graph();
        let ends = |graph: &Graph| {
            graph
                .auxiliary()
                .iter()
                .map(|a| graph.nodes()[a.output].name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(ends(&net), ["aux1.fc2", "aux2.fc2"]);
        let remove = net.edit(&[Edit::Remove { layers: named("aux1") }]).unwrap();
        assert_eq!(ends(&remove), ["aux2.fc2"]);
        assert!(remove.find("aux1").is_err());
        let head = net
            .edit(&[Edit::ReplaceHead { classes: 3, kind: HeadKind::Linear, keep: vec![] }])
            .unwrap();
        assert_eq!(head.nodes()[head.find("aux2.fc2").unwrap()].shape, Shape::vector(3));
        let rename = net.edit(&[Edit::Rename { layer: named("aux1"), to: named("half") }]).unwrap();
        assert_eq!(ends(&rename), ["half.fc2", "aux2.fc2"]);
    }
}
