//! RWKV states that were trained (state tuning): a checkpoint with `blocks.N.att.time_state` for
//! each layer.
//!
//! Such a state is where a sequence begins, in place of zeros. `time_state` is (head, value, key),
//! as the training kernels of RWKV-5 to 7 hold their state (a thread per value channel); ours is
//! (head, key, value), so each head is transposed. Source: RWKV-LM and RWKV-PEFT, whose `rwkv`
//! package transposes the last two dimensions for versions 5 and 6, whose own state is ours, and
//! takes them as they are for version 7, whose own state is transposed against ours. Test:
//! `tests/tuned_state.rs`.

use brooklet_formats::FormatError;
use brooklet_formats::checkpoint::Checkpoint;

use crate::model::Model;
use crate::state::State;
use crate::{EngineError, Result};

impl State {
    /// The state that a state-tuning checkpoint trained for `model`; other tensors in it are
    /// ignored.
    ///
    /// # Errors
    /// The model is not an RWKV-5, 6 or 7; the checkpoint has no tuned state, lacks one for a
    /// layer, has one for a layer that the model lacks, or one of another shape.
    pub fn from_tuned(model: &Model, checkpoint: &Checkpoint) -> Result<State> {
        let architecture = model.state_layout().architecture();
        if !["rwkv5", "rwkv6", "rwkv7"].contains(&architecture) {
            return Err(EngineError::TunedArchitecture { found: architecture });
        }
        let name = |layer: usize| format!("blocks.{layer}.att.time_state");
        let tensors = checkpoint.tensors().iter();
        let tuned: Vec<_> =
            tensors.filter(|tensor| tensor.name.ends_with(".att.time_state")).collect();
        if tuned.is_empty() {
            let found = checkpoint.tensors().first().map_or("nothing", |tensor| &tensor.name);
            return Err(EngineError::NotTuned {
                file: checkpoint.path().to_owned(),
                found: found.to_owned(),
            });
        }
        let known: Vec<String> = (0..model.n_layer()).map(name).collect();
        if let Some(extra) = tuned.iter().find(|tensor| !known.contains(&tensor.name)) {
            return Err(EngineError::File(FormatError::Tensor {
                path: checkpoint.path().to_owned(),
                tensor: extra.name.clone(),
                what: "the layer",
                expected: format!("one of the model's {}", model.n_layer()),
                found: "another name".to_owned(),
            }));
        }
        let mut state = model.new_state();
        let slots = model.state_layout().slots().iter().enumerate();
        for (i, slot) in slots.filter(|(_, slot)| slot.name == "att.wkv") {
            let tensor = &known[slot.layer];
            let found = checkpoint.get(tensor).map(|tensor| &tensor.shape);
            if let Some(found) = found.filter(|found| **found != slot.shape) {
                return Err(EngineError::File(FormatError::Tensor {
                    path: checkpoint.path().to_owned(),
                    tensor: tensor.clone(),
                    what: "the shape",
                    expected: format!("{:?}", slot.shape),
                    found: format!("{found:?}"),
                }));
            }
            let theirs = checkpoint.read(tensor)?;
            let n = slot.shape[2];
            let mut ours = vec![0.0; theirs.len()];
            for (ours, theirs) in ours.chunks_exact_mut(n * n).zip(theirs.chunks_exact(n * n)) {
                for key in 0..n {
                    for value in 0..n {
                        ours[key * n + value] = theirs[value * n + key];
                    }
                }
            }
            state.set(i, &ours);
        }
        Ok(state)
    }
}
