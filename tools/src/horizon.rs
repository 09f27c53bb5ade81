//! `--retention`, `--renewal`: states kept fresh past the length that a model was trained on; and
//! the note where a text has become longer than that.
//!
//! `run`, `chat` and `eval` share it. Not here: what is done to a state (`brooklet::horizon`).
//! Test: `tests/cli/horizon.rs`.

use brooklet::horizon::Horizon;
use brooklet::{Model, Session};

use crate::failure::Result;
use crate::output;

/// How a state is kept from filling up.
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Long texts")]
pub(crate) struct HorizonArgs {
    /// The part of the state's matrices that a token leaves of them, as 0.9999: what is long ago
    /// fades, in models that have not learned to forget
    #[arg(long, value_name = "R")]
    retention: Option<f32>,
    /// Make the state anew after W tokens, from the last half of them; a multiple of 128
    #[arg(long, value_name = "W")]
    renewal: Option<usize>,
}

impl HorizonArgs {
    /// The horizon, if one was asked for.
    pub(crate) fn horizon(&self) -> Option<Horizon> {
        let horizon = Horizon::new().retention(self.retention).renewal(self.renewal);
        Some(horizon).filter(|horizon| !horizon.is_off())
    }

    /// Lets a session keep within it.
    pub(crate) fn apply(&self, session: &mut Session) -> Result {
        Ok(session.keep_within(self.horizon().unwrap_or_default())?)
    }
}

/// Says once that a text has become longer than those that its model was trained on.
pub(crate) struct Warning {
    trained: Option<u64>,
}

impl Warning {
    /// For texts of `model`; nothing is said of one that does not say its length, or with a
    /// horizon.
    pub(crate) fn new(model: &Model, args: &HorizonArgs, quiet: bool) -> Warning {
        let trained = model.trained_length().filter(|_| !quiet && args.horizon().is_none());
        Warning { trained: trained.and_then(|n| u64::try_from(n).ok()) }
    }

    /// The text has so many tokens now.
    pub(crate) fn at(&mut self, tokens: u64) {
        if let Some(trained) = self.trained.take_if(|trained| tokens > *trained) {
            output::note(&format!(
                "brooklet: note: the text has {tokens} tokens, and the model was trained on texts of \
                 {trained}: it may lose the thread (--retention, --renewal, `brooklet stretch`)"
            ));
        }
    }
}
