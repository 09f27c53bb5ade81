"""Tensors and metadata of each family's GGUF file, as llama.cpp's own converter gives them.

Dimensions come from brooklet's file of the same model, so there is one table of sizes; of hybrids they stand for each
layer (`layer_types`). Values are drawn as in `tools/src/bench/shapes.rs`. Not here: writing files (`gguf_files.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

# Numbers in the buffer that every matrix is cut from. A prime, so that rows do not repeat at the same column.
BUFFER = 16_777_213


class Tensor(NamedTuple):
    """One tensor: shape in numpy's order (last index fastest), stored type, and what draws its values."""

    name: str
    shape: tuple[int, ...]
    dtype: type
    draw: Callable[[Random, tuple[int, ...]], np.ndarray]


class Random:
    """Random values, cheap enough for billions of them."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)
        self.normals = self.generator.standard_normal(BUFFER, dtype=np.float32) * np.float32(0.02)
        self.halves = self.normals.astype(np.float16)

    def normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Normal, standard deviation 0.02: the buffer read round and round from a random place."""
        buffer = self.halves if dtype is np.float16 else self.normals
        flat = np.empty(int(np.prod(shape)), dtype)
        filled, start = 0, int(self.generator.integers(BUFFER))
        while filled < flat.size:
            n = min(flat.size - filled, BUFFER - start)
            end = filled + n
            flat[filled:end] = buffer[start:][:n]
            filled, start = end, 0
        return flat.reshape(shape)


def matrix(name: str, rows: int, cols: int, dtype: type = np.float16) -> Tensor:
    """A matrix of normal random weights."""
    return Tensor(f"{name}.weight", (rows, cols), dtype, lambda random, shape: random.normal(shape, dtype))


def plain(name: str, shape: tuple[int, ...], draw: Callable[[Random, tuple[int, ...]], np.ndarray]) -> Tensor:
    """A small f32 tensor."""
    return Tensor(name, shape, np.float32, draw)


def constant(value: float) -> Callable[[Random, tuple[int, ...]], np.ndarray]:
    """All the same."""
    return lambda _, shape: np.full(shape, value)


def uniform(low: float, high: float) -> Callable[[Random, tuple[int, ...]], np.ndarray]:
    """Evenly from [low, high)."""
    return lambda random, shape: random.generator.uniform(low, high, shape)


