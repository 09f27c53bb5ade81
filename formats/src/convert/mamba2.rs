//! Mamba-2 checkpoints: Hugging Face (`Mamba2ForCausalLM`), state-spaces, GGUF.
//!
//! Heads and widths come from shapes; `d_state` does not (a convolution over n_group · d_state
//! channels does not tell them apart) and is asked of the configuration. Layout: SPEC.md,
//! "Mamba-2". Test: `tests/parity_mamba.rs`.

use std::ops::Range;

use super::mamba::{Source, pair};
use super::plan::{Plan, Role, shape_error};
use crate::FormatError;
use crate::checkpoint::Checkpoint;

/// `d_state` of mamba_ssm's Mamba2, for an `ssm_cfg` that does not name it.
const D_STATE: usize = 128;

/// The names of Mamba, with Mamba-2's bias of dt and no projection of x.
pub(super) fn recognises(checkpoint: &Checkpoint) -> bool {
    Source::new(checkpoint)
        .is_some_and(|source| source.has(0, "dt_bias") && !source.has(0, "x_proj"))
}

/// What to write.
pub(super) fn plan(checkpoint: &Checkpoint) -> Result<Plan<'_>, FormatError> {
    let source =
        Source::new(checkpoint).ok_or_else(|| super::plan::unknown_architecture(checkpoint))?;
    let mut plan = source.plan("mamba2")?;
    let d_model = source.part(0, "norm.weight")?.numel();
    let n_head = source.shape(0, "A")?.0;
    let d_inner = source.shape(0, "out_proj")?.1;
    if d_inner % n_head != 0 {
        let out_proj = source.part(0, "out_proj")?;
        return Err(shape_error(
            checkpoint,
            out_proj,
            format!("[{d_model}, a multiple of {n_head} heads]"),
        ));
    }
    let (n_conv, d_conv) = source.shape(0, "conv.weight")?;
    let d_state = d_state(&source)?;
    let said = source.size("the number of groups", &["n_groups", "ngroups"], "ssm.group_count")?;
    let n_group = said.unwrap_or(n_conv.saturating_sub(d_inner) / (2 * d_state));
    if n_group == 0 || n_head % n_group != 0 || n_conv != d_inner + 2 * n_group * d_state {
        let conv = source.part(0, "conv.weight")?;
        let expected = format!(
            "[{d_inner} + 2 · groups · {d_state}, …], with {n_group} groups of {n_head} heads"
        );
        return Err(shape_error(checkpoint, conv, expected));
    }
    let sizes =
        [("d_inner", d_inner), ("d_state", d_state), ("d_conv", d_conv), ("n_head", n_head)];
    for (name, size) in
        sizes.into_iter().chain([("d_head", d_inner / n_head), ("n_group", n_group)])
    {
        plan.set(name, size);
    }
    plan.set("norm_before_gate", source.flag("norm_before_gate", false)?);
    for (name, limit) in dt_limits(&source)? {
        plan.set(name, limit);
    }
    let rows = d_inner + n_conv + n_head;
    for i in 0..source.n_layer()? {
        let to = |name: &str| format!("layers.{i}.{name}");
        source.vector(&mut plan, i, "norm.weight", d_model)?;
        // Rows of in_proj: z, then what the convolution takes (x, B, C), then dt.
        let in_proj = source.matrix(i, "in_proj", rows, d_model)?;
        let dt = d_inner + n_conv..rows;
        for (name, own) in [("in_proj.z", 0..d_inner), ("in_proj.xbc", d_inner..d_inner + n_conv)] {
            plan.matrix_rows(&to(name), Role::Big, in_proj, own.clone())?;
            if source.has(i, "in_proj.bias") {
                source.padded(&mut plan, i, &format!("{name}.bias"), "in_proj.bias", own, rows)?;
            }
        }
        // One number per head that enters an exponential: as dear as an adapter, and as small.
        plan.matrix_rows(&to("in_proj.dt"), Role::Adapter, in_proj, dt.clone())?;
        dt_bias(&source, &mut plan, i, dt)?;
        source.conv(&mut plan, i, n_conv, d_conv)?;
        let a = &source.part(i, "A")?.name;
        plan.mapped(&to("A"), a, &[n_head], source.a())?;
        source.vector(&mut plan, i, "D", n_head)?;
        if source.has(i, "gated_norm.weight") {
            source.vector(&mut plan, i, "gated_norm.weight", d_inner)?;
        }
        let out_proj = source.matrix(i, "out_proj", d_model, d_inner)?;
        plan.matrix(&to("out_proj"), Role::Big, out_proj)?;
        if source.has(i, "out_proj.bias") {
            source.vector(&mut plan, i, "out_proj.bias", d_model)?;
        }
    }
    source.finish(plan)
}

/// `dt_bias`, and onto it what a biased in_proj adds to dt.
fn dt_bias<'a>(
    source: &Source<'a>,
    plan: &mut Plan<'a>,
    i: usize,
    own: Range<usize>,
) -> Result<(), FormatError> {
    if !source.has(i, "in_proj.bias") {
        return source.vector(plan, i, "dt_bias", own.len());
    }
    let (checkpoint, bias, in_proj) =
        (source.checkpoint, source.part(i, "dt_bias")?, source.part(i, "in_proj.bias")?);
    if bias.numel() != own.len() {
        return Err(shape_error(checkpoint, bias, format!("[{}]", own.len())));
    }
    plan.computed(&format!("layers.{i}.dt_bias"), &[own.len()], move || {
        let (bias, in_proj) = (checkpoint.read(&bias.name)?, checkpoint.read(&in_proj.name)?);
        Ok(bias.iter().zip(&in_proj[own.clone()]).map(|(b, i)| b + i).collect())
    });
    Ok(())
}

/// Keys per head.
fn d_state(source: &Source<'_>) -> Result<usize, FormatError> {
    match source.size("the state's size", &["state_size", "d_state"], "ssm.state_size")? {
        Some(n) => Ok(n),
        None if source.config(&["ssm_cfg"]).is_some() => Ok(D_STATE),
        None => Err(source.field(
            "the state's size",
            "named by the config.json beside the weights (shapes do not tell it)",
            "nothing".to_owned(),
        )),
    }
}

/// The limits of dt that are limits at all, by our names.
fn dt_limits(source: &Source<'_>) -> Result<Vec<(&'static str, f64)>, FormatError> {
    let Some(limits) = source.config(&["time_step_limit", "dt_limit"]) else {
        return Ok(Vec::new());
    };
    let (low, high) = pair(limits).filter(|(low, high)| low <= high).ok_or_else(|| {
        source.field("time_step_limit", "two ascending numbers", limits.to_string())
    })?;
    let is_limit =
        |(_, limit): &(&'static str, f64)| *limit != 0.0 && limit.abs() < f64::from(f32::MAX);
    Ok([("dt_min", low), ("dt_max", high)].into_iter().filter(is_limit).collect())
}
