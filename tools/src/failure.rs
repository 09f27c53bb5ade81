//! `Failure`: why a command ends early, as one line with its mend, and the exit code that goes with
//! it.
//!
//! The libraries say what was expected and what was found; the obvious next act is added here,
//! because only the command line knows its own commands. Not here: the wording of the libraries'
//! errors, and how a failure is shown (`main`). Test: `tests/cli/errors.rs`.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;

use brooklet::EngineError;
use brooklet_formats::FormatError;
use brooklet_formats::atomic::open_regular;
use brooklet_formats::checkpoint::Checkpoint;
use brooklet_quantize::QuantizeError;

/// Exit code of wrong usage.
pub(crate) const USAGE: u8 = 2;

/// Result of a command's parts.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong: what, and what to do about it.
    Error { what: String, mend: Option<String>, code: u8 },
    /// Ctrl-C, or a request to terminate.
    Interrupted,
    /// Nobody reads the output any more (`| head`): not an error.
    ClosedPipe,
}

impl Failure {
    /// A failure without an obvious next act.
    pub(crate) fn new(what: impl Display) -> Failure {
        Failure::Error { what: what.to_string(), mend: None, code: 1 }
    }

    /// A failure and what to do about it.
    pub(crate) fn with(what: impl Display, mend: impl Display) -> Failure {
        Failure::Error { what: what.to_string(), mend: Some(mend.to_string()), code: 1 }
    }

    /// Arguments that make no sense, and what to type instead.
    pub(crate) fn usage(what: impl Display, mend: impl Display) -> Failure {
        Failure::Error { what: what.to_string(), mend: Some(mend.to_string()), code: USAGE }
    }

