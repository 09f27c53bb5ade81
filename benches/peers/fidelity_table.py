"""Rows of `fidelity.py`, `twins.py` and `budgets.py`, as files and as Markdown.

Standard library only: `benches/plot.py --check` reads them, too.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

HEAD = [
    "model",
    "engine",
    "format",
    "bits",
    "mean KL",
    "99th percentile",
    "same best token",
    "nats/token",
    "mean KL, ratio",
]
# Twins whose f32 logits are further away are no twins.
SAME = 1e-6
# The peer's row that a file of ours is measured against: the first whose bits are not less than ours.
RIVALS = [(4.8, "IQ4_NL pure"), (5.6, "Q4_K_M imatrix"), (7.0, "Q5_K_M"), (math.inf, "Q8_0")]


def rival(bits: float, formats: list[str]) -> str | None:
    """The name of that row, if it was measured; without its importance matrix if only that was."""
    name = next(name for most, name in RIVALS if bits <= most)
    return next((found for found in [name, name.removesuffix(" imatrix")] if found in formats), None)


def small(value: float | None) -> str:
    """Three digits and a power of ten, as `9.91e-3`."""
    if value is None:
        return "–"
    if value < 5e-9:
        return "0"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits}e{int(power)}"


def hundredths(value: float | None) -> str:
    """Two digits behind the point."""
    return "–" if value is None else f"{value:.2f}"


def cells(row: dict) -> list[str]:
    """One line of the table."""
    against = row.get("against")
    quotient = f"{against['ratio']:.2f} ± {hundredths(against['error'])} × {against['format']}" if against else ""
    return [
        row["model"],
        row["engine"],
        row["format"],
        f"{row['bits']:.2f}",
        f"{small(row['kl_mean'])} ± {small(row['kl_error'])}",
        small(row["kl_p99"]),
        f"{100 * row['top1']:.1f} %",
        f"{row['nats']:.4f}",
        quotient,
    ]


def lines(rows: list[dict]) -> list[str]:
    """A Markdown table."""
    rule = ["---"] * 3 + ["---:"] * 5 + ["---"]
    return ["| " + " | ".join(line) + " |" for line in [HEAD, rule, *map(cells, rows)]]


def texts(rows: list[dict]) -> list[str]:
    """The texts, in the order of the rows."""
    return list(dict.fromkeys(row["text"] for row in rows))


def markdown(rows: list[dict]) -> str:
    """A table for each text."""
    parts = []
    for text in texts(rows):
        own = [row for row in rows if row["text"] == text]
        counts = " or ".join(dict.fromkeys(f"{row['tokens']} tokens" for row in own))
        parts.append(f"{text}, first {counts}:\n\n" + "\n".join(lines(own)) + "\n")
    return "\n".join(parts)


def twin_lines(rows: list[dict]) -> list[str]:
    """A Markdown table of twins: mean KL, and the factor to the model itself."""
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["kl"]))
    table = [["model", "channels of", "factors", "f32", *kinds], ["---"] * 4 + ["---:"] * len(kinds)]
    for row in rows:
        same = small(row["kl_f32"]) + ("" if row["kl_f32"] < SAME else " (another function)")
        own = [f"{small(row['kl'][kind])} ({row['factor'][kind]:.2f} ×)" if kind in row["kl"] else "" for kind in kinds]
        table.append([row["model"], row["pair"], row["direction"], same, *own])
    return ["| " + " | ".join(line) + " |" for line in table]


def system_lines(rows: list[dict]) -> list[str]:
    """A Markdown table of other systems: mean KL of each model, whose names are the columns."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    table = [["weights", "bits", "inputs", *models], ["---", "---:", "---"] + ["---:"] * len(models)]
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["model"]: row for row in rows if row["system"] == system}
        first = next(iter(own.values()))
        cells = [small(own[model]["kl_mean"]) if model in own else "" for model in models]
        table.append([first["weights"], f"{first['bits']:.2f}", first["inputs"], *cells])
    return ["| " + " | ".join(line) + " |" for line in table]


def budget_lines(rows: list[dict]) -> list[str]:
    """A Markdown table of budgets: the KL that was expected, and the one that was measured."""
    head = ["model", "budget", "codes", "bits, whole file", "bits, big matrices", "expected KL", "measured KL"]
    table = [[*head, "expected / measured", "mean KL, ratio"], ["---"] * 3 + ["---:"] * 5 + ["---"]]
    for row in rows:
        against = row.get("against")
        quotient = f"{against['ratio']:.2f} × {against['format']}" if against else ""
        codes = "calibrated" if row["calibrated"] else "search"
        bits = [f"{row['bits']:.2f}", f"{row['big_bits']:.2f}"]
        nats = [small(row["expected"]), f"{small(row['kl_mean'])} ± {small(row['kl_interval'])}"]
        true = f"{row['expected'] / row['kl_mean']:.2f}"
        name = row["model"] + (", untied" if row["untied"] else "")
        budget = re.sub(r"big$", " of the big", row["budget"])
        table.append([name, budget, codes, *bits, *nats, true, quotient])
    return ["| " + " | ".join(line) + " |" for line in table]


def summary_lines(rows: list[dict]) -> list[str]:
    """A Markdown table of formats and budgets over both texts. ¹ marks a peer that was measured over 4096 tokens."""
    table = [["model", "format", "bits", "peer", "heldout", "times", "wikitext2", "times"]]
    table.append(["---", "---", "---:", "---", "---:", "---:", "---:", "---:"])
    for row in rows:
        mark = " ¹" if row["peer_tokens"] == 4096 else ""
        name = f"`{row['format']}`" if row["format"].startswith("--") else row["format"]
        cells = [row["model"], name, f"{row['bits']:.2f}", row["peer"]]
        for text, sign in [("heldout", mark), ("wikitext2", "")]:
            times = row[f"{text}_times"]
            cells += [small(row[text]), "–" if times is None else f"{times:.2f}{sign}"]
        table.append(cells)
    return ["| " + " | ".join(line) + " |" for line in table]


def write(path: Path | None, rows: list[dict], key: list[str], **facts: str) -> None:
    """Writes rows to a file, whole or not at all. Those that it has of other models, texts, pairs stay."""
    if not path:
        return
    done = {tuple(row[name] for name in key) for row in rows}
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    kept = [row for row in old if tuple(row[name] for name in key) not in done]
    body = ",\n".join("  " + json.dumps(row) for row in kept + rows)
    head = "".join(f'"{name}": {json.dumps(value)}, ' for name, value in facts.items())
    part = path.with_suffix(".part")
    part.write_text(f'{{{head}"rows": [\n{body}\n]}}\n', encoding="utf-8")
    part.replace(path)
