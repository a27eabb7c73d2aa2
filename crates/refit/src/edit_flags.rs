//! Edits as flags, carried out in the order in which they stand.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};
use refit::net::{Activation, NewLayer, Pooling};
use refit::{Edit, HeadKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::arguments;
use crate::recipe::Step;

/// The flags that were given.
#[derive(Debug, Clone, Default)]
pub struct EditFlags(pub Vec<Step>);

struct Flag {
    name: &'static str,
    /// None where it takes no value.
    value: Option<&'static str>,
    help: &'static str,
    read: fn(&str) -> Result<Edit, String>,
}

const FLAGS: [Flag; 15] = [
    flag("replace-head", "CLASSES[,KIND]", "New head: `5`, or `5,mlp:64`", replace_head),
    flag("cut-at", "LAYER", "End at a layer or block", |layer| {
        Ok(Edit::CutAt { layer: layer.into() })
    }),
    flag("remove", "LAYERS", "Take out layers or a block", |layers| {
        Ok(Edit::Remove { layers: layers.into() })
    }),
    flag("insert", "AFTER=NEW", "Put a new layer behind a layer or block", insert),
    flag("replace", "LAYER=NEW", "Put a new layer in the place of a layer or block", replace),
    flag("rename", "LAYER=NAME", "Give a layer or block another name", rename),
    flag("reinitialize", "LAYERS", "Start layers anew, and let them be trained", |layers| {
        Ok(Edit::Reinitialize { layers: layers.into() })
    }),
    flag("freeze", "LAYERS", "Freeze layers", |layers| Ok(Edit::Freeze { layers: layers.into() })),
    flag("unfreeze", "LAYERS", "Let layers be trained", |layers| {
        Ok(Edit::Unfreeze { layers: layers.into() })
    }),
    Flag {
        name: "freeze-body",
        value: None,
        help: "Freeze all that the head's features depend on",
        read: |_| Ok(Edit::FreezeBody),
    },
    flag("unfreeze-from", "LAYER", "Freeze what is before a layer, train the rest", |layer| {
        Ok(Edit::UnfreezeFrom { layer: layer.into() })
    }),
    flag("activation", "[LAYERS=]FUNCTION", "Change activations, all but those of gates", |text| {
        let (layers, to) = split_or_all(text);
        Ok(Edit::ChangeActivation { to: word::<Activation>(to)?, layers })
    }),
    flag("pooling", "[LAYERS=]KIND", "Change pooling: max or avg", |text| {
        let (layers, to) = split_or_all(text);
        Ok(Edit::ChangePooling { to: word::<Pooling>(to)?, layers })
    }),
    flag("dropout", "[LAYERS=]SHARE", "Set the share of values that dropouts zero", |text| {
        let (layers, to) = split_or_all(text);
        Ok(Edit::ChangeDropout { to: arguments::share(to)?, layers })
    }),
    flag(
        "drop-path",
        "[LAYERS=]SHARE",
        "Set stochastic depth, rising to SHARE at the last",
        |text| {
            let (layers, to) = split_or_all(text);
            Ok(Edit::ChangeStochasticDepth { to: arguments::share(to)?, layers })
        },
    ),
];

const fn flag(
    name: &'static str,
    value: &'static str,
    help: &'static str,
    read: fn(&str) -> Result<Edit, String>,
) -> Flag {
    Flag { name, value: Some(value), help, read }
}

impl Args for EditFlags {
    fn augment_args(command: Command) -> Command {
        command
            .next_help_heading("Edits, made in the order given")
            .args(FLAGS.iter().map(Flag::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for EditFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut steps: Vec<(usize, Step)> =
            FLAGS.iter().flat_map(|flag| flag.steps(matches)).collect();
        steps.sort_by_key(|(at, _)| *at);
        Ok(Self(steps.into_iter().map(|(_, step)| step).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Flag {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).long(self.name).help(self.help).value_parser(self.read);
        match self.value {
            Some(value) => arg.value_name(value).action(ArgAction::Append),
            None => arg.num_args(0).default_missing_value("").action(ArgAction::Append),
        }
    }

    /// What was given of it, and where.
    fn steps(&self, matches: &ArgMatches) -> Vec<(usize, Step)> {
        let edits = matches.get_many::<Edit>(self.name).into_iter().flatten().cloned();
        let places = matches.indices_of(self.name).into_iter().flatten();
        let place = format!("--{}", self.name);
        places.zip(edits).map(|(at, edit)| (at, Step { edit, place: place.clone() })).collect()
    }
}

fn replace_head(text: &str) -> Result<Edit, String> {
    let (classes, kind) = match text.split_once(',') {
        Some((classes, kind)) => (classes, arguments::head(kind)?),
        None => (text, HeadKind::Linear),
    };
    Ok(Edit::ReplaceHead { classes: arguments::at_least_one(classes)?, kind, keep: vec![] })
}

fn insert(text: &str) -> Result<Edit, String> {
    let (after, new) = split(text, "AFTER=NEW, such as layer3=dropout:0.2")?;
    let (layer, name) = new_layer(new)?;
    Ok(Edit::Insert { after, layer, name })
}

fn replace(text: &str) -> Result<Edit, String> {
    let (layer, new) = split(text, "LAYER=NEW, such as avgpool=flatten")?;
    match new_layer(new)? {
        (with, None) => Ok(Edit::Replace { layer, with }),
        _ => Err("what takes a layer's place has its name; use --rename after it".into()),
    }
}

fn rename(text: &str) -> Result<Edit, String> {
    let (layer, to) = split(text, "LAYER=NAME")?;
    Ok(Edit::Rename { layer, to: to.to_owned() })
}

fn split<'a>(text: &'a str, form: &str) -> Result<(String, &'a str), String> {
    let (left, right) = text.split_once('=').ok_or_else(|| format!("write {form}"))?;
    Ok((left.to_owned(), right))
}

fn split_or_all(text: &str) -> (String, &str) {
    text.split_once('=').map_or(("*".into(), text), |(layers, to)| (layers.to_owned(), to))
}

/// Kinds of new layers, and the field that a first value without a name is for.
const KINDS: [(&str, Option<&str>); 12] = [
    ("conv", Some("channels")),
    ("linear", Some("features")),
    ("batch_norm", None),
    ("layer_norm", None),
    ("activation", Some("")),
    ("dropout", Some("share")),
    ("layer_scale", Some("initial")),
    ("max_pool", Some("window")),
    ("avg_pool", Some("window")),
    ("global_avg_pool", None),
    ("adaptive_avg_pool", Some("size")),
    ("flatten", None),
];

/// `KIND[:VALUE][,FIELD=VALUE...]` or an activation: `conv:64,kernel=1`, `relu`; perhaps with a
/// name for the layer.
fn new_layer(text: &str) -> Result<(NewLayer, Option<String>), String> {
    if let Ok(function) = word::<Activation>(text) {
        return Ok((NewLayer::Activation(function), None));
    }
    let end = text.find([':', ',']).unwrap_or(text.len());
    let (kind, values) = text.split_at(end);
    let Some((_, first)) = KINDS.iter().find(|(name, _)| *name == kind) else {
        let kinds = KINDS.map(|(name, _)| name).join(", ");
        return Err(format!("`{kind}` is no kind of layer; there are {kinds}, and activations"));
    };
    let (mut fields, mut name) = (Table::new(), None);
    for (i, value) in values.split([':', ',']).skip(1).enumerate() {
        match (value.split_once('='), first) {
            (Some(("name", value)), _) => name = Some(value.to_owned()),
            (Some((field, value)), _) => drop(fields.insert(field.to_owned(), number(value))),
            (None, Some(field)) if i == 0 => {
                fields.insert((*field).to_owned(), number(value));
            }
            _ => return Err(format!("write FIELD=VALUE instead of `{value}`")),
        }
    }
    let layer = match (first, fields.remove("")) {
        (None, _) if fields.is_empty() => Value::String(kind.to_owned()),
        (_, Some(function)) => Table::from_iter([(kind.to_owned(), function)]).into(),
        _ => Table::from_iter([(kind.to_owned(), fields.into())]).into(),
    };
    Ok((NewLayer::deserialize(layer).map_err(|error| error.message().to_owned())?, name))
}

fn number(text: &str) -> Value {
    let integer = text.parse().map(Value::Integer);
    let float = || text.parse().map(Value::Float);
    let boolean = || text.parse().map(Value::Boolean);
    integer.or_else(|_| float()).or_else(|_| boolean()).unwrap_or_else(|_| text.into())
}

fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(Value::from(text)).map_err(|error| error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        edits: EditFlags,
    }

    fn edits(line: &str) -> Vec<Edit> {
        let line = Line::try_parse_from(["x"].into_iter().chain(line.split(' '))).unwrap();
        line.edits.0.into_iter().map(|step| step.edit).collect()
    }

    #[test]
    fn flags_are_edits_in_their_order() {
        let freeze = |layers: &str| Edit::Freeze { layers: layers.into() };
        assert_eq!(
            edits("--freeze a --remove b --freeze-body --freeze c --replace-head 5,mlp:8"),
            [
                freeze("a"),
                Edit::Remove { layers: "b".into() },
                Edit::FreezeBody,
                freeze("c"),
                Edit::ReplaceHead { classes: 5, kind: HeadKind::Mlp { hidden: 8 }, keep: vec![] },
            ]
        );
        assert_eq!(
            edits("--activation silu --pooling layer1.*=max --rename a=b"),
            [
                Edit::ChangeActivation { to: Activation::Silu, layers: "*".into() },
                Edit::ChangePooling { to: Pooling::Max, layers: "layer1.*".into() },
                Edit::Rename { layer: "a".into(), to: "b".into() },
            ]
        );
        assert_eq!(
            edits("--dropout 0.3 --drop-path stages.3=0.1"),
            [
                Edit::ChangeDropout { to: 0.3, layers: "*".into() },
                Edit::ChangeStochasticDepth { to: 0.1, layers: "stages.3".into() },
            ]
        );
    }

    #[test]
    fn new_layers_are_named_with_what_matters() {
        let layer = |text: &str| new_layer(text).unwrap().0;
        assert_eq!(layer("dropout:0.25"), NewLayer::Dropout { share: 0.25 });
        assert_eq!(layer("relu"), NewLayer::Activation(Activation::Relu));
        assert_eq!(layer("activation:gelu"), NewLayer::Activation(Activation::Gelu));
        assert_eq!(layer("batch_norm"), NewLayer::BatchNorm);
        let conv = NewLayer::Conv {
            channels: 64,
            kernel: 1,
            stride: 2,
            groups: 1,
            dilation: 1,
            bias: false,
        };
        assert_eq!(layer("conv:64,kernel=1,stride=2,bias=false"), conv);
        assert_eq!(
            layer("max_pool:window=3"),
            NewLayer::MaxPool { window: 3, stride: None, padding: 0 }
        );
        assert_eq!(new_layer("dropout:0,name=drop").unwrap().1, Some("drop".into()));
    }

    #[test]
    fn wrong_flags_say_what_fits() {
        let wrong = |text: &str| new_layer(text).unwrap_err();
        assert!(wrong("cnov:3").contains("there are conv, linear"));
        assert!(wrong("dropout:shaer=0.2").contains("expected `share`"));
        assert!(wrong("dropout").contains("missing field `share`"));
        assert!(wrong("conv:64,3").contains("FIELD=VALUE instead of `3`"));
        assert!(wrong("flatten:3").contains("FIELD=VALUE"));
        assert!(wrong("activation:rleu").contains("`relu`"));
        assert!(insert("layer3").unwrap_err().contains("layer3=dropout:0.2"));
        assert!(replace("a=flatten,name=b").unwrap_err().contains("--rename"));
        assert!(replace_head("0").is_err());
        assert!(word::<Pooling>("mean").unwrap_err().contains("`max`"));
    }
}
