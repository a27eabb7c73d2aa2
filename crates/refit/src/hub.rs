//! Files from the Hugging Face hub: what it says of them, and the bytes, checked.
//!
//! Written on `ureq` rather than the `hf-hub` crate, which has become asynchronous (tokio, reqwest)
//! and does not compare a file with its hash.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use refit::Hint;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::{Agent, Body};

/// The hub's own address.
const ENDPOINT: &str = "https://huggingface.co";
/// How often a download goes on after the connection was cut, if something came each time.
const TRIES: usize = 5;

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub does not answer.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The hub refuses.
    #[error("{url} answers {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status of HTTP.
        status: u16,
    },
    /// The hub says something else than it should.
    #[error("{url} does not describe `{file}`: {problem}")]
    NotDescribed {
        /// What was asked for.
        url: String,
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The connection was cut again and again.
    #[error("the connection was cut at {have} of {size} bytes of {url}: {reason}")]
    Cut {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        have: u64,
        /// Bytes that there are.
        size: u64,
        /// What the system said.
        reason: String,
    },
    /// The content is not what the hub says.
    #[error("{url} gave other bytes than the hub describes: SHA-256 {found}, not {expected}")]
    WrongHash {
        /// What was asked for.
        url: String,
        /// The hash that the hub tells.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// A file here cannot be written or read.
    #[error("cannot {what} `{}`: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

impl Hint for HubError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => "see whether this machine is online".into(),
            Self::Status { status: 401 | 403, .. } => {
                "the hub wants a token that may read it: set HF_TOKEN".into()
            }
            Self::Status { status: 404, .. } => {
                "the repository was moved or removed: give its file with --weights".into()
            }
            Self::Status { .. } => "try again later".into(),
            Self::NotDescribed { .. } => "see that HF_ENDPOINT names a hub, or unset it".into(),
            Self::Cut { .. } => "run the same command again: it goes on where it stopped".into(),
            Self::WrongHash { .. } => {
                "nothing of it was kept; run the same command again, and if that does not help, \
                 ask who runs the network or the mirror"
                    .into()
            }
            Self::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull => {
                "the disk is full: free some space and run the same command again".into()
            }
            Self::Io { .. } => {
                "choose a folder that may be written: REFIT_CACHE names the cache".into()
            }
            Self::Stopped => return None,
        })
    }
}

/// What the hub says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Where it is, at its commit.
    pub url: String,
    /// The repository's commit.
    pub revision: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// The licence that the repository states.
    pub licence: Option<String>,
}

/// The hub, or a mirror of it.
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    agent: Agent,
}

/// A set variable that is not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// HF_TOKEN, or what `huggingface-cli login` left in HF_HOME.
fn token() -> Option<String> {
    let home = || Some(PathBuf::from(variable("HOME")?).join(".cache").join("huggingface"));
    let stored = || {
        let folder = variable("HF_HOME").map(PathBuf::from).or_else(home)?;
        let text = fs::read_to_string(folder.join("token")).ok()?;
        Some(text.trim().to_owned()).filter(|token| !token.is_empty())
    };
    variable("HF_TOKEN").or_else(stored)
}

impl Hub {
    /// The hub that HF_ENDPOINT, HF_TOKEN and HF_HOME tell.
    pub fn from_environment() -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("refit/", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Self { endpoint, token: token(), agent: config.into() }
    }

    /// Where a browser finds a file.
    pub fn page(&self, repository: &str, file: &str) -> String {
        format!("{}/{repository}/resolve/main/{file}", self.endpoint)
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, HubError> {
        let unreachable = |reason: String| HubError::Unreachable { url: url.to_owned(), reason };
        if variable("HF_HUB_OFFLINE").is_some_and(|value| value != "0") {
            return Err(unreachable("HF_HUB_OFFLINE is set".into()));
        }
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| unreachable(error.to_string()))?;
        match response.status().as_u16() {
            200..300 => Ok(response),
            status => Err(HubError::Status { url: url.to_owned(), status }),
        }
    }

