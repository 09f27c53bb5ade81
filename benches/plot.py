#!/usr/bin/env python3
"""Draws benches/speed.svg from benches/results/*.json; Python 3.9 or newer, nothing else.

    benches/plot.py            writes benches/speed.svg
    benches/plot.py --take NAME FIGURES...
                               makes the rows of results/NAME.json from what `compare.py --json` wrote, in their order,
                               and prints their table
    benches/plot.py --check    fails unless the picture is up to date, and unless RESULTS.md, FIDELITY.md and
                               the main README have the figures of the JSON files

The JSON files hold the medians that `benches/peers/compare.py` printed, and the rows of `benches/peers/fidelity.py`,
`twins.py`, `systems.py` and `budgets.py` beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from peers import fidelity_table

HERE = Path(__file__).resolve().parent
PICTURE = HERE / "speed.svg"
# The rows of the picture and of the main README.
SHOWN = ["rwkv7-0.4b", "rwkv7-1.5b", "rwkv7-2.9b", "mamba1-790m", "mamba2-1.3b"]
FILE, THREADS = "zen4", 2

WIDTH, LEFT, GAP, RIGHT, TOP, BOTTOM = 860, 122, 54, 40, 92, 48
BAR, GROUP = 15, 46
ENGINES = ["brooklet", "llama.cpp"]
MARKS = {3: " ³", 2: " ²", 1: " ¹"}

# Readable on white and on black; a browser that knows the reader's choice takes the exact colours.
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #7d8590 }
  .title { font-size: 15px; font-weight: 600 }
  .value { font-size: 12px }
  .grid { stroke: #9ca3af; stroke-opacity: .35 }
  .axis { stroke: #9ca3af }
  .brooklet { fill: #0d9488 }
  .peer { fill: #9ca3af }
  @media (prefers-color-scheme: light) { text { fill: #374151 } .title { fill: #111827 } }
  @media (prefers-color-scheme: dark) {
    text { fill: #c9d1d9 } .title { fill: #f0f6fc } .brooklet { fill: #2dd4bf } .peer { fill: #6e7681 }
  }
"""


