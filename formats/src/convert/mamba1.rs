//! Mamba-1 checkpoints: Hugging Face (`MambaForCausalLM`, `FalconMambaForCausalLM`), state-spaces,
//! GGUF, or bare weights.
//!
//! Sizes come from shapes; the configuration, where there is one, is asked for epsilons and
//! checked. Layout: SPEC.md, "Mamba-1". Test: `tests/parity_mamba.rs`.

use super::mamba::Source;
use super::plan::{Plan, Role};
use crate::FormatError;
use crate::checkpoint::Checkpoint;

/// Falcon-Mamba's default for the norms of dt, B and C (transformers
/// `FalconMambaConfig.mixer_rms_eps`).
const MIXER_RMS_EPS: f64 = 1e-6;

/// The names of Mamba, with Mamba-1's projection of x.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    Source::new(checkpoint).is_some_and(|source| source.has(0, "x_proj"))
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let source =
        Source::new(checkpoint).ok_or_else(|| super::plan::unknown_architecture(checkpoint))?;
    let mut plan = source.plan("mamba1")?;
    let d_model = source.part(0, "norm.weight")?.numel();
    let (d_inner, d_state) = source.shape(0, "A")?;
    let d_conv = source.shape(0, "conv.weight")?.1;
    let dt_rank = source.shape(0, "dt_proj")?.1;
    for (name, size) in
        [("d_inner", d_inner), ("d_state", d_state), ("d_conv", d_conv), ("dt_rank", dt_rank)]
    {
        plan.set(name, size);
    }
    if let Some(eps) = bcdt_rms_eps(&source)? {
        plan.set("bcdt_rms_eps", eps);
    }
    for i in 0..source.n_layer()? {
        let to = |name: &str| format!("layers.{i}.{name}");
        source.vector(&mut plan, i, "norm.weight", d_model)?;
        let in_proj = source.matrix(i, "in_proj", 2 * d_inner, d_model)?;
        for (half, name) in ["in_proj.x", "in_proj.z"].into_iter().enumerate() {
            plan.matrix_rows(&to(name), Role::Big, in_proj, half * d_inner..(half + 1) * d_inner)?;
            if source.has(i, "in_proj.bias") {
                let (to, own) = (format!("{name}.bias"), half * d_inner..(half + 1) * d_inner);
                source.padded(&mut plan, i, &to, "in_proj.bias", own, 2 * d_inner)?;
            }
        }
        source.conv(&mut plan, i, d_inner, d_conv)?;
        let x_proj = source.matrix(i, "x_proj", dt_rank + 2 * d_state, d_inner)?;
        plan.matrix(&to("x_proj"), Role::Adapter, x_proj)?;
        let dt_proj = source.matrix(i, "dt_proj", d_inner, dt_rank)?;
        plan.matrix(&to("dt_proj"), Role::Adapter, dt_proj)?;
        source.padded(&mut plan, i, "dt_proj.bias", "dt_proj.bias", 0..d_inner, d_inner)?;
        source.blocked(&mut plan, i, "A", (d_inner, d_state), source.a())?;
        source.padded(&mut plan, i, "D", "D", 0..d_inner, d_inner)?;
        let out_proj = source.matrix(i, "out_proj", d_model, d_inner)?;
        plan.matrix(&to("out_proj"), Role::Big, out_proj)?;
        if source.has(i, "out_proj.bias") {
            source.vector(&mut plan, i, "out_proj.bias", d_model)?;
        }
    }
    source.finish(plan)
}

/// Falcon-Mamba's epsilon; `None` for a Mamba without norms of dt, B and C.
fn bcdt_rms_eps(source: &Source<'_>) -> Result<Option<f64>, FormatError> {
    let named = source.number("mixer_rms_eps", &["mixer_rms_eps"], "")?;
    let falcon = source.config(&["model_type"]).and_then(|v| v.as_str()) == Some("falcon_mamba");
    let in_gguf = source.meta("ssm.dt_b_c_rms").and_then(|v| v.as_bool()) == Some(true);
    match (named, falcon, in_gguf) {
        (Some(eps), ..) => Ok(Some(eps)),
        (None, true, _) => Ok(Some(MIXER_RMS_EPS)),
        // llama.cpp norms them with the block norms' epsilon.
        (None, false, true) => source.norm_eps().map(Some),
        (None, false, false) => Ok(None),
    }
}
