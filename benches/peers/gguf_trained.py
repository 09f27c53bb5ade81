"""Makes an F32 GGUF file of a trained checkpoint, as llama.cpp's own converter would, and quantizes it.

Needs numpy, gguf and llama-cpp-python. A head that is tied to the embedding is written as a tensor of its own, so that it can
be quantized while the embedding stays as it is. Not here: reading checkpoints (`checkpoints.py`), the families' metadata
(`gguf_families.py`).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from checkpoints import Tensors
from gguf_families import FAMILIES, metadata
from preparation import Failure

# ggml's number of the type F32.
F32 = 0
# The matrices whose bits are counted: what a family has of projections, and the head.
BIG = re.compile(
    r"(^|\.)(time_mix_(receptance|key|value|output)|channel_mix_(key|value)|ssm_(in|out)|output"
    r"|attn_(qkv|gate|q|k|v|output)|ffn_(gate|up|down))\.weight$"
)

Named = Iterator[tuple[str, np.ndarray]]


def rwkv7(tensors: Tensors, config: dict) -> Named:
    """RWKV-7, from BlinkDL's names. Adapters are stored for `x W` there and turned here."""
    for ours, theirs in [("emb", "token_embd"), ("head", "output")]:
        yield f"{theirs}.weight", tensors[f"{ours}.weight"]
    for part in ["weight", "bias"]:
        yield f"token_embd_norm.{part}", tensors[f"blocks.0.ln0.{part}"]
        yield f"output_norm.{part}", tensors[f"ln_out.{part}"]
    for i in range(config["n_layer"]):
        block, at = f"blocks.{i}", f"blk.{i}"
        for part in ["weight", "bias"]:
            for ours, theirs in [("ln1", "attn_norm"), ("ln2", "attn_norm_2"), ("att.ln_x", "time_mix_ln")]:
                yield f"{at}.{theirs}.{part}", tensors[f"{block}.{ours}.{part}"]
        mixes = [tensors[f"{block}.att.x_{letter}"].reshape(-1) for letter in "rwkvag"]
        yield f"{at}.time_mix_lerp_fused.weight", np.stack(mixes).reshape(6, 1, 1, -1)
        for letter in "wavg":
            # The first layer has no value residual; the converter leaves copies of `a` in its place.
            ours = "a" if letter == "v" and i == 0 else letter
            if letter != "g":
                yield f"{at}.time_mix_{letter}0.weight", tensors[f"{block}.att.{ours}0"].reshape(-1)
            for side in "12":
                yield f"{at}.time_mix_{letter}{side}.weight", tensors[f"{block}.att.{ours}{side}"].T
        for name in ["k_k", "k_a", "r_k"]:
            yield f"{at}.time_mix_{name}.weight", tensors[f"{block}.att.{name}"].reshape(-1)
        for name in ["receptance", "key", "value", "output"]:
            yield f"{at}.time_mix_{name}.weight", tensors[f"{block}.att.{name}.weight"]
        yield f"{at}.channel_mix_lerp_k.weight", tensors[f"{block}.ffn.x_k"].reshape(-1)
        for name in ["key", "value"]:
            yield f"{at}.channel_mix_{name}.weight", tensors[f"{block}.ffn.{name}.weight"]


def mamba(tensors: Tensors, config: dict) -> Named:
    """Mamba-1 and Mamba-2, from the names of Hugging Face."""
    second = "n_head" in config
    yield from trunk(tensors, "backbone.embeddings", "backbone.norm_f")
    for i in range(config["n_layer"]):
        layer, at = f"backbone.layers.{i}", f"blk.{i}"
        mixer = f"{layer}.mixer"
        yield f"{at}.attn_norm.weight", tensors[f"{layer}.norm.weight"]
        yield f"{at}.ssm_in.weight", tensors[f"{mixer}.in_proj.weight"]
        yield f"{at}.ssm_out.weight", tensors[f"{mixer}.out_proj.weight"]
        yield f"{at}.ssm_conv1d.weight", tensors[f"{mixer}.conv1d.weight"][:, 0]
        yield f"{at}.ssm_conv1d.bias", tensors[f"{mixer}.conv1d.bias"]
        decay = -np.exp(tensors[f"{mixer}.A_log"])
        if second:
            yield f"{at}.ssm_a", decay.reshape(-1, 1)
            yield f"{at}.ssm_d", tensors[f"{mixer}.D"].reshape(-1, 1)
            yield f"{at}.ssm_dt.bias", tensors[f"{mixer}.dt_bias"]
            yield f"{at}.ssm_norm.weight", tensors[f"{mixer}.norm.weight"].reshape(config["n_group"], -1)
        else:
            yield f"{at}.ssm_a", decay
            yield f"{at}.ssm_d", tensors[f"{mixer}.D"]
            yield f"{at}.ssm_x.weight", tensors[f"{mixer}.x_proj.weight"]
            yield f"{at}.ssm_dt.weight", tensors[f"{mixer}.dt_proj.weight"]
            yield f"{at}.ssm_dt.bias", tensors[f"{mixer}.dt_proj.bias"]


