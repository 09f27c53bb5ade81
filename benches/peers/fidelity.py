#!/usr/bin/env python3
"""Measures how far the number formats of brooklet and llama.cpp move a trained model from its own f32 logits.

Each engine reads the same token ids, the state cleared every so many, and is compared with itself on f32 weights. The peer's
files are made here from the same checkpoint and quantized by its own quantizer; README.md beside this file says more.

    fidelity.py MODEL... --text heldout.txt [--calibration calibration.txt] [--brk FILE...]
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import fidelity_table
import preparation
from preparation import Failure, output, say

if TYPE_CHECKING:
    import numpy as np

    from divergence import Divergence

# Changes whenever the way `gguf_trained.py` fills files does.
VERSION = 2
# How the peer's package numbers what it can quantize to (`llama_ftype` in llama.h).
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25}
PEERS = ["Q4_0:pure", "IQ4_NL:pure", "IQ4_NL:pure:imatrix", "Q4_K_M", "Q4_K_M:imatrix", "Q5_K_M", "Q8_0"]
OURS = ["int4-v1", "int4:search", "int4", "int5:search", "int5", "int6:search", "int8"]
# Words behind a colon in the name of a format of brooklet's, and the flag for each.
OPTIONS = {"search": "--calibrate=off", "untied": "--untie"}
# A text to measure with must not hold a run of so many tokens of the text that a format was fitted to.
RUN = 50
# Tokens of each passage of the calibration text.
PASSAGE = 1024

# brooklet's names of the matrices whose bits are counted, as `gguf_trained.BIG` has the peer's.
BIG = {
    *["head", "att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"],
    *["in_proj.x", "in_proj.z", "in_proj.xbc", "in_proj.dt", "in_proj.qkv", "out_proj"],
    *["attn.q", "attn.gate", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down"],
}

# Logits after every token of a text that is read from an empty state.
Source = Callable[[list[int]], "np.ndarray"]


class Side(NamedTuple):
    """One engine with one file."""

    engine: str
    format: str
    bits: float
    logits: Source


class Bench(NamedTuple):
    """What all models share."""

    program: Path
    folder: Path
    threads: int
    max_tokens: int
    clear_every: int


class Subject(NamedTuple):
    """A checkpoint, where its files are kept, and what brooklet says of its f32 file."""

    name: str
    path: Path
    # What brooklet converts.
    source: Path
    folder: Path
    f32: Path
    facts: dict


def digest(*parts: bytes) -> str:
    """A short name for some bytes."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:8]


def file_digest(*files: Path) -> str:
    """A short name for what some files hold."""
    whole = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            for part in iter(lambda file=file: file.read(1 << 20), b""):
                whole.update(part)
    return whole.hexdigest()[:8]


def convert(bench: Bench, source: Path, folder: Path, kind: str, *options: str) -> Path:
    """brooklet's file of a checkpoint in one format, made once for each build of the program."""
    path = folder / f"{kind}{''.join(options)}-{file_digest(bench.program)}.brk"
    if not path.exists():
        say(f"converting {source.name} to {kind}")
        output([bench.program, "convert", source, "--output", path, "--type", kind, "--quiet", *options])
    return path


def inspect(bench: Bench, file: Path) -> dict:
    """What brooklet says of a file."""
    return json.loads(output([bench.program, "inspect", file, "--json", "--tensors"]))


def subject(bench: Bench, path: Path) -> Subject:
    """Finds a checkpoint's weights and makes brooklet's f32 file of them."""
    import checkpoints

    name = path.name if path.is_dir() else path.stem
    folder = bench.folder / f"{name}-{file_digest(*checkpoints.weights(path))}"
    folder.mkdir(parents=True, exist_ok=True)
    source = checkpoints.source(path)
    f32 = convert(bench, source, folder, "f32")
    return Subject(name, path, source, folder, f32, inspect(bench, f32))


