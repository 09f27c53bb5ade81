//! Whether a device computes what the processor does: the same tokens on both, and every bit of
//! their logits compared, before anybody relies on it.
//!
//! A card's driver compiles kernels anew for each kind of card, and nobody has tried them all. A
//! card that computes something else is refused, which is worth some tokens' time.

use super::{Engine, EngineOptions, Run, Want};
use crate::kernels::kept::PAGE;
use crate::model::Model;
use crate::{EngineError, Result};

/// Tokens of a pass of several: on a card three times eight share a product, the last ones with
/// places left. Passes of one token are a program of their own there.
const TOGETHER: usize = 22;
const ALONE: usize = 2;

/// Compares the device that `model` runs on with this processor.
pub(super) fn verify(model: &Model) -> Result<()> {
    let options = EngineOptions::new().chunk(TOGETHER).logits(TOGETHER);
    let mut here = Engine::on_processor(model, &options);
    let mut there = Engine::new(model, &options);
    // Keys lie in pages: behind the border of one they are read otherwise.
    let has_keys = !model.state_layout().paged().is_empty();
    let passes = if has_keys { PAGE / TOGETHER + 1 } else { 1 };
    match difference(&mut here, &mut there, passes)? {
        None => Ok(()),
        Some(Difference { token, expected, found }) => Err(EngineError::DeviceDiffers {
            file: model.file().path().to_owned(),
            device: model.device(),
            token,
            expected,
            found,
        }),
    }
}

/// The first logit in which two engines differ.
#[derive(Debug, PartialEq)]
struct Difference {
    /// How many tokens were read before it.
    token: usize,
    expected: f32,
    found: f32,
}

/// Lets both read the same tokens: `passes` of several, then some alone.
fn difference(here: &mut Engine, there: &mut Engine, passes: usize) -> Result<Option<Difference>> {
    let n_vocab = here.model().n_vocab();
    // Far from each other: a prime that is no divisor of a vocabulary's size.
    let ids: Vec<u32> = (1..=passes * TOGETHER + ALONE)
        .map(|i| u32::try_from(i * 7919 % n_vocab).unwrap_or(0))
        .collect();
    let mut states = [here.model().new_state(), there.model().new_state()];
    let (together, alone) = ids.split_at(passes * TOGETHER);
    let mut read = 0;
    for tokens in together.chunks(TOGETHER).chain(alone.chunks(1)) {
        for (engine, state) in [&mut *here, &mut *there].into_iter().zip(&mut states) {
            engine.forward(&mut [Run { state, tokens, want: Want::All }])?;
        }
        for i in 0..tokens.len() {
            read += 1;
            let mut pairs = here.logits(i).iter().zip(there.logits(i));
            let differs = pairs.find(|(a, b)| a.to_bits() != b.to_bits());
            if let Some((&expected, &found)) = differs {
                return Ok(Some(Difference { token: read, expected, found }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(name: &str) -> Engine {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let model = Model::open(root.join("../models").join(name)).expect("the demo model");
        Engine::on_processor(
            &model,
            &EngineOptions::new().threads(1).chunk(TOGETHER).logits(TOGETHER),
        )
    }

    #[test]
    fn equal_engines_agree() {
        let name = "rwkv7-nano-int8.brk";
        let found = difference(&mut engine(name), &mut engine(name), 3).expect("passes");
        assert_eq!(found, None);
    }

    /// A state that is not the beginning stands for a device that forgets something.
    #[test]
    fn the_first_difference_is_found() {
        let model = engine("rwkv7-nano-int8.brk").model().clone();
        let changed = crate::ModelOptions::new().state(brooklet_formats::DType::F16);
        let other = Model::open_with(model.file().path(), &changed).expect("the demo model");
        let options = EngineOptions::new().threads(1).chunk(TOGETHER).logits(TOGETHER);
        let mut here = Engine::on_processor(&model, &options);
        let mut there = Engine::on_processor(&other, &options);
        let found = difference(&mut here, &mut there, 3).expect("passes");
        // A state in 16 bits is rounded behind the first token, and read by the second.
        let found = found.expect("a difference");
        assert!(found.token == 2 && found.expected != found.found, "{found:?}");
    }
}
