//! The order of modules. Nothing imports upwards in the engine; no modules of the other crates
//! import each other, however far around: file by file in the formats and the C library, and in
//! the command line between the modules below the root.

use std::path::Path;

use brooklet_tests::sources::{Arrows, Sources, circles, listed};

/// The engine's modules, lowest first. What stands on one line knows nothing of each other.
const ENGINE: &[&[&str]] = &[
    &["kernels"],
    &["device"],
    &["error"],
    &["team"],
    &["buffers"],
    &["state"],
    &["tensor", "tokenizer"],
    &["grammar"],
    &["sampler"],
    &["stage"],
    &["ops"],
    &["cuda"],
    &["model", "bench"],
    &["snapshot", "text"],
    &["engine"],
    &["layerwise", "coding", "chat", "horizon"],
    &["rollback"],
    &["session"],
    &["speculate", "prefix", "score"],
    &["generate"],
    &["schedule", "pieces"],
];

fn sources(of: &str) -> Sources {
    Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of))
}

#[test]
fn nothing_in_the_engine_imports_upwards() {
    let rank = |module: &str| ENGINE.iter().position(|line| line.contains(&module));
    let sources = sources("engine/src");
    let modules = sources.top();
    let unknown: Vec<_> = modules.iter().filter(|module| rank(module).is_none()).collect();
    assert!(unknown.is_empty(), "modules without a place in the order: {unknown:?}");
    let mut arrows = sources.arrows_of_top();
    assert!(arrows.len() > 2 * ENGINE.len(), "too few arrows: are sources still read?");
    arrows.retain(|(from, to), _| rank(&from[0]) <= rank(&to[0]));
    assert!(arrows.is_empty(), "imports upwards:\n{}", listed(&arrows));
}

#[test]
fn no_circles_in_the_formats() {
    no_circles(&sources("formats/src").arrows());
}

#[test]
fn no_circles_in_the_command_line() {
    no_circles(&sources("tools/src").arrows_of_top());
}

#[test]
fn no_circles_in_the_server() {
    no_circles(&sources("tools/serve/src").arrows_of_top());
}

#[test]
fn no_circles_in_the_c_library() {
    no_circles(&sources("engine/capi/src").arrows());
}

fn no_circles(arrows: &Arrows) {
    println!("{} arrows", arrows.len());
    assert!(arrows.len() > 40, "too few arrows: are sources still read?");
    let left = circles(arrows);
    assert!(left.is_empty(), "circles:\n{}", listed(&left));
}

#[test]
fn paths_are_found() {
    let mut sources = Sources::default();
    let mut add = |name: &str, text: &str| {
        sources.add(
            name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            text,
        )
    };
    add("", "mod a; pub use self::a::deep::Thing as Other;");
    add("a", "pub(crate) mod deep; pub(super) use deep::Thing; #[cfg(test)] mod oracle;");
    add("a::deep", "pub struct Thing; mod inner { use super::super::super::e; }");
    add("a::oracle", "use crate::{b, c};");
    add(
        "b",
        "//! [`crate::d`]\n\
         use crate::{a::{self, Thing}, c};\n\
         /// [`crate::session`]\n\
         fn f() { c::g(\"crate::d\", a::deep::Thing::new(), <crate::e::E as X>::x) } // crate::d\n\
         pub(in crate::d) fn h<T: Into<u8>>() {}\n\
         #[test]\nfn t() { crate::d::x() }\n\
         #[cfg(test)]\nmod tests { use crate::d; }",
    );
    add("c", "macro_rules! m { () => { $crate::Other::new() }; }");
    add("d", "");
    add("e", "");
    let expected = "a::deep -> e: super::super::super::e\n\
                    b -> a: crate::a\n\
                    b -> a::deep: crate::a::Thing\n\
                    b -> c: crate::c\n\
                    b -> e: crate::e::E\n\
                    c -> a::deep: crate::Other::new\n";
    assert_eq!(listed(&sources.arrows()), expected);
    let expected = "a -> e: super::super::super::e\n\
                    b -> a: crate::a\n\
                    b -> c: crate::c\n\
                    b -> e: crate::e::E\n\
                    c -> a: crate::Other::new\n";
    assert_eq!(listed(&sources.arrows_of_top()), expected);
    assert_eq!(circles(&sources.arrows()), Arrows::new());
    sources.add(vec!["e".to_owned()], "use super::b;");
    let left = circles(&sources.arrows());
    assert_eq!(left.len(), 6, "all but b -> a, which needs nothing:\n{}", listed(&left));
}