    /// What the hub says of a file.
    ///
    /// # Errors
    /// If it does not answer, or knows no such file, or tells no hash of it.
    pub fn describe(&self, repository: &str, file: &str) -> Result<Remote, HubError> {
        let url = format!("{}/api/models/{repository}?blobs=true", self.endpoint);
        let problem = |problem: &str| HubError::NotDescribed {
            url: url.clone(),
            file: file.to_owned(),
            problem: problem.to_owned(),
        };
        let text = self.get(&url, 0)?.body_mut().read_to_string();
        let text = text.map_err(|error| problem(&error.to_string()))?;
        let answer: Repository =
            serde_json::from_str(&text).map_err(|error| problem(&error.to_string()))?;
        let mut files = answer.siblings.into_iter();
        let found = files.find(|sibling| sibling.rfilename == file);
        let found = found.ok_or_else(|| problem("there is no such file"))?;
        let lfs = found.lfs.ok_or_else(|| problem("it tells no hash"))?;
        let hex = |c: char| c.is_ascii_hexdigit();
        if lfs.sha256.len() != 64 || !lfs.sha256.chars().all(hex) || !answer.sha.chars().all(hex) {
            return Err(problem("it tells no hash"));
        }
        Ok(Remote {
            url: format!("{}/{repository}/resolve/{}/{file}", self.endpoint, answer.sha),
            revision: answer.sha,
            size: lfs.size,
            sha256: lfs.sha256.to_ascii_lowercase(),
            licence: answer.card.license.and_then(Licence::words),
        })
    }

    /// Fetches a file whole, goes on with what an earlier attempt left beside it, and gives it its
    /// name once its hash is right. `watch` hears how many bytes are there, and says whether to go
    /// on.
    ///
    /// # Errors
    /// If the connection is cut again and again, the content is not what the hub says, or it cannot
    /// be written; what came of it stays beside for the next attempt, unless its hash is wrong.
    pub fn fetch(
        &self,
        remote: &Remote,
        to: &Path,
        watch: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), HubError> {
        let part = part_of(to, remote);
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |error| HubError::Io { what, path, error }
        };
        let mut tries = TRIES;
        loop {
            let before = length(&part);
            match before.cmp(&remote.size) {
                std::cmp::Ordering::Equal => break,
                std::cmp::Ordering::Greater => {
                    fs::remove_file(&part).map_err(io("remove", &part))?
                }
                std::cmp::Ordering::Less => {}
            }
            match self.fetch_some(remote, &part, watch) {
                Ok(()) if length(&part) == remote.size => break,
                Err(
                    error @ (HubError::Stopped | HubError::Io { .. } | HubError::Status { .. }),
                ) => {
                    return Err(error);
                }
                result => {
                    tries -= 1;
                    let have = length(&part);
                    if tries == 0 || have == before {
                        return Err(match result {
                            Err(error) if have == 0 => error,
                            Err(HubError::Unreachable { reason, .. }) => cut(remote, have, reason),
                            Err(error) => error,
                            Ok(()) => cut(remote, have, "the answer ended early".into()),
                        });
                    }
                }
            }
        }
        let found = sha256(&part).map_err(io("read", &part))?;
        if found != remote.sha256 {
            fs::remove_file(&part).map_err(io("remove", &part))?;
            let (url, expected) = (remote.url.clone(), remote.sha256.clone());
            return Err(HubError::WrongHash { url, expected, found });
        }
        fs::rename(&part, to).map_err(io("write", to))
    }

    /// Adds what one answer gives to the part that is there.
    fn fetch_some(
        &self,
        remote: &Remote,
        part: &Path,
        watch: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), HubError> {
        let from = length(part);
        let response = self.get(&remote.url, from)?;
        // A server that knows no ranges begins anew.
        let goes_on = response.status().as_u16() == 206;
        let mut have = if goes_on { from } else { 0 };
        let failed = |error| HubError::Io { what: "write", path: part.to_owned(), error };
        let mut options = OpenOptions::new();
        options.create(true).append(goes_on).write(!goes_on).truncate(!goes_on);
        let mut file = options.open(part).map_err(failed)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(cut(remote, have, error.to_string())),
            };
            file.write_all(&buffer[..read]).map_err(failed)?;
            have += read as u64;
            if !watch(have) {
                return Err(HubError::Stopped);
            }
        }
        file.sync_all().map_err(failed)
    }
}

fn cut(remote: &Remote, have: u64, reason: String) -> HubError {
    HubError::Cut { url: remote.url.clone(), have, size: remote.size, reason }
}

