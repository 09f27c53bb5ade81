//! RWKV-7 checkpoints: BlinkDL's, llama.cpp's GGUF, flash-linear-attention's Hugging Face folders,
//! rwkv.cpp's and web-rwkv's files, folders of Hugging Face in BlinkDL's terms.
//!
//! They differ in names, in fused mixing vectors and in adapters stored `[in, out]` or `[out, in]`,
//! which alone tells web-rwkv's files from BlinkDL's.
//! The norm over heads has the epsilon 64e-5 everywhere but in flash-linear-attention, where it
//! grows with the head size. Test: `tests/parity_rwkv.rs`.

use super::pairs;
use super::rwkv::{
    EMBED, GGUF_EMBED, HUGGING_FACE_HEAD, TUNED_STATES, blinkdl, gguf, hugging_face, rwkv_cpp,
};
use crate::convert::table::Kind::{Number, Size};
use crate::convert::table::Shape::{Adapter, Embedding, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const RWKV7: Architecture = Architecture {
    name: "rwkv7",
    title: "RWKV-7",
    model_types: &[],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &["d_model % d_head = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER), (Layers::AfterFirst, VALUE_RESIDUAL)],
    pairs: &[pairs::RWKV, pairs::RWKV_GATE],
    ignored: IGNORED,
};

/// The columns of the tables.
const LAYOUTS: &[Layout] = &{
    let [rwkv, model, bare] = hugging_face(MARKS, 5);
    let gguf =
        &["blk.0.time_mix_r_k.weight", "blk.0.time_mix_k_k.weight", "blk.0.time_mix_a1.weight"];
    let fla = &[
        "model.layers.0.attn.r_k",
        "model.layers.0.attn.k_k",
        "model.layers.0.attn.w_lora.lora.0.weight",
    ];
    [
        web_rwkv(4),
        blinkdl(MARKS),
        self::gguf(gguf, 1),
        Layout::new(fla, "model.layers.", 2).with_config(),
        rwkv_cpp(&["blocks.0.att.r_k", "blocks.0.att.k_k", "blocks.0.att.x_rwkvag"], 3),
        rwkv,
        model,
        bare,
    ]
};
const MARKS: &[&str] = &["blocks.0.att.r_k", "blocks.0.att.k_k", "blocks.0.att.x_r"];

const fn web_rwkv(column: usize) -> Layout {
    let mut layout = Layout::new(MARKS, "blocks.", column);
    layout.turned = Some(("ln1.weight", &["att.w1", "att.a1", "att.g1", "att.v1"]));
    layout
}

/// r_k is (n_head, d_head), but for GGUF, which flattens it.
#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",  "the number of layers",             Size,   &["layers()"]),
    Param("n_vocab",  "rows of the embedding",            Size,   &[]),
    Param("d_model",  "the width",                        Size,   &[]),
    Param("d_ff",     "the width of the channel mix",     Size,   &[]),
    Param("d_head",   "the head size",                    Size, &[
        "last(att.r_k)",
        "gguf.wkv.head_size",
        "last(attn.r_k)",
        "last(att.r_k)",
    ]),
    Param("rank_w",   "the rank of the decay's adapter",  Size,   &[]),
    Param("rank_a",   "the rank of the learning rate's",  Size,   &[]),
    Param("rank_v",   "the rank of the value residual's", Size,   &[]),
    Param("rank_g",   "the rank of the gate's",           Size,   &[]),
    Param("ln_eps",   "the norms' epsilon",               Number, &[
        "1e-5",
        "gguf.attention.layer_norm_epsilon | 1e-5",
        "config.norm_eps | 1e-5",
        "1e-5",
        "1e-5",
        "config.layer_norm_epsilon | 1e-5",
    ]),
    Param("ln_x_eps", "the epsilon of the norm of heads", Number, &[
        "64e-5",
        "64e-5",
        "ln_eps * d_head",
        "64e-5",
        "64e-5",
        "config.group_norm_epsilon | 64e-5",
    ]),
    Param("ln_out_eps", "the last norm's epsilon",        Number, &[
        "",
        "",
        "",
        "",
        "",
        "1e-5",
    ]),
];

const HUGGING_FACE_EMBED: &str = "model.embeddings.weight if config.norm_first=false \
    | layer_norm(model.embeddings.weight, model.layers.0.pre_norm.weight, \
                 model.layers.0.pre_norm.bias, {ln_eps}) \
    | layer_norm(model.embeddings.weight, model.layers.0.pre_norm.weight, 0, {ln_eps}) \
          if config.norm_bias=false";

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &[EMBED,           GGUF_EMBED,           HUGGING_FACE_EMBED, EMBED]),
    Row("ln_out.weight", Vector("d_model"),
        &["ln_out.weight", "output_norm.weight", "model.norm.weight"]),
    Row("ln_out.bias",   Vector("d_model"),
        &["ln_out.bias",   "output_norm.bias",   "model.norm.bias | 0 if config.norm_bias=false"]),
    Row("head",          Matrix("n_vocab", "d_model"), &[
        "head.weight",
        "output.weight",
        "lm_head.weight | model.embeddings.weight if config.tie_word_embeddings",
        "head.weight",
        "head.weight",
        HUGGING_FACE_HEAD,
    ]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector("d_model"),
        &["ln1.weight",            "attn_norm.weight",                "attn_norm.weight"]),
    Row("ln1.bias",        Vector("d_model"), &[
        "ln1.bias",
        "attn_norm.bias",
        "attn_norm.bias | 0 if config.norm_bias=false",
    ]),
    Row("ln2.weight",      Vector("d_model"),
        &["ln2.weight",            "attn_norm_2.weight",              "ffn_norm.weight"]),
    Row("ln2.bias",        Vector("d_model"), &[
        "ln2.bias",
        "attn_norm_2.bias",
        "ffn_norm.bias | 0 if config.norm_bias=false",
    ]),
    Row("att.x_r",         Vector("d_model"), &[
        "att.x_r",
        "time_mix_lerp_fused.weight[0/6]",
        "attn.x_r | attn.x_x[0/6]",
        "att.x_rwkvag[0/6]",
    ]),
    Row("att.x_w",         Vector("d_model"), &[
        "att.x_w",
        "time_mix_lerp_fused.weight[1/6]",
        "attn.x_w | attn.x_x[1/6]",
        "att.x_rwkvag[1/6]",
    ]),
    Row("att.x_k",         Vector("d_model"), &[
        "att.x_k",
        "time_mix_lerp_fused.weight[2/6]",
        "attn.x_k | attn.x_x[2/6]",
        "att.x_rwkvag[2/6]",
    ]),
    Row("att.x_v",         Vector("d_model"), &[
        "att.x_v",
        "time_mix_lerp_fused.weight[3/6]",
        "attn.x_v | attn.x_x[3/6]",
        "att.x_rwkvag[3/6]",
    ]),
    Row("att.x_a",         Vector("d_model"), &[
        "att.x_a",
        "time_mix_lerp_fused.weight[4/6]",
        "attn.x_a | attn.x_x[4/6]",
        "att.x_rwkvag[4/6]",
    ]),
    Row("att.x_g",         Vector("d_model"), &[
        "att.x_g",
        "time_mix_lerp_fused.weight[5/6]",
        "attn.x_g | attn.x_x[5/6]",
        "att.x_rwkvag[5/6]",
    ]),
    Row("att.receptance",  Matrix("d_model", "d_model"),
        &["att.receptance.weight", "time_mix_receptance.weight",      "attn.r_proj.weight"]),
    Row("att.key",         Matrix("d_model", "d_model"),
        &["att.key.weight",        "time_mix_key.weight",             "attn.k_proj.weight"]),
    Row("att.value",       Matrix("d_model", "d_model"),
        &["att.value.weight",      "time_mix_value.weight",           "attn.v_proj.weight"]),
    Row("att.output",      Matrix("d_model", "d_model"),
        &["att.output.weight",     "time_mix_output.weight",          "attn.o_proj.weight"]),
    Row("att.w0",          Vector("d_model"),
        &["att.w0",                "time_mix_w0.weight",              "attn.w_lora.lora.2.bias"]),
    Row("att.w1",          Adapter("rank_w", "d_model"), &[
        "att.w1^T",
        "time_mix_w1.weight",
        "attn.w_lora.lora.0.weight",
        "att.w1",
        "att.w1",
    ]),
    Row("att.w2",          Adapter("d_model", "rank_w"), &[
        "att.w2^T",
        "time_mix_w2.weight",
        "attn.w_lora.lora.2.weight",
        "att.w2",
        "att.w2",
    ]),
    Row("att.a0",          Vector("d_model"),
        &["att.a0",                "time_mix_a0.weight",              "attn.a_lora.lora.2.bias"]),
    Row("att.a1",          Adapter("rank_a", "d_model"), &[
        "att.a1^T",
        "time_mix_a1.weight",
        "attn.a_lora.lora.0.weight",
        "att.a1",
        "att.a1",
    ]),
    Row("att.a2",          Adapter("d_model", "rank_a"), &[
        "att.a2^T",
        "time_mix_a2.weight",
        "attn.a_lora.lora.2.weight",
        "att.a2",
        "att.a2",
    ]),
    Row("att.g1",          Adapter("rank_g", "d_model"), &[
        "att.g1^T",
        "time_mix_g1.weight",
        "attn.g_lora.lora.0.weight",
        "att.g1",
        "att.g1",
    ]),
    Row("att.g2",          Adapter("d_model", "rank_g"), &[
        "att.g2^T",
        "time_mix_g2.weight",
        "attn.g_lora.lora.2.weight",
        "att.g2",
        "att.g2",
    ]),
    Row("att.k_k",         Vector("d_model"),
        &["att.k_k",               "time_mix_k_k.weight",             "attn.k_k"]),
    Row("att.k_a",         Vector("d_model"),
        &["att.k_a",               "time_mix_k_a.weight",             "attn.k_a"]),
    Row("att.r_k",         Vector("d_model"),
        &["att.r_k",               "time_mix_r_k.weight",             "attn.r_k"]),
    Row("att.ln_x.weight", Vector("d_model"),
        &["att.ln_x.weight",       "time_mix_ln.weight",              "attn.g_norm.weight"]),
    Row("att.ln_x.bias",   Vector("d_model"),
        &["att.ln_x.bias",         "time_mix_ln.bias",                "attn.g_norm.bias"]),
    Row("ffn.x_k",         Vector("d_model"),
        &["ffn.x_k",               "channel_mix_lerp_k.weight",       "ffn.x_k"]),
    Row("ffn.key",         Matrix("d_ff", "d_model"),
        &["ffn.key.weight",        "channel_mix_key.weight",          "ffn.key.weight"]),
    Row("ffn.value",       Matrix("d_model", "d_ff"),
        &["ffn.value.weight",      "channel_mix_value.weight",        "ffn.value.weight"]),
];

/// The value residual of all layers but the first.
#[rustfmt::skip]
const VALUE_RESIDUAL: &[Row] = &[
    Row("att.v0", Vector("d_model"),
        &["att.v0",   "time_mix_v0.weight", "attn.v_lora.lora.2.bias"]),
    Row("att.v1", Adapter("rank_v", "d_model"),
        &["att.v1^T", "time_mix_v1.weight", "attn.v_lora.lora.0.weight", "att.v1", "att.v1"]),
    Row("att.v2", Adapter("d_model", "rank_v"),
        &["att.v2^T", "time_mix_v2.weight", "attn.v_lora.lora.2.weight", "att.v2", "att.v2"]),
];

/// Tensors of a value residual that the first layer may carry, and does not have.
const IGNORED: &[&str] = &[
    TUNED_STATES,
    "blocks.0.att.v0",
    "blocks.0.att.v1",
    "blocks.0.att.v2",
    "blk.0.time_mix_v0.weight",
    "blk.0.time_mix_v1.weight",
    "blk.0.time_mix_v2.weight",
    "model.layers.0.attn.v_lora.lora.0.weight",
    "model.layers.0.attn.v_lora.lora.2.weight",
    "model.layers.0.attn.v_lora.lora.2.bias",
];
