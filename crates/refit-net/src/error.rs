//! How an error says what would mend it.

/// What a user can do about an error; the error's own message says what is wrong and where.
pub trait Hint {
    /// A sentence that says how to mend it, or `None` where there is nothing to say.
    fn hint(&self) -> Option<String>;
}

/// The candidate closest to `name` by edit distance, for "did you mean".
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)))
}
