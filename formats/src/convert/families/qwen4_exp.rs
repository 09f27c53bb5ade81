//! Qwen4-Exp checkpoints of Hugging Face: of the text model alone, and of the one that sees, too.
//!
//! Heads, attention and experts are as in Qwen3.5-MoE. The residual stream is several copies of the
//! embedding's width, which every block reads and writes through a mix of its own; there are no
//! other norms before blocks. Some layers look n-grams of tokens up in a table, by hashes whose
//! whole numbers stand in tensors and become settings; attention may choose blocks of tokens.
//! Layout: SPEC.md, "Experts". Test: `tests/parity_experts.rs`.

use super::pairs;
use super::qwen3_5::{ATTENTION, CHECKS, DELTA, DELTA_IN, HEADS, SEEING, TEXT, TURNING};
use super::qwen3_5_moe::{EXPERTS, ROUTER, SHARED_GATE, SIZES};
use crate::convert::table::Kind::{Flag, Inner, Integers, Number, OneOf, Size, Words};
use crate::convert::table::Shape::{
    Adapter, Blocked, Channels, Embedding, Head, Matrix, Table, Vector,
};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row, joined};

const MARK: &[&str] = &["layers.0.attn_hyper_connection.hc_norm.weight"];

pub(super) const QWEN4_EXP: Architecture = Architecture {
    name: "qwen4_exp",
    title: "Qwen4-Exp",
    model_types: &["qwen4_exp", "qwen4_exp_text"],
    layouts: &[
        Layout::new(MARK, "layers.", 0).spelled(&SEEING),
        Layout::new(MARK, "layers.", 0).spelled(&TEXT),
    ],
    hyper: &joined::<{ HEADS.len() + OWN.len() }>(HEADS, OWN),
    checks: &[CHECKS[0], CHECKS[1], "n_index_key = 1", "n_index_token % index_block = 0"],
    trunk: TRUNK,
    layers: &[
        (Layers::All, MIXES),
        (Layers::All, ROUTER),
        (Layers::All, EXPERTS),
        (Layers::Word("layer_types", "delta"), DELTA_IN),
        (Layers::Word("layer_types", "delta"), DELTA),
        (Layers::Word("layer_types", "attention"), ATTENTION),
        (Layers::Word("layer_types", "attention"), INDEX),
        (Layers::Word("embedding_types", "ngrams"), NGRAMS),
    ],
    pairs: &[pairs::OUTPUT, pairs::VALUES, pairs::UP_DOWN],
    ignored: &[
        "mtp.",
        "model.mtp.",
        "model.visual.",
        // Settings: `ngram_multipliers` and the like.
        "layers.*.ple.ple_embedding.layer_multipliers",
        "layers.*.ple.ple_embedding.ngram_heads_vocab_sizes",
        "layers.*.ple.ple_embedding.ngram_heads_offsets",
    ],
};

const OWN: &[Param] = &joined::<{ STREAMS.len() + SIZES.len() }>(STREAMS, SIZES);

#[rustfmt::skip]
const STREAMS: &[Param] = &[
    Param("layer_types",     "the kinds of the layers",    Words(&[
        ("linear_attention", "delta"),
        ("full_attention", "attention"),
        ("indexed_attention", "attention"),
        ("deepseek_sparse_attention", "attention"),
        ("hybrid_indexed", "attention"),
    ]), &["config.layer_types | interval(config.full_attention_interval) | interval(4)"]),
    Param("norms",           "the places of the norms",    Words(&[("none", "none")]),
        &["where(none)"]),
    Param("n_stream",        "copies in the residual stream", Size, &["config.hc_count | 4"]),
    Param("rank_mix",        "the rank of a block's mix",  Size,
        &["first(attn_hyper_connection.input_mix_weight_down.weight)"]),
    Param("n_rot",           "channels that turn",         Size,   &[TURNING]),
    Param("has_attn_gate",   "whether attention is gated", Flag,   &["true"]),
    Param("gate",            "the function of the gate",   OneOf(&["silu", "swish", "sigmoid"]),
        &["config.output_gate_type?"]),
    Param("sigmoid_gate",    "whether the gate is a sigmoid", Flag,
        &["true if config.output_gate_type=sigmoid | false"]),
    Param("has_router_norm", "whether scores are normed",  Flag,
        &["config.norm_topk_prob | true"]),
    SHARED_GATE,
    Param("n_index_head",    "heads of the index",         Size,
        &["config.indexer_n_heads?"]),
    Param("n_index_key",     "its heads of keys",          Inner,
        &["config.indexer_kv_heads | 1"]),
    Param("d_index",         "the size of such a head",    Size,
        &["config.indexer_head_dim?"]),
    Param("index_block",     "tokens of a block",          Size,
        &["config.indexer_compress_ratio?"]),
    Param("n_index_token",   "tokens that are chosen",     Inner,
        &["config.indexer_budget?"]),
    Param("n_index_block",   "blocks that are chosen",     Size,
        &["n_index_token // index_block?"]),
    Param("embedding_types", "the layers' own embeddings", Words(&[
        ("ngrams", "ngrams"),
        ("none", "none"),
    ]), &["where(ple.value_proj.weight, ngrams, none)"]),
    Param("eos_token",       "the token that ends a text", Number,
        &["config.eos_token_id.0 | config.eos_token_id"]),
    Param("d_ngrams",        "the width of all n-grams",   Size,
        &["config.ple_embed_dim | config.hidden_size"]),
    Param("n_gram",          "tokens of the longest n-gram", Inner, &["config.ngram_size | 3"]),
    Param("n_ngram_head",    "n-grams of a token",         Inner, &[
        "(n_gram - 1)*config.heads_per_ngram | (n_gram - 1)*8",
    ]),
    Param("n_tap",           "taps of the dilated convolution", Inner,
        &["config.ple_conv_kernel_size | 4"]),
    Param("d_ngram_conv",    "the width of that convolution", Size,
        &["(n_tap - 1)*n_gram + 1"]),
    Param("ngram_rows",      "what the table's rows are a multiple of", Size,
        &["config.make_ngram_vocab_size_divisible_by | 128"]),
    Param("ngram_multipliers", "the hashes' multipliers",  Integers,
        &["integers(ple.ple_embedding.layer_multipliers)"]),
    Param("ngram_sizes",     "the hashes' moduli",         Integers,
        &["integers(ple.ple_embedding.ngram_heads_vocab_sizes)"]),
    Param("ngram_offsets",   "where n-grams begin in the table", Integers,
        &["integers(ple.ple_embedding.ngram_heads_offsets)"]),
];

