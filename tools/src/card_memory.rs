//! What a model takes of a card's memory, for `inspect --device`.
//!
//! Nothing is loaded there: the plan is that of the model's operations, and a card, if there is
//! one, is only asked how much of its memory is free. Test: `tests/cli/devices.rs`.

use brooklet::Model;
use serde::Serialize;

use crate::devices::Choice;
#[cfg(not(feature = "cuda"))]
use crate::failure::Failure;
use crate::failure::Result;

/// The memory of a card.
#[derive(Serialize)]
pub(crate) struct CardMemory {
    /// Copied once, for all engines.
    weights_bytes: usize,
    /// For each sequence.
    state_bytes: usize,
    /// Buffers and operations of an engine, by tokens per forward pass.
    engine: Vec<EngineBytes>,
    /// The card, if there is one.
    device: Option<String>,
    /// Bytes of its memory that are free.
    free_bytes: Option<usize>,
    /// Sequences that fit, in one engine of the most tokens.
    sequences: Option<usize>,
}

/// An engine's part.
#[derive(Serialize)]
struct EngineBytes {
    chunk: usize,
    bytes: usize,
}

impl CardMemory {
    /// The plan of `model` for the card that was asked for; none for the processor.
    ///
    /// # Errors
    /// No card runs it, there is no such card, or this program was built without cards.
    #[cfg(feature = "cuda")]
    pub(crate) fn new(model: &Model, device: Choice) -> Result<Option<CardMemory>> {
        use brooklet::{Engine, EngineError, EngineOptions};

        /// Tokens of a pass: one, and as many as a card reads at once.
        const CHUNKS: [usize; 2] = [1, 512];
        let number = match device {
            Choice::Cpu => return Ok(None),
            Choice::Auto => 0,
            Choice::Cuda(number) => number,
        };
        let plan = |chunk| {
            let options = EngineOptions::new().threads(1).chunk(chunk);
            Engine::card_plan(model, &options)
        };
        let [one, many] = [plan(CHUNKS[0])?, plan(CHUNKS[1])?];
        let mut cards = brooklet::cards()?;
        let is_there = number < cards.len();
        if !is_there && !cards.is_empty() {
            return Err(EngineError::NoCard { number, cards: cards.len() }.into());
        }
        let card = is_there.then(|| cards.swap_remove(number));
        let left = |free: usize| free.saturating_sub(many.total(0));
        Ok(Some(CardMemory {
            weights_bytes: one.weights,
            state_bytes: one.state,
            engine: [one, many]
                .into_iter()
                .zip(CHUNKS)
                .map(|(plan, chunk)| EngineBytes { chunk, bytes: plan.engine })
                .collect(),
            free_bytes: card.as_ref().map(|card| card.free),
            sequences: card.as_ref().map(|card| left(card.free) / one.state.max(1)),
            device: card.map(|card| format!("cuda:{number}, {}", card.name)),
        }))
    }

    /// The same, as this program was built.
    #[cfg(not(feature = "cuda"))]
    pub(crate) fn new(_: &Model, device: Choice) -> Result<Option<CardMemory>> {
        match device {
            Choice::Cpu => Ok(None),
            _ => Err(Failure::new("this brooklet knows no cards: it was built without them")),
        }
    }

    /// Names, bytes and remarks, for people.
    pub(crate) fn rows(&self) -> Vec<(String, u64, String)> {
        let row = |name: &str, bytes: usize, note: String| (name.to_owned(), bytes as u64, note);
        let mut rows = vec![
            row("weights", self.weights_bytes, "copied once".to_owned()),
            row("state", self.state_bytes, "for each sequence".to_owned()),
        ];
        for EngineBytes { chunk, bytes } in &self.engine {
            let note = "for each engine: buffers, operations".to_owned();
            rows.push(row(&format!("engine, chunk {chunk}"), *bytes, note));
        }
        if let (Some(device), Some(free), Some(n)) = (&self.device, self.free_bytes, self.sequences)
        {
            let fits = match n {
                0 => "too little".to_owned(),
                n => format!("{} sequences fit", crate::units::count(n as u64)),
            };
            rows.push(row("free", free, format!("on {device}: {fits}")));
        }
        rows
    }
}
