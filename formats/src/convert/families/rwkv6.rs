//! RWKV-6 checkpoints: BlinkDL's, llama.cpp's GGUF, rwkv.cpp's and web-rwkv's files (which store
//! adapters alike), folders of Hugging Face with a class of their own.
//!
//! The five adapters of the data-dependent mixing, for w, k, v, r, g in this order, are stored in
//! one; here each stands alone. llama.cpp's converter divides the output matrices of layer i by
//! 2^(i / rescale_every_n_layers), and its engine halves the residual stream as often: both are
//! undone here, since only epsilons notice. Test: `tests/parity_rwkv.rs`.

use super::pairs;
use super::rwkv::{
    EMBED, GGUF_EMBED, HUGGING_FACE_HEAD, TUNED_STATES, WEB_RWKV, blinkdl, gguf, hugging_face,
    rwkv_cpp,
};
use crate::convert::table::Kind::{Inner, Number, Size};
use crate::convert::table::Shape::{Adapter, Embedding, Matrix, Vector};
use crate::convert::table::{Architecture, Layers, Layout, Param, Row};

pub(super) const RWKV6: Architecture = Architecture {
    name: "rwkv6",
    title: "RWKV-6",
    model_types: &[],
    layouts: LAYOUTS,
    hyper: HYPER,
    checks: &["d_att % d_head = 0"],
    trunk: TRUNK,
    layers: &[(Layers::All, LAYER)],
    pairs: &[pairs::RWKV, pairs::RWKV_HEADS],
    ignored: &[TUNED_STATES],
};

/// The columns of the tables.
const LAYOUTS: &[Layout] = &{
    let [rwkv, model, bare] = hugging_face(MARKS, 3);
    let gguf = gguf(&["blk.0.time_mix_lerp_x.weight", "blk.0.time_mix_decay_w1.weight"], 1);
    let web = &["blocks.0.att.time_maa_x", "blocks.0.att.time_maa_w1"];
    let web = Layout::new(web, "blocks.", 2).spelled(&WEB_RWKV);
    [web, blinkdl(MARKS), gguf, rwkv_cpp(MARKS, 2), rwkv, model, bare]
};
const MARKS: &[&str] =
    &["blocks.0.att.time_maa_x", "blocks.0.att.time_maa_w1", "blocks.0.att.time_decay_w1"];

/// The bonus is (n_head, d_head).
#[rustfmt::skip]
const HYPER: &[Param] = &[
    Param("n_layer",       "the number of layers",             Size,   &["layers()"]),
    Param("n_vocab",       "rows of the embedding",            Size,   &[]),
    Param("d_model",       "the width",                        Size,   &[]),
    Param("d_att",         "the width of the time mix",        Size,   &[]),
    Param("d_ff",          "the width of the channel mix",     Size,   &[]),
    Param("d_head",        "the head size",                    Size, &[
        "second(att.time_faaaa)",
        "second(time_mix_first.weight)",
        "second(att.time_faaaa)",
    ]),
    Param("rank_mix",      "the rank of the mixing adapters",  Size,   &[]),
    Param("rank_decay",    "the rank of the decay's adapter",  Size,   &[]),
    Param("ln_eps",        "the norms' epsilon",               Number, &[
        "1e-5",
        "gguf.attention.layer_norm_epsilon | 1e-5",
        "1e-5",
        "config.layer_norm_epsilon | 1e-5",
    ]),
    Param("ln_x_eps",      "the epsilon of the norm of heads", Number, &[
        "64e-5",
        "64e-5",
        "64e-5",
        "1e-5*config.head_size_divisor^2 | 64e-5",
    ]),
    Param("ln_out_eps",    "the last norm's epsilon",          Number, &[
        "",
        "",
        "",
        "1e-5",
    ]),
    Param("rescale_every", "layers between two halvings",      Inner,
        &["0",                    "gguf.rescale_every_n_layers | 0",          "0"]),
];

#[rustfmt::skip]
const TRUNK: &[Row] = &[
    Row("embed",         Embedding("n_vocab", "d_model"),
        &[EMBED,           GGUF_EMBED,           EMBED]),
    Row("ln_out.weight", Vector("d_model"),
        &["ln_out.weight", "output_norm.weight", "ln_out.weight"]),
    Row("ln_out.bias",   Vector("d_model"),
        &["ln_out.bias",   "output_norm.bias",   "ln_out.bias"]),
    Row("head",          Matrix("n_vocab", "d_model"),
        &["head.weight",   "output.weight",      "head.weight", HUGGING_FACE_HEAD]),
];

