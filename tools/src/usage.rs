//! Wrong usage of the command line, said in a sentence, with what to type instead.
//!
//! clap finds the error; its own words for it are a heading, a usage line and a tip. Not here:
//! options that are understood but make no sense together (each command's own), and how a failure
//! is shown (`main`). Test: `tests/cli/usage.rs`.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::failure::{Failure, one_line};

/// The command line, whose options take what begins with a minus and a digit as their value, so
/// that `-n -1` is a number out of range instead of an unknown option `-1`.
pub(crate) fn with_negative_numbers(command: Command) -> Command {
    let numbers = |arg: Arg| {
        let takes_a_value = arg.get_action().takes_values() && !arg.is_positional();
        if takes_a_value { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_subcommands(move |command| with_negative_numbers(command.mut_args(numbers)))
}

/// The failure that clap's error is.
pub(crate) fn failure(command: &Command, error: &clap::Error) -> Failure {
    let typed = Typed::new(command);
    let (what, mend) = match error.kind() {
        ErrorKind::UnknownArgument => unknown(&typed, error),
        ErrorKind::InvalidSubcommand => no_command(&typed, error),
        ErrorKind::MissingRequiredArgument => missing(&typed, error),
        ErrorKind::ArgumentConflict => conflict(&typed, error),
        ErrorKind::ValueValidation => refused(&typed, error),
        ErrorKind::InvalidValue => no_such_value(&typed, error),
        _ => (one_line(&error.to_string()), typed.help()),
    };
    Failure::usage(what, mend)
}

/// The command that was typed.
struct Typed<'a> {
    /// The subcommand, or the program if there is none.
    command: &'a Command,
    /// The words to type for it: `brooklet state import`.
    words: String,
}

impl<'a> Typed<'a> {
    fn new(program: &'a Command) -> Typed<'a> {
        let (mut command, mut words) = (program, "brooklet".to_owned());
        let arguments = std::env::args_os().skip(1);
        for word in arguments.filter_map(|word| word.into_string().ok()) {
            if let Some(next) = command.find_subcommand(&word) {
                command = next;
                words = format!("{words} {word}");
            } else if !word.starts_with('-') {
                break;
            }
        }
        Typed { command, words }
    }

    /// Where to read on.
    fn help(&self) -> String {
        format!("see `{} --help`", self.words)
    }

    /// The first of the command's examples.
    fn example(&self) -> String {
        let examples = self.command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let first = examples.lines().map(str::trim).find(|line| line.starts_with("brooklet "));
        first.map_or_else(|| self.help(), |line| format!("type for instance `{line}`"))
    }
}

/// An option that does not exist, or a word too many.
fn unknown(typed: &Typed<'_>, error: &clap::Error) -> (String, String) {
    let (words, argument) = (&typed.words, text(error, ContextKind::InvalidArg));
    if argument.starts_with('-') && argument != "-" {
        let similar = text(error, ContextKind::SuggestedArg);
        let mend = match (similar.is_empty(), words.as_str()) {
            (false, _) => format!("did you mean `{}`?", name(&similar)),
            (true, "brooklet run") => {
                format!("a prompt that starts with a minus is given as `-p '{argument}'`")
            }
            (true, _) => typed.help(),
        };
        return (format!("`{words}` has no option `{argument}`"), mend);
    }
    let mend = match words.as_str() {
        "brooklet tokenize" => {
            "it reads the text from standard input: `echo TEXT | brooklet tokenize MODEL`"
                .to_owned()
        }
        "brooklet run" => "put a prompt of several words into quotation marks".to_owned(),
        "brooklet chat" => "it reads what you say from standard input, a line each".to_owned(),
        "brooklet eval" => "give the text as `--text FILE`".to_owned(),
        "brooklet logits" => "give the token ids as `--ids FILE`".to_owned(),
        "brooklet convert" => "give the file to write as `-o OUT.brk`".to_owned(),
        _ => typed.help(),
    };
    (format!("`{words}` takes no further argument `{argument}`"), mend)
}

/// A command that does not exist; someone may have meant a prompt or a model.
fn no_command(typed: &Typed<'_>, error: &clap::Error) -> (String, String) {
    let word = text(error, ContextKind::InvalidSubcommand);
    let similar = text(error, ContextKind::SuggestedSubcommand);
    let mend = if !similar.is_empty() {
        format!("did you mean `{} {}`?", typed.words, similar.replace(", ", "` or `"))
    } else if typed.words != "brooklet" {
        typed.help()
    } else if Path::new(&word).exists() {
        format!("a model writes text by `brooklet run {word} -p PROMPT`")
    } else {
        format!("`brooklet run \"{word}\"` goes on from a prompt, `brooklet --help` lists all")
    };
    (format!("`{}` has no command `{word}`", typed.words), mend)
}

/// Arguments that must be there.
fn missing(typed: &Typed<'_>, error: &clap::Error) -> (String, String) {
    let mut names = texts(error, ContextKind::InvalidArg);
    // Positions first, as they are typed.
    names.sort_by_key(|name| name.starts_with('-'));
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    (format!("`{}` needs {}", typed.words, names.join(" and ")), typed.example())
}

/// Two arguments that exclude each other.
fn conflict(typed: &Typed<'_>, error: &clap::Error) -> (String, String) {
    let argument = text(error, ContextKind::InvalidArg);
    let others = texts(error, ContextKind::PriorArg);
    let others: Vec<String> = others.iter().map(|other| format!("`{}`", name(other))).collect();
    if others.is_empty() {
        return (one_line(&error.to_string()), typed.help());
    }
    let argument = name(&argument);
    if others == [format!("`{argument}`")] {
        return (format!("`{argument}` was given twice"), "give it once".to_owned());
    }
    let what = format!("`{argument}` cannot be used with {}", others.join(" and "));
    (what, "leave one of them away".to_owned())
}

/// A value that its option cannot take.
fn refused(typed: &Typed<'_>, error: &clap::Error) -> (String, String) {
    let (argument, value) =
        (text(error, ContextKind::InvalidArg), text(error, ContextKind::InvalidValue));
    let argument = name(&argument);
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let mend = if argument == "--tokens" && value.starts_with('-') {
        "give a large number for a text that only the model ends".to_owned()
    } else {
        typed.help()
    };
    match kind_of_number(&reason) {
        Some(kind) => (format!("`{argument}` takes {kind}, not `{value}`"), mend),
        None => (format!("`{argument}` cannot take `{value}`: {reason}"), mend),
    }
}

/// The numbers that are meant by what the standard library's or clap's parser says.
fn kind_of_number(reason: &str) -> Option<String> {
    match reason {
        "invalid float literal" | "cannot parse float from empty string" => {
            Some("a number".to_owned())
        }
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            Some("a whole number from 0 up".to_owned())
        }
        _ if reason.starts_with("number too large") => Some("a smaller number".to_owned()),
        _ => {
            let (_, range) = reason.split_once(" is not in ")?;
            let (from, to) = range.split_once("..")?;
            // Up to the type's limit: nobody asked for one.
            let to = to.trim_start_matches('=').parse::<u64>().ok().filter(|to| *to < 1 << 31);
            Some(match to {
                Some(to) => format!("a whole number from {from} to {to}"),
                None => format!("a whole number from {from} up"),
            })
        }
    }
}

/// A value that is not among the possible ones, or none at all.
fn no_such_value(typed: &Typed<'_>, error: &clap::Error) -> (String, String) {
    let argument = name(&text(error, ContextKind::InvalidArg));
    let value = text(error, ContextKind::InvalidValue);
    let possible = texts(error, ContextKind::ValidValue);
    if value.is_empty() {
        return (format!("`{argument}` needs a value"), typed.help());
    }
    let similar = text(error, ContextKind::SuggestedValue);
    let mend = match similar.as_str() {
        "" => format!("give one of {}", possible.join(", ")),
        similar => format!("did you mean `{similar}`? There are {}", possible.join(", ")),
    };
    (format!("`{argument}` cannot take `{value}`"), mend)
}

/// `--text` of `--text <FILE>`; a position as it is.
fn name(argument: &str) -> String {
    let is_option = argument.starts_with('-');
    let end = if is_option { argument.find([' ', '=']) } else { None };
    argument[..end.unwrap_or(argument.len())].to_owned()
}

/// A piece of what clap knows about the error; empty if it does not.
fn text(error: &clap::Error, kind: ContextKind) -> String {
    texts(error, kind).join(", ")
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    }
}
