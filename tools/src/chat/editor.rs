//! Editing a line on a terminal, by `rustyline`.
//!
//! Chosen before `reedline`: that one asks for a newer Rust than this project promises, and for
//! five times as many crates. Wide characters, pasted texts of several lines (bracketed paste), a
//! history file and Windows are in both. The terminal is in raw mode while a line is edited, so
//! that no line is cut at the 4095 bytes that a terminal keeps by itself. Not here: systems without
//! terminals (`no_editor`). Test: `tests/cli/chat_terminal.rs`.

use std::io::ErrorKind;
use std::path::PathBuf;

use rustyline::config::{Behavior, Configurer};
use rustyline::error::ReadlineError;
use rustyline::{Cmd, Config, DefaultEditor, KeyCode, KeyEvent, Modifiers};

#[cfg(unix)]
use super::kept_terminal::KeptTerminal;
use crate::failure::{Failure, Result};
use crate::output;

/// Lines that the history keeps.
const HISTORY: usize = 1000;

/// What the person did.
pub(crate) enum Typed {
    Line(String),
    /// Ctrl-C.
    Cleared,
    /// Ctrl-D, or the terminal is gone.
    End,
}

/// A terminal whose lines are edited.
pub(crate) struct Editor {
    lines: DefaultEditor,
    history: Option<PathBuf>,
}

impl Editor {
    /// The terminal of standard input, if there is one that can be edited on; its history is kept
    /// in that file.
    pub(crate) fn new(history: Option<PathBuf>) -> Option<Editor> {
        // Where only the answers go elsewhere (`| tee`), the line is edited on the terminal.
        let behavior = match output::is_terminal() {
            true => Behavior::Stdio,
            false => Behavior::PreferTerm,
        };
        let config = Config::builder().behavior(behavior).history_ignore_space(true).build();
        let mut lines = DefaultEditor::with_config(config).ok()?;
        lines.set_max_history_size(HISTORY).ok()?;
        lines.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), Cmd::Newline);
        if let Some(path) = &history {
            // The first conversation has none to load.
            let _ = lines.load_history(path);
        }
        Some(Editor { lines, history })
    }

    /// Lets the person edit a line that begins as `first`.
    pub(crate) fn read(&mut self, prompt: &str, first: &str) -> Result<Typed> {
        #[cfg(unix)]
        let _kept = KeptTerminal::new();
        match self.lines.readline_with_initial(prompt, (first, "")) {
            Ok(line) => {
                self.keep(&line);
                Ok(Typed::Line(line))
            }
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => Ok(Typed::Cleared),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                output::note("brooklet: note: what was typed is not UTF-8");
                Ok(Typed::Line(String::new()))
            }
            Err(ReadlineError::Io(error)) => Err(Failure::io("read", "the terminal")(error)),
            Err(error) => Err(Failure::new(format!("cannot read the terminal: {error}"))),
        }
    }

    /// Keeps a line in the history, at once: the program may be ended while it answers.
    fn keep(&mut self, line: &str) {
        if line.trim().is_empty() || !self.lines.add_history_entry(line).unwrap_or(false) {
            return;
        }
        let Some(path) = &self.history else { return };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let kept = folder
            .map_err(|error| error.to_string())
            .and_then(|()| self.lines.append_history(path).map_err(|error| error.to_string()));
        if let Err(error) = kept {
            let path = path.display();
            output::note(&format!("brooklet: note: the history is not kept: {path}: {error}"));
            self.history = None;
        }
    }
}
