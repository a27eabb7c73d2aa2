//! What goes on, on stderr: bars on a terminal, plain lines elsewhere.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use refit::{Event, Watch};

use crate::interrupt;
use crate::output::{colours, duration};

/// How stages are shown; notes and warnings are lines in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Show {
    Bars,
    Lines,
    Nothing,
}

/// Tells on stderr what goes on, and asks to stop after Ctrl-C.
#[derive(Debug)]
pub struct Progress {
    show: Show,
    stage: Mutex<Option<Stage>>,
    enough: AtomicBool,
}

#[derive(Debug)]
struct Stage {
    name: String,
    done: usize,
    began: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// For a command that takes its time and then prints: bars or lines.
    pub fn new() -> Self {
        Self::with(if io::stderr().is_terminal() { Show::Bars } else { Show::Lines })
    }

    /// For a command whose output shows how far it is: a bar, where that does not run into it.
    pub fn beside_output() -> Self {
        let apart = io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self::with(if apart { Show::Bars } else { Show::Nothing })
    }

    fn with(show: Show) -> Self {
        interrupt::ask_first();
        Self { show, stage: Mutex::new(None), enough: AtomicBool::new(false) }
    }

    /// Asks the work to end: its results are not wanted any more.
    pub fn end(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// Runs a stage between its two events.
    pub fn stage<T>(&self, name: &str, total: usize, work: impl FnOnce() -> T) -> T {
        self.event(Event::Begin { stage: name.to_owned(), total });
        let result = work();
        self.event(Event::End);
        result
    }

    /// Prints a line above a bar that may be there.
    pub fn say(&self, text: &str) {
        // Nobody is left to be told where stderr is closed.
        let print = || drop(writeln!(io::stderr(), "{text}"));
        match self.lock().as_ref().and_then(|stage| stage.bar.as_ref()) {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stage>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: String, total: usize) {
        let bar = (self.show == Show::Bars).then(|| bar(&name, total));
        if self.show == Show::Lines {
            match total {
                0 => self.say(&format!("{name} ...")),
                _ => self.say(&format!("{name}: {total} images ...")),
            }
        }
        *self.lock() = Some(Stage { name, done: 0, began: Instant::now(), bar });
    }

    fn advance(&self, items: usize) {
        if let Some(stage) = self.lock().as_mut() {
            stage.done += items;
            stage.bar.iter().for_each(|bar| bar.inc(items as u64));
        }
    }

    fn end_stage(&self) {
        let Some(stage) = self.lock().take() else { return };
        stage.bar.iter().for_each(ProgressBar::finish_and_clear);
        // An epoch's own account follows, and says more.
        if self.show != Show::Nothing && !stage.name.starts_with("epoch ") {
            self.say(&stage.account());
        }
    }
}

impl Stage {
    fn account(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let took = duration(seconds);
        match self.done {
            0 => format!("{}: done in {took}", self.name),
            n => format!(
                "{}: {n} images in {took} ({:.1}/s)",
                self.name,
                n as f64 / seconds.max(1e-3)
            ),
        }
    }
}

fn bar(name: &str, total: usize) -> ProgressBar {
    let template = match (total, colours()) {
        (0, _) => "{msg} {spinner} {elapsed}",
        (_, true) => "{msg} {bar:30.cyan} {pos}/{len}  {rate}  {eta} left",
        (_, false) => "{msg} {bar:30} {pos}/{len}  {rate}  {eta} left",
    };
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Nothing can be done about a line that cannot be drawn.
        let _ = write!(out, "{:.1}/s", state.per_sec());
    };
    let style = ProgressStyle::with_template(template).expect("a template of this file");
    let style = style.with_key("rate", rate);
    let bar = match total {
        0 => ProgressBar::new_spinner(),
        _ => ProgressBar::new(total as u64),
    };
    bar.set_style(style);
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Watch for Progress {
    fn event(&self, event: Event) {
        match event {
            Event::Begin { stage, total } => self.begin(stage, total),
            Event::Advance { items } => self.advance(items),
            Event::End => self.end_stage(),
            Event::Note(text) => self.say(&text),
            Event::Warning(text) => self.say(&format!("warning: {text}")),
            _ => {}
        }
    }

    fn stops(&self) -> bool {
        interrupt::asked() || self.enough.load(Ordering::Relaxed)
    }
}
