//! What the person types: lines from a pipe, edited ones on a terminal.
//!
//! In a pipe each line is a turn. On a terminal a line may be edited, pasted with all its lines,
//! and fetched again from a history, which is kept in the state folder. Not here: the editor
//! (`editor`), and what a line means (`commands`). Test: `tests/cli/chat.rs`,
//! `tests/cli/chat_terminal.rs`.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::path::PathBuf;

use super::editor::{Editor, Typed};
use crate::failure::{Failure, Result};
use crate::{input, output};

/// Where lines come from.
pub(crate) struct Lines {
    editor: Option<Editor>,
    bytes: Vec<u8>,
    quiet: bool,
}

impl Lines {
    /// Standard input; on a terminal with a history, if that is wanted.
    pub(crate) fn new(with_history: bool, quiet: bool) -> Lines {
        let is_terminal = std::io::stdin().is_terminal();
        let history = if with_history && is_terminal { history() } else { None };
        let editor = if is_terminal { Editor::new(history) } else { None };
        Lines { editor, bytes: Vec::new(), quiet }
    }

    /// Whether somebody types.
    pub(crate) fn is_typed(&self) -> bool {
        self.editor.is_some()
    }

    /// The next line, without its end; none at the end of all. `first` is what an edited line
    /// begins with.
    pub(crate) fn next(&mut self, first: &str) -> Result<Option<String>> {
        let Some(editor) = &mut self.editor else { return self.next_read() };
        let mut was_cleared = false;
        loop {
            match editor.read("> ", if was_cleared { "" } else { first })? {
                Typed::Line(line) => return Ok(Some(line)),
                Typed::End => return Ok(None),
                Typed::Cleared if was_cleared => return Err(Failure::Interrupted),
                Typed::Cleared => {
                    was_cleared = true;
                    output::note("Ctrl-C again, or Ctrl-D, ends the conversation");
                }
            }
        }
    }

    fn next_read(&mut self) -> Result<Option<String>> {
        input::read_line(std::io::stdin().lock(), &mut self.bytes)?;
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&self.bytes);
        if let (Cow::Owned(_), false) = (&line, self.quiet) {
            output::note("brooklet: note: the line is not UTF-8, U+FFFD stands for the rest of it");
        }
        Ok(Some(line.into_owned()))
    }
}

/// The file of the history: in `$XDG_STATE_HOME/brooklet`, `~/.local/state/brooklet`, or what the
/// system has in their place.
fn history() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local").join("state")))
        .or_else(|| variable("LOCALAPPDATA"))?;
    Some(folder.join("brooklet").join("chat_history"))
}
