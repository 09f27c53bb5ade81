//! The modules of a crate, and which of them import which, read from the sources' tokens.
//!
//! Paths count in `use` trees, in bodies and in macros. Comments do not (nor links in
//! documentation), nor texts, visibilities, and all that is compiled for tests only: a test may
//! look anywhere. Test: `tests/modules.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A module or an item of a crate, from the crate's root; the root is empty.
pub type Name = Vec<String>;

/// Which module needs which, with one path that says so.
pub type Arrows = BTreeMap<(Name, Name), String>;

/// The modules of a crate.
#[derive(Default)]
pub struct Sources {
    /// One for each file.
    modules: BTreeSet<Name>,
    /// Modules that exist for tests only.
    tests: BTreeSet<Name>,
    paths: Vec<Written>,
    /// Names that `use` brings into a module, and those it passes on: where they come from.
    brought: BTreeMap<Name, Name>,
    passed_on: BTreeMap<Name, Name>,
}

/// A path in a source.
struct Written {
    /// The file's module, and the module in that file around the path.
    file: Name,
    inside: Name,
    path: Name,
    /// Whether it is passed on (`pub use`).
    public: bool,
}

impl Sources {
    /// Reads all sources below the folder of a crate's root.
    ///
    /// # Panics
    /// A source cannot be read or is not Rust.
    pub fn read(folder: &Path) -> Sources {
        let mut sources = Sources::default();
        sources.folder(folder, &Name::new());
        sources
    }

