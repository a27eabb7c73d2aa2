//! Networks to start from, several of them, and their weights.

use std::path::PathBuf;

use clap::Args;
use refit::learn::network_of;
use refit::net::Graph;
use refit::zoo;

use crate::commands::train::network_to_start_from;
use crate::failure::Failure;

/// Networks to start from.
#[derive(Debug, Args)]
pub struct BackbonesArg {
    /// Networks to start from, one or several; `refit models` lists them [default: those whose weights
    /// are given, else efficientnet_lite0]
    #[arg(long, visible_alias = "backbones", value_name = "NAME,NAME", value_delimiter = ',')]
    backbone: Vec<String>,

    /// Weights of one of them, a model or checkpoint; of several, give the flag for each
    /// [default: the embedded or pulled ones]
    #[arg(long, value_name = "[NAME=]FILE", value_parser = weights)]
    weights: Vec<Weights>,
}

/// A file, and the network that it is said to belong to.
#[derive(Debug, Clone, PartialEq)]
struct Weights {
    network: Option<String>,
    file: PathBuf,
}

/// `resnet18=FILE`, or a file whose network shows itself.
fn weights(text: &str) -> Result<Weights, String> {
    let named = text.split_once('=').filter(|(name, _)| zoo::find(name).is_ok());
    Ok(match named {
        Some((name, file)) => Weights { network: Some(name.to_owned()), file: file.into() },
        None => Weights { network: None, file: text.into() },
    })
}

/// A network to start from.
#[derive(Debug)]
pub struct Backbone {
    pub graph: Graph,
    /// Its weights; the embedded or pulled ones if none.
    pub weights: Option<PathBuf>,
}

impl BackbonesArg {
    /// The networks, in the order in which they were named; each comes once.
    pub fn open(&self) -> Result<Vec<Backbone>, Failure> {
        if let ([] | [_], [] | [Weights { network: None, .. }]) =
            (&self.backbone[..], &self.weights[..])
        {
            let file = self.weights.first().map(|weights| weights.file.clone());
            let name = self.backbone.first().map(String::as_str);
            let graph = network_to_start_from(name, file.as_deref())?;
            return Ok(vec![Backbone { graph, weights: file }]);
        }
        let mut backbones = Vec::new();
        for name in &self.backbone {
            let graph = zoo::find(name)?.graph();
            add(&mut backbones, Backbone { graph, weights: None })?;
        }
        for weights in &self.weights {
            self.attach(weights, &mut backbones)?;
        }
        Ok(backbones)
    }

    /// Gives a network its weights; where none was named, those of the weights are the networks.
    fn attach(&self, weights: &Weights, backbones: &mut Vec<Backbone>) -> Result<(), Failure> {
        let graph = match &weights.network {
            Some(name) => zoo::find(name)?.graph(),
            None => network_of(&weights.file)?,
        };
        let known = backbones.iter_mut().find(|b| b.graph.name() == graph.name());
        let file = weights.file.display();
        match known {
            Some(known) if known.weights.is_none() => known.weights = Some(weights.file.clone()),
            Some(_) => {
                return Err(Failure::mistake(
                    format!("`{}` is given weights twice, the second time `{file}`", graph.name()),
                    "compare them by one command for each",
                ));
            }
            None if self.backbone.is_empty() => {
                backbones.push(Backbone { graph, weights: Some(weights.file.clone()) });
            }
            None => {
                return Err(Failure::mistake(
                    format!("`{file}` holds weights of `{}`, which is not named", graph.name()),
                    format!("add it: --backbone {},{}", self.backbone.join(","), graph.name()),
                ));
            }
        }
        Ok(())
    }
}

fn add(backbones: &mut Vec<Backbone>, new: Backbone) -> Result<(), Failure> {
    if backbones.iter().any(|b| b.graph.name() == new.graph.name()) {
        return Err(Failure::mistake(
            format!("`{}` is named twice", new.graph.name()),
            "name each network once",
        ));
    }
    backbones.push(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_networks_stand_before_files() {
        let of = |text: &str| {
            let Weights { network, file } = weights(text).unwrap();
            (network, file.display().to_string())
        };
        assert_eq!(of("resnet18=a.pth"), (Some("resnet18".into()), "a.pth".into()));
        assert_eq!(of("lr=1/a.pth"), (None, "lr=1/a.pth".into()));
        assert_eq!(of("a.pth"), (None, "a.pth".into()));
    }
}
