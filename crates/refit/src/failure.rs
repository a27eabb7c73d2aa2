//! What ends a command early, how it is told, and the exit code that goes with it.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use miette::{Diagnostic, MietteHandler, MietteHandlerOpts, ReportHandler};
use refit::LearnError;
use refit::data::DataError;
use refit::learn::retrieval::RetrievalError;
use refit::net::atomic_file::AtomicWriteError;
use refit::net::onnx::OnnxError;
use refit::net::state_dict::StateDictError;
use refit::net::zoo::ZooError;
use refit::net::{EditError, GraphError, Hint};

use crate::output::colours;

/// The exit code of a user's mistake, or of a machine that cannot do what was asked.
const MISTAKE: u8 = 1;
/// The exit code of a bug.
const BUG: u8 = 2;
/// The exit code after Ctrl-C: 128 and the signal's number, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Wrong flags, or a request for help, which clap tells itself.
    Usage(clap::Error),
    /// Something that a user can mend.
    Mistake(Mistake),
    /// Somebody pressed Ctrl-C; what to do next, where there is something.
    Interrupted(Option<String>),
    /// Whoever read the output has read enough.
    BrokenPipe,
}

/// What went wrong, why, and how to mend it.
#[derive(Debug)]
pub struct Mistake {
    message: String,
    cause: Option<Cause>,
    hint: Option<String>,
}

/// A cause, and the cause of that.
#[derive(Debug)]
struct Cause(String, Option<Box<Cause>>);

impl Failure {
    /// A mistake in words, and what would mend it, if anything.
    pub fn mistake(message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        Self::Mistake(Mistake { message: message.into(), cause: None, hint })
    }

    /// A mistake that an error tells.
    pub fn caused(error: &dyn Error, hint: Option<String>) -> Self {
        let message = error.to_string();
        let cause = Cause::of(error.source(), &message);
        Self::Mistake(Mistake { message, cause, hint })
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(error) => u8::from(error.use_stderr()) * MISTAKE,
            Self::Mistake(_) => MISTAKE,
            Self::Interrupted(_) => INTERRUPTED,
            Self::BrokenPipe => 0,
        }
    }

    fn tell(&self) {
        // Nobody is left to be told where these fail.
        let _ = match self {
            Self::Usage(error) => error.print(),
            Self::Mistake(mistake) => mistake.tell(),
            Self::Interrupted(next) => {
                let next = next.as_ref().map(|n| format!("; {n}")).unwrap_or_default();
                writeln!(io::stderr(), "stopped{next}")
            }
            Self::BrokenPipe => Ok(()),
        };
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => error.fmt(f),
            Self::Mistake(mistake) => mistake.fmt(f),
            Self::Interrupted(_) => f.write_str("stopped"),
            Self::BrokenPipe => f.write_str("nobody reads the output"),
        }
    }
}

impl Cause {
    /// The chain below an error, without what the message above tells already.
    fn of(error: Option<&dyn Error>, above: &str) -> Option<Self> {
        let error = error?;
        let text = error.to_string();
        match above.contains(&text) {
            true => Self::of(error.source(), above),
            false => {
                let below = Self::of(error.source(), &text).map(Box::new);
                Some(Self(text, below))
            }
        }
    }
}

impl Mistake {
    fn tell(&self) -> io::Result<()> {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            let options = MietteHandlerOpts::new().terminal_links(false).color(colours());
            return write!(stderr, "{}", Graphical(self, &options.break_words(false).build()));
        }
        writeln!(stderr, "error: {self}")?;
        let mut cause = self.cause.as_ref();
        while let Some(Cause(text, below)) = cause {
            writeln!(stderr, "cause: {text}")?;
            cause = below.as_deref();
        }
        self.hint.iter().try_for_each(|hint| writeln!(stderr, "hint: {hint}"))
    }
}

struct Graphical<'a>(&'a Mistake, &'a MietteHandler);

impl fmt::Display for Graphical<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.debug(self.0, f)?;
        writeln!(f)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Mistake {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().map(|cause| cause as &dyn Error)
    }
}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|cause| cause as &dyn Error)
    }
}