    fn folder(&mut self, folder: &Path, at: &Name) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let name = match stem {
                "mod" | "lib" | "main" => at.clone(),
                _ => child(at, stem),
            };
            if path.is_dir() {
                self.folder(&path, &name);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                self.add(name, &fs::read_to_string(&path).expect("a source"));
            }
        }
    }

    /// Adds the source of one module.
    ///
    /// # Panics
    /// It is not Rust.
    pub fn add(&mut self, name: Name, text: &str) {
        let tokens = text.parse().unwrap_or_else(|e| panic!("{}: {e}", name.join("::")));
        self.walk(tokens, &name, &name);
        self.modules.insert(name);
    }

    /// Reads the tokens of module `inside`, which stand in the file of module `file`.
    fn walk(&mut self, tokens: TokenStream, file: &Name, inside: &Name) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            at += match word(&rest[0]).as_deref() {
                Some("use") => {
                    let end = rest.iter().position(|token| is(token, ';')).unwrap_or(rest.len());
                    let public = is_public(&tokens[..at]);
                    for (path, name) in tree(&rest[1..end], &Name::new()) {
                        let known = if public { &mut self.passed_on } else { &mut self.brought };
                        known.insert(child(inside, &name), path.clone());
                        self.written(file, inside, path, public);
                    }
                    end
                }
                Some("mod") if rest.len() > 2 => {
                    let name = word(&rest[1]).unwrap_or_default();
                    if let Some(body) = group(&rest[2], Delimiter::Brace) {
                        self.walk(body, file, &child(inside, &name));
                    }
                    3
                }
                Some("pub") => {
                    let scope = rest.get(1).and_then(|next| group(next, Delimiter::Parenthesis));
                    let scoped = scope.and_then(|scope| word(&scope.into_iter().next()?));
                    1 + usize::from(scoped.is_some_and(|first| first == "in"))
                }
                Some(_) => {
                    let (path, len) = path(rest);
                    if path.len() > 1 && !follows_colons(&tokens[..at]) {
                        self.written(file, inside, path, false);
                    }
                    len
                }
                None if is_test(rest) => {
                    let end = |token: &TokenTree| {
                        is(token, ';') || group(token, Delimiter::Brace).is_some()
                    };
                    let len = rest.iter().position(end).map_or(rest.len(), |end| end + 1);
                    let name =
                        rest[..len].windows(2).find(|two| word(&two[0]).as_deref() == Some("mod"));
                    if let Some(name) = name.and_then(|two| word(&two[1])) {
                        self.tests.insert(child(inside, &name));
                    }
                    len
                }
                None => {
                    if let TokenTree::Group(group) = &rest[0] {
                        self.walk(group.stream(), file, inside);
                    }
                    1
                }
            };
        }
    }

    fn written(&mut self, file: &Name, inside: &Name, path: Name, public: bool) {
        let (file, inside) = (file.clone(), inside.clone());
        self.paths.push(Written { file, inside, path, public });
    }

    /// Arrows between files. A name that a module passes on is its owner's, and passing on needs
    /// nothing.
    pub fn arrows(&self) -> Arrows {
        self.arrows_of(|written| !written.public, |name| self.owner(name))
    }

    /// Arrows between the modules right below the root. A name that the root passes on is its
    /// owner's.
    pub fn arrows_of_top(&self) -> Arrows {
        let top = |name: Name| name.into_iter().take(1).collect::<Name>();
        let arrows = self.arrows_of(
            |written| !written.file.is_empty(),
            |name| {
                let known = self.modules.contains(&name[..1.min(name.len())]);
                let name = if known { name } else { self.pass(&name, 1).unwrap_or_default() };
                top(name)
            },
        );
        let mut tops = Arrows::new();
        for ((from, to), path) in arrows {
            let (from, to) = (top(from), top(to));
            if from != to && !to.is_empty() {
                tops.entry((from, to)).or_insert(path);
            }
        }
        tops
    }

    /// The modules right below the root.
    pub fn top(&self) -> BTreeSet<String> {
        self.real().filter_map(|module| module.first().cloned()).collect()
    }

    /// Modules that are not for tests only.
    fn real(&self) -> impl Iterator<Item = &Name> {
        self.modules.iter().filter(|module| !self.is_test(module))
    }

    fn is_test(&self, module: &Name) -> bool {
        (1..=module.len()).any(|n| self.tests.contains(&module[..n]))
    }

    fn arrows_of(&self, counts: impl Fn(&Written) -> bool, to: impl Fn(Name) -> Name) -> Arrows {
        let mut arrows = Arrows::new();
        for written in &self.paths {
            if self.is_test(&written.file) || !counts(written) {
                continue;
            }
            let Some(name) = self.seen_from_root(&written.path, &written.inside) else { continue };
            let to = to(name);
            if to != written.file {
                let path = || written.path.join("::");
                arrows.entry((written.file.clone(), to)).or_insert_with(path);
            }
        }
        arrows
    }

    /// The path as seen from the root, if it is one of this crate.
    fn seen_from_root(&self, path: &Name, inside: &Name) -> Option<Name> {
        let first = path.first()?;
        let mut base = inside.clone();
        let mut rest = &path[1..];
        match first.as_str() {
            "crate" => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => {
                let own = child(&base, first);
                if self.modules.contains(&own) {
                    base = own;
                } else {
                    let from = self.brought.get(&own).filter(|from| *from != path)?;
                    base = self.seen_from_root(from, &base)?;
                }
            }
        }
        Some([&base, rest].concat())
    }

    /// The name with its first `n` parts, which a module passes on, replaced by the owner's.
    fn pass(&self, name: &[String], n: usize) -> Option<Name> {
        let from = self.passed_on.get(name.get(..n)?)?;
        let from = self.seen_from_root(from, &name[..n - 1].to_vec())?;
        Some([&from, &name[n..]].concat())
    }

    /// The module that owns a name.
    fn owner(&self, name: Name) -> Name {
        let mut name = name;
        for _ in 0..self.passed_on.len() {
            let module = (0..=name.len()).rev().find(|&n| self.modules.contains(&name[..n]));
            match self.pass(&name, module.unwrap_or_default() + 1) {
                Some(next) => name = next,
                None => break,
            }
        }
        while !self.modules.contains(&name) && !name.is_empty() {
            name.pop();
        }
        name
    }
}

