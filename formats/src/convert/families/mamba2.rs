//! Mamba-2 checkpoints: Hugging Face (`Mamba2ForCausalLM`), state-spaces, GGUF.
//!
//! Heads and widths come from shapes; `d_state` does not (a convolution over n_group · d_state
//! channels does not tell them apart) and is asked of the configuration. Rows of in_proj: z, then
//! what the convolution takes (x, B, C), then dt: one number per head, which enters an exponential,
//! so that its rows are treated as an adapter's. What a biased in_proj adds to dt is folded into
//! dt_bias. Layout: SPEC.md, "Mamba-2". Test: `tests/parity_mamba.rs`.

use super::mamba::{ACTIVATION, N_LAYER, NORM_EPS, TRUNK, layouts};
use super::pairs;
use crate::convert::table::Kind::{Flag, Inner, Limits, Size};
use crate::convert::table::Shape::{Adapter, Blocked, Channels, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const MAMBA2: Architecture = Architecture {
    name: "mamba2",
    title: "Mamba-2",
    model_types: &[],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &[
        "d_inner % n_head = 0",
        "n_head % n_group = 0",
        "n_conv = d_inner + 2*n_group*d_state",
    ],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT],
    ignored: &[],
};

const LAYOUTS: &[Layout] = &layouts([
    &["backbone.layers.0.mixer.A_log & backbone.layers.0.mixer.dt_bias"],
    &["blk.0.ssm_a & blk.0.ssm_dt.bias"],
    &["layers.0.mixer.A_log & layers.0.mixer.dt_bias"],
]);

/// 128 is the default `d_state` of mamba_ssm's Mamba2. Its `norm_before_gate` alone says something:
/// transformers never reads a key of that name, which Codestral's config.json has, and wrongly.
#[rustfmt::skip]
const HYPER: &[Param] = &[
    ACTIVATION,
    N_LAYER,
    NORM_EPS,
    Param("n_vocab",          "rows of the embedding",                   Size,   &[]),
    Param("d_model",          "the width",                               Size,   &[]),
    Param("n_head",           "the number of heads",                     Size,
        &["first(mixer.A_log)",          "first(ssm_a)"]),
    Param("d_inner",          "the width inside",                        Size,
        &["last(mixer.out_proj.weight)", "last(ssm_out.weight)"]),
    Param("d_head",           "the head size",                           Size,
        &["d_inner // n_head"]),
    Param("n_conv",           "channels of the convolution",             Inner,
        &["first(mixer.conv1d.weight)",  "first(ssm_conv1d.weight)"]),
    Param("d_conv",           "the convolution's width",                 Size,
        &["last(mixer.conv1d.weight)",   "last(ssm_conv1d.weight)"]),
    Param("d_state",          "the state's size",                        Size, &[
        "config.state_size | config.d_state | config.ssm_cfg.d_state | gguf.ssm.state_size \
         | 128 if config.ssm_cfg",
    ]),
    Param("n_group",          "the number of groups",                    Size, &[
        "config.n_groups | config.ngroups | config.ssm_cfg.ngroups | gguf.ssm.group_count \
         | (n_conv - d_inner) // (2*d_state)",
    ]),
    Param("norm_before_gate", "whether the norm stands before the gate", Flag,
        &["config.ssm_cfg.norm_before_gate | false"]),
    Param("dt",               "the limits of dt",                        Limits,
        &["config.time_step_limit | config.dt_limit | config.ssm_cfg.dt_limit?"]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("norm.weight",       Vector("d_model"),
        &["norm.weight",                                        "attn_norm.weight"]),
    Row("in_proj.z",         Matrix("d_inner", "d_model"), &[
        "mixer.in_proj.weight[0 of d_inner, n_conv, n_head]",
        "ssm_in.weight[0 of d_inner, n_conv, n_head]",
    ]),
    Row("in_proj.z.bias",    Channels("d_inner"),
        &["mixer.in_proj.bias[0 of d_inner, n_conv, n_head]?",  ""]),
    Row("in_proj.xbc",       Matrix("n_conv", "d_model"), &[
        "mixer.in_proj.weight[1 of d_inner, n_conv, n_head]",
        "ssm_in.weight[1 of d_inner, n_conv, n_head]",
    ]),
    Row("in_proj.xbc.bias",  Channels("n_conv"),
        &["mixer.in_proj.bias[1 of d_inner, n_conv, n_head]?",  ""]),
    Row("in_proj.dt",        Adapter("n_head", "d_model"), &[
        "mixer.in_proj.weight[2 of d_inner, n_conv, n_head]",
        "ssm_in.weight[2 of d_inner, n_conv, n_head]",
    ]),
    Row("dt_bias",           Vector("n_head"),
        &[DT_BIAS,                                              "ssm_dt.bias"]),
    Row("conv.weight",       Blocked("n_conv", "d_conv"),
        &["mixer.conv1d.weight",                                "ssm_conv1d.weight"]),
    Row("conv.bias",         Channels("n_conv"),
        &["mixer.conv1d.bias | 0",                              "ssm_conv1d.bias | 0"]),
    Row("A",                 Vector("n_head"),
        &["-exp(mixer.A_log)",                                  "ssm_a"]),
    Row("D",                 Vector("n_head"),
        &["mixer.D",                                            "ssm_d"]),
    Row("gated_norm.weight", Vector("d_inner"),
        &["mixer.norm.weight?",                                 "ssm_norm.weight?"]),
    Row("out_proj",          Matrix("d_model", "d_inner"),
        &["mixer.out_proj.weight",                              "ssm_out.weight"]),
    Row("out_proj.bias",     Vector("d_model"),
        &["mixer.out_proj.bias?",                               ""]),
];
const DT_BIAS: &str =
    "mixer.dt_bias + mixer.in_proj.bias[2 of d_inner, n_conv, n_head] | mixer.dt_bias";
