//! The header that is checked in is the one that the sources make.

use std::path::Path;

/// The sources, in the order of the header.
const SOURCES: &[&str] = &[
    "options",
    "failure",
    "log",
    "model",
    "plan",
    "tokenizer",
    "sampler",
    "logprobs",
    "grammar",
    "state",
    "state_file",
    "session",
    "rollback",
    "horizon",
    "prefix",
    "score",
    "batch",
    "speculation",
    "generate",
    "scheduler",
    "coding",
    "chat",
    "snapshot",
    "convert",
];

#[test]
fn the_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let builder =
        SOURCES.iter().fold(cbindgen::Builder::new().with_config(config), |builder, source| {
            builder.with_src(root.join(format!("src/{source}.rs")))
        });
    let mut made = Vec::new();
    builder.generate().expect("sources that cbindgen reads").write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    for function in exported(root) {
        assert!(made.contains(&format!("{function}(")), "{function} is not in the header");
    }
    let path = root.join("include/brooklet.h");
    if std::env::var_os("BROOKLET_WRITE").is_some() {
        std::fs::write(&path, &made).expect("the header can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == made,
        "include/brooklet.h is stale: BROOKLET_WRITE=1 cargo test -p brooklet-capi --test header"
    );
}

/// The names of all exported functions of all sources, so that no file is left out of `SOURCES`.
fn exported(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("src")).expect("src") {
        let source = std::fs::read_to_string(entry.expect("an entry").path()).expect("a source");
        let mut exports = source.split("#[unsafe(no_mangle)]").skip(1);
        names.extend(exports.by_ref().filter_map(|export| {
            let name = export.split("fn ").nth(1)?;
            Some(name.split('(').next()?.to_owned())
        }));
    }
    assert!(names.len() > 60, "{names:?}");
    names
}
