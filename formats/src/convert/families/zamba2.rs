//! Zamba2 checkpoints of Hugging Face.
//!
//! As Zamba, with Mamba-2; layers that share a transformer add low-rank adapters of their own to
//! it, which stand among its tensors in checkpoints. Layout: SPEC.md, "Zamba". Test:
//! `tests/parity_hybrid.rs`.

use super::hybrid::{
    D_MODEL, DT, MIXER, MIXER_OUT, N_ATTN_HEAD, N_CONTEXT, N_CONV, N_KV_HEAD, N_LAYER, N_VOCAB,
    ROPE_BASE,
};
use super::pairs;
use super::zamba::{
    ACTIVATION, ATTENTION, GELU, LAYER_TYPES, LINEAR, NESTED, SCALE, SHARED_HEAD, TRUNK,
};
use crate::convert::table::Kind::{Flag, Number, OneOf, Size};
use crate::convert::table::Shape::{Adapter, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling};

pub(super) const ZAMBA2: Architecture = Architecture {
    name: "zamba2",
    title: "Zamba2",
    model_types: &["zamba2"],
    layouts: &[Layout::new(&["layers.0.mamba.dt_bias"], "layers.", 0)
        .spelled(&BODY)
        .nested(NESTED)],
    hyper: HYPER,
    checks: &["d_inner % n_head = 0", "n_head % n_group = 0", "n_attn_head % n_kv_head = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, MIXER),
        (Layers::All, MIXER_OUT),
        (Layers::Word("layer_types", "owner"), LINEAR),
        (Layers::Word("layer_types", "owner"), ATTENTION),
        (Layers::Word("layer_types", "owner"), NETWORK),
        (Layers::Word("layer_types", "owner"), ADAPTERS),
        (Layers::Word("layer_types", "shared"), LINEAR),
        (Layers::Word("layer_types", "shared"), ADAPTERS),
    ],
    pairs: &[pairs::HEAD, pairs::BESIDE_SHARED, pairs::OUTPUT],
    ignored: &[],
};

const BODY: Spelling = Spelling { body: "model.", parts: &[] };

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    LAYER_TYPES,
    Param("norm_eps",    "the norms' epsilon",       Number, &["config.rms_norm_eps | 1e-5"]),
    ACTIVATION,
    GELU,
    Param("biases",      "whether networks have biases", OneOf(&["false"]),
        &["config.add_bias_linear?"]),
    Param("long",        "whether positions are scaled", OneOf(&["false"]),
        &["config.use_long_context?"]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("d_ff",        "the network's width",      Size,   &[]),
    Param("rank_adapter", "the rank of adapters",    Size,   &["config.adapter_rank | 128"]),
    Param("adapts_attention", "whether attention is adapted", Flag,
        &["config.use_shared_attention_adapter | false"]),
    Param("n_head",      "the number of heads",      Size,   &["first(mamba.A_log)"]),
    Param("d_inner",     "the width inside",         Size,   &["last(mamba.out_proj.weight)"]),
    Param("d_head",      "the head size",            Size,   &["d_inner // n_head"]),
    Param("d_conv",      "the convolution's width",  Size,   &["last(mamba.conv1d.weight)"]),
    Param("d_state",     "the state's size",         Size,   &["config.mamba_d_state | 64"]),
    Param("n_group",     "the number of groups",     Size,   &["config.mamba_ngroups | 1"]),
    N_CONV,
    DT,
    N_ATTN_HEAD,
    N_KV_HEAD,
    SHARED_HEAD,
    SCALE,
    Param("n_rot",       "channels that turn",       Size,
        &["d_attn_head if config.use_mem_rope?"]),
    ROPE_BASE,
    Param("rope_type",   "the kind of rotary positions", OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?"]),
];

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.gate",  Matrix("d_ff", "d_model"),
        &["shared_transformer.feed_forward.gate_up_proj.weight[0/2]"]),
    Row("mlp.up",    Matrix("d_ff", "d_model"),
        &["shared_transformer.feed_forward.gate_up_proj.weight[1/2]"]),
];

/// Each layer's, out of the tensors of the one whose transformer it shares.
#[rustfmt::skip]
const ADAPTERS: &[Row] = &[
    Row("attn.rope",        Vector("n_rot // 2"),
        &["rope({rope_base}, {n_rot}) if config.use_mem_rope?"]),
    Row("mlp.adapter",      Adapter("rank_adapter", "d_model"),
        &["shared_transformer.feed_forward.gate_up_proj_adapter_list.#.0.weight"]),
    Row("mlp.gate.adapter", Adapter("d_ff", "rank_adapter"),
        &["shared_transformer.feed_forward.gate_up_proj_adapter_list.#.1.weight[0/2]"]),
    Row("mlp.up.adapter",   Adapter("d_ff", "rank_adapter"),
        &["shared_transformer.feed_forward.gate_up_proj_adapter_list.#.1.weight[1/2]"]),
    Row("attn.q.adapter.a", Adapter("rank_adapter", "2*d_model"),
        &["shared_transformer.self_attn.linear_q_adapter_list.#.0.weight?"]),
    Row("attn.q.adapter.b", Adapter("n_attn_head*d_attn_head", "rank_adapter"),
        &["shared_transformer.self_attn.linear_q_adapter_list.#.1.weight?"]),
    Row("attn.k.adapter.a", Adapter("rank_adapter", "2*d_model"),
        &["shared_transformer.self_attn.linear_k_adapter_list.#.0.weight?"]),
    Row("attn.k.adapter.b", Adapter("n_kv_head*d_attn_head", "rank_adapter"),
        &["shared_transformer.self_attn.linear_k_adapter_list.#.1.weight?"]),
    Row("attn.v.adapter.a", Adapter("rank_adapter", "2*d_model"),
        &["shared_transformer.self_attn.linear_v_adapter_list.#.0.weight?"]),
    Row("attn.v.adapter.b", Adapter("n_kv_head*d_attn_head", "rank_adapter"),
        &["shared_transformer.self_attn.linear_v_adapter_list.#.1.weight?"]),
];