#[rustfmt::skip]
const LAYER: &[Row] = &[
    Row("ln1.weight",      Vector("d_model"),
        &["ln1.weight",             "attn_norm.weight"]),
    Row("ln1.bias",        Vector("d_model"),
        &["ln1.bias",               "attn_norm.bias"]),
    Row("ln2.weight",      Vector("d_model"),
        &["ln2.weight",             "attn_norm_2.weight"]),
    Row("ln2.bias",        Vector("d_model"),
        &["ln2.bias",               "attn_norm_2.bias"]),
    Row("att.maa_x",       Vector("d_model"),
        &["att.time_maa_x",         "time_mix_lerp_x.weight"]),
    Row("att.maa_w",       Vector("d_model"),
        &["att.time_maa_w",         "time_mix_lerp_fused.weight[0/5] | time_mix_lerp_w.weight"]),
    Row("att.maa_k",       Vector("d_model"),
        &["att.time_maa_k",         "time_mix_lerp_fused.weight[1/5] | time_mix_lerp_k.weight"]),
    Row("att.maa_v",       Vector("d_model"),
        &["att.time_maa_v",         "time_mix_lerp_fused.weight[2/5] | time_mix_lerp_v.weight"]),
    Row("att.maa_r",       Vector("d_model"),
        &["att.time_maa_r",         "time_mix_lerp_fused.weight[3/5] | time_mix_lerp_r.weight"]),
    Row("att.maa_g",       Vector("d_model"),
        &["att.time_maa_g",         "time_mix_lerp_fused.weight[4/5] | time_mix_lerp_g.weight"]),
    Row("att.maa_w1.w",    Adapter("rank_mix", "d_model"),
        &["att.time_maa_w1^T[0/5]", "time_mix_w1.weight[0/5]",  "att.time_maa_w1[0/5]"]),
    Row("att.maa_w1.k",    Adapter("rank_mix", "d_model"),
        &["att.time_maa_w1^T[1/5]", "time_mix_w1.weight[1/5]",  "att.time_maa_w1[1/5]"]),
    Row("att.maa_w1.v",    Adapter("rank_mix", "d_model"),
        &["att.time_maa_w1^T[2/5]", "time_mix_w1.weight[2/5]",  "att.time_maa_w1[2/5]"]),
    Row("att.maa_w1.r",    Adapter("rank_mix", "d_model"),
        &["att.time_maa_w1^T[3/5]", "time_mix_w1.weight[3/5]",  "att.time_maa_w1[3/5]"]),
    Row("att.maa_w1.g",    Adapter("rank_mix", "d_model"),
        &["att.time_maa_w1^T[4/5]", "time_mix_w1.weight[4/5]",  "att.time_maa_w1[4/5]"]),
    Row("att.maa_w2.w",    Adapter("d_model", "rank_mix"),
        &["att.time_maa_w2[0/5]^T", "time_mix_w2.weight[0/5]",  "att.time_maa_w2[0/5]"]),
    Row("att.maa_w2.k",    Adapter("d_model", "rank_mix"),
        &["att.time_maa_w2[1/5]^T", "time_mix_w2.weight[1/5]",  "att.time_maa_w2[1/5]"]),
    Row("att.maa_w2.v",    Adapter("d_model", "rank_mix"),
        &["att.time_maa_w2[2/5]^T", "time_mix_w2.weight[2/5]",  "att.time_maa_w2[2/5]"]),
    Row("att.maa_w2.r",    Adapter("d_model", "rank_mix"),
        &["att.time_maa_w2[3/5]^T", "time_mix_w2.weight[3/5]",  "att.time_maa_w2[3/5]"]),
    Row("att.maa_w2.g",    Adapter("d_model", "rank_mix"),
        &["att.time_maa_w2[4/5]^T", "time_mix_w2.weight[4/5]",  "att.time_maa_w2[4/5]"]),
    Row("att.receptance",  Matrix("d_att", "d_model"),
        &["att.receptance.weight",  "time_mix_receptance.weight"]),
    Row("att.key",         Matrix("d_att", "d_model"),
        &["att.key.weight",         "time_mix_key.weight"]),
    Row("att.value",       Matrix("d_att", "d_model"),
        &["att.value.weight",       "time_mix_value.weight"]),
    Row("att.gate",        Matrix("d_att", "d_model"),
        &["att.gate.weight",        "time_mix_gate.weight"]),
    Row("att.output",      Matrix("d_model", "d_att"),
        &["att.output.weight",      "time_mix_output.weight * {2^(layer // rescale_every)}"]),
    Row("att.decay_base",  Vector("d_att"),
        &["att.time_decay",         "time_mix_decay.weight"]),
    Row("att.decay_w1",    Adapter("rank_decay", "d_model"),
        &["att.time_decay_w1^T",    "time_mix_decay_w1.weight", "att.time_decay_w1"]),
    Row("att.decay_w2",    Adapter("d_att", "rank_decay"),
        &["att.time_decay_w2^T",    "time_mix_decay_w2.weight", "att.time_decay_w2"]),
    Row("att.bonus",       Vector("d_att"),
        &["att.time_faaaa",         "time_mix_first.weight"]),
    Row("att.ln_x.weight", Vector("d_att"),
        &["att.ln_x.weight",        "time_mix_ln.weight"]),
    Row("att.ln_x.bias",   Vector("d_att"),
        &["att.ln_x.bias",          "time_mix_ln.bias"]),
    Row("ffn.maa_k",       Vector("d_model"),
        &["ffn.time_maa_k",         "channel_mix_lerp_k.weight"]),
    Row("ffn.maa_r",       Vector("d_model"),
        &["ffn.time_maa_r",         "channel_mix_lerp_r.weight"]),
    Row("ffn.key",         Matrix("d_ff", "d_model"),
        &["ffn.key.weight",         "channel_mix_key.weight"]),
    Row("ffn.receptance",  Matrix("d_model", "d_model"),
        &["ffn.receptance.weight",  "channel_mix_receptance.weight"]),
    Row("ffn.value",       Matrix("d_model", "d_ff"),
        &["ffn.value.weight",       "channel_mix_value.weight * {2^(layer // rescale_every)}"]),
];
