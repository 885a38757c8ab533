//! What the documentation says of tests is so: a promise that names a test which is gone is held by nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// Pages that name tests, as `path/to/file.rs::name`.
const PAGES: [&str; 2] = ["docs/consistency.md", "docs/testing.md"];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

/// Every `file.rs::name` in backticks.
fn tests_named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|words| words.split_once("::"))
        .filter(|(file, _)| file.ends_with(".rs"))
        .collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let mut named = 0;
    let mut gone = Vec::new();
    for page in PAGES {
        let text = fs::read_to_string(root().join(page)).expect("the page exists");
        for (file, name) in tests_named(&text) {
            named += 1;
            let source = fs::read_to_string(root().join(file)).unwrap_or_default();
            if !source.contains(&format!("fn {name}(")) {
                gone.push(format!("{page}: {file}::{name}"));
            }
        }
    }
    assert_eq!(gone, Vec::<String>::new());
    assert!(
        named > 20,
        "the pages name tests in a form that this test does not see: {named}"
    );
}
