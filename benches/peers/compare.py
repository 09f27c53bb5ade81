#!/usr/bin/env python3
"""Measures brooklet and llama.cpp side by side and prints one table. README.md beside this file says what is compared.

Both engines run in turn on the same machine, each repetition in a fresh process of its own, the order changing from
one repetition to the next. A ratio is the median of the repetitions' own ratios, so that what disturbs the machine for
a while disturbs both sides of it. Standard library only; files and programs come from `preparation.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import mmap
import os
import platform
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import preparation
from preparation import HERE, OURS, Failure, Model, output, say

SMALL = ["rwkv7-0.1b", "mamba1-130m", "mamba2-130m"]
MODELS = [
    *["rwkv7-0.1b", "rwkv7-0.4b", "rwkv7-1.5b", "rwkv7-2.9b"],
    *["mamba1-130m", "mamba1-790m", "mamba1-2.8b"],
    *["mamba2-130m", "mamba2-1.3b", "mamba2-2.7b"],
    *["qwen3.5-0.8b", "qwen3.5-2b", "lfm2-350m", "lfm2-1.2b"],
    *["granite4-h-350m", "granite4-h-1b", "falcon-h1-0.5b", "nemotron-h-4b"],
]
# From here on a model decodes fewer tokens and the peer warms up with less: its pages are a small part of a long run.
LARGE = 1_000_000_000
# Columns of the table: heading, the device that they say something of ("" for each), and what a row shows there.
COLUMNS = [
    ("model", "", lambda row: row["model"]),
    ("threads", "cpu", lambda row: row["threads"]),
    ("formats", "", lambda row: f"{row['ours']['format']} / {row['peer']['format']}"),
    ("pages", "cpu", lambda row: row["pages"]),
    ("sequences", "", lambda row: row["sequences"]),
    ("prompt", "", lambda row: row["prompt"] or "-"),
    ("decode t/s", "", lambda row: both(row, "decode_tps", 1)),
    ("ratio", "", lambda row: ratio(row, "decode_ratio")),
    ("prefill t/s", "", lambda row: both(row, "prefill_tps", 0)),
    ("ratio", "", lambda row: ratio(row, "prefill_ratio")),
    ("peak RSS, MB", "cpu", lambda row: both(row, "peak_rss_mb", 0)),
    ("of it private", "cpu", lambda row: both(row, "private_mb", 0)),
    ("in huge pages", "cpu", lambda row: both(row, "huge_share", show=percent)),
    ("of the card, MB", "cuda", lambda row: both(row, "card_mb", 0)),
    ("file, MB", "", lambda row: both(row, "file_mb", 0)),
    ("first token, ms", "", lambda row: both(row, "first_token_ms", 0)),
    ("read limit, GB/s", "", lambda row: number(row["read_limit_gbps"])),
    ("ours of it", "", lambda row: percent(row["decode_of_limit"])),
    ("tensor limit, TOP/s", "cuda", lambda row: number(row["tensor_limit_tops"])),
    ("ours of it", "cuda", lambda row: percent(row["prefill_of_limit"])),
]


class Plan(NamedTuple):
    """What one process runs."""

    threads: int
    prompt: int
    decode: int
    # Tokens that each sequence has read before it decodes.
    depth: int
    sequences: int
    warm_up: int
    # What brooklet keeps states as; the peer's are always f32, its keys and values f16.
    state: str
    # Which pages both sides get for their weights: "huge" or "small".
    pages: str
    # "cpu" or "cuda".
    device: str


class Pair(NamedTuple):
    """The two programs."""

    ours: Path
    peer: list[Path]


def ours(program: Path, file: Path, plan: Plan) -> dict:
    """brooklet's figures of one run."""
    numbers = ["-p", plan.prompt, "-n", plan.decode, "-d", plan.depth, "-b", plan.sequences, "--threads", plan.threads]
    options = ["--live-state", plan.state, "--device", plan.device, "--repeat", "1", "--json"]
    options += ["--small-pages"] if plan.pages == "small" else []
    return json.loads(output([program, "bench", file, *map(str, numbers), *options]))


