#!/usr/bin/env python3
"""Measures whether the KL that brooklet expects of a budget comes true.

For each model and budget: `brooklet requantize --budget`, then the KL of the file from the model's own f32 logits on a text
that nothing was fitted to. The ratio to llama.cpp's KL is that of the row of as many bits in the file of `fidelity.py`. A
budget `4.75big` is one of the projections and the head alone, as that file counts bits: all other matrices get int8. With
`--untie` a tied head becomes a tensor of its own, as in the peer's files. Standard library only.

    budgets.py MODEL... --text heldout.txt [--budgets 4.75big,5.5big] [--untie] [--json benches/results/budgets.json]
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
from pathlib import Path

import fidelity_table
import preparation
from fidelity import is_big, our_bits, positive, rounded
from preparation import Failure, output, say

RESULTS = preparation.ROOT / "benches" / "results"
KEY = ["model", "untied", "budget", "calibrated"]


def peer_rows(model: str, text: str) -> dict[str, float]:
    """llama.cpp's KL by format, as `fidelity.py` has measured it."""
    rows = json.loads((RESULTS / "fidelity.json").read_text(encoding="utf-8"))["rows"]
    own = [row for row in rows if (row["model"], row["text"], row["engine"]) == (model, text, "llama.cpp")]
    return {row["format"]: row["kl_mean"] for row in own if row["kl_mean"] > 0}


def measured(args: argparse.Namespace, exact: Path, file: Path) -> dict:
    """The KL of a file, and the nats per token of its model."""
    command = [args.brooklet, "eval", file, "--reference", exact, "--text", args.text, "--json", "--quiet"]
    limits = ["--max-tokens", args.max_tokens, "--clear-every", args.clear_every, "--threads", args.threads]
    return json.loads(output([*command, *map(str, limits)]))


def facts_of(args: argparse.Namespace, file: Path) -> dict:
    """The contents of a file."""
    return json.loads(output([args.brooklet, "inspect", file, "--json", "--tensors"]))


def limit_of(args: argparse.Namespace, exact: Path, budget: str) -> list[str]:
    """A budget as options of the program."""
    if not budget.endswith("big"):
        return ["--budget", budget] if budget.endswith("bpw") else ["--max-kl", budget]
    file = exact.with_name("int8.brk")
    output([args.brooklet, "requantize", exact, file, "--type", "int8", "--calibrate=off", "--force", "--quiet"])
    facts = facts_of(args, file)
    names = {tensor["name"] for tensor in facts["tensors"]}
    big = {name for name in names if is_big(name, "head" in names)}
    of_big = [tensor["shape"][0] * tensor["shape"][1] for tensor in facts["tensors"] if tensor["name"] in big]
    others = [tensor for tensor in facts["tensors"] if tensor["name"] not in big]
    least = sum(tensor["bytes"] for tensor in others) * 8 + float(budget.removesuffix("big")) * sum(of_big)
    # Rounded down, so that the big matrices keep what was asked.
    limit = ["--budget", f"{int(1e6 * least / facts['weights']) / 1e6}bpw"]
    small = {re.sub(r"^layers\.\d+\.", "", tensor["name"]) for tensor in others if tensor["format"].startswith("int8")}
    for part in sorted(small):
        limit += ["--override", rf"^(layers\.\d+\.)?{re.escape(part)}$=int8"]
    return limit


def row_of(args: argparse.Namespace, model: str, exact: Path, budget: str, calibrate: str) -> dict:
    """One file made, and what it lost."""
    calibrated = calibrate != "off"
    say(f"{model}, {budget}, {'calibrated' if calibrated else 'by search'}")
    file = exact.with_name("budget.brk")
    limit = limit_of(args, exact, budget)
    command = [args.brooklet, "requantize", exact, file, *limit, f"--calibrate={calibrate}", "--json", "--quiet"]
    made = json.loads(output([*command, "--threads", str(args.threads), "--force"]))
    found = measured(args, exact, file)
    facts = facts_of(args, file)
    row = {
        "model": model,
        "untied": args.untie,
        "budget": budget,
        "calibrated": calibrated,
        "text": args.text.name,
        "tokens": args.max_tokens,
    }
    row |= {"bits": round(made["bits_per_weight"], 4), "big_bits": round(our_bits(facts), 4)}
    row |= {"expected": rounded(made["plan"]["kl"]), "kl_mean": rounded(found["kl_mean"])}
    row |= {"kl_interval": rounded(found["kl_interval"]), "seconds": round(made["seconds"], 1)}
    peers = peer_rows(model, args.text.name)
    rival = fidelity_table.rival(row["big_bits"], list(peers))
    if rival:
        row["against"] = {"format": rival, "ratio": round(found["kl_mean"] / peers[rival], 4)}
    return row


def run(args: argparse.Namespace, rows: list[dict]) -> None:
    """Model by model; finished rows are in `rows` whatever happens later."""
    for path in args.models:
        name = path.name if path.is_dir() else path.stem
        source = next(iter([*path.glob("*.pth"), *path.glob("rwkv*.safetensors")]), path) if path.is_dir() else path
        with tempfile.TemporaryDirectory() as folder:
            exact = Path(folder) / "exact.brk"
            untie = ["--untie"] if args.untie else []
            output([args.brooklet, "convert", source, "--output", exact, "--type", "f32", *untie, "--quiet"])
            for budget in args.budgets.split(","):
                for calibrate in args.calibrate.split(","):
                    rows.append(row_of(args, name, exact, budget, calibrate))
                    fidelity_table.write(args.json, rows, KEY)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints: files, or folders with them")
    parser.add_argument("--text", type=Path, required=True, help="text to measure on")
    parser.add_argument(
        "--budgets",
        default="4.75big,5.5big",
        help="bits of the big matrices (4.75big), of all weights (5bpw) or KL (0.004), with commas",
    )
    parser.add_argument("--untie", action="store_true", help="a tied head becomes a tensor of its own")
    parser.add_argument("--calibrate", default="off,builtin", help="as brooklet takes it, with commas")
    parser.add_argument("--max-tokens", type=positive, default=4096, help="tokens of the text")
    parser.add_argument("--clear-every", type=positive, default=2048, help="tokens from one empty state to the next")
    parser.add_argument("--json", type=Path, help="file for the rows; what it has of others is kept")
    parser.add_argument("--threads", type=positive, default=1, help="figures do not depend on them")
    parser.add_argument("--brooklet", type=Path, help="program to measure (default: built from this repository)")
    return parser.parse_args()


def main() -> int:
    """Measures and prints."""
    args = arguments()
    signal.signal(signal.SIGTERM, preparation.interrupted)
    rows: list[dict] = []

    def work() -> None:
        args.brooklet = preparation.brooklet(args.brooklet)
        if not args.text.is_file():
            raise Failure(f"{args.text} is no file")
        run(args, rows)

    code = preparation.watched(work)
    print("\n".join(fidelity_table.budget_lines(rows)))
    return code


if __name__ == "__main__":
    sys.exit(main())
