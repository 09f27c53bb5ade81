//! An answer on its way to the reader: words wrap at the terminal's width, reasoning is dimmed or
//! folded, control characters are shown as escapes.
//!
//! Where stdout is no terminal, or `--raw` is given, the text goes out as it is. Not here: telling
//! reasoning from the rest (`thinking`), and the page itself (`page`). Test:
//! `tests/cli/chat_terminal.rs`.

use super::page::Page;
use super::thinking::Thinking;
use crate::failure::Result;
use crate::output;

/// Shows one answer.
pub(crate) struct Screen {
    thinking: Thinking,
    /// Whether reasoning is left out.
    folds: bool,
    /// Whether some was left out that nobody was told of.
    folded: bool,
    /// Tokens of reasoning.
    thoughts: usize,
    /// The next part begins the answer, or follows folded reasoning: its white space is for the
    /// model.
    trims: bool,
    page: Page,
    quiet: bool,
}

impl Screen {
    /// For an answer that begins inside reasoning, or not.
    pub(crate) fn new(begins_thinking: bool, folds: bool, quiet: bool) -> Screen {
        Screen {
            thinking: Thinking::new(begins_thinking),
            folds,
            folded: false,
            thoughts: 0,
            trims: true,
            page: Page::of_terminal(),
            quiet,
        }
    }

    /// Takes the text of a token.
    pub(crate) fn push(&mut self, piece: &str) -> Result {
        let was_inside = self.thinking.is_inside();
        let parts = self.thinking.push(piece);
        self.thoughts += usize::from(was_inside || self.thinking.is_inside());
        parts.iter().try_for_each(|(is_thought, text)| self.show(*is_thought, text))
    }

    /// Ends the answer.
    pub(crate) fn finish(mut self) -> Result {
        let (is_thought, text) = self.thinking.finish();
        self.show(is_thought, &text)?;
        self.unfold()?;
        self.page.finish()
    }

    fn show(&mut self, is_thought: bool, text: &str) -> Result {
        if is_thought && self.folds {
            if !self.folded {
                self.page.hint("thinking…")?;
            }
            self.folded = true;
            return Ok(());
        }
        let text = if self.trims { text.trim_start() } else { text };
        if text.is_empty() {
            return Ok(());
        }
        self.unfold()?;
        let text = if self.trims { text.trim_start() } else { text };
        self.trims = false;
        self.page.put(is_thought, text)
    }

    /// Says in one line how much reasoning was left out.
    fn unfold(&mut self) -> Result {
        if !std::mem::take(&mut self.folded) {
            return Ok(());
        }
        let line = format!("thought for {} tokens", std::mem::take(&mut self.thoughts));
        self.trims = true;
        match self.page.is_terminal() {
            true => self.page.line(&line)?,
            false if !self.quiet => output::note(&line),
            false => {}
        }
        Ok(())
    }
}
