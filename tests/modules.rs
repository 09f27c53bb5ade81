//! The order of modules: nothing imports upwards in the engine, and no two modules of the command
//! line or the C library import each other.
//!
//! Paths are read from the source, in `use` lines and in bodies (`crate::…`, and in a crate's own
//! folder `super::…`); comments do not count, nor do tests, which may look anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The engine's modules, lowest first. What stands on one line knows nothing of each other.
const ENGINE: &[&[&str]] = &[
    &["kernels"],
    &["error"],
    &["team"],
    &["buffers"],
    &["state", "bench"],
    &["tensor", "tokenizer"],
    &["sampler"],
    &["stage"],
    &["model"],
    &["snapshot", "text"],
    &["engine"],
    &["session"],
    &["generate"],
];

/// Files that are tests as a whole.
const TESTS: &[&str] = &["tests.rs", "oracle.rs"];

/// Which module imports which, with a line that does.
type Arrows = BTreeMap<(String, String), String>;

#[test]
fn nothing_in_the_engine_imports_upwards() {
    let rank = |module: &str| ENGINE.iter().position(|line| line.contains(&module));
    let source = folder("engine/src");
    let modules = modules(&source);
    let unknown: Vec<_> = modules.iter().filter(|module| rank(module).is_none()).collect();
    assert!(unknown.is_empty(), "modules without a place in the order: {unknown:?}");
    let arrows = arrows(&source);
    assert!(arrows.len() > 2 * ENGINE.len(), "too few arrows: are sources still read?");
    let up = |from: &str, to: &str| rank(from) <= rank(to);
    let up: Vec<_> = arrows.iter().filter(|((from, to), _)| up(from, to)).collect();
    assert!(up.is_empty(), "imports upwards: {up:#?}");
}

#[test]
fn no_circles_in_the_command_line_and_the_c_library() {
    for source in ["tools/src", "engine/capi/src"] {
        let mut arrows = arrows(&folder(source));
        assert!(arrows.len() > 20, "too few arrows: are sources still read?");
        // Modules that import nothing any more are taken away until none is left.
        loop {
            let from: BTreeSet<String> = arrows.keys().map(|(from, _)| from.clone()).collect();
            let before = arrows.len();
            arrows.retain(|(_, to), _| from.contains(to));
            if arrows.len() == before {
                break;
            }
        }
        assert!(arrows.is_empty(), "{source}: a circle among {arrows:#?}");
    }
}

#[test]
fn paths_are_found() {
    let text = "use crate::{Error, kernels::{Isa, acts}, team};\n\
                /// [`crate::session`]\n\
                fn f() { crate::model::g(\"crate::engine\") } // crate::text\n\
                #[cfg(test)]\nmod tests { use crate::generate; }";
    let found: Vec<String> = paths(text, "crate::").into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, ["Error", "kernels", "team", "model"]);
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The file of the crate's root, and all files with the module each belongs to.
fn files(source: &Path) -> (String, Vec<(String, PathBuf)>) {
    let mut files = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !TESTS.iter().any(|name| path.ends_with(name))
            {
                let inner = path.strip_prefix(source).expect("below the folder");
                let module = inner.iter().next().and_then(|first| Path::new(first).file_stem());
                files.push((module.expect("a name").to_string_lossy().into_owned(), path));
            }
        }
    }
    let roots = ["lib", "main"];
    let root = files.iter().find(|(module, _)| roots.contains(&module.as_str()));
    let root = std::fs::read_to_string(&root.expect("a root").1).expect("a root");
    files.retain(|(module, _)| !roots.contains(&module.as_str()));
    (root, files)
}

/// The modules right below a crate's root.
fn modules(source: &Path) -> BTreeSet<String> {
    files(source).1.into_iter().map(|(module, _)| module).collect()
}

fn arrows(source: &Path) -> Arrows {
    let (root, files) = files(source);
    let modules: BTreeSet<&String> = files.iter().map(|(module, _)| module).collect();
    // What the root exports belongs to the module it comes from.
    let mut owners = BTreeMap::new();
    for line in root.split(';').filter_map(|line| line.trim_start().strip_prefix("pub use ")) {
        let Some((module, names)) = line.split_once("::") else { continue };
        for name in names.split(|c: char| !c.is_alphanumeric() && c != '_') {
            owners.insert(name.to_owned(), module.to_owned());
        }
    }
    let mut arrows = Arrows::new();
    for (module, path) in &files {
        let text = std::fs::read_to_string(path).expect("a source");
        let direct = path.parent() == Some(source);
        let mut found = paths(&text, "crate::");
        if direct {
            found.extend(paths(&text, "super::"));
        }
        for (name, line) in found {
            let to = if modules.contains(&name) { Some(&name) } else { owners.get(&name) };
            if let Some(to) = to.filter(|to| *to != module) {
                arrows.entry((module.clone(), to.clone())).or_insert_with(|| {
                    format!("{}: {line}", path.file_name().unwrap_or_default().to_string_lossy())
                });
            }
        }
    }
    arrows
}

/// The first names behind every `prefix`, with the line that each stands on.
fn paths(text: &str, prefix: &str) -> Vec<(String, String)> {
    let code: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| line.split(" //").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| is_name(c) || c == ':' || c == '"') {
            continue;
        }
        let line = code[..at].lines().next_back().unwrap_or_default().to_owned();
        let line = line + code[at..].lines().next().unwrap_or_default();
        let rest = &code[at + prefix.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut name) = (0, String::new());
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.push((std::mem::take(&mut name), line.clone()));
                    }
                    _ if depth == 0 && !c.is_whitespace() => name.push(c),
                    _ => {}
                }
            }
            found.push((name, line));
        } else {
            found.push((rest.to_owned(), line));
        }
    }
    for (name, _) in &mut found {
        let end = name.find(|c| !is_name(c)).unwrap_or(name.len());
        name.truncate(end);
    }
    found.retain(|(name, _)| !name.is_empty());
    found
}
