//! Weights in several files: an index says which tensor is in which of them, all in one folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::safetensors::Metadata;
use super::{Entry, StateDict, StateDictError, check_is_file, open_safetensors, printable};

/// How the name of every index ends.
const INDEX: &str = ".safetensors.index.json";
/// The longest index that is read, in bytes.
const MAX_INDEX: u64 = 100_000_000;

/// `model.safetensors.index.json`.
#[derive(serde::Deserialize)]
struct Index {
    /// The file of every tensor.
    weight_map: BTreeMap<String, String>,
}

/// Whether a path is called as an index is.
pub(super) fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX))
}

/// The one index in a folder; none if there is none, or several.
pub(super) fn index_in(folder: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut indices = paths.filter(|path| is_index(path));
    let first = indices.next()?;
    indices.next().is_none().then_some(first)
}

/// Opens all files that an index names; together they hold what it lists, no less and no more.
pub(super) fn read(index: &Path, source: String) -> Result<StateDict, StateDictError> {
    let weight_map = parse(index, &source)?;
    let folder = index.parent().unwrap_or(Path::new(""));
    let shards: BTreeSet<&str> = weight_map.values().map(String::as_str).collect();
    check_shards(folder, &source, &shards)?;
    let (mut metadata, mut entries) = (Metadata::new(), Vec::new());
    for shard in shards {
        let path = folder.join(shard);
        let (its_metadata, its_entries) = open_safetensors(&path)?;
        check_tensors(&source, shard, &its_entries, &weight_map)?;
        metadata.extend(its_metadata);
        entries.extend(its_entries);
    }
    StateDict::new(source, metadata, entries, String::new())
}

/// Which file each tensor is in.
fn parse(index: &Path, source: &str) -> Result<BTreeMap<String, String>, StateDictError> {
    let bad = |problem: String| {
        let (file, problem) = (source.to_string(), printable(&problem));
        StateDictError::BadIndex { file, problem }
    };
    if check_is_file(index, source)? > MAX_INDEX {
        return Err(bad(format!("it is longer than {MAX_INDEX} bytes")));
    }
    let text = fs::read(index)
        .map_err(|error| StateDictError::Unreadable { file: source.to_string(), error })?;
    let Index { weight_map } =
        serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if weight_map.is_empty() {
        return Err(StateDictError::NoTensors { file: source.to_string() });
    }
    // A file elsewhere would be read on a stranger's word.
    let elsewhere = |name: &&String| Path::new(name).file_name() != Some(name.as_ref());
    match weight_map.values().find(elsewhere) {
        Some(name) => Err(bad(format!("`{name}` is no file beside it"))),
        None => Ok(weight_map),
    }
}

/// All files that the index names are there, and no other of the same series.
fn check_shards(
    folder: &Path,
    source: &str,
    shards: &BTreeSet<&str>,
) -> Result<(), StateDictError> {
    let missing = shards.iter().filter(|shard| !folder.join(shard).is_file());
    let missing: Vec<String> = missing.map(|shard| printable(shard)).collect();
    if !missing.is_empty() {
        let (file, of) = (source.to_string(), shards.len());
        return Err(StateDictError::MissingShards { file, missing, of });
    }
    let series: BTreeSet<&str> = shards.iter().filter_map(|shard| series(shard)).collect();
    let here = fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let names = here.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let is_extra = |name: &String| {
        !shards.contains(name.as_str()) && self::series(name).is_some_and(|s| series.contains(s))
    };
    let mut extra: Vec<String> = names.filter(is_extra).collect();
    extra.sort();
    match extra.is_empty() {
        true => Ok(()),
        false => Err(StateDictError::ExtraShards { file: source.to_string(), extra }),
    }
}

/// What the files of a series share: `model` of `model-00001-of-00003.safetensors`.
fn series(shard: &str) -> Option<&str> {
    let (rest, of) = shard.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (series, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(of) && digits(number)).then_some(series)
}