def peers(program: list[Path], file: Path, plan: Plan) -> dict:
    """The peer's figures of one run."""
    numbers = {name: value for name, value in plan._asdict().items() if isinstance(value, int)}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in (numbers | {"device": plan.device}).items()]
    # What it repacks lies in the C library's memory, which glibc leaves in small pages unless it is told not to.
    environment = os.environ | {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={int(plan.pages == 'huge')}"}
    figures = json.loads(output([*program, file, *arguments], environment=environment))
    return figures | {"file_mb": file.stat().st_size / 1e6}


def warm(file: Path, pages: str) -> None:
    """Fills the page cache with a file anew, in such pages where the system can: whatever was left does not count."""
    advice = mmap.MADV_HUGEPAGE if pages == "huge" else mmap.MADV_NOHUGEPAGE
    with open(file, "rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            with contextlib.suppress(OSError):
                mapped.madvise(advice)
            for page in range(0, len(mapped), mmap.PAGESIZE):
                _ = mapped[page]


def compare(pair: Pair, files: tuple[Path, Path], plan: Plan, repeat: int, title: str) -> tuple[list, list]:
    """Figures of every repetition, ours and the peer's; who goes first alternates."""
    runs = {ours: [], peers: []}
    for i in range(repeat):
        sides = [(ours, pair.ours, files[0]), (peers, pair.peer, files[1])]
        for side, program, file in sides if i % 2 == 0 else reversed(sides):
            say(f"{title}, repetition {i + 1} of {repeat}: {'brooklet' if side is ours else 'peer'}")
            warm(file, plan.pages)
            runs[side].append(side(program, file, plan))
    return runs[ours], runs[peers]


def row_of(model: Model, kind: str, plan: Plan, our_runs: list[dict], peer_runs: list[dict], card: str | None) -> dict:
    """One row of the result: medians, the ratios' median and span, and every repetition."""
    measures = ["decode_tps", "prefill_tps", "peak_rss_mb", "private_mb", "huge_share"]
    measures += ["first_token_ms", "open_ms", "file_mb", "card_mb"]

    def side(name: str, runs: list[dict]) -> dict:
        return {"format": name} | {measure: middle(run[measure] for run in runs) for measure in measures}

    def ratios(measure: str) -> list[float]:
        return [o[measure] / p[measure] for o, p in zip(our_runs, peer_runs, strict=True) if o[measure] is not None]

    return {
        "model": model.name,
        **plan._asdict(),
        "card": card,
        "repeat": len(our_runs),
        "ours": side(OURS[kind], our_runs),
        "peer": side(kind, peer_runs),
        "decode_ratio": ratios("decode_tps"),
        "prefill_ratio": ratios("prefill_tps"),
        "read_limit_gbps": middle(run["read_limit_gbps"] for run in our_runs),
        "decode_of_limit": middle(run["decode_of_limit"] for run in our_runs),
        "tensor_limit_tops": middle(run["limits"].get("int8_tops") for run in our_runs),
        "prefill_of_limit": middle(run["prefill_of_limit"] for run in our_runs),
        "our_runs": our_runs,
        "peer_runs": peer_runs,
    }


def middle(values) -> float | None:
    """The median, or nothing where nothing was measured."""
    values = [value for value in values if value is not None]
    return median(values) if values else None


def both(row: dict, measure: str, digits: int = 0, show: Callable[[float], str] | None = None) -> str:
    """Our median and the peer's."""
    show = show or (lambda value: f"{value:.{digits}f}")
    values = [row[side][measure] for side in ["ours", "peer"]]
    return " / ".join("-" if value is None else show(value) for value in values)


def ratio(row: dict, name: str) -> str:
    """The median of the ratios and, in brackets, the least and the greatest."""
    ratios = row[name]
    return f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "-"


def number(value: float | None) -> str:
    """A figure for people."""
    return "-" if value is None else f"{value:.1f}"


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(rows: list[dict]) -> str:
    """The result as Markdown, with what has to be known to read it."""
    columns = [(heading, show) for heading, of, show in COLUMNS if of in ("", rows[0]["device"])]
    lines = [[heading for heading, _ in columns], ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[str(show(row)) for _, show in columns] for row in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    lengths = dict.fromkeys(f"{row['model']} {row['decode']}" for row in rows)
    peer = rows[0]["peer_runs"][0]
    behind = f", decoded behind {rows[0]['depth']}" if rows[0]["depth"] else ""
    return f"""{text}

brooklet / llama.cpp, medians of {rows[0]["repeat"]} interleaved repetitions; ratio: median (least–greatest) of each one's own.
A row's sequences decode together, one reads the prompt. Tokens decoded by each:
{", ".join(lengths)}{behind}.
States of brooklet in {rows[0]["state"]}, of the peer in f32, its keys and values in f16.
{machine(rows)}; llama-cpp-python {peer["version"]}, {peer["system"]}.
"""


def machine(rows: list[dict]) -> str:
    """Where both ran, behind what has to be known of its memory."""
    if rows[0]["card"]:
        return f"""Of the card: weights, states and buffers, without the driver's own. The limits are the card's.
{rows[0]["card"]}, in a machine of {processor()}"""
    pages = " and ".join(dict.fromkeys(f"{row['pages']} pages" for row in rows))
    return f"""For the weights of both {pages} were asked for ("in huge pages" has what came); \
private: not the file's, at the end.
{processor()}; brooklet on {rows[0]["our_runs"][0]["isa"]}"""


def processor() -> str:
    """The processor's name and how many of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{os.cpu_count()} × {name}"


def run(args: argparse.Namespace, rows: list[dict]) -> None:
    """Prepares everything, then measures; finished rows are in `rows` whatever happens later."""
    program = preparation.brooklet(args.brooklet)
    card = preparation.card(program, args.device)
    origin = preparation.Origin(args.device, args.source, args.wheels)
    python = preparation.environment(args.cache, args.venv, origin)
    pair = Pair(program, [python, HERE / "peer.py"])
    work = []
    for name in args.models:
        our = {kind: preparation.our_file(program, name, kind) for kind in {OURS[kind]: None for kind in args.formats}}
        model = our[OURS[args.formats[0]]]
        theirs = preparation.their_files(python, args.cache, model, args.formats, os.cpu_count() or 1)
        work += [(our[OURS[kind]], kind, theirs[kind]) for kind in args.formats]
    for model, kind, their in [] if args.prepare else work:
        for threads, pages, shape in itertools.product(args.threads, args.pages, shapes(args)):
            plan = plan_of(args, model, (threads, pages), shape)
            title = f"{model.name}, {OURS[kind]} and {kind}, {threads} thread{'s' * (threads > 1)}, {pages} pages"
            title += f", {plan.sequences} × {plan.decode} behind a prompt of {plan.prompt}"
            figures = compare(pair, (model.path, their), plan, args.repeat, title)
            rows.append(row_of(model, kind, plan, *figures, card))


def shapes(args: argparse.Namespace) -> list[tuple[int, int]]:
    """Sequences and tokens of the prompt of each row: several sequences read none unless no row has one alone."""
    alone = 1 in args.sequences
    prompts = args.prompt if args.prompt is not None else [512] if alone else [0]
    each = ([prompts, [0]][alone and n > 1] for n in args.sequences)
    return [(n, prompt) for n, own in zip(args.sequences, each, strict=True) for prompt in own]


def plan_of(args: argparse.Namespace, model: Model, memory: tuple[int, str], shape: tuple[int, int]) -> Plan:
    """How many tokens: fewer for a large model on cpu."""
    (threads, pages), (sequences, prompt) = memory, shape
    large = model.weights >= LARGE
    decode = args.decode if args.decode is not None else 32 if large and args.device == "cpu" else 128
    warm_up = 64 if large and args.device == "cpu" else 512
    return Plan(threads, prompt, decode, args.depth, sequences, warm_up, args.live_state, pages, args.device)


def listed(choices: list[str]):
    """An argument that lists some of the choices, separated by commas."""

    def parse(text: str) -> list[str]:
        wrong = [name for name in text.split(",") if name not in choices]
        if wrong:
            raise argparse.ArgumentTypeError(f"no {wrong[0]!r}; there are {', '.join(choices)}")
        return list(dict.fromkeys(text.split(",")))

    return parse


def count(least: int):
    """An argument that is a number from `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least}")
        return int(text)

    return parse


def counts(least: int):
    """An argument that lists numbers from `least`, separated by commas."""
    return lambda text: list(dict.fromkeys(map(count(least), text.split(","))))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", type=listed(MODELS), metavar="LIST", help="models by name, commas between; default: all")
    formats = ", ".join(OURS)
    add("--formats", type=listed(list(OURS)), default=["Q4_0"], metavar="LIST", help=f"of {formats}; default: Q4_0")
    device = "where both run; default: cpu. cuda is the first card, where threads and pages do not matter"
    add("--device", choices=["cpu", "cuda"], default="cpu", help=device)
    add("--threads", type=counts(1), metavar="LIST", help="numbers of threads; default: 1,2, with a card 1")
    add("--repeat", type=count(1), default=5, metavar="N", help="repetitions; default: 5")
    prompt = "tokens of prompts, a row each; default: 512, of several sequences 0"
    add("--prompt", type=counts(0), metavar="LIST", help=prompt)
    decode = "tokens to decode; default: 128, on cpu 32 from a billion weights on"
    add("--decode", type=count(0), metavar="N", help=decode)
    add("--depth", type=count(0), default=0, metavar="N", help="tokens read, untimed, before those decoded; default: 0")
    sequences = "sequences decoded together, a row each; default: 1. Where 1 is among them, it alone reads prompts"
    add("--sequences", type=counts(1), default=[1], metavar="LIST", help=sequences)
    live_state = "what brooklet keeps states as; default: f32"
    add("--live-state", choices=["f32", "f16", "int8"], default="f32", help=live_state)
    pages = "pages that both sides' weights lie in, of huge, small; default: huge"
    add("--pages", type=listed(["huge", "small"]), default=["huge"], metavar="LIST", help=pages)
    add("--quick", action="store_true", help="the smallest model of each family, 3 repetitions")
    add("--prepare", action="store_true", help="make all files and programs, measure nothing")
    add("--json", metavar="FILE", help="write every figure there too; - prints that instead of the table")
    cache = preparation.cache_home() / "brooklet" / "peers"
    add("--cache", type=Path, default=cache, metavar="DIR", help="default: %(default)s")
    add("--venv", type=Path, metavar="DIR", help="a virtual environment that has the packages already")
    source = "llama-cpp-python's source, unpacked or the archive; default: it is downloaded"
    add("--source", type=Path, metavar="PATH", help=source)
    wheels = "wheels of all other packages, for machines without network; default: they are downloaded"
    add("--wheels", type=Path, metavar="DIR", help=wheels)
    add("--brooklet", type=Path, metavar="PROGRAM", help="a program built already; default: cargo build --release")
    args = parser.parse_args()
    if args.quick:
        args.models, args.repeat = args.models or SMALL, min(args.repeat, 3)
    args.models = args.models or MODELS
    args.threads = args.threads or ([1, 2] if args.device == "cpu" else [1])
    for path in filter(None, [args.source, args.wheels]):
        if not path.exists():
            parser.error(f"there is no {path}")
    return args


def show(rows: list[dict], target: str | None) -> None:
    """Prints or writes what there is."""
    text = json.dumps(rows, indent=2)
    if target == "-":
        print(text)
        return
    if target:
        part = Path(target + ".part")
        part.write_text(text + "\n", encoding="utf-8")
        part.rename(target)
    if rows:
        print(table(rows), end="")


def main() -> int:
    """Runs the comparison; what was measured before a failure or Ctrl-C is shown all the same."""
    args = arguments()
    signal.signal(signal.SIGTERM, preparation.interrupted)
    rows: list[dict] = []
    try:
        with preparation.alone(args.cache):
            run(args, rows)
        code = 0
    except (Failure, OSError) as error:
        say(f"error: {error}")
        code = 1
    except KeyboardInterrupt:
        say("interrupted; the rows measured so far:" if rows else "interrupted")
        code = 130
    if not args.prepare:
        show(rows, args.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
