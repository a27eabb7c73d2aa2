//! Photographs that are not part of the project.

use std::path::{Path, PathBuf};

/// A folder of the shared photographs; none where they are not, unless they are required.
pub fn photographs(name: &str) -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let root = std::env::var_os("REFIT_DATA").map_or(default, PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var_os("REFIT_REQUIRE_DATA").is_some_and(|v| v == "1");
    assert!(!required, "{} is not there, but REFIT_REQUIRE_DATA=1", folder.display());
    eprintln!("skipped: {} is not there (set REFIT_DATA)", folder.display());
    None
}