/// A file holds what the index says of it.
fn check_tensors(
    source: &str,
    shard: &str,
    entries: &[(String, Entry)],
    weight_map: &BTreeMap<String, String>,
) -> Result<(), StateDictError> {
    let differs = |tensor: &str, problem| StateDictError::WrongShard {
        file: source.to_string(),
        shard: printable(shard),
        tensor: printable(tensor),
        problem,
    };
    let stray = entries.iter().find(|(name, _)| weight_map.get(name).is_none_or(|s| s != shard));
    if let Some((name, _)) = stray {
        return Err(differs(name, "holds a tensor that the index does not place there"));
    }
    let holds: BTreeSet<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    let promised = weight_map.iter().filter(|(_, file)| *file == shard).map(|(name, _)| name);
    match promised.into_iter().find(|name| !holds.contains(name.as_str())) {
        Some(name) => Err(differs(name, "lacks a tensor that the index places there")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Hint;
    use crate::state_dict::{Dtype, write_safetensors};

    const ONE: &str = "model-00001-of-00002.safetensors";
    const TWO: &str = "model-00002-of-00002.safetensors";

    /// Two files of a tensor each, and an index of these places.
    fn folder(places: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (shard, tensor, value) in [(ONE, "module.a", 1.0_f32), (TWO, "module.b", 2.0)] {
            let tensor = (tensor.to_owned(), vec![1], Dtype::F32, value.to_le_bytes());
            write_safetensors(dir.path().join(shard), [tensor], &Default::default()).unwrap();
        }
        let weight_map: BTreeMap<_, _> = places.iter().copied().collect();
        let index = serde_json::json!({"metadata": {"total_size": 8}, "weight_map": weight_map});
        write(&dir, &index.to_string());
        dir
    }

    fn write(dir: &tempfile::TempDir, index: &str) {
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    }

    fn whole() -> tempfile::TempDir {
        folder(&[("module.a", ONE), ("module.b", TWO)])
    }

    /// The message, the folder's name left out, and the hint.
    fn refusal(dir: &tempfile::TempDir) -> (String, String) {
        let error = StateDict::read(dir.path()).unwrap_err();
        let message = error.to_string().replace(&dir.path().display().to_string(), "weights");
        (message, error.hint().unwrap())
    }

    #[test]
    fn index_and_folder_stand_for_all_files() {
        let dir = whole();
        for path in [dir.path().to_owned(), dir.path().join("model.safetensors.index.json")] {
            let weights = StateDict::read(&path).unwrap();
            assert_eq!(weights.wrapping(), "module.");
            assert_eq!(weights.get_f32("a").unwrap(), [1.0]);
            assert_eq!(weights.get_f32("b").unwrap(), [2.0]);
            assert_eq!(weights.source(), path.display().to_string());
        }
    }

    #[test]
    fn missing_and_extra_files_are_named() {
        let dir = whole();
        fs::copy(dir.path().join(TWO), dir.path().join("model-00003-of-00003.safetensors"))
            .unwrap();
        fs::copy(dir.path().join(TWO), dir.path().join("other.safetensors")).unwrap();
        let (message, hint) = refusal(&dir);
        assert_eq!(
            message,
            "beside the files that `weights` names there are more of the series: \
             `model-00003-of-00003.safetensors`"
        );
        assert!(hint.contains("two versions"), "{hint}");
        fs::remove_file(dir.path().join(TWO)).unwrap();
        let (message, hint) = refusal(&dir);
        assert_eq!(
            message,
            format!("`weights` stands for 2 files, of which one is not there: `{TWO}`")
        );
        assert!(hint.contains("fetch the missing files"), "{hint}");
    }

    #[test]
    fn files_that_differ_from_the_index_are_named() {
        let (message, hint) = refusal(&folder(&[("module.a", ONE), ("module.c", TWO)]));
        assert_eq!(
            message,
            format!(
                "`{TWO}`, of `weights`, holds a tensor that the index does not place there: `module.b`"
            )
        );
        assert!(hint.contains("two versions"), "{hint}");
        let places = [("module.a", ONE), ("module.b", TWO), ("module.c", TWO)];
        let (message, _) = refusal(&folder(&places));
        assert!(
            message.ends_with("lacks a tensor that the index places there: `module.c`"),
            "{message}"
        );
    }

    #[test]
    fn an_index_is_not_trusted() {
        let dir = whole();
        write(&dir, r#"{"weight_map": {"a": "../a.safetensors"}}"#);
        let (message, hint) = refusal(&dir);
        assert!(message.ends_with("`../a.safetensors` is no file beside it"), "{message}");
        assert!(hint.contains("as it was"));
        write(&dir, "{");
        assert!(refusal(&dir).0.contains("is not valid: EOF"));
        write(&dir, r#"{"metadata": {}}"#);
        assert!(refusal(&dir).0.contains("missing field `weight_map`"));
        write(&dir, r#"{"weight_map": {}}"#);
        assert_eq!(refusal(&dir).0, "`weights` holds no tensors");
        fs::write(dir.path().join(ONE), "short").unwrap();
        write(&dir, &format!(r#"{{"weight_map": {{"a": "{ONE}"}}}}"#));
        assert!(refusal(&dir).0.contains("more of the series"));
        fs::remove_file(dir.path().join(TWO)).unwrap();
        assert!(refusal(&dir).0.contains("is cut short"));
    }
}