/// The arrows of circles, and those on the way from one circle to another.
pub fn circles(arrows: &Arrows) -> Arrows {
    let mut arrows = arrows.clone();
    loop {
        let before = arrows.len();
        let from: BTreeSet<Name> = arrows.keys().map(|(from, _)| from.clone()).collect();
        let to: BTreeSet<Name> = arrows.keys().map(|(_, to)| to.clone()).collect();
        arrows.retain(|(user, used), _| to.contains(user) && from.contains(used));
        if arrows.len() == before {
            return arrows;
        }
    }
}

/// The arrows, one a line.
pub fn listed(arrows: &Arrows) -> String {
    let line = |((from, to), path): (&(Name, Name), &String)| {
        format!("{} -> {}: {path}\n", from.join("::"), to.join("::"))
    };
    arrows.iter().map(line).collect()
}

fn child(of: &[String], name: &str) -> Name {
    [of, &[name.to_owned()]].concat()
}

fn word(token: &TokenTree) -> Option<String> {
    if let TokenTree::Ident(word) = token { Some(word.to_string()) } else { None }
}

fn is(token: &TokenTree, c: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == c)
}

fn group(token: &TokenTree, delimiter: Delimiter) -> Option<TokenStream> {
    let TokenTree::Group(group) = token else { return None };
    (group.delimiter() == delimiter).then(|| group.stream())
}

/// Whether tokens end with a visibility.
fn is_public(tokens: &[TokenTree]) -> bool {
    let scope = tokens.last().and_then(|last| group(last, Delimiter::Parenthesis));
    let before = if scope.is_some() { &tokens[..tokens.len() - 1] } else { tokens };
    before.last().and_then(word).is_some_and(|word| word == "pub")
}

fn follows_colons(tokens: &[TokenTree]) -> bool {
    tokens.len() > 1 && tokens[tokens.len() - 2..].iter().all(|token| is(token, ':'))
}

/// Whether tokens begin with `#[test]`, or a `#[cfg(…)]` that asks for tests.
fn is_test(tokens: &[TokenTree]) -> bool {
    let [sign, bracket, ..] = tokens else { return false };
    let Some(attribute) = group(bracket, Delimiter::Bracket).filter(|_| is(sign, '#')) else {
        return false;
    };
    let attribute = attribute.to_string().replace(' ', "");
    attribute == "test" || attribute == "cfg(test)" || attribute.starts_with("cfg(all(test,")
}

/// The path that the tokens begin with, and how many tokens it has.
fn path(tokens: &[TokenTree]) -> (Name, usize) {
    let mut path: Name = word(&tokens[0]).into_iter().collect();
    let mut len = 1;
    while let [first, second, name, ..] = &tokens[len..] {
        let Some(name) = word(name).filter(|_| is(first, ':') && is(second, ':')) else { break };
        path.push(name);
        len += 3;
    }
    (path, len)
}

/// The paths of a `use` tree below `before`, with the names they bring: `a::{self, b as c}` is `a`
/// as `a`, and `a::b` as `c`.
fn tree(tokens: &[TokenTree], before: &Name) -> Vec<(Name, String)> {
    let mut found = Vec::new();
    for part in tokens.split(|token| is(token, ',')) {
        let mut path = before.clone();
        let mut words = part.iter();
        let mut alias = None;
        while let Some(token) = words.next() {
            if let Some(body) = group(token, Delimiter::Brace) {
                let body: Vec<TokenTree> = body.into_iter().collect();
                found.extend(tree(&body, &path));
                path.clear();
            } else if is(token, '*') {
                path.push("*".to_owned());
            } else if let Some(word) = word(token) {
                match word.as_str() {
                    "as" => alias = words.next().and_then(self::word),
                    "self" if !path.is_empty() => {}
                    _ => path.push(word),
                }
            }
        }
        if let Some(name) = alias.or_else(|| path.last().cloned()) {
            found.push((path, name));
        }
    }
    found
}
