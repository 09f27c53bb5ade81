//! Modules of this crate stand in one order: no two need each other, however far around.
//!
//! Reads the `use` lines and paths of the sources. A name that a module passes on (`pub use`) is
//! its owner's; a module that only holds others needs none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module or an item, from the crate's root.
type Name = Vec<String>;

/// The source of every module, without comments and unit tests.
fn modules(folder: &Path, at: &Name, all: &mut BTreeMap<Name, String>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_owned();
        let mut name = at.clone();
        if !matches!(&*stem, "mod" | "lib") {
            name.push(stem.clone());
        }
        if stem == "tests" {
            continue;
        } else if path.is_dir() {
            modules(&path, &name, all);
        } else {
            let text = fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            all.insert(name, code.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// The paths of a use tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, body)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or(tree).to_owned()];
    };
    let body = body.strip_suffix('}').expect("a closing brace");
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (i, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&body[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&body[start..]);
    let inner = parts.into_iter().filter(|part| !part.trim().is_empty()).flat_map(paths);
    inner.map(|path| format!("{before}{path}")).collect()
}

/// The path as seen from the root, if it is one of this crate.
fn from_root(path: &str, module: &Name, all: &BTreeMap<Name, String>) -> Option<Name> {
    let mut parts: Name = path.split("::").map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "self") {
        parts.pop();
    }
    let mut base = module.clone();
    match &**parts.first()? {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            while parts.first().is_some_and(|part| part == "super") {
                parts.remove(0);
                base.pop();
            }
            return Some([base, parts].concat());
        }
        child => {
            let child = [&module[..], &[child.to_owned()]].concat();
            return all.contains_key(&child).then(|| [module.clone(), parts].concat());
        }
    }
    Some([base, parts.split_off(1)].concat())
}

/// Words of the code that are paths: with `::` in them.
fn inline_paths(code: &str) -> impl Iterator<Item = &str> {
    let words = code.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')));
    words.map(|word| word.trim_matches(':')).filter(|word| word.contains("::"))
}

#[test]
fn no_module_needs_itself() {
    let mut all = BTreeMap::new();
    modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &Name::new(), &mut all);
    let mut used: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
    let mut passed_on: BTreeMap<Name, Name> = BTreeMap::new();
    for (module, code) in &all {
        let own = used.entry(module.clone()).or_default();
        for statement in code.split(';') {
            let statement = statement.lines().skip_while(|line| !line.contains("use "));
            let statement = statement.collect::<Vec<_>>().join(" ");
            let Some((before, tree)) = statement.split_once("use ") else { continue };
            if !(before.trim().is_empty() || before.trim_start().starts_with("pub")) {
                continue;
            }
            for path in paths(tree) {
                let Some(name) = from_root(path.trim(), module, &all) else { continue };
                if before.trim().is_empty() {
                    own.push(name);
                } else if let Some(last) = name.last() {
                    passed_on.insert([module.clone(), vec![last.clone()]].concat(), name);
                }
            }
        }
        // A visibility needs nothing.
        let code = code.replace("pub(in crate::", "pub(");
        let code = code.lines().filter(|line| !line.contains("use "));
        let code = code.collect::<Vec<_>>().join("\n");
        own.extend(inline_paths(&code).filter_map(|path| from_root(path, module, &all)));
    }
    // The module that owns a name.
    let owner = |name: &Name| {
        let mut name = name.clone();
        loop {
            let known = (0..=name.len()).rev().find(|&n| passed_on.contains_key(&name[..n]));
            match known {
                Some(n) => name = [&passed_on[&name[..n]][..], &name[n..]].concat(),
                None => break,
            }
        }
        while !all.contains_key(&name) {
            name.pop();
        }
        name
    };
    let mut needs: BTreeMap<&Name, BTreeSet<Name>> = BTreeMap::new();
    for (module, names) in &used {
        let others = names.iter().map(owner).filter(|other| other != module);
        needs.insert(module, others.collect());
    }
    assert!(needs.values().map(BTreeSet::len).sum::<usize>() > 100, "the arrows were read");
    // Whoever needs nothing that is left may go; a circle stays.
    loop {
        let before = needs.len();
        let left: BTreeSet<Name> = needs.keys().map(|name| (*name).clone()).collect();
        needs.retain(|_, others| others.iter().any(|other| left.contains(other)));
        if needs.len() == before {
            break;
        }
    }
    let left: BTreeSet<Name> = needs.keys().map(|name| (*name).clone()).collect();
    let arrow = |(from, to): (&&Name, &BTreeSet<Name>)| {
        let to = to.iter().filter(|to| left.contains(*to)).map(|to| to.join("::"));
        format!("{} -> {}", from.join("::"), to.collect::<Vec<_>>().join(", "))
    };
    let arrows: Vec<String> = needs.iter().map(arrow).collect();
    assert!(arrows.is_empty(), "circles, and those who need them:\n{}", arrows.join("\n"));
}
