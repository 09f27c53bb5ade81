"""RWKV-7 and Mamba-2 in numpy, with every product of a big matrix left to the caller: for what a file of weights cannot show.

Texts of one length are read side by side, each from an empty state; f32 throughout. As `shared/fixtures/ARCHITECTURES.md` states the
equations. Checked against brooklet's f32 logits whenever `systems.py` uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from checkpoints import Tensors

# From a matrix's name and its inputs (texts, tokens, columns) to its outputs.
Product = Callable[[str, np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(eps)) * weight + bias


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + np.float32(eps)) * weight


def shifted(x: np.ndarray) -> np.ndarray:
    """Each token's predecessor; zeros before the first."""
    return np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], 1)


def rwkv7(tensors: Tensors, config: dict, ids: np.ndarray, product: Product) -> np.ndarray:
    """Logits (texts, tokens, vocabulary)."""
    norm = lambda x, name: layer_norm(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)
    x = norm(tensors["emb.weight"][ids], "blocks.0.ln0")
    first = None
    for i in range(config["n_layer"]):
        h = norm(x, f"blocks.{i}.ln1")
        y, first = time_mix(tensors, f"blocks.{i}.att", config["d_head"], h, first, product)
        x = x + y
        h = norm(x, f"blocks.{i}.ln2")
        key = product(f"blocks.{i}.ffn.key.weight", h + (shifted(h) - h) * tensors[f"blocks.{i}.ffn.x_k"].reshape(-1))
        x = x + product(f"blocks.{i}.ffn.value.weight", np.maximum(key, 0) ** 2)
    return product("head.weight", norm(x, "ln_out"))


def time_mix(t: Tensors, at: str, d_head: int, h: np.ndarray, first: np.ndarray | None, product: Product) -> tuple:
    """The time mix of a layer, and the values of the first."""
    own = lambda name: t[f"{at}.{name}"].reshape(-1)
    change = shifted(h) - h
    mixed = {name: h + change * own(f"x_{name}") for name in "rwkvag"}
    adapter = lambda name, f: f(mixed[name] @ t[f"{at}.{name}1"]) @ t[f"{at}.{name}2"]
    same = lambda x: x
    heads = lambda x: x.reshape(*x.shape[:2], -1, d_head)
    r, k, v = (product(f"{at}.{n}.weight", mixed[n[0]]) for n in ["receptance", "key", "value"])
    decay = np.exp(np.float32(-0.606531) * sigmoid(own("w0") + adapter("w", np.tanh)))
    a = sigmoid(own("a0") + adapter("a", same))
    gate = adapter("g", sigmoid)
    kk = heads(k * own("k_k"))
    kk = kk / np.maximum(np.sqrt((kk**2).sum(-1, keepdims=True)), 1e-12)
    k = k * (1 + (a - 1) * own("k_a"))
    if first is None:
        first = v
    else:
        v = v + (first - v) * sigmoid(own("v0") + adapter("v", same))
    r, k, decay, a, values = map(heads, [r, k, decay, a, v])
    y = np.empty_like(values)
    state = np.zeros((*values.shape[:1], *values.shape[2:], d_head), np.float32)
    back = kk * a
    for step in range(h.shape[1]):
        removed = state @ kk[:, step, :, :, None]
        state *= decay[:, step, :, None]
        state -= removed * back[:, step, :, None]
        state += values[:, step, :, :, None] * k[:, step, :, None]
        y[:, step] = (state @ r[:, step, :, :, None])[..., 0]
    shape = y.shape[2:]
    weight, bias = own("ln_x.weight").reshape(shape), own("ln_x.bias").reshape(shape)
    y = layer_norm(y, weight, bias, 64e-5)
    y += (r * k * t[f"{at}.r_k"].reshape(shape)).sum(-1, keepdims=True) * values
    return product(f"{at}.output.weight", y.reshape(h.shape) * gate), first


def mamba2(tensors: Tensors, config: dict, ids: np.ndarray, product: Product) -> np.ndarray:
    """Logits (texts, tokens, vocabulary); one group, the head tied to the embedding."""
    inner, d_state, d_head = config["d_inner"], config["d_state"], config["d_head"]
    embedding = "backbone.embeddings.weight"
    x = tensors[embedding][ids]
    for i in range(config["n_layer"]):
        own = lambda name, at=f"backbone.layers.{i}": tensors[f"{at}.{name}"]
        h = rms_norm(x, own("norm.weight"), 1e-5)
        mixed = product(f"backbone.layers.{i}.mixer.in_proj.weight", h)
        z, xbc, dt = np.split(mixed, [inner, 2 * inner + 2 * d_state], -1)
        taps = own("mixer.conv1d.weight")[:, 0]
        padded = np.pad(xbc, [(0, 0), (taps.shape[1] - 1, 0), (0, 0)])
        parts = [padded[:, j : j + ids.shape[1]] * taps[:, j] for j in range(taps.shape[1])]
        values, b, c = np.split(silu(sum(parts) + own("mixer.conv1d.bias")), [inner, inner + d_state], -1)
        values = values.reshape(*ids.shape, -1, d_head)
        dt = np.logaddexp(dt + own("mixer.dt_bias"), np.float32(0))
        decay = np.exp(-np.exp(own("mixer.A_log")) * dt)
        y = np.empty_like(values)
        state = np.zeros((ids.shape[0], *values.shape[2:], d_state), np.float32)
        for step in range(ids.shape[1]):
            state *= decay[:, step, :, None, None]
            state += (values[:, step] * dt[:, step, :, None])[..., None] * b[:, step, None, None, :]
            y[:, step] = (state @ c[:, step, None, :, None])[..., 0]
        y = (y + values * own("mixer.D")[:, None]).reshape(*ids.shape, inner)
        y = rms_norm(y * silu(z), own("mixer.norm.weight"), 1e-5)
        x = x + product(f"backbone.layers.{i}.mixer.out_proj.weight", y)
    return product(embedding, rms_norm(x, tensors["backbone.norm_f.weight"], 1e-5))


FORWARD = {"rwkv7": rwkv7, "mamba2": mamba2}