def load(name: str) -> dict:
    """One file of results."""
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def shown(results: dict) -> list[dict]:
    """The rows of the picture, in its order."""
    rows = [
        row
        for row in results["rows"]
        if row["threads"] == THREADS
        and row["sequences"] == 1
        and row.get("pages") != "small"
        and (row["format"], row["peer_format"]) == ("int4", "Q4_0")
    ]
    by_model = {row["model"]: row for row in rows}
    return [by_model[name] for name in SHOWN]


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to the first at or above `most`, four to six of them."""
    power = 10.0 ** (len(str(int(most))) - 1)
    step = next(step for step in (power / 5, power / 4, power / 2, power, power * 2) if most / step <= 5)
    count = int(-(-most // step))
    return [step * i for i in range(count + 1)]


def panel(rows: list[dict], field: str, digits: int, x: float, width: float) -> list[str]:
    """The bars of one quantity, its values with so many digits behind the point."""
    title = {"decode_tokens_per_s": "Decoding", "prompt_tokens_per_s": "Reading a prompt"}[field]
    marks = ticks(max(max(row[field].values()) for row in rows))
    height = GROUP * len(rows)
    scale = width / marks[-1]
    out = [f'<text class="title" x="{x:.1f}" y="{TOP - 16}">{title}</text>']
    for mark in marks:
        at = x + mark * scale
        kind = "grid" if mark else "axis"
        out.append(f'<path class="{kind}" d="M{at:.1f} {TOP}v{height}"/>')
        out.append(f'<text class="value" x="{at:.1f}" y="{TOP + height + 17}" text-anchor="middle">{mark:g}</text>')
    out.append(
        f'<text class="value" x="{x + width / 2:.1f}" y="{TOP + height + 36}" text-anchor="middle">tokens/s</text>'
    )
    for i, row in enumerate(rows):
        for j, engine in enumerate(ENGINES):
            value = row[field][engine]
            y = TOP + GROUP * i + (GROUP - 2 * BAR) / 2 + BAR * j
            style = "brooklet" if j == 0 else "peer"
            out.append(
                f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{value * scale:.1f}" height="{BAR - 2}" rx="2"/>'
            )
            out.append(
                f'<text class="value" x="{x + value * scale + 5:.1f}" y="{y + 11:.1f}">{value:.{digits}f}</text>'
            )
    return out


def picture(results: dict) -> str:
    """The whole drawing."""
    rows = shown(results)
    width = (WIDTH - LEFT - GAP - RIGHT) / 2
    height = TOP + GROUP * len(rows) + BOTTOM
    label = "Tokens per second of brooklet and llama.cpp, decoding and reading a prompt, for five models"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-label="{label}">',
        f"<style>{STYLE}</style>",
    ]
    at = 0
    texts = ["brooklet, int4", "llama.cpp, Q4_0"]
    for text, style in zip(texts, ["brooklet", "peer"]):
        out.append(f'<rect class="{style}" x="{LEFT + at}" y="21" width="13" height="13" rx="2"/>')
        out.append(f'<text x="{LEFT + at + 19}" y="32">{text}</text>')
        at += 140
    out.append(
        f'<text class="value" x="{WIDTH - RIGHT}" y="32" text-anchor="end">'
        f"two Zen 4 processors, {THREADS} threads; longer is better</text>"
    )
    for i, row in enumerate(rows):
        y = TOP + GROUP * i + GROUP / 2 + 4
        out.append(f'<text x="{LEFT - 10}" y="{y:.1f}" text-anchor="end">{row["model"]}</text>')
    out += panel(rows, "decode_tokens_per_s", 1, LEFT, width)
    out += panel(rows, "prompt_tokens_per_s", 0, LEFT + width + GAP, width)
    return "\n".join([*out, "</svg>", ""])


def pair(figures: dict | None, digits: int) -> str:
    """brooklet's figure / the peer's."""
    return " / ".join(f"{figures[engine]:.{digits}f}" for engine in ENGINES) if figures else "–"


def ratio(figures: dict | None) -> str:
    """The median of the repetitions' ratios, with the least and the greatest."""
    if not figures:
        return "–"
    spread = f" ({figures['least']:.2f}–{figures['greatest']:.2f})" if figures["least"] != figures["greatest"] else ""
    return f"{figures['median']:.2f}{spread}"


def speeds(row: dict) -> list[str]:
    """The cells that all tables have."""
    return [
        pair(row["decode_tokens_per_s"], 1),
        ratio(row["decode_ratio"]),
        pair(row["prompt_tokens_per_s"], 0),
        ratio(row["prompt_ratio"]),
    ]


def table(results: dict, usual: int) -> list[str]:
    """The lines of a table in RESULTS.md; `usual` repetitions need no mark."""
    lines = []
    for row in results["rows"]:
        name = row["model"] + (f" × {row['sequences']}" if row["sequences"] > 1 else "")
        depth = row.get("depth", 0)
        name += f" behind {depth} tokens" if depth else ", f16 states" if row["state"] == "f16" else ""
        name += ", small pages" if row.get("pages") == "small" else ""
        name += MARKS[row["repetitions"]] if row["repetitions"] != usual else ""
        cells = [name, str(row["threads"]), *speeds(row)]
        if "peak_memory_mb" in row:
            if (row["format"], row["peer_format"]) != ("int4", "Q4_0"):
                cells[0] += f" {row['format']} / {row['peer_format']}"
            cells += [pair(row["peak_memory_mb"], 0)]
            if "private_mb" in row:
                cells += [pair(row["private_mb"], 0), pair(row["huge_pages_percent"], 0)]
            cells += [pair(row["first_token_ms"], 0)]
            cells += [f"{row['read_limit_gb_per_s']:.1f}", f"{row['share_of_limit_percent']} %"]
        else:
            cells.pop(1)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def taken(run: dict) -> dict:
    """A row of results from one that `compare.py --json` wrote."""

    def sides(measure: str, digits: int = 0, factor: float = 1) -> dict | None:
        values = [run[side][measure] for side in ["ours", "peer"]]
        if None in values:
            return None
        return {engine: round(value * factor, digits or None) for engine, value in zip(ENGINES, values)}

    def ratios(measure: str) -> dict | None:
        values = run[measure]
        rounded = {"median": median(values), "least": min(values), "greatest": max(values)} if values else None
        return rounded and {name: round(value, 2) for name, value in rounded.items()}

    return {
        "model": run["model"],
        "format": run["ours"]["format"],
        "peer_format": run["peer"]["format"],
        "sequences": run["sequences"],
        "depth": run["depth"],
        "state": run["state"],
        "pages": run["pages"],
        "repetitions": run["repeat"],
        "threads": run["threads"],
        "decode_tokens_per_s": sides("decode_tps", 1),
        "decode_ratio": ratios("decode_ratio"),
        "prompt_tokens_per_s": sides("prefill_tps"),
        "prompt_ratio": ratios("prefill_ratio"),
        "peak_memory_mb": sides("peak_rss_mb"),
        "private_mb": sides("private_mb"),
        "huge_pages_percent": sides("huge_share", factor=100),
        "first_token_ms": sides("first_token_ms"),
        "read_limit_gb_per_s": round(run["read_limit_gbps"], 1),
        "share_of_limit_percent": round(100 * run["decode_of_limit"]),
    }


