//! Granite-4-H checkpoints, without experts and with them: Hugging Face
//! (`GraniteMoeHybridForCausalLM`), GGUF.
//!
//! Its multipliers are folded into matrices: the embedding's, the residual's into what comes out of
//! mixers and networks, the scaling of logits into the head, which is therefore stored apart from
//! the embedding. Scores of experts are softmax over the chosen logits: normed softmax. Layout:
//! SPEC.md, "Hybrids", "Experts". Test: `tests/parity_hybrid.rs`, `tests/parity_experts.rs`.

use super::hybrid::{
    ATTENTION, D_ATTN_HEAD, D_MODEL, DT, KINDS, MIXER, N_ATTN_HEAD, N_CONTEXT, N_CONV, N_KV_HEAD,
    N_LAYER, N_VOCAB,
};
use super::pairs;
use crate::convert::table::Kind::{Factor, Flag, Number, OneOf, Size};
use crate::convert::table::Shape::{Blocked, Embedding, Experts, Head, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, Spelling, joined};

pub(super) const GRANITEMOEHYBRID: Architecture = Architecture {
    name: "granitemoehybrid",
    title: "Granite-4-H",
    model_types: TYPES,
    layouts: &[
        Layout::new(&["layers.0.shared_mlp.input_linear.weight"], "layers.", 0).spelled(&BODY),
        Layout::new(&["blk.0.ffn_gate.weight"], "blk.", 1),
    ],
    hyper: &joined::<{ HYPER.len() + DENSE.len() }>(HYPER, DENSE),
    checks: CHECKS,
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORM),
        (Layers::All, NETWORK),
        (Layers::Word("layer_types", "mamba2"), MIXER),
        (Layers::Word("layer_types", "mamba2"), MIXER_OUT),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ROPE),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

pub(super) const GRANITEMOEHYBRID_MOE: Architecture = Architecture {
    name: "granitemoehybrid_moe",
    title: "Granite-4-H-MoE",
    model_types: TYPES,
    layouts: &[
        Layout::new(&["layers.0.block_sparse_moe.router.layer.weight"], "layers.", 0)
            .spelled(&BODY),
        Layout::new(&["blk.0.ffn_gate_inp.weight"], "blk.", 1),
    ],
    hyper: &joined::<{ HYPER.len() + SPARSE.len() }>(HYPER, SPARSE),
    checks: CHECKS,
    trunk: TRUNK,
    layers: &[
        (Layers::All, NORM),
        (Layers::All, EXPERTS),
        (Layers::Word("layer_types", "mamba2"), MIXER),
        (Layers::Word("layer_types", "mamba2"), MIXER_OUT),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), ROPE),
        (Layers::Word("layer_types", "attention"), ATTENTION_OUT),
    ],
    pairs: &[pairs::HEAD, pairs::INPUT, pairs::OUTPUT, pairs::VALUES, pairs::NETWORK],
    ignored: &[],
};

const TYPES: &[&str] = &["granitemoehybrid", "granitehybrid"];
/// llama.cpp's files of this kind turn where they say so: those of Bamba.
const CHECKS: &[&str] = &[
    "d_inner % n_head = 0",
    "n_head % n_group = 0",
    "n_attn_head % n_kv_head = 0",
    "has_gguf_rope = 0",
];

const BODY: Spelling = Spelling { body: "model.", parts: &[] };

#[rustfmt::skip]
const HYPER: &[Param] = &[
    N_LAYER,
    Param("layer_types", "the kinds of the layers",      KINDS, &[
        "config.layer_types | config.layers_block_type",
        "where(ssm_in.weight, mamba, attention)",
    ]),
    Param("norm_eps",    "the norms' epsilon",           Number,
        &["config.rms_norm_eps", "gguf.attention.layer_norm_rms_epsilon"]),
    Param("activation",  "the activation",               OneOf(&["silu", "swish"]),
        &["config.hidden_act?", ""]),
    N_CONTEXT,
    N_VOCAB,
    D_MODEL,
    Param("n_head",      "the number of heads",          Size,
        &["config.mamba_n_heads", "gguf.ssm.time_step_rank"]),
    Param("d_inner",     "the width inside",             Size,
        &["config.mamba_expand*d_model | 2*d_model", "gguf.ssm.inner_size"]),
    Param("d_head",      "the head size",                Size,
        &["d_inner // n_head", "d_inner // n_head"]),
    Param("d_conv",      "the convolution's width",      Size,
        &["config.mamba_d_conv", "gguf.ssm.conv_kernel"]),
    Param("d_state",     "the state's size",             Size,
        &["config.mamba_d_state", "gguf.ssm.state_size"]),
    Param("n_group",     "the number of groups",         Size,
        &["config.mamba_n_groups", "gguf.ssm.group_count"]),
    N_CONV,
    DT,
    N_ATTN_HEAD,
    N_KV_HEAD,
    D_ATTN_HEAD,
    Param("attn_scale",  "what scores are multiplied by", Number,
        &["config.attention_multiplier", "gguf.attention.scale"]),
    Param("positions",   "the kind of positions",         OneOf(&["nope", "rope"]),
        &["config.position_embedding_type?", ""]),
    Param("n_rot",       "channels that turn",            Size,
        &["d_attn_head if config.position_embedding_type=rope?", ""]),
    Param("rope_base",   "the base of the frequencies",   Factor,
        &["config.rope_parameters.rope_theta | config.rope_theta | 10000", "10000"]),
    Param("rope_type",   "the kind of rotary positions",  OneOf(&["default"]),
        &["config.rope_parameters.rope_type | config.rope_scaling.rope_type?", ""]),
    Param("has_gguf_rope", "whether attention turns",     Flag,
        &["", "gguf.rope.scaling.finetuned | false"]),
    Param("embedding_multiplier", "the multiplier of the embedding", Factor,
        &["config.embedding_multiplier | 1", "gguf.embedding_scale | 1"]),
    Param("residual_multiplier",  "the multiplier of residuals",     Factor,
        &["config.residual_multiplier | 1", "gguf.residual_scale | 1"]),
    Param("logits_scaling",       "the divisor of logits",           Factor,
        &["config.logits_scaling | 1", "gguf.logit_scale | 1"]),
];

