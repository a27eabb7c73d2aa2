//! What the targets share.

use std::cell::OnceCell;
use std::fs;

use refit_net::state_dict::StateDict;
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Reads bytes as a file of that name, and the tensors that it says it has.
pub fn read_all(name: &str, bytes: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("room for a file"));
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("room for a file");
        if let Ok(state) = StateDict::read(&path) {
            for name in state.names() {
                let _ = state.get_f32(name);
            }
        }
    });
}