def state_index(_: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Mamba-1's A: minus the index in the state, counted from 1."""
    return np.broadcast_to(-np.arange(1.0, shape[-1] + 1.0), shape)


def inverse_softplus_dt(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """softplus⁻¹(dt), dt evenly in its logarithm from 0.001 to 0.1 (how Mamba starts its dt bias)."""
    return np.log(np.expm1(np.exp(random.generator.uniform(np.log(0.001), np.log(0.1), shape))))


def norm(name: str, n: int) -> list[Tensor]:
    """A layer norm that does nothing but norm."""
    return [plain(f"{name}.weight", (n,), constant(1.0)), plain(f"{name}.bias", (n,), constant(0.0))]


def rwkv7(config: dict) -> Iterator[Tensor]:
    """The tensors of an RWKV-7 model."""
    c, f, n_vocab = config["d_model"], config["d_ff"], config["n_vocab"]
    yield matrix("token_embd", n_vocab, c)
    yield from norm("token_embd_norm", c)
    yield from norm("output_norm", c)
    yield matrix("output", n_vocab, c)
    for i in range(config["n_layer"]):
        at = f"blk.{i}"
        for name in ["attn_norm", "attn_norm_2", "time_mix_ln"]:
            yield from norm(f"{at}.{name}", c)
        yield plain(f"{at}.time_mix_lerp_fused.weight", (6, 1, 1, c), uniform(0.0, 1.0))
        for letter, low, high in [("w", -6.0, 1.0), ("a", -1.0, 1.0), ("v", 0.0, 1.0), ("g", 0.0, 0.0)]:
            # The first layer has no value residual; the converter leaves tensors of the rank of `a` in its place.
            rank = config["rank_a" if letter == "v" and i == 0 else f"rank_{letter}"]
            dtype = np.float32 if letter == "w" else np.float16
            if letter != "g":
                yield plain(f"{at}.time_mix_{letter}0.weight", (c,), uniform(low, high))
            yield matrix(f"{at}.time_mix_{letter}1", rank, c, dtype)
            yield matrix(f"{at}.time_mix_{letter}2", c, rank, dtype)
        yield plain(f"{at}.time_mix_k_k.weight", (c,), constant(0.85))
        yield plain(f"{at}.time_mix_k_a.weight", (c,), constant(1.0))
        yield plain(f"{at}.time_mix_r_k.weight", (c,), uniform(-0.1, 0.1))
        for name in ["receptance", "key", "value", "output"]:
            yield matrix(f"{at}.time_mix_{name}", c, c)
        yield plain(f"{at}.channel_mix_lerp_k.weight", (c,), uniform(0.0, 1.0))
        yield matrix(f"{at}.channel_mix_key", f, c)
        yield matrix(f"{at}.channel_mix_value", c, f)


def mamba1(config: dict) -> Iterator[Tensor]:
    """The tensors of a Mamba-1 model; the head is the embedding."""
    c, inner, state, rank = config["d_model"], config["d_inner"], config["d_state"], config["dt_rank"]
    yield matrix("token_embd", config["n_vocab"], c)
    yield plain("output_norm.weight", (c,), constant(1.0))
    for i in range(config["n_layer"]):
        at = f"blk.{i}"
        yield plain(f"{at}.attn_norm.weight", (c,), constant(1.0))
        yield matrix(f"{at}.ssm_in", 2 * inner, c)
        yield from convolution(at, inner, config["d_conv"])
        yield matrix(f"{at}.ssm_x", rank + 2 * state, inner)
        yield matrix(f"{at}.ssm_dt", inner, rank)
        yield plain(f"{at}.ssm_dt.bias", (inner,), inverse_softplus_dt)
        yield plain(f"{at}.ssm_a", (inner, state), state_index)
        yield plain(f"{at}.ssm_d", (inner,), constant(1.0))
        yield matrix(f"{at}.ssm_out", c, inner)


def mamba2(config: dict) -> Iterator[Tensor]:
    """The tensors of a Mamba-2 model; the head is the embedding."""
    yield from trunk(config)
    for i in range(config["n_layer"]):
        yield norm_of(f"blk.{i}.attn_norm", config["d_model"])
        yield from mamba2_mixer(f"blk.{i}", config)


def mamba2_mixer(at: str, config: dict, has_norm: bool = True) -> Iterator[Tensor]:
    """Mamba-2 in a layer."""
    c, inner, n_head, n_group = config["d_model"], config["d_inner"], config["n_head"], config["n_group"]
    channels = inner + 2 * n_group * config["d_state"]
    yield matrix(f"{at}.ssm_in", inner + channels + n_head, c)
    yield from convolution(at, channels, config["d_conv"])
    yield plain(f"{at}.ssm_dt.bias", (n_head,), inverse_softplus_dt)
    yield plain(f"{at}.ssm_a", (n_head, 1), uniform(-16.0, -1.0))
    yield plain(f"{at}.ssm_d", (n_head, 1), constant(1.0))
    if has_norm:
        yield plain(f"{at}.ssm_norm.weight", (n_group, inner // n_group), constant(1.0))
    yield matrix(f"{at}.ssm_out", c, inner)


def convolution(at: str, channels: int, d_conv: int) -> list[Tensor]:
    """The depthwise convolution of a Mamba layer."""
    return [
        plain(f"{at}.ssm_conv1d.weight", (channels, d_conv), uniform(-0.5, 0.5)),
        plain(f"{at}.ssm_conv1d.bias", (channels,), uniform(-0.1, 0.1)),
    ]


def trunk(config: dict, final: str = "output_norm") -> Iterator[Tensor]:
    """The embedding, which is the head, too, and the last norm."""
    yield matrix("token_embd", config["n_vocab"], config["d_model"])
    yield norm_of(final, config["d_model"])


def norm_of(name: str, n: int) -> Tensor:
    """The weight of an RMS norm."""
    return plain(f"{name}.weight", (n,), constant(1.0))


def attention(at: str, config: dict, factor: int = 1) -> Iterator[Tensor]:
    """Grouped-query attention; `factor` 2 where gates stand between the queries."""
    c, head = config["d_model"], config["d_attn_head"]
    queries, keys = config["n_attn_head"] * head, config["n_kv_head"] * head
    yield matrix(f"{at}.attn_q", factor * queries, c)
    yield matrix(f"{at}.attn_k", keys, c)
    yield matrix(f"{at}.attn_v", keys, c)
    yield matrix(f"{at}.attn_output", c, queries)
    if config.get("has_qk_norm"):
        yield norm_of(f"{at}.attn_q_norm", head)
        yield norm_of(f"{at}.attn_k_norm", head)


def gated_mlp(at: str, config: dict) -> Iterator[Tensor]:
    """The network of three matrices."""
    yield matrix(f"{at}.ffn_gate", config["d_ff"], config["d_model"])
    yield matrix(f"{at}.ffn_up", config["d_ff"], config["d_model"])
    yield matrix(f"{at}.ffn_down", config["d_model"], config["d_ff"])


def qwen35(config: dict) -> Iterator[Tensor]:
    """The tensors of Qwen3.5: Gated DeltaNet, and gated attention with norms of queries and keys."""
    c, n_head, n_key = config["d_model"], config["n_head"], config["n_key_head"]
    inner, keys = n_head * config["d_head"], n_key * config["d_key"]
    yield from trunk(config)
    for i, kind in enumerate(config["layer_types"]):
        at = f"blk.{i}"
        yield norm_of(f"{at}.attn_norm", c)
        yield norm_of(f"{at}.post_attention_norm", c)
        yield from gated_mlp(at, config)
        if kind == "attention":
            yield from attention(at, config, 2)
            continue
        yield matrix(f"{at}.attn_qkv", 2 * keys + inner, c)
        yield matrix(f"{at}.attn_gate", inner, c)
        yield matrix(f"{at}.ssm_alpha", n_head, c)
        yield matrix(f"{at}.ssm_beta", n_head, c)
        yield plain(f"{at}.ssm_conv1d.weight", (2 * keys + inner, config["d_conv"]), uniform(-0.5, 0.5))
        yield plain(f"{at}.ssm_dt.bias", (n_head,), inverse_softplus_dt)
        yield plain(f"{at}.ssm_a", (n_head,), uniform(-16.0, -1.0))
        yield norm_of(f"{at}.ssm_norm", config["d_head"])
        yield matrix(f"{at}.ssm_out", c, inner)


def lfm2(config: dict) -> Iterator[Tensor]:
    """The tensors of LFM2: short convolutions and attention with norms of queries and keys."""
    c = config["d_model"]
    yield from trunk(config, "token_embd_norm")
    for i, kind in enumerate(config["layer_types"]):
        at = f"blk.{i}"
        yield norm_of(f"{at}.attn_norm", c)
        yield norm_of(f"{at}.ffn_norm", c)
        yield from gated_mlp(at, config)
        if kind == "attention":
            yield from attention(at, config)
            continue
        yield plain(f"{at}.shortconv.conv.weight", (c, config["d_conv"]), uniform(-0.5, 0.5))
        yield matrix(f"{at}.shortconv.in_proj", 3 * c, c)
        yield matrix(f"{at}.shortconv.out_proj", c, c)


def granite(config: dict) -> Iterator[Tensor]:
    """The tensors of Granite-4-H without experts: Mamba-2 and attention."""
    yield from trunk(config)
    for i, kind in enumerate(config["layer_types"]):
        at = f"blk.{i}"
        yield norm_of(f"{at}.attn_norm", config["d_model"])
        yield norm_of(f"{at}.ffn_norm", config["d_model"])
        yield from gated_mlp(at, config)
        yield from attention(at, config) if kind == "attention" else mamba2_mixer(at, config)


def falcon_h1(config: dict) -> Iterator[Tensor]:
    """The tensors of Falcon-H1: Mamba-2 and attention side by side in each layer."""
    yield from trunk(config)
    for i in range(config["n_layer"]):
        at = f"blk.{i}"
        yield norm_of(f"{at}.attn_norm", config["d_model"])
        # The converter leaves this name without an ending.
        yield plain(f"{at}.ffn_norm", (config["d_model"],), constant(1.0))
        yield from gated_mlp(at, config)
        yield from attention(at, config)
        yield from mamba2_mixer(at, config, has_norm=False)


def nemotron_h(config: dict) -> Iterator[Tensor]:
    """The tensors of Nemotron-H: each layer is Mamba-2, attention, or a network with squared ReLU."""
    c, d_ff = config["d_model"], config["d_ff"]
    yield from trunk(config)
    yield matrix("output", config["n_vocab"], c)
    for i, kind in enumerate(config["layer_types"]):
        at = f"blk.{i}"
        yield norm_of(f"{at}.attn_norm", c)
        if kind == "mlp":
            yield matrix(f"{at}.ffn_up", d_ff, c)
            yield matrix(f"{at}.ffn_down", c, d_ff)
        else:
            yield from attention(at, config) if kind == "attention" else mamba2_mixer(at, config)


def metadata(architecture: str, config: dict) -> dict[str, int | float | bool | list[int]]:
    """The hyper-parameters, without the architecture's name in front."""
    common = {
        "context_length": config.get("n_context", 1 << 20),
        "embedding_length": config["d_model"],
        "block_count": config["n_layer"],
        "attention.head_count": 0,
        "vocab_size": config["n_vocab"],
    }
    if architecture == "rwkv7":
        return common | {
            "feed_forward_length": config["d_ff"],
            "attention.layer_norm_epsilon": config["ln_eps"],
            "wkv.head_size": config["d_head"],
            "attention.decay_lora_rank": config["rank_w"],
            "attention.iclr_lora_rank": config["rank_a"],
            "attention.value_residual_mix_lora_rank": config["rank_v"],
            "attention.gate_lora_rank": config["rank_g"],
        }
    own = common | {
        "feed_forward_length": config.get("d_ff", 0),
        "attention.layer_norm_rms_epsilon": config["norm_eps"],
    }
    if "d_attn_head" in config:
        own |= attention_metadata(architecture, config)
    if architecture == "lfm2":
        return own | {"shortconv.l_cache": config["d_conv"]}
    if architecture == "qwen35":
        return own | {
            "ssm.conv_kernel": config["d_conv"],
            "ssm.state_size": config["d_key"],
            "ssm.group_count": config["n_key_head"],
            "ssm.time_step_rank": config["n_head"],
            "ssm.inner_size": config["n_head"] * config["d_head"],
            "full_attention_interval": config["layer_types"].index("attention") + 1,
        }
    own |= {
        "ssm.conv_kernel": config["d_conv"],
        "ssm.inner_size": config["d_inner"],
        "ssm.state_size": config["d_state"],
    }
    if architecture == "mamba":
        return own | {"ssm.time_step_rank": config["dt_rank"], "ssm.dt_b_c_rms": False}
    return own | {"ssm.time_step_rank": config["n_head"], "ssm.group_count": config["n_group"]}


def attention_metadata(architecture: str, config: dict) -> dict[str, int | float | bool | list[int]]:
    """Those of attention, and of layers of several kinds."""
    kinds = config.get("layer_types", ["attention"] * config["n_layer"])
    uniform_heads = architecture in ("qwen35", "falcon-h1")
    own = {
        "attention.head_count": config["n_attn_head"],
        "attention.head_count_kv": config["n_kv_head"]
        if uniform_heads
        else [config["n_kv_head"] if kind == "attention" else 0 for kind in kinds],
        "attention.key_length": config["d_attn_head"],
        "attention.value_length": config["d_attn_head"],
        "rope.freq_base": float(config.get("rope_base", 10000.0)),
    }
    if architecture == "nemotron_h":
        own |= {"feed_forward_length": [config["d_ff"] if kind == "mlp" else 0 for kind in kinds]}
        own |= {"attention.layer_norm_epsilon": config["norm_eps"]}
    if architecture in ("nemotron_h", "granitehybrid"):
        own |= {"rope.scaling.finetuned": False, "rope.dimension_count": config["d_attn_head"]}
    if architecture == "granitehybrid":
        scale = config["attn_scale"]
        own |= {"attention.scale": scale, "embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0}
        own |= {"expert_count": 0, "expert_used_count": 0, "expert_shared_feed_forward_length": config["d_ff"]}
    if architecture == "qwen35":
        rotated = config["n_rot"]
        # Three kinds of positions take turns; texts have the same in all, but none in what no section claims.
        sections = [(rotated // 2 + 2) // 3, (rotated // 2 + 1) // 3, rotated // 6, 0]
        own |= {"rope.dimension_count": rotated, "rope.dimension_sections": sections}
    return own


# brooklet's name of a family: the peer's name, and its tensors.
FAMILIES = {
    "rwkv7": ("rwkv7", rwkv7),
    "mamba1": ("mamba", mamba1),
    "mamba2": ("mamba2", mamba2),
    "qwen3_5": ("qwen35", qwen35),
    "lfm2": ("lfm2", lfm2),
    "granitemoehybrid": ("granitehybrid", granite),
    "falcon_h1": ("falcon-h1", falcon_h1),
    "nemotron_h": ("nemotron_h", nemotron_h),
}
