#!/usr/bin/env python3
"""Measures other systems' number formats and prunings on trained models, as far as weights and inputs rounded in f32 show them.

Weights: a checkpoint with the big matrices rounded (`codecs.py`), converted to f32 by brooklet and read by it. Inputs of matrices:
the same model in numpy (`forward.py`), RWKV-7 and Mamba-2. The embedding is rounded only where it is also the head. Needs numpy.

    systems.py MODEL... --text heldout.txt --calibration calibration.txt [--systems mxfp4,palette]
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import checkpoints
import codecs_of_others as codecs
import fidelity_table
import preparation
import twins
from checkpoints import Tensors
from codecs_of_others import Inputs
from divergence import Divergence
from fidelity import Bench, Subject, apart, convert, passages, positive, subject, tokens
from forward import FORWARD, Product
from preparation import Failure, say

BIG = re.compile(r"(att\.(receptance|key|value|output)|ffn\.(key|value)|mixer\.(in_proj|out_proj))\.weight$")
EMBEDDING = "backbone.embeddings.weight"
# How far the model in numpy may be from brooklet's: another order of sums.
SAME = 1e-7
# Columns that share a scale of brooklet's activations.
RUN = 64
# Shares of the largest input that a static scale may stop at.
CLIPS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]


class Run(NamedTuple):
    """One model and its text."""

    bench: Bench
    model: Subject
    tensors: Tensors
    ids: list[int]
    truth: list[np.ndarray]
    inputs: dict[str, Inputs]

    def body(self) -> list[str]:
        """The projections."""
        return [name for name in self.tensors if BIG.search(name)]

    def big(self) -> list[str]:
        """The matrices that all formats count: the head, too, which may be the embedding."""
        return self.body() + [name for name in ["head.weight", EMBEDDING] if name in self.tensors]


def of_weights(change: Callable[[np.ndarray], np.ndarray], body: bool = False) -> Callable[[Run], list[np.ndarray]]:
    """Logits of brooklet with changed weights; of the projections alone, if so said."""
    return lambda run: read(run, {name: change(run.tensors[name]) for name in (run.body() if body else run.big())})


def behind(size: int) -> Callable[[Run], list[np.ndarray] | None]:
    """Logits of brooklet with int4 behind a rotation of so many columns; none where widths are no multiples."""

    def logits(run: Run) -> list[np.ndarray] | None:
        if any(run.tensors[name].shape[1] % size for name in run.big()):
            return None
        return read(run, {name: codecs.rotated(run.tensors[name], size) for name in run.big()})

    return logits


def pruned(change: Callable[..., np.ndarray], of_four: bool) -> Callable[[Run], list[np.ndarray] | None]:
    """Logits of brooklet with projections pruned by what they read; none where that is not known."""

    def logits(run: Run) -> list[np.ndarray] | None:
        if not run.inputs:
            return None
        return read(run, {name: change(run.tensors[name], run.inputs[name], of_four) for name in run.body()})

    return logits


def read(run: Run, changed: Tensors) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory(prefix="system-", dir=run.bench.folder) as place:
        source = twins.store(Path(place), run.model, run.tensors | changed)
        file = convert(run.bench, source, Path(place), "f32")
        return list(twins.read(run.bench, file, run.ids, run.bench.clear_every))


def of_product(made: Callable[[str, np.ndarray, Inputs], Callable]) -> Callable[[Run], list[np.ndarray] | None]:
    """Logits of the model in numpy; `made` gives, of a matrix, its product."""

    def logits(run: Run) -> list[np.ndarray] | None:
        if not run.inputs:
            return None
        products = {name: made(run.tensors[name], run.inputs[name]) for name in run.big()}
        return forward(run.model, run.tensors, run.ids, run.bench.clear_every, lambda name, x: products[name](x))

    return logits


def forward(model: Subject, tensors: Tensors, ids: list[int], every: int, product: Product) -> list[np.ndarray]:
    """Logits of each piece of `every` tokens, read side by side."""
    pieces = np.array(ids).reshape(-1, every)
    return list(FORWARD[model.facts["architecture"]](tensors, model.facts["config"], pieces, product))


def measured(model: Subject, tensors: Tensors, ids: list[int], every: int) -> dict[str, Inputs]:
    """What every matrix reads."""
    found: dict[str, Inputs] = {}

    def product(name: str, x: np.ndarray) -> np.ndarray:
        flat = x.reshape(-1, x.shape[-1])
        steps = {levels: static_steps(flat, 1, levels) for levels in [127, 7]}
        runs = {levels: static_steps(flat, RUN, levels) for levels in [127, 7]}
        found[name] = Inputs(flat.mean(0), (flat**2).mean(0), steps, runs)
        return x @ tensors[name].T

    forward(model, tensors, ids, every, product)
    return found


def static_steps(x: np.ndarray, size: int, levels: int) -> np.ndarray:
    """Of every channel, the step of its run of `size` that rounds inputs with the least squared error."""

    def of_runs(values: np.ndarray, fold: np.ufunc) -> np.ndarray:
        starts = range(0, len(values), size)
        return np.repeat(fold.reduceat(values, starts), size)[: len(values)]

    largest = of_runs(np.abs(x).max(0), np.maximum) / levels
    least, found = np.full(x.shape[1], np.inf), largest
    for clip in CLIPS:
        step = np.maximum(largest * np.float32(clip), 1e-12)
        error = of_runs(((stepped(x, step, levels) - x) ** 2).sum(0), np.add)
        found = np.where(error < least, step, found)
        least = np.minimum(error, least)
    return found.astype(np.float32)


def stepped(x: np.ndarray, step: np.ndarray | np.float32, levels: int) -> np.ndarray:
    return np.clip(np.rint(x / step), -levels, levels) * step


def dynamic(x: np.ndarray, size: int, levels: int) -> np.ndarray:
    """Whole numbers with a scale for each token and each run of columns, as brooklet's activations are."""
    lines = codecs.groups(x.reshape(-1, x.shape[-1]), size)
    step = np.maximum(np.abs(lines).max(1, keepdims=True) / levels, 1e-30)
    return codecs.ungroup(stepped(lines, step, levels), (x.size // x.shape[-1], x.shape[-1])).reshape(x.shape)


def same(weights: np.ndarray) -> np.ndarray:
    return weights


def with_dynamic(weights_by: Callable, size: int, levels: int) -> Callable:
    """Weights by a format; inputs with dynamic scales."""

    def made(weights: np.ndarray, _: Inputs) -> Callable:
        rounded = weights_by(weights).T.copy()
        return lambda x: dynamic(x, size, levels) @ rounded

    return of_product(made)


def with_static(weights_by: Callable, levels: int) -> Callable:
    """MergeQuant: whole numbers by static steps of channels, which move into the columns of the matrix before it is rounded."""

    def made(weights: np.ndarray, inputs: Inputs) -> Callable:
        step = inputs.steps[levels]
        rounded = weights_by(weights * step).T.copy()
        return lambda x: np.clip(np.rint(x / step), -levels, levels) @ rounded

    return of_product(made)


def with_static_runs(weights_by: Callable, levels: int) -> Callable:
    """A static step for each run of 64 columns, in the place of brooklet's dynamic ones."""

    def made(weights: np.ndarray, inputs: Inputs) -> Callable:
        rounded, step = weights_by(weights).T.copy(), inputs.runs[levels]
        return lambda x: stepped(x, step, levels) @ rounded

    return of_product(made)


def with_fp8(weights_by: Callable, per_token: bool) -> Callable:
    """E4M3 inputs, with the scale 1 or one for each token."""

    def made(weights: np.ndarray, _: Inputs) -> Callable:
        rounded = weights_by(weights).T.copy()

        def product(x: np.ndarray) -> np.ndarray:
            scale = np.maximum(np.abs(x).max(-1, keepdims=True) / 448, 1e-30) if per_token else np.float32(1)
            return (codecs.e4m3(x / scale) * scale) @ rounded

        return product

    return of_product(made)


class System(NamedTuple):
    """A row: bits of a weight with its scales, how activations are kept, and the logits."""

    title: str
    bits: float
    inputs: str
    logits: Callable[[Run], list[np.ndarray] | None]


SYSTEMS = {
    "int4": System("int4, searched, simulated", 4.28, "f32", of_weights(codecs.int4)),
    "mxfp4": System("MXFP4, the specification's scales", 4.25, "f32", of_weights(codecs.mxfp4)),
    "mxfp4-searched": System("MXFP4, searched scales", 4.25, "f32", of_weights(codecs.mxfp4_searched)),
    "nvfp4": System("NVFP4, scales of the largest", 4.5, "f32", of_weights(codecs.nvfp4)),
    "nvfp4-searched": System("NVFP4, searched scales", 4.5, "f32", of_weights(codecs.nvfp4_searched)),
    "palette": System("palette of 16, k-means", 4.0, "f32", of_weights(codecs.palette)),
    "hadamard64": System("int4 behind Hadamard 64", 4.28, "f32", behind(64)),
    "hadamard128": System("int4 behind Hadamard 128", 4.28, "f32", behind(128)),
    "fp8-static": System("E4M3, scale 1", 8.0, "f32", of_weights(codecs.fp8_static)),
    "fp8-unit": System("E4M3, µnit scaling's static scale", 8.0, "f32", of_weights(codecs.fp8_unit)),
    "fp8-tensor": System("E4M3, a scale per tensor", 8.0, "f32", of_weights(codecs.fp8_tensor)),
    "fp8-row": System("E4M3, a scale per row", 8.1, "f32", of_weights(codecs.fp8_row)),
    "half-magnitude": System(
        "half pruned, magnitude", 5.1, "f32", of_weights(lambda w: codecs.magnitude(w, False), True)
    ),
    "half-wanda": System("half pruned, Wanda", 5.1, "f32", pruned(codecs.wanda, False)),
    "half-dsnot": System("half pruned, DSnoT", 5.1, "f32", pruned(codecs.dsnot, False)),
    "2:4-magnitude": System("2:4 pruned, magnitude", 5.1, "f32", of_weights(lambda w: codecs.magnitude(w, True), True)),
    "2:4-wanda": System("2:4 pruned, Wanda", 5.1, "f32", pruned(codecs.wanda, True)),
    "2:4-dsnot": System("2:4 pruned, DSnoT", 5.1, "f32", pruned(codecs.dsnot, True)),
    "a8-dynamic": System("f32", 32.0, "8 bits, dynamic, per 64", with_dynamic(same, RUN, 127)),
    "a8-static-64": System("f32", 32.0, "8 bits, static, per 64", with_static_runs(same, 127)),
    "a8-static": System("f32", 32.0, "8 bits, static per channel", with_static(same, 127)),
    "a4-dynamic": System("f32", 32.0, "4 bits, dynamic, per 64", with_dynamic(same, RUN, 7)),
    "a4-static-64": System("f32", 32.0, "4 bits, static, per 64", with_static_runs(same, 7)),
    "a4-static": System("f32", 32.0, "4 bits, static per channel", with_static(same, 7)),
    "w4a8-dynamic": System("int4", 4.28, "8 bits, dynamic, per 64", with_dynamic(codecs.int4, RUN, 127)),
    "w4a8-static-64": System("int4", 4.28, "8 bits, static, per 64", with_static_runs(codecs.int4, 127)),
    "w4a8-static": System("int4, steps merged", 4.28, "8 bits, static per channel", with_static(codecs.int4, 127)),
    "w4a4-dynamic": System("int4", 4.28, "4 bits, dynamic, per 64", with_dynamic(codecs.int4, RUN, 7)),
    "w4a4-static-64": System("int4", 4.28, "4 bits, static, per 64", with_static_runs(codecs.int4, 7)),
    "w4a4-static": System("int4, steps merged", 4.28, "4 bits, static per channel", with_static(codecs.int4, 7)),
    "fp8-both-static": System(
        "E4M3, µnit scaling's static scale", 8.0, "E4M3, scale 1", with_fp8(codecs.fp8_unit, False)
    ),
    "fp8-both-dynamic": System("E4M3, a scale per tensor", 8.0, "E4M3, per token", with_fp8(codecs.fp8_tensor, True)),
}


def product_file(kind: str) -> Callable[[Run], list[np.ndarray]]:
    """Logits of brooklet's own format."""

    def logits(run: Run) -> list[np.ndarray]:
        file = convert(run.bench, run.model.source, run.model.folder, kind, "--calibrate=off")
        return list(twins.read(run.bench, file, run.ids, run.bench.clear_every))

    return logits


# brooklet's own, whole: weights, and activations of 8 bits.
OWN = {
    kind: System(f"brooklet {kind}", bits, inputs, product_file(kind))
    for kind, bits, inputs in [
        ("int4", 4.28, "8 bits, dynamic, per 64"),
        ("int5", 5.28, "8 bits, dynamic, per 64"),
        ("int8", 8.25, "8 bits, dynamic, per 64"),
        ("fp8-e4m3", 8.125, "bf16"),
        ("fp8-e5m2", 8.125, "bf16"),
    ]
}
ALL = {f"brooklet-{kind}": system for kind, system in OWN.items()} | SYSTEMS


def prepared(args: argparse.Namespace, bench: Bench, path: Path) -> Run:
    """A model with its reference and, where `forward.py` has it, what its matrices read."""
    model = subject(bench, path)
    tensors = checkpoints.read(path)
    ids = tokens(bench, model, args.text)[: args.max_tokens]
    truth = list(twins.read(bench, model.f32, ids, args.clear_every))
    run = Run(bench, model, tensors, ids, truth, {})
    if model.facts["architecture"] not in FORWARD:
        return run
    whole = tokens(bench, model, args.calibration)
    apart(whole, ids, args.text.name)
    calibration = [token for piece in passages(whole, args.calibration_tokens) for token in piece]
    inputs = measured(model, tensors, calibration, 1024)
    run = run._replace(inputs=inputs)
    own = forward(model, tensors, ids, args.clear_every, lambda name, x: x @ tensors[name].T)
    away = figures(run, own)["kl_mean"]
    if away > SAME:
        raise Failure(f"{model.name} in numpy is another model: KL {away}")
    return run


def figures(run: Run, logits: list[np.ndarray]) -> dict:
    found, every = Divergence(), run.bench.clear_every
    for i, (reference, own) in enumerate(zip(run.truth, logits, strict=True)):
        found.add(run.ids[i * every :][:every], reference, own)
    return found.figures()._asdict()


def measure(args: argparse.Namespace, rows: list[dict]) -> None:
    """Model by model; finished rows are in `rows` whatever happens later."""
    program = preparation.brooklet(args.brooklet)
    bench = Bench(program, args.cache / "fidelity", args.threads, args.max_tokens, args.clear_every)
    for path in args.models:
        run = prepared(args, bench, path)
        for name in args.systems:
            system = ALL[name]
            say(f"{run.model.name}: {name}")
            logits = system.logits(run)
            if logits is None:
                continue
            row = {"model": run.model.name, "system": name, "weights": system.title, "inputs": system.inputs}
            row |= {"bits": system.bits, "text": args.text.name, "tokens": len(run.ids)}
            row |= {key: float(f"{value:.6g}") for key, value in figures(run, logits).items()}
            rows.append(row)
            fidelity_table.write(args.json, rows, ["model", "system"])


def systems(text: str) -> list[str]:
    """An argument that lists systems."""
    names = text.split(",")
    for name in names:
        if name not in ALL:
            raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(ALL)}")
    return names


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints: files, or folders with them")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True, help="another text: what matrices read")
    parser.add_argument("--calibration-tokens", type=positive, default=8192)
    parser.add_argument("--max-tokens", type=positive, default=4096, help="a multiple of --clear-every")
    parser.add_argument("--clear-every", type=positive, default=2048)
    parser.add_argument("--systems", type=systems, default=list(ALL), help=f"default {','.join(ALL)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--brooklet", type=Path, help="program to measure (default: built from this repository)")
    parser.add_argument("--cache", type=Path, default=preparation.cache_home() / "brooklet" / "peers")
    args = parser.parse_args()
    if args.max_tokens % args.clear_every:
        parser.error("--max-tokens is no multiple of --clear-every")
    return args


def main() -> int:
    """Measures, prints."""
    args = arguments()
    signal.signal(signal.SIGTERM, preparation.interrupted)
    rows: list[dict] = []
    code = preparation.watched(lambda: measure(args, rows))
    if rows:
        print("\n".join(fidelity_table.system_lines(rows)))
    return code


if __name__ == "__main__":
    sys.exit(main())