#[rustfmt::skip]
const DENSE: &[Param] = &[
    Param("d_ff", "the network's width", Size,
        &["config.shared_intermediate_size", "first(ffn_gate.weight)"]),
];

#[rustfmt::skip]
const SPARSE: &[Param] = &[
    Param("n_expert",        "the number of experts",     Size,
        &["config.num_local_experts", "gguf.expert_count"]),
    Param("n_expert_used",   "experts of a token",        Size,
        &["config.num_experts_per_tok", "gguf.expert_used_count"]),
    Param("d_expert",        "an expert's width",         Size,
        &["config.intermediate_size", "second(ffn_gate_exps.weight)"]),
    Param("d_shared",        "the shared expert's width", Size,
        &["config.shared_intermediate_size", "first(ffn_gate_shexp.weight)"]),
    Param("has_router_norm", "whether scores are normed", Flag,   &["true", "true"]),
];

const HEAD: &str =
    "{logits_scaling^-1} * lm_head.weight | {logits_scaling^-1} * embed_tokens.weight";
const GGUF_HEAD: &str =
    "{logits_scaling^-1} * output.weight | {logits_scaling^-1} * token_embd.weight";

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"), &[
        "{embedding_multiplier} * embed_tokens.weight",
        "{embedding_multiplier} * token_embd.weight",
    ]),
    Row("norm_f.weight", Vector("d_model"),               &["norm.weight", "output_norm.weight"]),
    Row("head",          Head("n_vocab", "d_model"),      &[HEAD, GGUF_HEAD]),
];

const NORM: &[Row] = &[Row(
    "mlp_norm.weight",
    Vector("d_model"),
    &["post_attention_layernorm.weight", "ffn_norm.weight"],
)];

const DOWN: &str = "{residual_multiplier} * shared_mlp.output_linear.weight";

#[rustfmt::skip]
const NETWORK: &[Row] = &[
    Row("mlp.gate",        Matrix("d_ff", "d_model"),
        &["shared_mlp.input_linear.weight[0/2]", "ffn_gate.weight"]),
    Row("mlp.up",          Matrix("d_ff", "d_model"),
        &["shared_mlp.input_linear.weight[1/2]", "ffn_up.weight"]),
    Row("mlp.down",        Matrix("d_model", "d_ff"),
        &[DOWN, "{residual_multiplier} * ffn_down.weight"]),
];

/// Halves of the experts' rows.
const GATE: &str =
    "block_sparse_moe.input_linear.weight[flat][0 of d_expert, d_expert each n_expert]";
const UP: &str =
    "block_sparse_moe.input_linear.weight[flat][1 of d_expert, d_expert each n_expert]";

#[rustfmt::skip]
const EXPERTS: &[Row] = &[
    Row("router.weight", Blocked("n_expert", "d_model"),
        &["block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight"]),
    Row("experts.gate",  Experts("n_expert", "d_expert", "d_model"),
        &[GATE, "ffn_gate_exps.weight[flat]"]),
    Row("experts.up",    Experts("n_expert", "d_expert", "d_model"),
        &[UP, "ffn_up_exps.weight[flat]"]),
    Row("experts.down",  Experts("n_expert", "d_model", "d_expert"), &[
        "{residual_multiplier} * block_sparse_moe.output_linear.weight[flat]",
        "{residual_multiplier} * ffn_down_exps.weight[flat]",
    ]),
    Row("shared.gate",   Matrix("d_shared", "d_model"),
        &["shared_mlp.input_linear.weight[0/2]", "ffn_gate_shexp.weight"]),
    Row("shared.up",     Matrix("d_shared", "d_model"),
        &["shared_mlp.input_linear.weight[1/2]", "ffn_up_shexp.weight"]),
    Row("shared.down",   Matrix("d_model", "d_shared"),
        &[DOWN, "{residual_multiplier} * ffn_down_shexp.weight"]),
];

#[rustfmt::skip]
const MIXER_OUT: &[Row] = &[
    Row("out_proj",      Matrix("d_model", "d_inner"), &[
        "{residual_multiplier} * mamba.out_proj.weight",
        "{residual_multiplier} * ssm_out.weight",
    ]),
    Row("out_proj.bias", Vector("d_model"),
        &["{residual_multiplier} * mamba.out_proj.bias?", ""]),
];

/// Where the configuration asks for positions.
#[rustfmt::skip]
const ROPE: &[Row] = &[
    Row("attn.rope", Vector("n_rot // 2"),
        &["rope({rope_base}, {n_rot}) if config.position_embedding_type=rope?", ""]),
];

#[rustfmt::skip]
const ATTENTION_OUT: &[Row] = &[
    Row("attn.out", Matrix("d_model", "n_attn_head*d_attn_head"), &[
        "{residual_multiplier} * self_attn.o_proj.weight",
        "{residual_multiplier} * attn_output.weight",
    ]),
];