impl From<LearnError> for Failure {
    fn from(error: LearnError) -> Self {
        match error {
            LearnError::Stopped => Self::Interrupted(None),
            error => Self::caused(&error, error.hint()),
        }
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::caused(&error, refit::data::Hint::hint(&error))
    }
}

/// Errors of the network's crate, which tell their hint alike.
macro_rules! from_network_errors {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::caused(&error, error.hint())
            }
        }
    )*};
}

from_network_errors!(
    GraphError,
    EditError,
    ZooError,
    StateDictError,
    AtomicWriteError,
    OnnxError,
    RetrievalError
);

/// Of writing to stdout, which is all that gives bare errors of this kind here.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::mistake(
                format!("cannot write the output: {error}"),
                "see where stdout goes, and whether there is room",
            ),
        }
    }
}

/// What the last panic said: where, and how it came about if `RUST_BACKTRACE` asks for that.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Runs a command, tells what ended it early, and gives the exit code. A panic is a bug: it is told
/// once, here, since image decoders that panic are caught further down.
pub fn guard(command: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    std::panic::set_hook(Box::new(remember));
    match std::panic::catch_unwind(AssertUnwindSafe(command)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            failure.tell();
            ExitCode::from(failure.code())
        }
        Err(payload) => {
            let _ = write!(io::stderr(), "{}", bug_report(payload.as_ref()));
            ExitCode::from(BUG)
        }
    }
}

fn remember(info: &PanicHookInfo) {
    let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line()));
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let text = format!("{}{}{backtrace}", words(info.payload()), place.unwrap_or_default());
    *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
}

fn words(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or("no message".into())
}

fn bug_report(payload: &dyn Any) -> String {
    let said = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    let said = said.filter(|text| text.starts_with(&words(payload)));
    format!(
        "error: refit has a bug: {}\nhint: please report it with the command that you ran; this \
         is refit {} on {}\n",
        said.unwrap_or_else(|| words(payload)),
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let io = io::Error::new(io::ErrorKind::PermissionDenied, "not allowed");
        let error = LearnError::Io { what: "write", path: "run/log.jsonl".into(), source: io };
        let Failure::Mistake(mistake) = Failure::from(error) else { panic!("a mistake") };
        assert_eq!(mistake.to_string(), "cannot write `run/log.jsonl`: not allowed");
        assert!(mistake.source().is_none());
        assert!(mistake.hint.unwrap().contains("--out DIR"));
    }

    #[test]
    fn a_cause_that_the_message_leaves_out_is_kept() {
        #[derive(Debug, thiserror::Error)]
        #[error("above")]
        struct Above(#[source] io::Error);
        let error = Above(io::Error::other("below"));
        let Failure::Mistake(mistake) = Failure::caused(&error, None) else { panic!("a mistake") };
        assert_eq!(mistake.source().unwrap().to_string(), "below");
    }

    #[test]
    fn codes_say_whose_mistake_it_was() {
        let usage = <crate::cli::Cli as clap::Parser>::try_parse_from(["refit", "--wrong"]);
        assert_eq!(Failure::Usage(usage.unwrap_err()).code(), 1);
        let help = <crate::cli::Cli as clap::Parser>::try_parse_from(["refit", "--help"]);
        assert_eq!(Failure::Usage(help.unwrap_err()).code(), 0);
        assert_eq!(Failure::mistake("a", "b").code(), 1);
        assert_eq!(Failure::from(LearnError::Stopped).code(), 130);
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(pipe).code(), 0);
    }

    #[test]
    fn a_panic_is_a_bug_to_report() {
        let code = guard(|| panic!("five is not {}", 6));
        drop(std::panic::take_hook());
        assert_eq!(code, ExitCode::from(2));
        *PANIC.lock().unwrap() = Some("five is not 6 (failure.rs:1)".into());
        let report = bug_report(&"five is not 6".to_owned());
        assert!(report.starts_with("error: refit has a bug: five is not 6 (failure.rs:1)\nhint: "));
        assert_eq!(report.lines().count(), 2);
    }
}
