//! What a line means: a message, or a command of one table.
//!
//! Each row has a name, its arguments, a line of help and what it does; `/help` prints them. Not
//! here: the conversation itself (`mod.rs`). Test: `tests/cli/chat_commands.rs`.

use brooklet::chat::{Message, Role};

use super::page::note;
use super::{Chat, Next};
use crate::failure::{Failure, Result};
use crate::{output, units};

/// A command.
pub(crate) struct Command {
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    act: fn(&mut Chat<'_>, &str) -> Result<Next>,
}

/// All of them, in the order of `/help`.
const COMMANDS: [Command; 15] = [
    Command {
        name: "system",
        arguments: "[TEXT]",
        help: "give other instructions for this branch, or show them; `/system -` takes them away",
        act: system,
    },
    Command {
        name: "undo",
        arguments: "",
        help: "take the last message and its answer back",
        act: |chat, _| match chat.talk.last_question() {
            Some((before, _)) => {
                chat.talk.set_tip(before);
                Ok(Next::Line)
            }
            None => refuse("there is nothing to undo"),
        },
    },
    Command {
        name: "retry",
        arguments: "",
        help: "answer the last message again",
        act: |chat, _| match chat.talk.unanswer() {
            true => Ok(Next::Answer),
            false => refuse("there is no message to answer"),
        },
    },
    Command {
        name: "edit",
        arguments: "[TEXT]",
        help: "say something else in place of the last message; without TEXT: edit it here",
        act: edit,
    },
    Command {
        name: "fork",
        arguments: "NAME",
        help: "go on in a new branch that begins here; the old one stays as it is",
        act: |chat, name| done(required(name, "fork", "NAME").and_then(|n| chat.talk.fork(n))),
    },
    Command {
        name: "switch",
        arguments: "NAME|NUMBER",
        help: "go on in another branch, or behind the message of that number",
        act: |chat, name| {
            done(required(name, "switch", "NAME").and_then(|name| chat.talk.switch(name)))
        },
    },
    Command {
        name: "tree",
        arguments: "",
        help: "show all messages with their numbers, and which branches end there (* is this one)",
        act: |chat, _| {
            let lines = chat.talk.lines(output::width().unwrap_or(100));
            lines.iter().for_each(|line| output::note(line));
            Ok(Next::Line)
        },
    },
    Command {
        name: "save",
        arguments: "FILE",
        help: "write the conversation and the state to a file (.brks)",
        act: |chat, path| match path {
            "" => refuse("/save needs FILE"),
            path => chat.save_as(path).map(|()| Next::Line),
        },
    },
    Command {
        name: "load",
        arguments: "FILE",
        help: "go on with the conversation of a file",
        act: |chat, path| match path {
            "" => refuse("/load needs FILE"),
            path => chat.load(path).map(|()| Next::Line),
        },
    },
    Command {
        name: "set",
        arguments: "[NAME VALUE]",
        help: "change an option of answers (temp, top-p, tokens, …), or show all of them",
        act: set,
    },
    Command {
        name: "stats",
        arguments: "",
        help: "show tokens, speed and memory",
        act: |chat, _| {
            stats(chat);
            Ok(Next::Line)
        },
    },
    Command {
        name: "reset",
        arguments: "",
        help: "start over; /tree still has what was said",
        act: |chat, _| {
            chat.talk.reset();
            Ok(Next::Line)
        },
    },
    Command {
        name: "help",
        arguments: "[COMMAND]",
        help: "show this list, or one line of it",
        act: help,
    },
    Command {
        name: "exit",
        arguments: "",
        help: "end the conversation (or Ctrl-D)",
        act: |_, _| Ok(Next::Leave),
    },
    Command { name: "quit", arguments: "", help: "as /exit", act: |_, _| Ok(Next::Leave) },
];

/// The short form of `/help`.
pub(crate) const SUMMARY: &str =
    "/help lists the commands, /exit (or Ctrl-D) ends, Ctrl-C cuts an answer short";

/// Does what a line says.
pub(crate) fn obey(chat: &mut Chat<'_>, line: &str) -> Result<Next> {
    let line = line.trim();
    let message = match line.strip_prefix('/') {
        None if line.is_empty() => return Ok(Next::Line),
        None => line,
        // A message that begins with a slash.
        Some(rest) if rest.starts_with('/') => rest,
        Some(rest) => {
            let (name, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let Some(command) = named(name) else {
                return refuse(&format!(
                    "{line} is no command: /help lists them, //… is a message with a slash"
                ));
            };
            let arguments = arguments.trim();
            if command.arguments.is_empty() && !arguments.is_empty() {
                return refuse(&format!("/{name} takes no arguments"));
            }
            return (command.act)(chat, arguments);
        }
    };
    chat.talk.push(Message::new(Role::User, message));
    Ok(Next::Answer)
}

fn named(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// Says why nothing was done; the conversation goes on.
fn refuse(why: &str) -> Result<Next> {
    note(&format!("brooklet: {why}"));
    Ok(Next::Line)
}

fn done(done: Result<(), String>) -> Result<Next> {
    done.map_or_else(|why| refuse(&why), |()| Ok(Next::Line))
}

fn required<'a>(argument: &'a str, command: &str, name: &str) -> Result<&'a str, String> {
    if argument.is_empty() { Err(format!("/{command} needs {name}")) } else { Ok(argument) }
}

fn system(chat: &mut Chat<'_>, text: &str) -> Result<Next> {
    match text {
        "" => note(chat.talk.system().unwrap_or("there are no instructions")),
        "-" => chat.talk.set_system(None),
        text => chat.talk.set_system(Some(text.to_owned())),
    }
    Ok(Next::Line)
}

fn edit(chat: &mut Chat<'_>, text: &str) -> Result<Next> {
    let Some((before, old)) = chat.talk.last_question() else {
        return refuse("there is no message to edit");
    };
    let text = match text {
        "" if chat.lines.is_typed() => {
            let old = old.to_owned();
            match chat.lines.next(&old)? {
                Some(text) if !text.trim().is_empty() => text,
                _ => return Ok(Next::Line),
            }
        }
        "" => return refuse("/edit needs TEXT where nobody types"),
        text => text.to_owned(),
    };
    chat.talk.set_tip(before);
    chat.talk.push(Message::new(Role::User, text.trim()));
    Ok(Next::Answer)
}

fn set(chat: &mut Chat<'_>, arguments: &str) -> Result<Next> {
    let (name, value) = arguments.split_once([' ', '\t', '=']).unwrap_or((arguments, ""));
    match (name, value.trim()) {
        ("", _) => chat.settings.lines().iter().for_each(|line| output::note(line)),
        (name, "") => return refuse(&format!("/set {name} needs a value")),
        (name, value) => {
            let settings = chat.settings.with(name, value)?;
            let seed = settings.sampler.seed.filter(|_| name == "seed");
            chat.speaker.set_sampler(&settings.sampler, seed)?;
            chat.settings = settings;
        }
    }
    Ok(Next::Line)
}

fn stats(chat: &Chat<'_>) {
    let (last, total) = (chat.speaker.last, chat.speaker.total);
    let (position, bytes) = chat.speaker.size();
    let (marks, kept) = chat.speaker.marks();
    let line = |name: &str, pace: &super::speaker::Pace| {
        let (read, written) = pace.rates();
        note(&format!(
            "{name}: {} tokens read at {read:.0} tokens/s, {} written at {written:.1} tokens/s, \
             {} kept by the state",
            pace.read, pace.written, pace.kept
        ));
    };
    line("last answer", &last);
    line("all answers", &total);
    note(&format!("state: {position} tokens in {}", units::bytes(bytes as u64)));
    note(&format!("kept states: {marks} in {}", units::bytes(kept as u64)));
    note(&format!("seed {}, branch {}", chat.speaker.seed(), chat.talk.branch()));
}

fn help(_: &mut Chat<'_>, name: &str) -> Result<Next> {
    let name = name.trim_start_matches('/');
    let shown = |command: &Command| {
        let start = format!("/{} {}", command.name, command.arguments);
        note(&format!("{:<21} {}", start.trim_end(), command.help));
    };
    match name {
        "" => {
            COMMANDS.iter().for_each(shown);
            note("//TEXT                a message that begins with a slash");
            note("Ctrl-C cuts an answer short; Alt-Enter begins a new line of a message");
        }
        name => match named(name) {
            Some(command) => shown(command),
            None => return refuse(&format!("/{name} is no command: /help lists them")),
        },
    }
    Ok(Next::Line)
}

/// Whether the conversation goes on after a failure; it is shown then.
pub(crate) fn is_survived(failure: Failure) -> Result {
    match failure {
        Failure::Error { what, mend, .. } => {
            let mend = mend.map_or(String::new(), |mend| format!(": {mend}"));
            note(&format!("brooklet: {what}{mend}"));
            Ok(())
        }
        failure => Err(failure),
    }
}
