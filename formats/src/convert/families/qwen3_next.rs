//! Qwen3-Next checkpoints: Hugging Face, GGUF.
//!
//! As Qwen3.5 with experts, but for the delta rule's inputs, whose rows stand interleaved, key head
//! by key head; in GGUF those of b and a alone, and heads are not turned. Layers without a router
//! have a dense network. Layout: SPEC.md, "Experts". Test: `tests/parity_experts.rs`.

use super::hybrid::NETWORKS;
use super::pairs;
use super::qwen3_5::{ATTENTION, CHECKS, DELTA, HYPER, IGNORED, MLP, NORMS, TEXT, TRUNK};
use super::qwen3_5_moe::{EXPERTS, ROUTER, SHARED_GATE, SIZES};
use crate::convert::table::Kind::Flag;
use crate::convert::table::Shape::{Adapter, Matrix};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, joined};

pub(super) const QWEN3_NEXT: Architecture = Architecture {
    name: "qwen3_next",
    title: "Qwen3-Next",
    model_types: &["qwen3_next", "qwen3next"],
    layouts: &[
        Layout::new(&["layers.0.linear_attn.in_proj_qkvz.weight"], "layers.", 0).spelled(&TEXT),
        Layout::new(&["blk.0.attn_qkv.weight"], "blk.", 1),
    ],
    hyper: &joined::<{ HYPER.len() + OWN.len() }>(HYPER, OWN),
    checks: CHECKS,
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::Word("network_types", "mlp"), MLP),
        (Layers::Word("network_types", "experts"), ROUTER),
        (Layers::Word("network_types", "experts"), EXPERTS),
        (Layers::Word("layer_types", "delta"), DELTA_IN),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: IGNORED,
};

const OWN: &[Param] = &joined::<{ SIZES.len() + NETWORK.len() }>(SIZES, NETWORK);

#[rustfmt::skip]
const NETWORK: &[Param] = &[
    Param("network_types",   "the kinds of the networks", NETWORKS, &[
        "where(mlp.gate.weight, experts, mlp)",
        "where(ffn_gate_inp.weight, experts, mlp)",
    ]),
    Param("has_router_norm", "whether scores are normed", Flag,
        &["config.norm_topk_prob | true", "true"]),
    SHARED_GATE,
];

/// Of each key head: q, k, and v and z of its value heads.
const QKV: &str = "linear_attn.in_proj_qkvz.weight\
[0 of d_key, d_key, n_head // n_key_head*d_head, n_head // n_key_head*d_head each n_key_head]; \
linear_attn.in_proj_qkvz.weight\
[1 of d_key, d_key, n_head // n_key_head*d_head, n_head // n_key_head*d_head each n_key_head]; \
linear_attn.in_proj_qkvz.weight\
[2 of d_key, d_key, n_head // n_key_head*d_head, n_head // n_key_head*d_head each n_key_head]";
const Z: &str = "linear_attn.in_proj_qkvz.weight\
[3 of d_key, d_key, n_head // n_key_head*d_head, n_head // n_key_head*d_head each n_key_head]";
const BETA: &str = "linear_attn.in_proj_ba.weight\
[0 of n_head // n_key_head, n_head // n_key_head each n_key_head]";
const STEP: &str = "linear_attn.in_proj_ba.weight\
[1 of n_head // n_key_head, n_head // n_key_head each n_key_head]";
const GGUF_BETA: &str =
    "ssm_ba.weight[0 of n_head // n_key_head, n_head // n_key_head each n_key_head]";
const GGUF_STEP: &str =
    "ssm_ba.weight[1 of n_head // n_key_head, n_head // n_key_head each n_key_head]";

#[rustfmt::skip]
const DELTA_IN: &[Row] = &[
    Row("in_proj.qkv",  Matrix("d_qkv", "d_model"),        &[QKV, "attn_qkv.weight"]),
    Row("in_proj.z",    Matrix("n_head*d_head", "d_model"), &[Z, "attn_gate.weight"]),
    Row("in_proj.beta", Adapter("n_head", "d_model"),      &[BETA, GGUF_BETA]),
    Row("in_proj.dt",   Adapter("n_head", "d_model"),      &[STEP, GGUF_STEP]),
];
