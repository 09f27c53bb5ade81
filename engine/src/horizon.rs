//! [`Horizon`]: what keeps a state fresh past the length that its model was trained on.
//!
//! A recurrent model that was trained on texts of some length has not learned to forget what is
//! longer ago: its state fills up, and what it writes falls apart (Chen et al. 2024, Stuffed Mamba,
//! arXiv 2410.07145, §4). Two ways out need no training:
//!
//! ```text
//! retention   the matrices of the state are multiplied by a number below 1, at every 64th token
//! renewal     at every W-th token the state begins anew, and reads the last W/2 tokens again
//! ```
//!
//! Both happen before a token is read whose position says so, so that logits, saved states and the
//! way back do not depend on how tokens come. A third one, which leaves out tokens, is the file's
//! (`brooklet stretch`). Test: `tests/horizon.rs`.

use std::collections::VecDeque;

use crate::engine::{Engine, Run, Want};
use crate::state::State;
use crate::{EngineError, Result};

/// Tokens between two losses of a state, and what renewals are multiples of.
pub const INTERVAL: usize = 64;

/// How a state is kept from filling up. The default leaves it alone.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Horizon {
    /// The part of the state's matrices that a token leaves of them: above 0, 1 at most.
    pub retention: Option<f32>,
    /// Tokens after which the state is made anew from the last half of them: a multiple of 128.
    pub renewal: Option<usize>,
}

impl Horizon {
    /// The default; options are set one after the other: `Horizon::new().retention(0.9999)`.
    pub fn new() -> Horizon {
        Horizon::default()
    }

    optional_setters! { retention: f32, renewal: usize }

    /// Whether it leaves states alone.
    pub fn is_off(&self) -> bool {
        self.retention.is_none() && self.renewal.is_none()
    }

    fn check(&self) -> Result<()> {
        let wrong =
            |name, expected, found: String| Err(EngineError::Horizon { name, expected, found });
        match *self {
            Horizon { retention: Some(r), .. } if !(r > 0.0 && r <= 1.0) => {
                wrong("retention", "a number above 0, 1 at most", r.to_string())
            }
            Horizon { renewal: Some(w), .. } if w == 0 || !w.is_multiple_of(2 * INTERVAL) => {
                wrong("renewal", "a multiple of 128 tokens", w.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// Keeps the state of one sequence within a horizon.
///
/// ```
/// use brooklet::horizon::{Horizon, Keeper};
/// use brooklet::{Engine, EngineOptions, Model, Run, Want};
///
/// let model = Model::open("../models/rwkv7-nano-int8.brk")?;
/// let mut engine = Engine::new(&model, &EngineOptions::new());
/// let (mut state, mut keeper) = (model.new_state(), Keeper::new(Horizon::new().renewal(128))?);
/// let text: Vec<u32> = (1..200).collect();
/// let mut left = &text[..];
/// while !left.is_empty() {
///     keeper.before(&mut engine, &mut state)?;
///     let (tokens, rest) = left.split_at(keeper.room(&state).min(left.len()));
///     engine.forward(&mut [Run { state: &mut state, tokens, want: Want::Last }])?;
///     keeper.after(tokens);
///     left = rest;
/// }
/// // Made anew before tokens 128 and 192, each time from the 64 before; seven followed.
/// assert_eq!(state.position(), 64 + 7);
/// # Ok::<(), brooklet::EngineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Keeper {
    horizon: Horizon,
    /// The last tokens that were read, half a renewal at most.
    recent: VecDeque<u32>,
}

impl Keeper {
    /// For a sequence that begins.
    ///
    /// # Errors
    /// A number outside its range.
    pub fn new(horizon: Horizon) -> Result<Keeper> {
        horizon.check()?;
        Ok(Keeper { horizon, recent: VecDeque::new() })
    }

    /// The horizon.
    pub fn horizon(&self) -> Horizon {
        self.horizon
    }

    /// How many tokens may be read in one pass from where the state stands.
    pub fn room(&self, state: &State) -> usize {
        INTERVAL - (state.position() % INTERVAL as u64) as usize
    }

    /// Does to the state what is due before the next token is read; true where it was made anew.
    ///
    /// # Errors
    /// The state belongs to another model, or a device failed.
    pub fn before(&mut self, engine: &mut Engine, state: &mut State) -> Result<bool> {
        let Horizon { renewal, .. } = self.horizon;
        if renewal.is_none_or(|tokens| state.position() < tokens as u64) {
            self.fade(state)?;
            return Ok(false);
        }
        state.reset();
        let recent: Vec<u32> = self.recent.iter().copied().collect();
        let (chunk, mut left) = (engine.chunk().min(INTERVAL), &recent[..]);
        while !left.is_empty() {
            self.fade(state)?;
            let (tokens, rest) = left.split_at(chunk.min(self.room(state)).min(left.len()));
            engine.forward(&mut [Run { state, tokens, want: Want::None }])?;
            left = rest;
        }
        self.fade(state)?;
        Ok(true)
    }

    /// Takes note of tokens that were read.
    pub fn after(&mut self, tokens: &[u32]) {
        let Some(renewal) = self.horizon.renewal else { return };
        let all = self.recent.len() + tokens.len();
        let over = all.saturating_sub(renewal / 2);
        self.recent.drain(..over.min(self.recent.len()));
        self.recent.extend(&tokens[tokens.len().saturating_sub(renewal / 2)..]);
    }

    /// Forgets the last `n` tokens that were read, which the state has not read any more.
    pub(crate) fn forget(&mut self, n: usize) {
        self.recent.truncate(self.recent.len().saturating_sub(n));
    }

    /// Another sequence begins.
    pub fn reset(&mut self) {
        self.recent.clear();
    }

    /// Lets the state lose what is due at its position.
    fn fade(&self, state: &mut State) -> Result<()> {
        let position = state.position();
        match self.horizon.retention {
            Some(r) if position > 0 && position.is_multiple_of(INTERVAL as u64) => {
                state.fetch()?;
                state.scale_matrices(r.powi(INTERVAL as i32));
            }
            _ => {}
        }
        Ok(())
    }
}