/// Where bytes wait for the rest: named by the hash, so that no other file's are continued.
fn part_of(to: &Path, remote: &Remote) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.{}.part", &remote.sha256[..12]))
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |there| there.len())
}

/// The SHA-256 of a file, in hexadecimal.
fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the hub's interface answers of a repository.
#[derive(Deserialize)]
struct Repository {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Card,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

#[derive(Deserialize, Default)]
struct Card {
    license: Option<Licence>,
}

/// One licence, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Licence {
    One(String),
    Several(Vec<String>),
}

impl Licence {
    fn words(self) -> Option<String> {
        Some(match self {
            Self::One(name) => name,
            Self::Several(names) => names.join(" AND "),
        })
        .filter(|name| !name.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// A hub on this machine, with one repository of one file.
    #[derive(Clone)]
    struct Served {
        content: Vec<u8>,
        /// The hash that it tells.
        sha256: String,
        /// Bytes after which it cuts a connection.
        cut_after: usize,
        /// Whether it knows ranges.
        ranges: bool,
    }

    const REVISION: &str = "0123456789abcdef";

    impl Served {
        fn whole() -> Self {
            let content: Vec<u8> = (0..300_000_u64).map(|i| ((i * i) >> 7) as u8).collect();
            let hash = Sha256::digest(&content);
            let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Self { content, sha256, cut_after: usize::MAX, ranges: true }
        }

        /// Answers a few requests; gives the hub, and the first line and range of what was asked.
        fn serve(self) -> (Hub, Arc<Mutex<Vec<String>>>) {
            const MOST: usize = 20;
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = Arc::clone(&asked);
            std::thread::spawn(move || {
                for stream in listener.incoming().take(MOST) {
                    // Whoever asked may be gone.
                    let _ = self.answer(stream.unwrap(), &log);
                }
            });
            let agent = Agent::config_builder().http_status_as_error(false).build().into();
            (Hub { endpoint, token: Some("secret".into()), agent }, asked)
        }

        fn answer(&self, mut stream: TcpStream, log: &Mutex<Vec<String>>) -> io::Result<()> {
            let lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
            let lines: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            assert!(lines.iter().any(|l| l.eq_ignore_ascii_case("authorization: Bearer secret")));
            let path = lines[0].split(' ').nth(1).unwrap_or_default();
            let start = lines.iter().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                let range = name.eq_ignore_ascii_case("range").then_some(value)?;
                range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
            });
            log.lock().unwrap().push(format!("{path} {}", start.unwrap_or(0)));
            let (status, from, body) = match path {
                "/api/models/timm/net?blobs=true" => (200, 0, self.description().into_bytes()),
                "/timm/net/resolve/0123456789abcdef/model.safetensors" => match start {
                    Some(from) if self.ranges => (206, from, self.content.clone()),
                    _ => (200, 0, self.content.clone()),
                },
                _ => (404, 0, Vec::new()),
            };
            let body = &body[from..];
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            )?;
            stream.write_all(&body[..length.min(self.cut_after)])
        }

