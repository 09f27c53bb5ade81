//! Pairs of tensors whose channels may be multiplied together, by the parts of models that have
//! them. Names that a layer lacks do not matter.
//!
//! Missing on purpose: channels between a matrix and a convolution or a state (those stay f32, and
//! states would mean something else), everything of layers that share tensors, norms without
//! weights, and norms that something without weights reads too. Test: `tests/equalize.rs`.

use crate::convert::equalize::Pair;

/// The last norm and the head, where that is no embedding.
pub(super) const HEAD: &[Pair] = &[Pair::new(&["norm_f.weight"], &["head"])];

/// The norm before a mixer.
pub(super) const INPUT: &[Pair] = &[Pair::new(&["norm.weight"], MIXERS)];

/// Everything in mixers that reads their input.
const MIXERS: &[&str] = &[
    "in_proj.x",
    "in_proj.z",
    "in_proj.xbc",
    "in_proj.bc",
    "in_proj.dt",
    "in_proj.rates",
    "in_proj.levels",
    "in_proj.qkv",
    "in_proj.qk",
    "in_proj.q",
    "in_proj.k",
    "in_proj.v",
    "in_proj.f",
    "in_proj.i",
    "in_proj.beta",
    "in_proj.gates",
    "in_proj.dt.a",
    "in_proj.z.a",
    "attn.q",
    "attn.gate",
    "attn.k",
    "attn.v",
    "attn.kv",
    "attn.mix",
    "conv.in_b",
    "conv.in_c",
    "conv.in_x",
    "lru.in_x",
    "lru.in_y",
];

/// The norm behind a recurrence, of each head or of all.
pub(super) const OUTPUT: &[Pair] = &[
    Pair::new(&["out_norm.weight", "out_norm.bias"], &["out_proj"]),
    Pair::new(&["gated_norm.weight"], &["out_proj"]),
];

/// Mamba-1's adapter of dt, or its norm.
pub(super) const STEP: &[Pair] = &[
    Pair::new(&["x_proj"], &["dt_proj"]).leading().without("bcdt_rms_eps"),
    Pair::new(&["bcdt_norm.weight"], &["dt_proj"]).leading(),
];

/// Values of attention.
pub(super) const VALUES: &[Pair] = &[Pair::new(&["attn.v", "attn.v.bias"], &["attn.out"]).heads()];

/// The gate of a short convolution.
pub(super) const SHORT_CONV: &[Pair] =
    &[Pair::new(&["conv.in_c", "conv.in_c.bias"], &["conv.out"])];

/// Gated networks and experts, with their norm.
pub(super) const NETWORK: &[Pair] = &[
    Pair::new(
        &["mlp_norm.weight"],
        &[
            "mlp.gate",
            "mlp.up",
            "router.weight",
            "experts.gate",
            "experts.up",
            "shared.gate",
            "shared.up",
        ],
    ),
    UP_DOWN[0],
    UP_DOWN[1],
    UP_DOWN[2],
];

/// Gated networks and experts, whatever stands before them.
pub(super) const UP_DOWN: &[Pair] = &[
    Pair::new(&["mlp.up", "mlp.up.bias"], &["mlp.down"]),
    Pair::new(&["shared.up"], &["shared.down"]),
    Pair::new(&["experts.up"], &["experts.down"]).experts(),
];

/// All of RWKV-4.
pub(super) const RWKV: &[Pair] = &[
    Pair::new(&["ln_out.weight", "ln_out.bias"], &["head"]),
    Pair::new(
        &["ln1.weight", "ln1.bias"],
        &[
            "att.receptance",
            "att.key",
            "att.value",
            "att.gate",
            "att.maa_w1.w",
            "att.maa_w1.k",
            "att.maa_w1.v",
            "att.maa_w1.r",
            "att.maa_w1.g",
            "att.decay_w1",
            "att.w1",
            "att.a1",
            "att.v1",
            "att.g1",
        ],
    ),
    Pair::new(&["ln2.weight", "ln2.bias"], &["ffn.key", "ffn.receptance"]),
    Pair::new(&["ffn.key"], &["ffn.value"]).squared(),
];

/// The norm of heads of RWKV-5 and 6; behind that of RWKV-7 stands the bonus.
pub(super) const RWKV_HEADS: &[Pair] =
    &[Pair::new(&["att.ln_x.weight", "att.ln_x.bias"], &["att.output"])];

/// The gate of RWKV-7.
pub(super) const RWKV_GATE: &[Pair] = &[Pair::new(&["att.g2"], &["att.output"])];

/// Attention with latent keys and values, and the mixers beside it.
pub(super) const LATENT: &[Pair] = &[
    Pair::new(&["norm.weight"], MIXERS).without("attn.q_low"),
    Pair::new(&["norm.weight"], &["attn.q_low", "attn.kv", "attn.gate"]).with("attn.q_low"),
    Pair::new(&["attn.q_norm.weight"], &["attn.q"]).with("attn.q_low"),
    Pair::new(&["attn.values"], &["attn.out"]),
];

/// Memories and their router, then a network.
pub(super) const MEMORIES: &[Pair] = &[
    Pair::new(
        &["norm.weight"],
        &[
            "router.weight",
            "in_proj.q",
            "in_proj.k",
            "in_proj.v",
            "in_proj.beta",
            "in_proj.dt",
            "in_proj.z",
        ],
    ),
    Pair::new(&["mlp_norm.weight"], &["mlp.gate", "mlp.up"]),
];

/// The norms before the inner mixer of Rodimus, and before its attention.
pub(super) const INNER: &[Pair] = &[
    Pair::new(&["mixer_norm.weight"], &["in_proj.up", "in_proj.z"]),
    Pair::new(&["norm.weight"], &["attn.q", "attn.k", "attn.v"]),
];

/// The norm before Mamba where layers share a transformer, which is left alone.
pub(super) const BESIDE_SHARED: &[Pair] =
    &[Pair::new(&["norm.weight"], &["in_proj.x", "in_proj.z", "in_proj.xbc", "in_proj.dt"])];

/// Experts whose router has a network of its own.
pub(super) const ROUTED: &[Pair] =
    &[Pair::new(&["mlp_norm.weight"], &["router.down.weight", "experts.gate", "experts.up"])];

/// Networks and experts with squared ReLU; those of experts may read fewer channels.
pub(super) const RELU_NETWORK: &[Pair] = &[
    Pair::new(&["mlp_norm.weight"], &["mlp.up"]),
    Pair::new(&["mlp_norm.weight"], &["router.weight", "shared.up", "latent.down"])
        .with("latent.down"),
    Pair::new(&["mlp_norm.weight"], &["router.weight", "shared.up", "experts.up"])
        .without("latent.down"),
    Pair::new(&["mlp.up"], &["mlp.down"]).squared(),
    Pair::new(&["shared.up"], &["shared.down"]).squared(),
    Pair::new(&["experts.up"], &["experts.down"]).experts().squared(),
];
