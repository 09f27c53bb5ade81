//! RWKV-7 checkpoints: BlinkDL's names.

use super::plan::{Plan, Role, find};
use crate::FormatError;
use crate::checkpoint::Checkpoint;

/// Epsilon of the norm over heads: 64e-5 whatever the head size (the official package).
const LN_X_EPS: f64 = 64e-5;
const LN_EPS: f64 = 1e-5;

/// BlinkDL's names.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    checkpoint.get("blocks.0.att.r_k").is_some()
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let mut plan = Plan::new("rwkv7", checkpoint);
    let (n_vocab, d_model) = find(checkpoint, "emb.weight")?.matrix_shape();
    let d_head = find(checkpoint, "blocks.0.att.r_k")?.matrix_shape().1;
    let d_ff = find(checkpoint, "blocks.0.ffn.key.weight")?.matrix_shape().0;
    let n_layer = (0..).take_while(|i| checkpoint.get(&format!("blocks.{i}.ln1.weight")).is_some()).count();
    for (name, size) in
        [("n_layer", n_layer), ("d_model", d_model), ("d_head", d_head), ("d_ff", d_ff), ("n_vocab", n_vocab)]
    {
        plan.set(name, size);
    }
    plan.set("ln_eps", LN_EPS);
    plan.set("ln_x_eps", LN_X_EPS);
    for letter in ["w", "a", "g"] {
        let rank = find(checkpoint, &format!("blocks.0.att.{letter}1"))?.matrix_shape().1;
        plan.set(&format!("rank_{letter}"), rank);
    }
    if n_layer > 1 {
        plan.set("rank_v", find(checkpoint, "blocks.1.att.v1")?.matrix_shape().1);
    }
    plan.normed_embedding("embed", "emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias", LN_EPS)?;
    for i in 0..n_layer {
        let (to, from) = (format!("layers.{i}"), format!("blocks.{i}"));
        let mut vectors = vec!["ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "ffn.x_k"];
        vectors
            .extend(["att.x_r", "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g", "att.w0", "att.a0"]);
        vectors.extend(["att.k_k", "att.k_a", "att.r_k", "att.ln_x.weight", "att.ln_x.bias"]);
        vectors.extend((i > 0).then_some("att.v0"));
        for name in vectors {
            plan.vector(&format!("{to}.{name}"), &format!("{from}.{name}"), d_model)?;
        }
        for name in ["att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"] {
            plan.matrix(&format!("{to}.{name}"), Role::Big, &format!("{from}.{name}.weight"))?;
        }
        for letter in if i > 0 { &["w", "a", "g", "v"][..] } else { &["w", "a", "g"] } {
            for half in ["1", "2"] {
                let name = format!("att.{letter}{half}");
                plan.transposed(&format!("{to}.{name}"), Role::Adapter, &format!("{from}.{name}"))?;
            }
        }
    }
    plan.vector("ln_out.weight", "ln_out.weight", d_model)?;
    plan.vector("ln_out.bias", "ln_out.bias", d_model)?;
    plan.matrix("head", Role::Big, "head.weight")?;
    Ok(plan)
}
