//! Texts that a session writes for itself: what others have to be equal to.

use std::ops::ControlFlow;

use brooklet::generate::{Limits, generate};
use brooklet::sampler::Sampler;
use brooklet::tokenizer::Tokenizer;
use brooklet::{EngineError, EngineOptions, Model, Session, State, Text};

/// The next `n` tokens behind a prompt, by a session alone.
///
/// # Panics
/// The model cannot write them.
pub fn written_alone(
    model: &Model,
    start: Option<&State>,
    prompt: &[u32],
    mut sampler: Sampler,
    n: usize,
) -> Vec<u32> {
    let mut session = Session::new(model, &EngineOptions::new().threads(1));
    if let Some(start) = start {
        session.set_state(start.clone()).expect("a state of the model");
    }
    session.prefill(prompt).expect("a prompt");
    let (mut ids, text) = (Vec::new(), Text::new(Tokenizer::none()));
    generate::<EngineError>(&mut session, &mut sampler, &text, &Limits::new(n), |piece| {
        ids.extend(piece.token);
        Ok(ControlFlow::Continue(()))
    })
    .expect("a text");
    ids
}
