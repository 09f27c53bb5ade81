#!/usr/bin/env python3
"""Measures what number formats lose on twins of a model: other weights, the same function.

Of two matrices in a row, a few channels between them are multiplied in the first and divided in the second; norms, mixes and
gates stand for matrices where they multiply channel by channel. So outliers of released models are put into small ones, whose
f32 logits say that nothing else has changed. The table has the mean KL of each format on the twin, and its quotient by the
same format's on the model itself; as the converter rounds weights that it leaves as they are (`--no-equalize`), and as it does
by default. Needs numpy.

    twins.py MODEL... --text heldout.txt [--pairs 'ffn.key / ffn.value,all'] [--equalize]
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

import checkpoints
import fidelity_table
import preparation
from checkpoints import Tensors
from divergence import Divergence
from fidelity import Bench, Subject, convert, formats, inspect, our_side, positive, subject, tokens
from preparation import Failure, say

# Channels of each hundred that are multiplied, and the fewest.
PERCENT, LEAST = 2, 3
DIRECTIONS = {"up": 1.0, "down": -1.0, "none": 0.0}

Spread = Callable[[np.ndarray], np.ndarray]


class Part(NamedTuple):
    """What happens to one tensor: channels of an axis, from `start` on, times a power of the factors."""

    name: str
    axis: int
    power: float
    start: int = 0
    # From factors to channels, where several channels share a factor.
    spread: Spread = lambda factors: factors
    # Norms that are stored around zero.
    added: float = 0.0

    def apply(self, tensors: Tensors, factors: np.ndarray) -> None:
        """Multiplies the channels, in f64; the file has f32."""
        scale = self.spread(factors) ** self.power
        tensor = tensors[self.name].astype(np.float64) + self.added
        part = np.moveaxis(tensor, self.axis, -1)[..., self.start : self.start + scale.size]
        part *= scale
        tensors[self.name] = (tensor - self.added).astype(np.float32)


class Pair(NamedTuple):
    """Tensors whose channels are multiplied together in one layer, so that the function stays."""

    name: str
    channels: int
    parts: list[Part]
    # Heads: all layers take the same factors, and only from 1 up, or the epsilon of the heads' norm would change the function.
    heads: bool = False


def rwkv7(tensors: Tensors, config: dict) -> Iterator[Pair]:
    """Token shift mixes channel by channel: it lets factors through. Adapters are stored for `x W`."""
    width, d_ff, head = config["d_model"], config["d_ff"], config["d_head"]
    last = [Part("ln_out.weight", -1, 1), Part("ln_out.bias", -1, 1), Part("head.weight", 1, -1)]
    yield Pair("ln_out / head", width, last)
    for i in range(config["n_layer"]):
        at = f"blocks.{i}"
        key, value = f"{at}.ffn.key.weight", f"{at}.ffn.value.weight"
        # Squared ReLU makes c² of c.
        yield Pair("ffn.key / ffn.value", d_ff, [Part(key, 0, 1), Part(value, 1, -2)])
        yield Pair("ln2 / ffn.key", width, [*norms(f"{at}.ln2"), Part(key, 1, -1)])
        readers = [Part(f"{at}.att.{name}.weight", 1, -1) for name in ["receptance", "key", "value"]]
        readers += [Part(f"{at}.att.{x}1", 0, -1) for x in "wavg" if f"{at}.att.{x}1" in tensors]
        yield Pair("ln1 / att", width, [*norms(f"{at}.ln1"), *readers])
        out = f"{at}.att.output.weight"
        yield Pair("att.g2 / att.output", width, [Part(f"{at}.att.g2", 1, 1), Part(out, 1, -1)])

        def heads(factors: np.ndarray) -> np.ndarray:
            return np.repeat(factors, head)

        # The norm over a head takes its factor away, but for its epsilon, and has to give it back; the bonus keeps it. Every
        # layer mixes its values with the first's.
        own = [Part(f"{at}.att.value.weight", 0, 1, spread=heads), Part(out, 1, -1, spread=heads)]
        own += [part._replace(spread=heads) for part in norms(f"{at}.att.ln_x")]
        yield Pair("att.value / att.output, heads", width // head, own, heads=True)


def norms(name: str) -> list[Part]:
    """A layer norm, multiplied."""
    return [Part(f"{name}.{part}", -1, 1) for part in ["weight", "bias"]]


def mamba1(_: Tensors, config: dict) -> Iterator[Pair]:
    """SiLU stands behind the convolution and in the gate: no channel of `out_proj` has a counterpart."""
    inner, rank, state = config["d_inner"], config["dt_rank"], config["d_state"]
    for i in range(config["n_layer"]):
        at = f"backbone.layers.{i}"
        into, x_proj = f"{at}.mixer.in_proj.weight", f"{at}.mixer.x_proj.weight"
        yield Pair("norm / in_proj", config["d_model"], [Part(f"{at}.norm.weight", 0, 1), Part(into, 1, -1)])
        yield Pair("in_proj.x / conv", inner, [Part(into, 0, 1), Part(f"{at}.mixer.conv1d.weight", 0, -1)])
        yield Pair("x_proj / dt_proj", rank, [Part(x_proj, 0, 1), Part(f"{at}.mixer.dt_proj.weight", 1, -1)])
        yield Pair("B / C in x_proj", state, [Part(x_proj, 0, 1, rank), Part(x_proj, 0, -1, rank + state)])


def mamba2(_: Tensors, config: dict) -> Iterator[Pair]:
    """As Mamba-1; the gated norm gives `out_proj` a counterpart."""
    inner = config["d_inner"]
    convolved = inner + 2 * config["n_group"] * config["d_state"]
    for i in range(config["n_layer"]):
        at = f"backbone.layers.{i}"
        into, out = f"{at}.mixer.in_proj.weight", f"{at}.mixer.out_proj.weight"
        yield Pair("norm / in_proj", config["d_model"], [Part(f"{at}.norm.weight", 0, 1), Part(into, 1, -1)])
        yield Pair("gated_norm / out_proj", inner, [Part(f"{at}.mixer.norm.weight", 0, 1), Part(out, 1, -1)])
        rows = [Part(into, 0, 1, inner), Part(f"{at}.mixer.conv1d.weight", 0, -1)]
        yield Pair("in_proj.xbc / conv", convolved, rows)


def qwen3_5(_: Tensors, config: dict) -> Iterator[Pair]:
    """Norms are stored around zero, but for that behind the delta rule, which all heads share."""
    width, head, n_kv = config["d_model"], config["d_attn_head"], config["n_kv_head"]
    for i, kind in enumerate(config["layer_types"]):
        at = f"model.layers.{i}"
        up, down = f"{at}.mlp.up_proj.weight", f"{at}.mlp.down_proj.weight"
        yield Pair("mlp.up / mlp.down", config["d_ff"], [Part(up, 0, 1), Part(down, 1, -1)])
        norm = Part(f"{at}.post_attention_layernorm.weight", 0, 1, added=1)
        yield Pair("mlp_norm / mlp", width, [norm, Part(up, 1, -1), Part(f"{at}.mlp.gate_proj.weight", 1, -1)])
        norm = Part(f"{at}.input_layernorm.weight", 0, 1, added=1)
        if kind == "attention":
            own = f"{at}.self_attn"
            readers = [Part(f"{own}.{x}_proj.weight", 1, -1) for x in "qkv"]

            def groups(factors: np.ndarray) -> np.ndarray:
                shape = (n_kv, config["n_attn_head"] // n_kv, head)
                return np.broadcast_to(factors.reshape(n_kv, 1, head), shape).reshape(-1)

            parts = [Part(f"{own}.v_proj.weight", 0, 1), Part(f"{own}.o_proj.weight", 1, -1, spread=groups)]
            yield Pair("attn.v / attn.out", n_kv * head, parts)
        else:
            own = f"{at}.linear_attn"
            readers = [Part(f"{own}.in_proj_{x}.weight", 1, -1) for x in ["qkv", "z", "a", "b"]]

            def every_head(factors: np.ndarray) -> np.ndarray:
                return np.tile(factors, config["n_head"])

            parts = [Part(f"{own}.norm.weight", 0, 1), Part(f"{own}.out_proj.weight", 1, -1, spread=every_head)]
            yield Pair("out_norm / out_proj", config["d_head"], parts)
            rows = [Part(f"{own}.in_proj_qkv.weight", 0, 1), Part(f"{own}.conv1d.weight", 0, -1)]
            yield Pair("in_proj.qkv / conv", 2 * config["n_key_head"] * config["d_key"], rows)
        yield Pair("norm / projections", width, [norm, *readers])


PAIRS = {"rwkv7": rwkv7, "mamba1": mamba1, "mamba2": mamba2, "qwen3_5": qwen3_5}


def names(model: Subject, tensors: Tensors) -> list[str]:
    """The pairs that a model has, and `all` of them together."""
    if model.facts["architecture"] not in PAIRS:
        raise Failure(f"no twins of {model.facts['architecture']}\nthere are {', '.join(PAIRS)}")
    pairs = PAIRS[model.facts["architecture"]](tensors, model.facts["config"])
    return [*dict.fromkeys(pair.name for pair in pairs), "all"]


def twin(model: Subject, tensors: Tensors, name: str, power: float, args: argparse.Namespace) -> Tensors:
    """A copy of the tensors with a pair's channels multiplied, in every layer."""
    changed = dict(tensors)
    for layer, pair in enumerate(PAIRS[model.facts["architecture"]](tensors, model.facts["config"])):
        if name not in (pair.name, "all") or (pair.heads and power < 0):
            continue
        seed = [args.seed, zlib.crc32(pair.name.encode()), 0 if pair.heads else layer]
        random = np.random.default_rng(seed)
        count = min(pair.channels, max(1 if pair.heads else LEAST, pair.channels * PERCENT // 100))
        factors = np.ones(pair.channels)
        chosen = random.choice(pair.channels, count, replace=False)
        factors[chosen] = np.exp(power * random.uniform(0, math.log(args.largest), count))
        for part in pair.parts:
            part.apply(changed, factors)
    return changed


def store(folder: Path, model: Subject, tensors: Tensors) -> Path:
    """Writes a checkpoint beside copies of what it needs; gives what brooklet converts."""
    file = folder / "model.safetensors"
    checkpoints.write(file, tensors)
    base = model.path if model.path.is_dir() else model.path.parent
    for extra in ["config.json", "tokenizer.json"]:
        if (base / extra).exists():
            shutil.copyfile(base / extra, folder / extra)
    return folder if (folder / "config.json").exists() else file


def read(bench: Bench, file: Path, ids: list[int], every: int) -> Iterator[np.ndarray]:
    """Logits of brooklet with a file, block by block."""
    side = our_side(bench, file.stem, file, inspect(bench, file))
    for at in range(0, len(ids), every):
        yield side.logits(ids[at:][:every])


def distance(bench: Bench, file: Path, ids: list[int], reference: list[np.ndarray]) -> float:
    """Mean KL of a file to the model's own f32 logits."""
    found, every = Divergence(), bench.clear_every
    for i, logits in enumerate(read(bench, file, ids, every)):
        found.add(ids[i * every :][:every], reference[i], logits)
    return found.figures().kl_mean


def distances(
    bench: Bench, source: Path, folder: Path, kinds: list[str], ids: list[int], truth: list, *, equalize: bool
) -> dict:
    """Mean KL by format."""
    found = {}
    for kind in kinds:
        options = ["--calibrate=off", *([] if equalize else ["--no-equalize"])]
        file = convert(bench, source, folder, kind, *options)
        found[kind] = distance(bench, file, ids, truth)
        if folder.name.startswith("twin-"):
            file.unlink()
    return found


def run(args: argparse.Namespace, rows: list[dict]) -> None:
    """All twins of all models; finished rows are in `rows` whatever happens later."""
    program = preparation.brooklet(args.brooklet)
    bench = Bench(program, args.cache / "fidelity", args.threads, args.max_tokens, args.clear_every)
    for path in args.models:
        model = subject(bench, path)
        tensors = checkpoints.read(path)
        ids = tokens(bench, model, args.text)[: args.max_tokens]
        truth = list(read(bench, model.f32, ids, args.clear_every))
        plain = distances(bench, model.source, model.folder, args.formats, ids, truth, equalize=False)
        for name in names(model, tensors):
            if args.pairs and name not in args.pairs:
                continue
            heads = name.endswith("heads")
            for direction in [kind for kind in args.directions if not heads or DIRECTIONS[kind] > 0]:
                say(f"{model.name}: {name}, {direction}")
                with tempfile.TemporaryDirectory(prefix="twin-", dir=bench.folder) as place:
                    folder = Path(place)
                    source = store(folder, model, twin(model, tensors, name, DIRECTIONS[direction], args))
                    kinds = ["f32", *args.formats]
                    twins = distances(bench, source, folder, kinds, ids, truth, equalize=args.equalize)
                kind = f"{direction}, equalized" if args.equalize else direction
                row = {"model": model.name, "pair": name, "direction": kind, "kl_f32": twins.pop("f32")}
                row |= {"kl": twins, "kl_plain": plain, "text": args.text.name, "tokens": len(ids)}
                row["factor"] = {kind: round(twins[kind] / plain[kind], 3) for kind in plain}
                rows.append(row)
                fidelity_table.write(args.json, rows, ["model", "pair", "direction"])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints: files, or folders with them")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--max-tokens", type=positive, default=4096)
    parser.add_argument("--clear-every", type=positive, default=2048)
    parser.add_argument("--formats", type=formats, default=["int4-v1", "int4", "int8"], help="brooklet's")
    parser.add_argument("--pairs", type=lambda text: text.split(","), help="only these pairs (default: each, and all)")
    parser.add_argument("--directions", type=lambda text: text.split(","), default=["up", "down"], help="up,down,none")
    parser.add_argument("--equalize", action="store_true", help="as the converter does by default")
    parser.add_argument("--largest", type=float, default=96.0, help="factors are log-uniform from 1 to this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--brooklet", type=Path, help="program to measure (default: built from this repository)")
    parser.add_argument("--cache", type=Path, default=preparation.cache_home() / "brooklet" / "peers")
    args = parser.parse_args()
    wrong = [name for name in args.directions if name not in DIRECTIONS]
    if wrong:
        parser.error(f"no direction {wrong[0]!r}")
    return args


def main() -> int:
    """Measures, prints; 1 if a twin is none."""
    args = arguments()
    signal.signal(signal.SIGTERM, preparation.interrupted)
    rows: list[dict] = []
    code = preparation.watched(lambda: run(args, rows))
    if rows:
        print("\n".join(fidelity_table.twin_lines(rows)))
    return code or int(any(row["kl_f32"] >= fidelity_table.SAME for row in rows))


if __name__ == "__main__":
    sys.exit(main())