    /// Wraps a failed act on a file; for `map_err(Failure::io("write", path))`.
    pub(crate) fn io(
        action: &'static str,
        path: impl Display,
    ) -> impl FnOnce(io::Error) -> Failure {
        move |source| {
            if source.kind() == io::ErrorKind::BrokenPipe {
                return Failure::ClosedPipe;
            }
            let mend = io_mend(source.kind());
            let what = format!("cannot {action} {path}: {source}");
            Failure::Error { what, mend: mend.map(str::to_owned), code: 1 }
        }
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Failure {
        if let FormatError::Cancelled { .. } = error {
            return Failure::Interrupted;
        }
        if let FormatError::OntoInput { .. } = error {
            return Failure::usage(error, "give the output another name");
        }
        let mend = format_mend(&error);
        Failure::Error { what: error.to_string(), mend, code: 1 }
    }
}

impl From<QuantizeError> for Failure {
    fn from(error: QuantizeError) -> Failure {
        let mend = match error {
            QuantizeError::Format(error) => return error.into(),
            QuantizeError::Engine(error) => return error.into(),
            QuantizeError::NoTokenizer { .. } => {
                "convert the checkpoint again with `--tokenizer FILE`, or say --calibrate=off"
            }
            QuantizeError::ShortText { .. } | QuantizeError::EmptyText { .. } => {
                "give a longer text of many kinds, or none: there is one built in"
            }
            QuantizeError::NoMamba { .. } => "try --retention or --renewal of `brooklet run`",
            QuantizeError::Budget { .. } => "ask for that or more",
            QuantizeError::Rounded { .. } => {
                "convert the checkpoint again, with --type bf16, f16 or f32"
            }
            _ => return Failure::new(error),
        };
        Failure::with(error, mend)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Failure {
        let mend = match error {
            EngineError::File(error) => return error.into(),
            EngineError::EmptyPrompt => Some("give a prompt"),
            EngineError::Architecture { .. } => Some("convert it again with this version"),
            EngineError::Config { .. } => Some("convert the checkpoint again"),
            EngineError::NoWindow { .. } => return Failure::usage(error, "leave --window away"),
            EngineError::Context { .. } => Some(
                "give a shorter text, or let it attend to the last tokens alone: --window 1024",
            ),
            EngineError::NoTokenizer => Some(
                "convert the checkpoint again with `--tokenizer FILE`, \
                 or use `brooklet logits --ids`",
            ),
            EngineError::SamplerOption { .. } | EngineError::SamplerStep { .. } => {
                return Failure::usage(error, "see `brooklet run --help`");
            }
            EngineError::Horizon { .. } => {
                return Failure::usage(error, "see `brooklet run --help`, \"Long texts\"");
            }
            EngineError::SamplerState { .. } => {
                Some("give the penalty options that the state was saved with")
            }
            EngineError::Isa { .. } => Some("set BROOKLET_ISA to one of these, or unset it"),
            EngineError::NotUtf8 { .. } => Some("save the text as UTF-8"),
            EngineError::ChatTemplate { .. } => Some("use --plain for the plain format"),
            EngineError::ChatTemplateName { .. } => {
                Some("this name is not known here, use --plain for the plain format")
            }
            EngineError::Interrupted => return Failure::Interrupted,
            _ => None,
        };
        Failure::Error { what: error.to_string(), mend: mend.map(str::to_owned), code: 1 }
    }
}

/// The obvious next act after an error about a file.
fn format_mend(error: &FormatError) -> Option<String> {
    match error {
        FormatError::Io { action: "open", path, .. } if path.is_dir() => {
            let path = path.display();
            Some(format!(
                "a checkpoint's folder is converted by \
                 `brooklet convert {path} -o OUT.brk --type int8`"
            ))
        }
        FormatError::Io { source, .. } => io_mend(source.kind()).map(str::to_owned),
        FormatError::InTheWay { .. } => {
            Some("give the output another name, or replace that file with --force".to_owned())
        }
        FormatError::TooLarge { .. } => {
            Some("take a smaller model, or a build of brooklet for 64 bits".to_owned())
        }
        FormatError::NotBrk { path, .. } => Some(instead_of_a_model(path)),
        FormatError::Truncated { .. } | FormatError::Checksum { .. } => {
            Some("copy or convert the file again".to_owned())
        }
        FormatError::Recipe { .. } => {
            Some("mend the line, or let --save-recipe write one for this model".to_owned())
        }
        FormatError::MissingTensor { .. } => Some("get the whole checkpoint".to_owned()),
        _ => None,
    }
}

/// The mend for a file that a command took for a model. (Checkpoints do not come here: opening
/// one as a model says by itself that it is one.)
fn instead_of_a_model(path: &Path) -> String {
    match Checkpoint::open(path) {
        Err(FormatError::NotAModel { found, mend, .. }) if !found.starts_with("a file of no") => {
            format!("it is {found}; {mend}")
        }
        _ if is_text(path) => {
            let path = path.display();
            format!(
                "it is text, which `brooklet run -f {path}` goes on from; a model is a .brk file"
            )
        }
        _ => "give a .brk file, or make one of a checkpoint with `brooklet convert`".to_owned(),
    }
}

/// Whether a file begins as text does.
fn is_text(path: &Path) -> bool {
    let mut start = Vec::new();
    let read =
        open_regular(path).is_ok_and(|(file, _)| file.take(512).read_to_end(&mut start).is_ok());
    let text = match str::from_utf8(&start) {
        Ok(text) => text,
        // A character that goes on behind the 512 bytes.
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    read && !text.is_empty() && !text.contains(|c: char| c.is_control() && !c.is_whitespace())
}

fn io_mend(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::NotFound => Some("check the path"),
        io::ErrorKind::PermissionDenied if cfg!(windows) => {
            Some("check the permissions, and whether a program has the file open")
        }
        io::ErrorKind::PermissionDenied => Some("check the permissions"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("free some space"),
        io::ErrorKind::FileTooLarge => Some("raise the limit on file sizes (`ulimit -f`)"),
        io::ErrorKind::ReadOnlyFilesystem => Some("choose another folder"),
        io::ErrorKind::OutOfMemory => {
            Some("take a smaller model, or raise the limit on memory (`ulimit -v`)")
        }
        io::ErrorKind::IsADirectory => Some("give a file"),
        _ => None,
    }
}

/// The text on one line, without clap's usage and "error:".
pub(crate) fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let first = text.split("\n\nUsage:").next().unwrap_or(text);
    let words = first.split_whitespace().filter(|word| *word != "tip:");
    let line = words.collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches(" For more information, try '--help'.");
    without_os_error(line)
}

/// The text without "(os error 2)", which says in a number what stands before it in words.
fn without_os_error(text: &str) -> String {
    let Some((before, after)) = text.split_once(" (os error ") else { return text.to_owned() };
    match after.split_once(')') {
        Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => {
            before.to_owned() + rest
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_single_and_plain() {
        assert_eq!(one_line("error: a\n  b\n\nUsage: brooklet"), "a b");
        assert_eq!(
            one_line("cannot open x: No such file (os error 2): check"),
            "cannot open x: No such file: check"
        );
        assert_eq!(one_line("x (os error y)"), "x (os error y)");
    }
}
