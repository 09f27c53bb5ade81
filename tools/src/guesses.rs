//! Guesses of what comes next (`--lookup`, `--draft`), for the commands that write text.
//!
//! The text is the same with and without. Not here: guessing (`brooklet::speculate`). Test:
//! `tests/cli/guesses.rs`.

use std::path::PathBuf;
use std::time::Instant;

use brooklet::speculate::{Draft, DraftModel, Guessed, Lookup, MAX_GUESSES, Speculation};
use brooklet::{Model, Session};
#[cfg(all(feature = "serve", any(unix, windows)))]
use brooklet_serve::GuessOptions;
use serde::Serialize;

use crate::args::EngineArgs;
use crate::demo;
use crate::failure::Result;
use crate::model::{CheckpointArgs, Source};

/// Who guesses, and how many tokens.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct GuessArgs {
    /// Guess that what followed the last tokens before, in prompt or answer, follows again, and
    /// check several such tokens in one pass: the same text, sooner where it repeats itself
    #[arg(long)]
    lookup: bool,
    /// Let a smaller model with the same vocabulary guess the next tokens, and check several in one
    /// pass: the same text, sooner where it is often right. May be given several times and with
    /// --lookup: one pass then checks what each of them says
    #[arg(long, value_name = "MODEL")]
    draft: Vec<PathBuf>,
    /// The most tokens that are guessed at a time; fewer are where that does not pay
    #[arg(long, value_name = "K", default_value_t = 8,
          value_parser = clap::value_parser!(u8).range(1..=MAX_GUESSES as i64))]
    guesses: u8,
}

/// What came of it, as `--json` prints it.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Report {
    guesses: usize,
    right: usize,
    passes: usize,
}

impl GuessArgs {
    /// Rows of logits that a pass has to give.
    pub(crate) fn rows(&self) -> usize {
        let drafts = usize::from(self.lookup) + self.draft.len();
        drafts.max(1) * if self.is_asked() { 1 + usize::from(self.guesses) } else { 1 }
    }

    /// Whether anybody guesses.
    pub(crate) fn is_asked(&self) -> bool {
        self.lookup || !self.draft.is_empty()
    }

    /// Guesses for texts of `model`, if they are asked for.
    pub(crate) fn open(
        &self,
        model: &Model,
        engine: &EngineArgs,
        quiet: bool,
    ) -> Result<Option<Speculation>> {
        let mut drafts: Vec<Box<dyn Draft>> = Vec::new();
        if self.lookup {
            drafts.push(Box::new(Lookup::new()));
        }
        for draft in self.models(engine, quiet)? {
            drafts.push(Box::new(DraftModel::new(&draft, model, &engine.options(&draft, 1)?)?));
        }
        let most = usize::from(self.guesses);
        Ok((!drafts.is_empty()).then(|| Speculation::beside(drafts, most)))
    }

    /// The smaller models.
    fn models(&self, engine: &EngineArgs, quiet: bool) -> Result<Vec<Model>> {
        // They need not attend to as much, and may have nothing that attends.
        let engine = EngineArgs { window: None, context: None, ..engine.clone() };
        let open = |path: &PathBuf| {
            let source = Source::new(path, &CheckpointArgs::default())?;
            demo::open(&source.ready(quiet)?, &engine, quiet)
        };
        self.draft.iter().map(open).collect()
    }

    /// The same for a server.
    #[cfg(all(feature = "serve", any(unix, windows)))]
    pub(crate) fn options(&self, engine: &EngineArgs, quiet: bool) -> Result<GuessOptions> {
        let mut options = GuessOptions::default();
        (options.lookup, options.most) = (self.lookup, usize::from(self.guesses));
        options.drafts = self.models(engine, quiet)?;
        Ok(options)
    }
}

impl GuessArgs {
    /// Seconds of a guess: of a token of the smaller models, the shortest of some for each; looking
    /// up takes none.
    pub(crate) fn seconds(&self, engine: &EngineArgs, repeat: usize) -> Result<f64> {
        let mut all = 0.0;
        for path in &self.draft {
            let source = Source::new(path, &CheckpointArgs::default())?;
            let draft = demo::open(&source.ready(true)?, engine, true)?;
            let mut session = Session::new(&draft, &engine.options(&draft, 1)?);
            let mut shortest = f64::INFINITY;
            for _ in 0..=repeat {
                let start = Instant::now();
                session.step(0)?;
                shortest = shortest.min(start.elapsed().as_secs_f64());
            }
            all += shortest;
        }
        Ok(all)
    }
}

/// What came of it.
pub(crate) fn report(guessed: Guessed) -> Report {
    let Guessed { guesses, right, passes, .. } = guessed;
    Report { guesses, right, passes }
}

/// The same for people, behind a line that says how fast it was; nothing where none was made.
pub(crate) fn describe(guessed: Guessed) -> String {
    let Guessed { guesses, right, passes, tokens } = guessed;
    if guesses == 0 {
        return String::new();
    }
    let each = tokens as f64 / passes.max(1) as f64;
    format!("; {right} of {guesses} guesses were right, {each:.1} tokens a pass")
}
