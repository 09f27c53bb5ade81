//! Qwen3.5 checkpoints with experts: Hugging Face's, of one tensor for each expert or for all, of
//! the text model alone and of the one that sees, too; GGUF.
//!
//! All but the networks is as in Qwen3.5 (`qwen3_5.rs`). The gate of the shared expert is the
//! router's last row here. Layout: SPEC.md, "Experts". Test: `tests/parity_experts.rs`.

use super::pairs;
use super::qwen3_5::{
    ATTENTION, CHECKS, DELTA, DELTA_IN, HYPER, IGNORED, LAYOUTS, NORMS, TILED, TRUNK,
};
use crate::convert::table::Kind::{Flag, Size};
use crate::convert::table::Shape::{Blocked, Experts, Matrix};
use crate::convert::table::{Architecture, Layers, Param, Row, joined};

pub(super) const QWEN3_5_MOE: Architecture = Architecture {
    name: "qwen3_5_moe",
    title: "Qwen3.5-MoE",
    model_types: &["qwen3_5_moe", "qwen3_5_moe_text", "qwen35moe"],
    layouts: LAYOUTS,
    hyper: &joined::<{ HYPER.len() + OWN.len() }>(HYPER, OWN),
    checks: CHECKS,
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORMS),
        (Layers::All, ROUTER),
        (Layers::All, EXPERTS),
        (Layers::Word("layer_types", "delta"), DELTA_IN),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: IGNORED,
};

const OWN: &[Param] = &joined::<{ ROUTING.len() + SIZES.len() }>(ROUTING, SIZES);

#[rustfmt::skip]
const ROUTING: &[Param] = &[
    TILED[0],
    SHARED_GATE,
    Param("has_router_norm", "whether scores are normed", Flag, &["true", "true"]),
];

#[rustfmt::skip]
pub(super) const SHARED_GATE: Param =
    Param("has_shared_gate", "whether the shared expert is gated", Flag, &["true", "true"]);

#[rustfmt::skip]
pub(super) const SIZES: &[Param] = &[
    Param("n_expert",        "the number of experts",                Size,
        &["config.num_experts", "gguf.expert_count"]),
    Param("n_expert_used",   "experts of a token",                   Size,
        &["config.num_experts_per_tok", "gguf.expert_used_count"]),
    Param("d_expert",        "an expert's width",                    Size,
        &["config.moe_intermediate_size", "gguf.expert_feed_forward_length"]),
    Param("d_shared",        "the shared expert's width",            Size, &[
        "config.shared_expert_intermediate_size",
        "gguf.expert_shared_feed_forward_length | first(ffn_up_shexp.weight)",
    ]),
];

/// Of one tensor for each expert, or of the halves of one for all.
const GATE: &str = "mlp.experts.*.gate_proj.weight \
    | mlp.experts.gate_up_proj[flat][0 of d_expert, d_expert each n_expert]";
const UP: &str = "mlp.experts.*.up_proj.weight \
    | mlp.experts.gate_up_proj[flat][1 of d_expert, d_expert each n_expert]";

/// The gate of the shared expert is its last row.
#[rustfmt::skip]
pub(super) const ROUTER: &[Row] = &[
    Row("router.weight", Blocked("n_expert + 1", "d_model"), &[
        "mlp.gate.weight; mlp.shared_expert_gate.weight",
        "ffn_gate_inp.weight; ffn_gate_inp_shexp.weight",
    ]),
];

#[rustfmt::skip]
pub(super) const EXPERTS: &[Row] = &[
    Row("experts.gate",  Experts("n_expert", "d_expert", "d_model"),
        &[GATE, "ffn_gate_exps.weight[flat]"]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_model"),
        &[UP, "ffn_up_exps.weight[flat]"]),
    Row("experts.down",  Experts("n_expert", "d_model", "d_expert"), &[
        "mlp.experts.*.down_proj.weight | mlp.experts.down_proj[flat]",
        "ffn_down_exps.weight[flat]",
    ]),
    Row("shared.gate",   Matrix("d_shared", "d_model"),
        &["mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight"]),
    Row("shared.up",     Matrix("d_shared", "d_model"),
        &["mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight"]),
    Row("shared.down",   Matrix("d_model", "d_shared"),
        &["mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight"]),
];
