//! Ctrl-C: the first asks to stop at the next step, the second ends refit at once.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::INTERRUPTED;

static ASKED: AtomicBool = AtomicBool::new(false);
static HANDLER: Once = Once::new();

/// From here on, Ctrl-C (or SIGTERM) asks first. Files are written whole or not at all, so that a
/// second one may end refit anywhere.
pub fn ask_first() {
    HANDLER.call_once(|| {
        let handler = || {
            if ASKED.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(INTERRUPTED));
            }
            let _ = writeln!(
                io::stderr(),
                "\nstopping at the next step; press Ctrl-C again to stop at once"
            );
        };
        // Without a handler, Ctrl-C ends refit at once: fine as well.
        let _ = ctrlc::set_handler(handler);
    });
}

/// Whether somebody asked to stop.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