        fn description(&self) -> String {
            let lfs = serde_json::json!({"sha256": self.sha256, "size": self.content.len()});
            serde_json::json!({
                "sha": REVISION,
                "cardData": {"license": "apache-2.0"},
                "siblings": [
                    {"rfilename": "README.md"},
                    {"rfilename": "model.safetensors", "lfs": lfs},
                ],
            })
            .to_string()
        }
    }

    fn fetch(hub: &Hub, to: &Path) -> Result<(), HubError> {
        let remote = hub.describe("timm/net", "model.safetensors")?;
        hub.fetch(&remote, to, &mut |_| true)
    }

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_is_fetched_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("w.safetensors");
        let served = Served::whole();
        let (hub, _) = served.clone().serve();
        let remote = hub.describe("timm/net", "model.safetensors").unwrap();
        assert_eq!(remote.revision, REVISION);
        assert_eq!((remote.size, &remote.sha256), (300_000, &served.sha256));
        assert_eq!(remote.licence.as_deref(), Some("apache-2.0"));
        let mut seen = 0;
        let mut watch = |have| {
            assert!(have > seen);
            seen = have;
            true
        };
        hub.fetch(&remote, &to, &mut watch).unwrap();
        assert_eq!((seen, fs::read(&to).unwrap() == served.content), (300_000, true));
        assert_eq!(files(dir.path()), ["w.safetensors"]);
    }

    #[test]
    fn a_cut_download_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("w.safetensors");
        let served = Served { cut_after: 100_000, ..Served::whole() };
        let (hub, asked) = served.clone().serve();
        fetch(&hub, &to).unwrap();
        assert!(fs::read(&to).unwrap() == served.content);
        let from = |line: &String| line.split(' ').nth(1).unwrap().to_owned();
        let starts: Vec<String> = asked.lock().unwrap().iter().map(from).collect();
        assert_eq!(starts, ["0", "0", "100000", "200000"]);
    }

    #[test]
    fn a_server_without_ranges_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("w.safetensors");
        let served = Served { ranges: false, ..Served::whole() };
        let (hub, _) = served.clone().serve();
        let remote = hub.describe("timm/net", "model.safetensors").unwrap();
        fs::write(part_of(&to, &remote), b"begun").unwrap();
        fetch(&hub, &to).unwrap();
        assert!(fs::read(&to).unwrap() == served.content);
    }

    #[test]
    fn half_a_file_never_gets_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("w.safetensors");
        let (hub, _) = Served { cut_after: 10_000, ranges: false, ..Served::whole() }.serve();
        let error = fetch(&hub, &to).unwrap_err();
        assert!(error.to_string().contains("cut at 10000 of 300000 bytes"), "{error}");
        assert!(error.hint().unwrap().contains("goes on where it stopped"));
        assert!(!to.exists());
        let (hub, _) = Served::whole().serve();
        let remote = hub.describe("timm/net", "model.safetensors").unwrap();
        let error = hub.fetch(&remote, &to, &mut |_| false).unwrap_err();
        assert!(matches!(error, HubError::Stopped) && !to.exists());
        fetch(&hub, &to).unwrap();
        assert_eq!(files(dir.path()), ["w.safetensors"]);
    }

    #[test]
    fn other_bytes_than_described_are_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("w.safetensors");
        let (hub, _) = Served { sha256: "ab".repeat(32), ..Served::whole() }.serve();
        let error = fetch(&hub, &to).unwrap_err();
        assert!(error.to_string().ends_with(&format!("not {}", "ab".repeat(32))), "{error}");
        assert!(error.hint().unwrap().contains("nothing of it was kept"));
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn what_the_hub_does_not_have_is_told() {
        let (hub, _) = Served::whole().serve();
        let error = hub.describe("timm/other", "model.safetensors").unwrap_err();
        assert!(error.to_string().ends_with("answers 404"), "{error}");
        let error = hub.describe("timm/net", "other.safetensors").unwrap_err();
        assert!(error.to_string().contains("there is no such file"), "{error}");
        assert!(error.hint().unwrap().contains("HF_ENDPOINT"));
        let error = hub.describe("timm/net", "README.md").unwrap_err();
        assert!(error.to_string().ends_with("it tells no hash"), "{error}");
        let nobody = Hub { endpoint: "http://127.0.0.1:1".into(), ..hub };
        let error = nobody.describe("timm/net", "model.safetensors").unwrap_err();
        assert!(error.to_string().starts_with("cannot reach http://127.0.0.1:1/api"), "{error}");
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let url = || "https://hub/x".to_owned();
        let status = |status| HubError::Status { url: url(), status };
        let io = |kind: io::ErrorKind| HubError::Io {
            what: "write",
            path: "w".into(),
            error: kind.into(),
        };
        let unreachable = HubError::Unreachable { url: url(), reason: "no route".into() };
        for (error, said) in [
            (unreachable, "online"),
            (status(401), "HF_TOKEN"),
            (status(403), "HF_TOKEN"),
            (status(404), "--weights"),
            (status(500), "later"),
            (io(io::ErrorKind::StorageFull), "full"),
            (io(io::ErrorKind::PermissionDenied), "REFIT_CACHE"),
        ] {
            assert!(error.hint().unwrap().contains(said), "{error}");
        }
        assert_eq!(status(500).to_string(), "https://hub/x answers 500");
    }

    #[test]
    fn licences_are_one_or_several() {
        let words = |json| serde_json::from_str::<Licence>(json).unwrap().words();
        assert_eq!(words("\"mit\""), Some("mit".into()));
        assert_eq!(words("[\"mit\", \"apache-2.0\"]"), Some("mit AND apache-2.0".into()));
        assert_eq!(words("\"\""), None);
    }
}