def tokens(bench: Bench, model: Subject, text: Path) -> list[int]:
    """The ids of a text, by the model's own tokenizer in brooklet."""
    try:
        written = text.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {text}: {error}") from error
    ids = list(map(int, output([bench.program, "tokenize", model.f32, "--whole"], written).split()))
    if len(ids) < 2:
        raise Failure(f"{text} has {len(ids)} tokens: nothing to measure")
    return ids


def apart(calibration: list[int], evaluation: list[int], name: str) -> None:
    """Fails if the two texts share a passage: figures of what a format was fitted to say nothing."""
    import numpy as np

    def runs(ids: list[int]) -> np.ndarray:
        """A hash of each run of `RUN` tokens."""
        array, hashes = np.array(ids, np.uint64), np.zeros(max(len(ids) - RUN + 1, 0), np.uint64)
        for i in range(RUN):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + (array[i:][: len(hashes)] + np.uint64(1))
        return hashes

    seen = runs(evaluation)
    shared = np.flatnonzero(np.isin(seen, runs(calibration)))
    if shared.size:
        where = f"{shared.size} runs of {RUN} tokens, the first at token {shared[0]} of the text to measure with"
        raise Failure(f"{name} and the calibration text share {where}\nuse texts that do not overlap")


def passages(ids: list[int], count: int) -> list[list[int]]:
    """Passages of a calibration text, spread evenly over it, with so many tokens in all."""
    pieces = max(1, min(count, len(ids)) // PASSAGE)
    stride = max(PASSAGE, len(ids) // pieces)
    return [ids[at:][:PASSAGE] for at in range(0, len(ids), stride)][:pieces]


def our_bits(facts: dict) -> float:
    """Bits per weight of the big matrices, from the bytes of their tensors."""
    names = {tensor["name"] for tensor in facts["tensors"]}
    big = [tensor for tensor in facts["tensors"] if is_big(tensor["name"], "head" in names)]
    weights = sum(tensor["shape"][0] * tensor["shape"][1] for tensor in big)
    return 8 * sum(tensor["bytes"] for tensor in big) / weights


def is_big(name: str, has_head: bool) -> bool:
    """Whether a tensor is one of the projections, or the head, which may be the embedding."""
    part = name.split(".", 2)[-1] if name.startswith("layers.") else name
    return part in BIG or (part == "embed" and not has_head)


def our_side(bench: Bench, name: str, file: Path, facts: dict) -> Side:
    """brooklet with a file: each text by a process of its own."""
    import numpy as np

    def logits(ids: list[int]) -> np.ndarray:
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            result = Path(folder) / "logits.npy"
            command = [bench.program, "logits", file, "--ids", "-", "--out", result, "--quiet"]
            output([*command, "--threads", str(bench.threads)], " ".join(map(str, ids)))
            return np.load(result)

    return Side("brooklet", name, our_bits(facts), logits)


def our_sides(bench: Bench, model: Subject, kinds: list[str], files: list[tuple[Path, dict]]) -> list[Side]:
    """f32 first, then the formats asked for, then given files of the same model."""
    made = []
    for name in kinds:
        kind, *options = name.split(":")
        flags = [OPTIONS[option] for option in options]
        made.append((" ".join([kind, *options]), convert(bench, model.source, model.folder, kind, *flags)))
    own = [our_side(bench, kind, file, inspect(bench, file)) for kind, file in [("f32", model.f32), *made]]
    return own + [our_side(bench, file.stem, file, facts) for file, facts in files if belongs(facts, model)]


def belongs(facts: dict, model: Subject) -> bool:
    """Whether a file is one of the model's: as far as one can see, one with its hyper-parameters."""
    return all(facts[key] == model.facts[key] for key in ["architecture", "config"])


def peer_files(bench: Bench, model: Subject, kinds: list[str], calibration: list[int]) -> dict[str, Path]:
    """The peer's files by name, F32 first; made where they are not there."""
    import checkpoints
    import gguf_trained
    import peer_logits

    def path(name: str) -> Path:
        return model.folder / f"{name.replace(' ', '-')}-v{VERSION}.gguf"

    files = {"F32": path("F32")}
    if not files["F32"].exists():
        say(f"writing {model.name}'s GGUF file")
        part = files["F32"].with_suffix(".part")
        gguf_trained.write(part, checkpoints.read(model.path), model.facts)
        part.rename(files["F32"])
    importance = None
    for kind in kinds:
        ftype, *options = kind.split(":")
        name = " ".join([ftype, *options])
        fitted = "imatrix" in options
        key = f"{name} {digest(repr(calibration).encode())}" if fitted else name
        files[name] = path(key)
        if files[name].exists():
            continue
        if fitted and importance is None:
            say(f"measuring what {model.name}'s matrices read")
            blocks = [calibration[at:][:PASSAGE] for at in range(0, len(calibration), PASSAGE)]
            importance = peer_logits.importance(files["F32"], bench.threads, blocks)
        say(f"quantizing {model.name} to {name}")
        quantizing = ["pure" in options, importance if fitted else None, bench.threads]
        gguf_trained.quantize(files["F32"], files[name], FILE_TYPES[ftype], *quantizing)
    return files


def measure(ids: list[int], every: int, sides: list[Side], title: str) -> list[Divergence]:
    """Reads the text with all of one engine's files; the first is the reference."""
    from divergence import Divergence

    found = [Divergence() for _ in sides]
    for at in range(0, len(ids), every):
        say(f"{title}: tokens {at} to {min(at + every, len(ids))} of {len(ids)}")
        block = ids[at:][:every]
        reference = sides[0].logits(block)
        for side, divergence in zip(sides, found, strict=True):
            divergence.add(block, reference, reference if side is sides[0] else side.logits(block))
    return found


def rows_of(model: str, text: str, ids: list[int], every: int, found: list[tuple[Side, Divergence]]) -> list[dict]:
    """What the table has, with the ratios of ours to the peer's."""
    import divergence

    theirs = {side.format: own for side, own in found if side.engine != "brooklet"}
    rows = []
    for side, own in found:
        row = {"model": model, "text": text, "engine": side.engine, "format": side.format, "bits": round(side.bits, 4)}
        row |= {"tokens": len(ids), "clear_every": every}
        row |= {name: rounded(value) for name, value in own.figures()._asdict().items()}
        rival = fidelity_table.rival(side.bits, list(theirs))
        if side.engine == "brooklet" and side.format != "f32" and rival:
            quotient, error = divergence.ratio(own, theirs[rival])
            row["against"] = {"format": rival, "ratio": round(quotient, 4), "error": rounded(error)}
        rows.append(row)
    return rows


def rounded(value: float) -> float | None:
    """Six digits; nothing for an error of one piece, which has none."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def run(args: argparse.Namespace, rows: list[dict]) -> None:
    """Model by model; finished rows are in `rows` whatever happens later."""
    import peer_logits

    peer_logits.start()
    program = preparation.brooklet(args.brooklet)
    bench = Bench(program, args.cache / "fidelity", args.threads, args.max_tokens, args.clear_every)
    if not args.calibration and any("imatrix" in kind for kind in args.formats):
        args.formats = [kind for kind in args.formats if "imatrix" not in kind]
        say("no --calibration: the peer's files with an importance matrix are left out")
    models = [subject(bench, path) for path in args.models]
    given = [(file, inspect(bench, file)) for file in args.brk]
    for file, facts in given:
        if not any(belongs(facts, model) for model in models):
            raise Failure(f"{file} has the hyper-parameters of none of the models\nname its checkpoint, too")
    for model in models:
        with preparation.alone(model.folder):
            compare(bench, model, args, given, rows)


def compare(bench: Bench, model: Subject, args: argparse.Namespace, given: list, rows: list[dict]) -> None:
    """Makes all files of a model, then reads every text with both engines."""
    import gguf_trained
    import peer_logits

    texts = {text: tokens(bench, model, text)[: bench.max_tokens] for text in args.text}
    calibration = []
    if args.calibration:
        whole = tokens(bench, model, args.calibration)
        for text, ids in texts.items():
            apart(whole, ids, text.name)
        calibration = list(itertools.chain(*passages(whole, args.calibration_tokens)))
    ours = our_sides(bench, model, [kind for kind in args.formats if kind[0].islower()], given)
    files = peer_files(bench, model, [kind for kind in args.formats if kind[0].isupper()], calibration)
    readers = {name: peer_logits.Reader(file, bench.threads, bench.clear_every) for name, file in files.items()}
    theirs = [Side("llama.cpp", name, gguf_trained.bits(files[name]), r.logits) for name, r in readers.items()]
    for text, ids in texts.items():
        found = []
        for sides in [theirs, ours]:
            title = f"{model.name}, {text.name}, {sides[0].engine}"
            found += zip(sides, measure(ids, bench.clear_every, sides, title), strict=True)
        rows += rows_of(model.name, text.name, ids, bench.clear_every, found)
        fidelity_table.write(args.json, rows, ["model", "text"], peer=preparation.PACKAGES[0])
    for reader in readers.values():
        reader.close()


def formats(text: str) -> list[str]:
    """A list of formats: capitals are the peer's, with `:pure` and `:imatrix`, the rest brooklet's, with OPTIONS."""
    names = [name for name in text.split(",") if name]
    for name in names:
        kind, *options = name.split(":")
        if kind[:1].isupper() and (kind not in FILE_TYPES or not set(options) <= {"pure", "imatrix"}):
            raise argparse.ArgumentTypeError(f"no {name!r}; the peer's are {', '.join(FILE_TYPES)}, :pure, :imatrix")
        if not kind[:1].isupper() and not set(options) <= set(OPTIONS):
            raise argparse.ArgumentTypeError(f"no {name!r}; brooklet's formats may have :{', :'.join(OPTIONS)}")
    return names


def positive(text: str) -> int:
    """An argument that is a number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints: files, or folders with them")
    parser.add_argument("--text", type=Path, action="append", required=True, help="text to read (more than once)")
    parser.add_argument("--calibration", type=Path, help="text for the peer's importance matrix; it may not overlap")
    parser.add_argument("--calibration-tokens", type=positive, default=16384, help="tokens of it, spread over it")
    parser.add_argument("--max-tokens", type=positive, default=20000, help="tokens of each text")
    parser.add_argument("--clear-every", type=positive, default=2048, help="tokens from one empty state to the next")
    parser.add_argument("--formats", type=formats, default=[*PEERS, *OURS], help=f"default {','.join([*PEERS, *OURS])}")
    parser.add_argument("--brk", type=Path, nargs="+", default=[], help="more files of brooklet's of these models")
    parser.add_argument("--json", type=Path, help="file for the rows; what it has of other models and texts is kept")
    parser.add_argument("--threads", type=positive, default=1, help="of each engine; figures do not depend on them")
    parser.add_argument("--brooklet", type=Path, help="program to measure (default: built from this repository)")
    parser.add_argument("--cache", type=Path, default=preparation.cache_home() / "brooklet" / "peers")
    parser.add_argument("--venv", type=Path, help="virtual environment with the peer (default: made in the cache)")
    return parser.parse_args()


def main() -> int:
    """Goes on in the virtual environment, which has the packages, then measures and prints."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--cache", type=Path, default=preparation.cache_home() / "brooklet" / "peers")
    finder.add_argument("--venv", type=Path)
    known, _ = finder.parse_known_args()
    if not {"-h", "--help"} & set(sys.argv):
        python = preparation.environment(known.cache, known.venv)
        if Path(sys.prefix).resolve() != python.parent.parent.resolve() and "BROOKLET_PEER" not in os.environ:
            os.execve(python, [python, __file__, *sys.argv[1:]], os.environ | {"BROOKLET_PEER": "1"})
    args = arguments()
    signal.signal(signal.SIGTERM, preparation.interrupted)
    rows: list[dict] = []
    code = preparation.watched(lambda: run(args, rows))
    if rows:
        print(fidelity_table.markdown(rows), end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
