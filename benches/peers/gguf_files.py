"""Makes GGUF files with random weights at a real model's dimensions, and quantizes them.

Runs inside the virtual environment (needs gguf, numpy, llama-cpp-python). Tensor names, shapes, types and metadata are
those that llama.cpp's own converter writes; the dimensions come from brooklet's file of the same model, so there is one
table of sizes. Values are drawn as in `tools/src/bench/shapes.rs`. Not here: where
files are kept (`preparation.py`).

    gguf_files.py write OUT < config.json
    gguf_files.py quantize IN OUT TYPE THREADS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

# Numbers in the buffer that every matrix is cut from. A prime, so that rows do not repeat at the same column.
BUFFER = 16_777_213
# How the package numbers what it can quantize to (`llama_ftype` in llama.h); plain F16 is 1.
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}


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
    c, inner, n_head, n_group = config["d_model"], config["d_inner"], config["n_head"], config["n_group"]
    channels = inner + 2 * n_group * config["d_state"]
    yield matrix("token_embd", config["n_vocab"], c)
    yield plain("output_norm.weight", (c,), constant(1.0))
    for i in range(config["n_layer"]):
        at = f"blk.{i}"
        yield plain(f"{at}.attn_norm.weight", (c,), constant(1.0))
        yield matrix(f"{at}.ssm_in", inner + channels + n_head, c)
        yield from convolution(at, channels, config["d_conv"])
        yield plain(f"{at}.ssm_dt.bias", (n_head,), inverse_softplus_dt)
        yield plain(f"{at}.ssm_a", (n_head, 1), uniform(-16.0, -1.0))
        yield plain(f"{at}.ssm_d", (n_head, 1), constant(1.0))
        yield plain(f"{at}.ssm_norm.weight", (n_group, inner // n_group), constant(1.0))
        yield matrix(f"{at}.ssm_out", c, inner)


def convolution(at: str, channels: int, d_conv: int) -> list[Tensor]:
    """The depthwise convolution of a Mamba layer."""
    return [
        plain(f"{at}.ssm_conv1d.weight", (channels, d_conv), uniform(-0.5, 0.5)),
        plain(f"{at}.ssm_conv1d.bias", (channels,), uniform(-0.1, 0.1)),
    ]


def metadata(architecture: str, config: dict) -> dict[str, int | float | bool]:
    """The hyper-parameters, without the architecture's name in front."""
    common = {
        "context_length": 1 << 20,
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
        "feed_forward_length": 0,
        "attention.layer_norm_rms_epsilon": config["norm_eps"],
        "ssm.conv_kernel": config["d_conv"],
        "ssm.inner_size": config["d_inner"],
        "ssm.state_size": config["d_state"],
    }
    if architecture == "mamba":
        return own | {"ssm.time_step_rank": config["dt_rank"], "ssm.dt_b_c_rms": False}
    return own | {"ssm.time_step_rank": config["n_head"], "ssm.group_count": config["n_group"]}


# brooklet's name of a family: the peer's name, and its tensors.
FAMILIES = {"rwkv7": ("rwkv7", rwkv7), "mamba1": ("mamba", mamba1), "mamba2": ("mamba2", mamba2)}


def write(path: str, model: dict) -> None:
    """Writes the F16 file of `model`: what `brooklet inspect --json` says of it."""
    import gguf

    architecture, tensors_of = FAMILIES[model["architecture"]]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(model["name"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # No vocabulary: ids go in, logits come out.
    writer.add_tokenizer_model("none")
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in metadata(architecture, model["config"]).items():
        add[type(value)](f"{architecture}.{key}", value)
    tensors = list(tensors_of(model["config"]))
    for tensor in tensors:
        dtype = np.dtype(tensor.dtype)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, int(np.prod(tensor.shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = Random()
    for tensor in tensors:
        writer.write_tensor_data(np.ascontiguousarray(tensor.draw(random, tensor.shape), dtype=tensor.dtype))
    writer.close()


def quantize(source: str, target: str, kind: str, threads: int) -> None:
    """Quantizes a file as the package's own tool does, with its defaults."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[kind]
    parameters.nthread = threads
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters) != 0:
        sys.exit(f"llama_model_quantize failed for {source} as {kind}")


def main() -> None:
    """One of the two commands above."""
    match sys.argv[1:]:
        case ["write", path]:
            write(path, json.load(sys.stdin))
        case ["quantize", source, target, kind, threads]:
            quantize(source, target, kind, int(threads))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
