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

/// Source files below a folder that may draw a map of their modules.
fn files_with_modules(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_left_out = matches!(entry.file_name().to_str(), Some("target" | ".git"));
        if path.is_dir() && !is_left_out {
            files_with_modules(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file declares in files of their own, but for those of tests.
fn modules(source: &str) -> Vec<&str> {
    let mut before = "";
    let mut modules = Vec::new();
    for line in source.lines() {
        let declared = line.strip_suffix(';').and_then(|line| line.rsplit_once("mod "));
        let is_declared = declared.filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        if let Some((_, name)) = is_declared
            && !before.starts_with("#[cfg(")
        {
            modules.push(name);
        }
        before = line;
    }
    modules
}

/// Plan: the head of every file that declares modules and draws a map. It names each of them as a word.
#[test]
fn maps_name_every_module() {
    let mut files = Vec::new();
    files_with_modules(&root(), &mut files);
    let (mut maps, mut missing) = (0, Vec::new());
    for path in files {
        let source = fs::read_to_string(&path).expect("a source file can be read");
        let head: Vec<&str> = source.lines().filter(|line| line.starts_with("//!")).collect();
        let head = head.join("\n");
        let modules = modules(&source);
        if modules.is_empty() || !head.contains("```text") {
            continue;
        }
        maps += 1;
        let words: Vec<&str> = head
            .split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .collect();
        let unnamed = modules.iter().filter(|name| !words.contains(name));
        missing.extend(unnamed.map(|name| format!("{}: {name}", path.display())));
    }
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "modules that their map does not name"
    );
    assert!(
        maps > 20,
        "maps are drawn in a form that this test does not see: {maps}"
    );
}