def qwen35(tensors: Tensors, config: dict) -> Named:
    """Qwen3.5: norms are stored around zero and get their 1; value heads are reordered (see `tiled`)."""
    yield from trunk(tensors, "model.embed_tokens", "model.norm", 1.0)
    for i, kind in enumerate(config["layer_types"]):
        layer, at = f"model.layers.{i}", f"blk.{i}"
        yield f"{at}.attn_norm.weight", 1 + tensors[f"{layer}.input_layernorm.weight"]
        yield f"{at}.post_attention_norm.weight", 1 + tensors[f"{layer}.post_attention_layernorm.weight"]
        for name in ["gate", "up", "down"]:
            yield f"{at}.ffn_{name}.weight", tensors[f"{layer}.mlp.{name}_proj.weight"]
        if kind == "attention":
            for ours, theirs in [("q", "q"), ("k", "k"), ("v", "v"), ("o", "output")]:
                yield f"{at}.attn_{theirs}.weight", tensors[f"{layer}.self_attn.{ours}_proj.weight"]
            for name in "qk":
                yield f"{at}.attn_{name}_norm.weight", 1 + tensors[f"{layer}.self_attn.{name}_norm.weight"]
            continue
        own = {name: tensors[f"{layer}.linear_attn.{name}"] for name in ["A_log", "dt_bias"]}
        own |= {
            name: tensors[f"{layer}.linear_attn.{name}.weight"]
            for name in ["in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "conv1d", "norm", "out_proj"]
        }
        keys = 2 * config["n_key_head"] * config["d_key"]
        for ours, theirs in [("in_proj_qkv", "attn_qkv"), ("conv1d", "ssm_conv1d")]:
            rows = own[ours].reshape(len(own[ours]), -1)
            yield f"{at}.{theirs}.weight", np.concatenate([rows[:keys], tiled(rows[keys:], config)])
        for ours, theirs in [("in_proj_z", "attn_gate"), ("in_proj_a", "ssm_alpha"), ("in_proj_b", "ssm_beta")]:
            yield f"{at}.{theirs}.weight", tiled(own[ours], config)
        yield f"{at}.ssm_dt.bias", tiled(own["dt_bias"], config)
        yield f"{at}.ssm_a", tiled(-np.exp(own["A_log"]), config)
        yield f"{at}.ssm_norm.weight", own["norm"]
        yield f"{at}.ssm_out.weight", tiled(own["out_proj"].T, config).T


def tiled(rows: np.ndarray, config: dict) -> np.ndarray:
    """Rows of value heads in the converter's order: head h reads key head h mod n_key_head, not h div their ratio."""
    n_key = config["n_key_head"]
    heads = rows.reshape(n_key, config["n_head"] // n_key, -1, *rows.shape[1:])
    return np.swapaxes(heads, 0, 1).reshape(rows.shape)


def trunk(tensors: Tensors, embed: str, norm: str, added: float = 0.0) -> Named:
    """Embedding, last norm, and the head, which may be the embedding."""
    yield "token_embd.weight", tensors[f"{embed}.weight"]
    yield "output_norm.weight", added + tensors[f"{norm}.weight"]
    yield "output.weight", tensors.get("lm_head.weight", tensors[f"{embed}.weight"])


WRITERS = {"rwkv7": rwkv7, "mamba1": mamba, "mamba2": mamba, "qwen3_5": qwen35}


def write(path: Path, tensors: Tensors, model: dict) -> None:
    """Writes the F32 file; `model` is what `brooklet inspect --json` says of brooklet's."""
    import gguf

    if model["architecture"] not in WRITERS:
        raise Failure(f"no GGUF writer for {model['architecture']}\nthere are {', '.join(WRITERS)}")
    architecture = FAMILIES[model["architecture"]][0]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    # No vocabulary: ids go in, logits come out.
    writer.add_tokenizer_model("none")
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    for key, value in metadata(architecture, model["config"]).items():
        add[type(value)](f"{architecture}.{key}", value)
    try:
        for name, tensor in WRITERS[model["architecture"]](tensors, model["config"]):
            writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
    except KeyError as error:
        raise Failure(
            f"the checkpoint has no tensor {error}: its names are not those that this script reads"
        ) from error
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, kind: int, pure: bool, importance: dict | None, threads: int) -> None:
    """Quantizes a file to one of the package's file types by its own quantizer; the embedding stays F32."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    parameters.nthread = threads
    parameters.pure = pure
    parameters.token_embedding_type = F32
    if importance:
        entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        parameters.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    part = target.with_suffix(".part")
    try:
        if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), parameters) != 0:
            raise Failure(f"llama_model_quantize failed for {source}, type {kind}")
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def bits(path: Path) -> float:
    """Bits per weight of the big matrices, from the bytes of their tensors."""
    import gguf

    big = [tensor for tensor in gguf.GGUFReader(path).tensors if BIG.search(tensor.name)]
    return 8 * sum(int(tensor.n_bytes) for tensor in big) / sum(int(tensor.n_elements) for tensor in big)
