//! What can be wrong with a file of weights, and how to mend it.

use std::io;

use crate::atomic_file::AtomicWriteError;
use crate::error::Hint;

/// Why weights were not read or written. Every variant names the file, and the tensor where
/// it is about one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDictError {
    /// The file cannot be opened or read.
    #[error("cannot read `{file}`: {error}")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
    /// A folder, device or pipe where a file is wanted.
    #[error("`{file}` is {what}, not a file of weights")]
    NotAFile {
        /// The path.
        file: String,
        /// What it is.
        what: &'static str,
        /// Files of weights in it, if it is a folder and has some.
        inside: Vec<String>,
    },
    /// The file has no bytes.
    #[error("`{file}` is empty")]
    Empty {
        /// The file.
        file: String,
    },
    /// The content is recognizably something other than weights.
    #[error("`{file}` is {}, not a file of weights", looks_like.describe())]
    NotWeights {
        /// The file.
        file: String,
        /// What its content looks like.
        looks_like: LooksLike,
    },
    /// The content is of no known format.
    #[error(
        "`{file}` is neither a safetensors file nor a PyTorch checkpoint (it begins with {first})"
    )]
    UnknownFormat {
        /// The file.
        file: String,
        /// Its first bytes, in hexadecimal.
        first: String,
    },
    /// The file ends before what its header promises.
    #[error("`{file}` is cut short: its header promises {promised} bytes, it holds {holds}")]
    Truncated {
        /// The file.
        file: String,
        /// The length in bytes that its header promises.
        promised: u64,
        /// Its length in bytes.
        holds: u64,
    },
    /// The file goes on after its last tensor.
    #[error("`{file}` has {extra} bytes after its last tensor, which belong to none")]
    TrailingBytes {
        /// The file.
        file: String,
        /// How many bytes.
        extra: u64,
    },
    /// A safetensors header claims to be longer than any honest one.
    #[error("`{file}` claims a header of {claims} bytes; the format allows {most}")]
    HeaderTooLong {
        /// The file.
        file: String,
        /// The length it claims, in bytes.
        claims: u64,
        /// The longest allowed, in bytes.
        most: u64,
    },
    /// A safetensors header is not what the format asks for.
    #[error("the header of `{file}` is not valid: {problem}")]
    BadHeader {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// What a file says of one tensor contradicts itself or the file.
    #[error("tensor `{tensor}` of `{file}` is not valid: {problem}")]
    BadTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor's type of element is none that is read here.
    #[error("tensor `{tensor}` of `{file}` is of type {dtype}, which refit does not read")]
    UnknownDtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The type as the file names it.
        dtype: String,
    },
    /// A zip archive that `torch.save` did not write.
    #[error("`{file}` is a zip archive without PyTorch's `data.pkl` (it holds {holds})")]
    ZipWithoutPickle {
        /// The file.
        file: String,
        /// Its first entries.
        holds: String,
    },
    /// A pickle asks for something other than tensors and plain containers. Nothing was run.
    #[error(
        "`{file}` asks Python to load `{asks}`, which is neither a tensor nor a plain \
         container; it was refused, and nothing of it was run"
    )]
    ForbiddenPickle {
        /// The file.
        file: String,
        /// What it asks for, as `module.name`.
        asks: String,
    },
    /// A PyTorch checkpoint is damaged, or holds what cannot be read.
    #[error("cannot read `{file}` as a PyTorch checkpoint: {problem}")]
    BadCheckpoint {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The file is sound but holds no tensor.
    #[error("`{file}` holds no tensors")]
    NoTensors {
        /// The file.
        file: String,
    },
    /// An index of several files is not what it should be.
    #[error("the index `{file}` is not valid: {problem}")]
    BadIndex {
        /// The index.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Files that an index names are not there.
    #[error("`{file}` stands for {of} files, of which {} not there: {}",
            if missing.len() == 1 { "one is".into() } else { format!("{} are", missing.len()) },
            few(missing))]
    MissingShards {
        /// The index, or its folder.
        file: String,
        /// The files' names.
        missing: Vec<String>,
        /// How many files there should be.
        of: usize,
    },
    /// Files of the same series that the index does not name.
    #[error("beside the files that `{file}` names there are more of the series: {}", few(extra))]
    ExtraShards {
        /// The index, or its folder.
        file: String,
        /// The files' names.
        extra: Vec<String>,
    },
    /// A file holds other tensors than the index says.
    #[error("`{shard}`, of `{file}`, {problem}: `{tensor}`")]
    WrongShard {
        /// The index, or its folder.
        file: String,
        /// The file.
        shard: String,
        /// The tensor.
        tensor: String,
        /// What the file and the index disagree about.
        problem: &'static str,
    },
    /// No tensor bears the name asked for.
    #[error("`{file}` has no tensor `{tensor}`")]
    UnknownTensor {
        /// The file.
        file: String,
        /// The name asked for.
        tensor: String,
        /// The most similar name there is.
        nearest: Option<String>,
    },
    /// A tensor's bytes cannot be read.
    #[error("cannot read tensor `{tensor}` of `{file}`: {error}")]
    UnreadableTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What the system or the reader said.
        error: io::Error,
    },
    /// A tensor handed over for writing cannot be written.
    #[error("cannot write tensor `{tensor}` to `{file}`: {problem}")]
    Unwritable {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        problem: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] AtomicWriteError),
}

