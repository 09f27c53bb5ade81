//! The commands that README and its sister pages show: each exists, with every option shown; the
//! README is short, and its links lead somewhere.

use std::path::{Path, PathBuf};

use crate::support::brooklet;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const PAGES: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/running.md",
    "docs/serve.md",
    "benches/RESULTS.md",
    "benches/results/README.md",
    "engine/capi/README.md",
    "formats/README.md",
];

/// Lines of code blocks and text between backquotes that start with `brooklet`.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (i, block) in text.split("```").enumerate() {
        if i % 2 == 1 {
            let lines = block.lines().map(|line| line.split(" #").next().unwrap_or(line));
            commands.extend(lines.map(str::to_owned));
        } else {
            // A command may be broken at the end of a line.
            let spans = block.split('`').skip(1).step_by(2);
            commands.extend(spans.map(|span| span.replace('\n', " ")));
        }
    }
    commands.retain(|command| {
        command.starts_with("brooklet ") || command.starts_with("cargo run --release -- ")
    });
    commands
}

#[test]
fn commands_exist_with_the_options_shown() {
    let mut checked = 0;
    for name in PAGES {
        for command in commands(&page(name)) {
            let line = command.replace("cargo run --release -- ", "brooklet ");
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let subcommand: Vec<&str> = words
                .iter()
                .copied()
                .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase()))
                .take(if words[0] == "state" { 2 } else { 1 })
                .collect();
            let help = brooklet(subcommand.iter().copied().chain(["--help"])).ok();
            for option in words.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                let option = option.split('=').next().unwrap_or(option);
                let known = help.split([' ', ',', '\n', '[', '=']).any(|word| word == option);
                assert!(known, "{name}: `{line}` has {option}, which the help lacks");
            }
            checked += 1;
        }
    }
    assert!(checked > 15, "{checked} commands");
}

#[test]
fn links_lead_somewhere() {
    for name in PAGES {
        let text = page(name);
        let folder = root().join(name).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(name) } else { folder.join(file) };
            assert!(target.exists(), "{name}: {link}");
            if !anchor.is_empty() {
                let target = std::fs::read_to_string(&target).expect("a page");
                let known = target.lines().filter_map(heading).any(|heading| heading == anchor);
                assert!(known, "{name}: no heading for {link}");
            }
        }
    }
}

/// The anchor that a heading gets.
fn heading(line: &str) -> Option<String> {
    let text = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = text.to_lowercase().replace(' ', "-");
    Some(kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect())
}

#[test]
fn readme_is_short_and_its_program_is_the_one_that_is_compiled() {
    let readme = page("README.md");
    assert!(readme.lines().count() <= 160, "{} lines", readme.lines().count());
    let start = readme.find("```rust\n").expect("a program") + "```rust\n".len();
    let program = readme[start..].split("```").next().expect("its end");
    let documented: String = page("engine/src/lib.rs")
        .lines()
        .map(|line| line.strip_prefix("//! ").or_else(|| line.strip_prefix("//!")).unwrap_or(""))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(documented.contains(program), "lib.rs documents another program than README shows");
}