const DOWN: &str = "hyper_connection_mixer.input_mix_weight_down.weight * {n_stream^-1}";
const ATTN_DOWN: &str = "attn_hyper_connection.input_mix_weight_down.weight * {n_stream^-1}";
const MLP_DOWN: &str = "mlp_hyper_connection.input_mix_weight_down.weight * {n_stream^-1}";
const ATTN_INJECT: &str = "attn_hyper_connection.block_inject_weight.weight * {n_stream^-1}";
const MLP_INJECT: &str = "mlp_hyper_connection.block_inject_weight.weight * {n_stream^-1}";

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",               Embedding("n_vocab", "d_model"), &["embed_tokens.weight"]),
    Row("last_mix.norm.weight", Vector("n_stream*d_model"),
        &["1 + hyper_connection_mixer.hc_norm.weight"]),
    Row("last_mix.a",          Adapter("rank_mix", "n_stream*d_model"), &[DOWN]),
    Row("last_mix.b",          Adapter("n_stream*d_model", "rank_mix"),
        &["hyper_connection_mixer.input_mix_weight_up.weight"]),
    Row("head",                Head("n_vocab", "d_model"), &["lm_head.weight?"]),
];

#[rustfmt::skip]
const MIXES: &[Row] = &[
    Row("mix.norm.weight",     Vector("n_stream*d_model"),
        &["1 + attn_hyper_connection.hc_norm.weight"]),
    Row("mix.a",               Adapter("rank_mix", "n_stream*d_model"), &[ATTN_DOWN]),
    Row("mix.b",               Adapter("n_stream*d_model", "rank_mix"),
        &["attn_hyper_connection.input_mix_weight_up.weight"]),
    Row("mix.inject",          Adapter("n_stream", "n_stream*d_model"), &[ATTN_INJECT]),
    Row("mlp_mix.norm.weight", Vector("n_stream*d_model"),
        &["1 + mlp_hyper_connection.hc_norm.weight"]),
    Row("mlp_mix.a",           Adapter("rank_mix", "n_stream*d_model"), &[MLP_DOWN]),
    Row("mlp_mix.b",           Adapter("n_stream*d_model", "rank_mix"),
        &["mlp_hyper_connection.input_mix_weight_up.weight"]),
    Row("mlp_mix.inject",      Adapter("n_stream", "n_stream*d_model"), &[MLP_INJECT]),
];

#[rustfmt::skip]
const INDEX: &[Row] = &[
    Row("attn.index",               Adapter("(n_index_head + 1)*d_index", "d_model"),
        &["self_attn.indexer.index_qk_proj.weight if config.indexer_n_heads?"]),
    Row("attn.index.q_norm.weight", Vector("d_index"),
        &["1 + self_attn.indexer.q_layernorm.weight if config.indexer_n_heads?"]),
    Row("attn.index.k_norm.weight", Vector("d_index"),
        &["1 + self_attn.indexer.k_layernorm.weight if config.indexer_n_heads?"]),
];

#[rustfmt::skip]
const NGRAMS: &[Row] = &[
    Row("ngrams.table",             Table("d_ngrams // n_ngram_head"),
        &["ple.ple_embedding.ngram_embedding.shard_*.weight \
           | ple.ple_embedding.ngram_embedding.weight"]),
    Row("ngrams.key",               Matrix("n_stream*d_model", "d_ngrams"),
        &["ple.key_proj.weight"]),
    Row("ngrams.value",             Matrix("d_model", "d_ngrams"), &["ple.value_proj.weight"]),
    Row("ngrams.key_norm.weight",   Vector("n_stream*d_model"), &["1 + ple.norm_key.weight"]),
    Row("ngrams.query_norm.weight", Vector("n_stream*d_model"), &["1 + ple.norm_query.weight"]),
    Row("ngrams.conv_norm.weight",  Vector("n_stream*d_model"), &["1 + ple.norm_conv.weight"]),
    Row("ngrams.conv.weight",       Blocked("n_stream*d_model", "d_ngram_conv"),
        &["dilated(ple.conv1d.weight, {n_gram})"]),
    Row("ngrams.conv.bias",         Channels("n_stream*d_model"), &["0"]),
];