impl Hint for StateDictError {
    fn hint(&self) -> Option<String> {
        let again = "fetch or copy it again, and compare its length or checksum with its source's";
        Some(match self {
            Self::Unreadable { error, .. } => return unreadable_hint(error),
            Self::NotAFile { inside, .. } => inside_hint(inside),
            Self::Empty { .. } => {
                "the download or copy did not finish: fetch or copy it again".into()
            }
            Self::NotWeights { looks_like, .. } => looks_like.mend().into(),
            Self::UnknownFormat { .. } => "give a .safetensors file, or a .pth or .pt file that \
                                           torch.save wrote"
                .into(),
            Self::Truncated { .. } | Self::TrailingBytes { .. } => again.into(),
            Self::HeaderTooLong { .. } | Self::BadHeader { .. } | Self::BadTensor { .. } => {
                format!("the file is damaged, or made by a faulty program: {again}")
            }
            Self::UnknownDtype { .. } => "convert it to float32 or float16 first; in Python: \
                                          {k: v.float() for k, v in weights.items()}"
                .into(),
            Self::ZipWithoutPickle { .. } => {
                "if the weights are packed in it, unzip it and give the .safetensors or .pth file"
                    .into()
            }
            Self::ForbiddenPickle { asks, .. } => forbidden_hint(asks).into(),
            Self::BadCheckpoint { .. } => format!(
                "{again}; if it is whole, load it in Python and save the weights anew: \
                 torch.save(model.state_dict(), \"weights.pth\")"
            ),
            Self::NoTensors { .. } => "give the file that holds the weights themselves; in \
                                       Python: torch.save(model.state_dict(), \"weights.pth\")"
                .into(),
            Self::BadIndex { .. } => {
                "give the model.safetensors.index.json that came with the files, as it was".into()
            }
            Self::MissingShards { .. } => {
                "fetch the missing files too, into the folder of the index".into()
            }
            Self::ExtraShards { .. } => {
                "files of two versions are mixed: fetch the index and its files again, into a \
                 folder of their own"
                    .into()
            }
            Self::WrongShard { .. } => {
                "index and files are of two versions: fetch them again, from one source".into()
            }
            Self::UnknownTensor { nearest: Some(nearest), .. } => format!("try `{nearest}`"),
            Self::UnknownTensor { nearest: None, .. } => return None,
            Self::UnreadableTensor { .. } => again.into(),
            Self::Unwritable { .. } => {
                "this is a mistake in the program that writes: names are unique, and bytes are \
                 as many as shape and type say"
                    .into()
            }
            Self::Write(error) => return error.hint(),
        })
    }
}