def take(name: str, figures: list[str]) -> None:
    """Replaces the rows of one file of results."""
    runs = [run for path in figures for run in json.loads(Path(path).read_text(encoding="utf-8"))]
    results = load(name) | {"rows": [taken(run) for run in runs]}
    # One row a line.
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in results["rows"])
    head = json.dumps(results | {"rows": None}, indent=1, ensure_ascii=False)
    text = head.replace('"rows": null', f'"rows": [\n{rows}\n ]') + "\n"
    (HERE / "results" / f"{name}.json").write_text(text, encoding="utf-8")
    print("\n".join(table(results, results["rows"][0]["repetitions"])))


def fidelity() -> list[str]:
    """The lines of the tables in FIDELITY.md."""
    rows = load("fidelity")["rows"]
    lines = []
    for text in fidelity_table.texts(rows):
        lines += fidelity_table.lines([row for row in rows if row["text"] == text])
    lines += fidelity_table.summary_lines(load("summary")["rows"])
    lines += fidelity_table.twin_lines(load("twins")["rows"])
    lines += fidelity_table.system_lines(load("systems")["rows"])
    return lines + fidelity_table.budget_lines(load("budgets")["rows"])


def missing() -> list[str]:
    """What RESULTS.md, FIDELITY.md and the main README lack, and lines of FIDELITY.md's tables without a source."""
    text = (HERE / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8").splitlines()
    wrong = []
    for name, usual in [(FILE, 3), ("emerald-rapids", 3), ("emerald-rapids-q4_k_m", 2), ("xeon-hybrids", 3)]:
        lines = table(load(name), usual)
        wrong += [f"RESULTS.md lacks: {line}" for line in lines if line not in text]
    written = [line for line in (HERE / "FIDELITY.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    tables = fidelity()
    wrong += [f"FIDELITY.md lacks: {line}" for line in tables if line not in written]
    wrong += [f"FIDELITY.md has no source for: {line}" for line in written if line not in tables]
    for row in shown(load(FILE)):
        line = "| " + " | ".join([row["model"], *speeds(row), pair(row["peak_memory_mb"], 0)]) + " |"
        if line not in readme:
            wrong.append(f"README.md lacks: {line}")
    return wrong


def main() -> int:
    """Writes the picture, or checks what is there."""
    drawn = picture(load(FILE))
    if sys.argv[1:] == ["--check"]:
        wrong = missing()
        if not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != drawn:
            wrong.append("speed.svg is not what benches/plot.py draws: run it")
        print("\n".join(wrong), end="\n" if wrong else "")
        return 1 if wrong else 0
    if sys.argv[1:2] == ["--take"] and len(sys.argv) > 3:
        take(sys.argv[2], sys.argv[3:])
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
