//! What a page must hold to, whatever is on it.

/// Elements that have no end.
const VOID: [&str; 5] = ["img", "link", "meta", "br", "hr"];

/// Checks that elements are closed in order, ids are given once, nothing is loaded and nothing runs.
#[track_caller]
pub fn check_page(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{}", &page[..80]);
    let (mut open, mut ids) = (Vec::new(), std::collections::BTreeSet::new());
    let without_style = |page: &str| {
        let (before, rest) = page.split_once("<style>").expect("a style");
        let (_, after) = rest.split_once("</style>").expect("its end");
        assert!(!after.contains("<style"));
        format!("{before}{after}")
    };
    let text = without_style(page);
    for part in text.split('<').skip(2) {
        let (tag, words) = part.split_once('>').unwrap_or_else(|| panic!("no end of `{part}`"));
        assert!(!words.contains("NaN"), "{part}");
        let name = tag.split([' ', '/']).next().unwrap_or_default();
        match tag.strip_prefix('/') {
            Some(end) => assert_eq!(open.pop(), Some(end), "in `{part}`"),
            None if VOID.contains(&name) => {}
            None => open.push(name),
        }
        assert!(!["script", "iframe", "object", "embed"].contains(&name), "{tag}");
        for attribute in tag.split("\" ").flat_map(|a| a.split(' ')) {
            let Some((key, value)) = attribute.split_once("=\"") else { continue };
            assert!(!key.starts_with("on"), "{tag}");
            match key {
                "src" | "href" => assert!(value.starts_with("data:"), "{tag}"),
                "id" => assert!(ids.insert(value.trim_end_matches('"')), "{tag}"),
                _ => assert!(!value.contains("NaN"), "{tag}"),
            }
        }
        if name == "img" || tag.contains("role=\"img\"") {
            assert!(tag.contains("alt=\"") || tag.contains("aria-label=\""), "{tag}");
        }
        if name == "th" {
            assert!(tag.contains("scope="), "{tag}");
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!page.contains("url(") && !page.contains("@import"));
}
