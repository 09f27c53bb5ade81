//! Where `run` gets its model and its prompt from: positional words, `-p`, `-f`, stdin.
//!
//! `brooklet run "Once upon a time"` has to work beside `brooklet run model.brk`, so a single word
//! is a model if it looks like a file and a prompt otherwise; [`looks_like_a_file`] is the rule.
//! Test: below, and `tests/cli/run.rs`.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::input;

/// Endings of files that hold models, ours and others'.
const MODEL_ENDINGS: [&str; 7] = ["brk", "gguf", "safetensors", "pth", "pt", "bin", "ckpt"];

/// Model and prompt on the command line.
#[derive(clap::Args, Debug)]
pub(crate) struct PromptArgs {
    /// The model: a .brk file or a checkpoint [default: the demo model]
    #[arg(value_name = "MODEL")]
    first: Option<OsString>,
    /// The prompt; alone it needs no model before it
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "file"])]
    second: Option<OsString>,
    /// The prompt
    #[arg(short, long, value_name = "PROMPT", conflicts_with = "file", allow_hyphen_values = true)]
    prompt: Option<OsString>,
    /// Read the prompt from a file (less one line feed at its end); `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A prompt, and whether it was typed on the command line.
pub(crate) struct Prompt {
    /// Its bytes, which need not be UTF-8.
    pub(crate) bytes: Vec<u8>,
    /// Typed, not read from a file or a pipe.
    pub(crate) typed: bool,
}

impl PromptArgs {
    /// The model named, and the prompt, read if it has to be. An optional prompt is empty unless it
    /// is given.
    pub(crate) fn read(&self, optional: bool) -> Result<(Option<&Path>, Prompt)> {
        let typed = |text: &OsStr| Prompt { bytes: text.as_encoded_bytes().to_vec(), typed: true };
        let (model, positional) = match (&self.first, &self.second) {
            (Some(first), None)
                if self.prompt.is_none() && self.file.is_none() && !looks_like_a_file(first) =>
            {
                (None, Some(first))
            }
            (first, second) => (first.as_ref().map(Path::new), second.as_ref()),
        };
        let prompt = match (positional.or(self.prompt.as_ref()), &self.file) {
            (Some(text), _) => typed(text),
            (None, Some(file)) if file != Path::new("-") => {
                Prompt { bytes: without_last_line_feed(input::read(file)?), typed: false }
            }
            (None, None) if optional => Prompt { bytes: Vec::new(), typed: false },
            (None, None) if std::io::stdin().is_terminal() => {
                return Err(Failure::usage(
                    "there is no prompt",
                    "give one with -p, with -f, or through a pipe",
                ));
            }
            (None, _) => {
                Prompt { bytes: without_last_line_feed(input::read_stdin()?), typed: false }
            }
        };
        Ok((model, prompt))
    }

    /// The file that the prompt came from, if it did.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let file = self.file.iter().map(PathBuf::as_path);
        // Also where it was not read: nothing is lost by sparing it.
        file.chain(input::standard()).map(Path::to_owned)
    }
}

/// Editors and `echo` end every text with a line feed that nobody means.
fn without_last_line_feed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    bytes
}

/// Whether a word is the name of a file: one that exists, or it has no blanks and starts like a
/// path or ends like a model.
fn looks_like_a_file(word: &OsStr) -> bool {
    let path = Path::new(word);
    let Some(text) = word.to_str() else { return path.exists() };
    let ends_like_a_model = path
        .extension()
        .and_then(OsStr::to_str)
        .is_some_and(|ending| MODEL_ENDINGS.contains(&ending));
    let starts_like_a_path = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start));
    let blanks = text.contains(char::is_whitespace);
    (!text.is_empty() && path.exists())
        || text.ends_with(".brk")
        || (!blanks && (ends_like_a_model || starts_like_a_path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_prompts_are_told_apart() {
        for file in [
            "x.brk",
            "my model.brk",
            "./x",
            "../models/x",
            "/models/none",
            "rwkv.pth",
            "Cargo.toml",
            "src",
        ] {
            assert!(looks_like_a_file(OsStr::new(file)), "{file}");
        }
        for prompt in [
            "",
            "Once",
            "Once upon a time",
            "/ is a slash",
            "and/or",
            "Tell me about x.pth",
            "hello.",
        ] {
            assert!(!looks_like_a_file(OsStr::new(prompt)), "{prompt}");
        }
    }
}
