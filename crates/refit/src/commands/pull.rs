//! `refit pull`: the published weights of a network.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use refit::Hint;
use refit::learn::{PulledFolder, PulledFrom};
use refit::net::atomic_file;
use refit::net::zoo::{self, Architecture, PUBLISHED_FILE, Published};

use crate::cli::TEMPLATE;
use crate::failure::Failure;
use crate::hub::{Hub, HubError, Remote};
use crate::interrupt;

/// Fetch the published weights of a network
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
From the Hugging Face hub into the user's cache, where --backbone NAME finds them afterwards. \
Length and hash are compared with what the hub tells; licence, source and hash are kept beside \
the file, and go into every model that starts from it. A download that was cut goes on where it \
stopped.",
    after_help = "Examples:
  refit pull resnet18
  refit train photos/ --backbone resnet18
  HF_ENDPOINT=https://mirror.example refit pull resnet18

Variables:
  HF_TOKEN, HF_HOME  token, or the folder in which `token` holds it
  HF_ENDPOINT        another address than https://huggingface.co
  HF_HUB_OFFLINE     1: ask nobody
  REFIT_CACHE        where weights go: to weights/NAME/model.safetensors

Prints the file's path. `refit models` lists the networks."
)]
pub struct Pull {
    /// Name of a network
    #[arg(value_name = "NAME")]
    name: String,

    /// Fetch again what is there
    #[arg(long)]
    force: bool,
}

impl Pull {
    /// Fetches.
    pub fn run(self) -> Result<(), Failure> {
        let architecture = zoo::find(&self.name)?;
        let published = published(architecture)?;
        let folder = PulledFolder::of(architecture).ok_or_else(no_cache)?;
        if self.force || !is_whole(&folder) {
            let hub = Hub::from_environment();
            pull(&hub, published, &folder).map_err(|e| refused(e, &hub, published, &folder))?;
        } else {
            say(&format!("{} is there already; --force fetches it again", published.repository));
        }
        Ok(writeln!(io::stdout(), "{}", folder.weights().display())?)
    }
}

/// Where an architecture's weights are, if they need be fetched and can.
fn published(architecture: &Architecture) -> Result<&'static Published, Failure> {
    let name = architecture.name;
    if architecture.embedded().is_some() {
        return Err(Failure::mistake(
            format!("the weights of `{name}` come with refit: there is nothing to fetch"),
            format!("use them: refit train photos/ --backbone {name}"),
        ));
    }
    architecture.published().ok_or_else(|| {
        Failure::mistake(
            format!("refit knows no place where the weights of `{name}` are published"),
            format!(
                "get a checkpoint with names as in {}, and give it with --weights FILE",
                architecture.names_as
            ),
        )
    })
}

fn no_cache() -> Failure {
    Failure::mistake("there is no folder for a cache", "name one: REFIT_CACHE=/some/folder")
}

/// Whether the weights are there as they were fetched.
fn is_whole(folder: &PulledFolder) -> bool {
    let Ok(there) = fs::metadata(folder.weights()) else { return false };
    folder.source().is_none_or(|from| from.size == there.len())
}

fn pull(hub: &Hub, published: &Published, folder: &PulledFolder) -> Result<(), HubError> {
    interrupt::ask_first();
    let remote = hub.describe(published.repository, PUBLISHED_FILE)?;
    let io = |what, path: &Path| {
        let path = path.to_owned();
        move |error| HubError::Io { what, path, error }
    };
    fs::create_dir_all(folder.path()).map_err(io("make", folder.path()))?;
    let bar = bar(published, &remote);
    let fetched = hub.fetch(&remote, &folder.weights(), &mut |have| {
        bar.set_position(have);
        !interrupt::asked()
    });
    bar.finish_and_clear();
    fetched?;
    let from = PulledFrom {
        repository: published.repository.into(),
        revision: remote.revision,
        file: PUBLISHED_FILE.into(),
        size: remote.size,
        sha256: remote.sha256,
        licence: Some(spdx(remote.licence, published)),
    };
    let json = serde_json::to_string_pretty(&from).expect("names and numbers serialize") + "\n";
    let path = folder.description();
    atomic_file::write(&path, |file| file.write_all(json.as_bytes()))
        .map_err(|error| io("write", &path)(io::Error::other(error.to_string())))?;
    say(&format!(
        "{}: {} bytes, SHA-256 as the hub tells, licence {}",
        from.repository,
        from.size,
        from.licence.as_deref().unwrap_or("unknown")
    ));
    Ok(())
}

/// The licence that the hub tells, spelled as SPDX where that is known.
fn spdx(stated: Option<String>, published: &Published) -> String {
    match stated {
        Some(name) if !name.eq_ignore_ascii_case(published.licence) => name,
        _ => published.licence.into(),
    }
}

/// Says, where that helps, how to do without a network.
fn refused(error: HubError, hub: &Hub, published: &Published, folder: &PulledFolder) -> Failure {
    match &error {
        HubError::Stopped => Failure::Interrupted(Some(format!(
            "`refit pull {}` goes on where it stopped",
            published.architecture
        ))),
        HubError::Unreachable { .. } => Failure::mistake(
            error.to_string(),
            format!(
                "where there is a network, fetch {}; put it here as `{}`, or give it with \
                 --weights FILE",
                hub.page(published.repository, PUBLISHED_FILE),
                folder.weights().display()
            ),
        ),
        _ => Failure::caused(&error, error.hint()),
    }
}

fn bar(published: &Published, remote: &Remote) -> ProgressBar {
    if !io::stderr().is_terminal() {
        say(&format!("{}: {} bytes ...", published.repository, remote.size));
        return ProgressBar::hidden();
    }
    let template = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
    let bar = ProgressBar::new(remote.size);
    bar.set_style(ProgressStyle::with_template(template).expect("a template of this file"));
    bar.set_message(published.repository);
    bar
}

fn say(text: &str) {
    // Nobody is left to be told where stderr is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