fn unreadable_hint(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::NotFound => Some("check the path".into()),
        io::ErrorKind::PermissionDenied => Some("make the file readable for your user".into()),
        _ => None,
    }
}

/// The first few names.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len() {
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

fn inside_hint(inside: &[String]) -> String {
    match inside {
        [] => "give a .safetensors, .pth or .pt file".into(),
        [one] => format!("give the file in it: `{one}`"),
        many => format!("give one of the files in it: `{}`", many.join("`, `")),
    }
}

/// Tells a whole Python object, saved in good faith, from what no file of weights asks for.
fn forbidden_hint(asks: &str) -> &'static str {
    const HARMFUL: [&str; 20] = [
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "builtins",
        "__builtin__",
        "shutil",
        "socket",
        "importlib",
        "runpy",
        "pty",
        "ctypes",
        "marshal",
        "pickle",
        "code",
        "commands",
        "urllib",
        "http",
        "webbrowser",
    ];
    let module = asks.split('.').next().unwrap_or_default();
    let name = asks.rsplit('.').next().unwrap_or_default();
    if module == "__torch__" {
        "it is a TorchScript archive; in Python: \
         torch.save(torch.jit.load(file).state_dict(), \"weights.pth\")"
    } else if HARMFUL.contains(&module) || !name.starts_with(|c: char| c.is_ascii_uppercase()) {
        "weights never need this, and Python would have run it: do not open the file with \
         Python, and get the weights from a source you trust"
    } else {
        "it holds a whole Python object: if you trust where it comes from, save its weights \
         alone, in Python: torch.save(model.state_dict(), \"weights.pth\")"
    }
}

/// What a file that holds no weights looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LooksLike {
    /// A web page: often a server's error or login page saved under the weights' name.
    Html,
    /// The few lines that Git LFS keeps in place of a large file.
    GitLfs,
    /// JSON text.
    Json,
    /// Any other text.
    Text,
    /// HDF5, as Keras writes.
    Hdf5,
    /// A gzip archive.
    Gzip,
    /// A tar archive: what PyTorch wrote before 0.1.10, or a package of files.
    Tar,
    /// A NumPy array.
    Numpy,
    /// GGUF, as llama.cpp writes.
    Gguf,
    /// A picture.
    Picture,
}

impl LooksLike {
    fn describe(self) -> &'static str {
        match self {
            Self::Html => "a web page",
            Self::GitLfs => "a Git LFS pointer",
            Self::Json => "JSON text",
            Self::Text => "a text file",
            Self::Hdf5 => "an HDF5 file",
            Self::Gzip => "a gzip archive",
            Self::Tar => "a tar archive",
            Self::Numpy => "a NumPy array",
            Self::Gguf => "a GGUF file",
            Self::Picture => "a picture",
        }
    }

    fn mend(self) -> &'static str {
        match self {
            Self::Html => {
                "the server sent a page in place of the file: open the address in a browser, and \
                 use the address of the download itself"
            }
            Self::GitLfs => "fetch the file it stands for: git lfs pull",
            Self::Json => {
                "give the .safetensors file that it belongs to; an index of several files is \
                 called ….safetensors.index.json"
            }
            Self::Text => "give a .safetensors, .pth or .pt file",
            Self::Hdf5 => {
                "Keras names and orders its weights differently: give PyTorch weights of the \
                 same network (.pth or .safetensors)"
            }
            Self::Gzip => "unpack it (gunzip, tar xzf) and give the .safetensors or .pth file",
            Self::Tar => {
                "unpack it (tar xf) and give the .safetensors or .pth file; if PyTorch before \
                 0.1.10 wrote it, load it in Python and save it again with torch.save"
            }
            Self::Numpy => "one array is no network: give a .safetensors, .pth or .pt file",
            Self::Gguf => "it is a language model's: give a .safetensors, .pth or .pt file",
            Self::Picture => "give the weights here, and pictures where the command asks for data",
        }
    }
}
