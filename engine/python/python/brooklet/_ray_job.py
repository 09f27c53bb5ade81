"""`python -m brooklet.ray`: a file of prompts in, a file of texts out, by workers of Ray.

The input is cut into blocks of rows. A worker that has written a block's texts puts them into a file
of their own, whole, in the folder OUTPUT.parts; when all are there, they are put together. So a
block whose worker dies is done again by another, and a job that is broken off goes on where it was.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Optional

from ._errors import Error, FileError, OptionError
from ._ray_data import Generate
from ._ray_files import Row, Source, source, write_whole


COLUMNS = {"reason": "string", "seed": "uint64", "tokens": "int64", "error": "string"}
"""New columns beside that of the texts, and their types in Parquet."""


class Worker:
    """Writes the texts of blocks."""

    def __init__(self, job: dict[str, Any], source: Source, parts: str) -> None:
        self.job, self.source, self.parts = job, source, Path(parts)
        self.generate = Generate(
            job["model"],
            tokens=job["tokens"],
            stop=job["stop"],
            parallel=job["parallel"],
            options=job["options"],
            sampling=job["sampling"],
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for number in batch["item"]:
            self.write(int(number))
        return batch

    def write(self, number: int) -> None:
        """Writes a block's texts, unless they are there."""
        path = part(self.parts, number, self.source)
        if path.exists():
            return
        rows, job = self.source.block(number), self.job
        first = number * self.source.rows
        prompts = [prompt(row, job["prompt"], first + i) for i, row in enumerate(rows)]
        seeds = [seed(row, job["seed"] + first + i) for i, row in enumerate(rows)]
        done = self.generate.completions(prompts, seeds)
        written = [result(row, each, job["output"]) for row, each in zip(rows, done)]
        write_whole(path, written, self.source.schema({job["output"]: "string", **COLUMNS}))


def prompt(row: Row, column: str, number: int) -> str:
    """The prompt of a row."""
    text = row.get(column)
    if not isinstance(text, str):
        raise FileError(f"row {number} (from 0) has no text in the column {column!r}")
    return text


def seed(row: Row, otherwise: int) -> int:
    """The seed of a row: its own, if it has one."""
    own = row.get("seed")
    return otherwise if own is None else int(own)


def result(row: Row, completion: Any, column: str) -> Row:
    """A row with what became of it."""
    return {
        **row,
        column: completion.text,
        "reason": completion.reason,
        "seed": completion.seed,
        "tokens": len(completion.tokens),
        "error": None if completion.error is None else str(completion.error),
    }


def part(parts: Path, number: int, source: Source) -> Path:
    """The file of a block's texts."""
    return parts / f"{number:08}{source.path.suffix}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m brooklet.ray",
        description="Writes a text behind each prompt of a file, with workers of Ray: JSON lines "
        "(.jsonl) or Parquet (.parquet) in, the same with more columns out. What is broken off "
        "goes on when it is called again.",
    )
    add = parser.add_argument
    add("input", type=Path, help="a .jsonl or .parquet file; nodes of a cluster must see it")
    add("output", type=Path, help="the file to write, of the same kind; nodes must see its folder")
    add("--model", help="a .brk file or a checkpoint, on every node [default: the demo model]")
    add("--workers", type=int, default=1, help="processes that write [default: 1]")
    add("--cpus", type=float, default=1, help="processors, and threads, of each [default: 1]")
    add("--block", type=int, default=256, metavar="ROWS", help="rows of a block [default: 256]")
    add("--parallel", type=int, default=16, help="texts that a worker writes at a time [default: 16]")
    add("--prompt", default="prompt", metavar="COLUMN", help="the column of prompts")
    add("--column", default="text", metavar="COLUMN", help="the column of texts [default: text]")
    add("--tokens", type=int, default=256, help="tokens of a text at most [default: 256]")
    add("--stop", action="append", default=[], help="end texts before this; several times")
    add("--temperature", type=float, default=0.8, help="0 takes the likeliest token [default: 0.8]")
    add("--top-p", type=float, default=0.9, help="[default: 0.9]")
    add("--seed", type=int, default=0, help="of the first row, the next have the numbers behind it, "
        "as in `brooklet batch`; a row's column `seed` is its own [default: 0]")
    add("--state", default="f32", help="number format of live states [default: f32]")
    add("--device", default="cpu", help="where models run [default: cpu]")
    add("--address", help="of a Ray cluster [default: RAY_ADDRESS, or one on this machine]")
    return parser


def job_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides the texts."""
    model = args.model
    if model is not None and Path(model).exists():
        model = str(Path(model).absolute())
    return {
        "model": model,
        "tokens": args.tokens,
        "stop": args.stop,
        "prompt": args.prompt,
        "output": args.column,
        "seed": args.seed,
        "parallel": args.parallel,
        "options": {"state": args.state, "device": args.device},
        "sampling": {"temperature": args.temperature, "top_p": args.top_p},
    }


def begin(args: argparse.Namespace, job: dict[str, Any], rows: Source, parts: Path) -> list[int]:
    """Makes the folder of parts, or goes on with it. The blocks that are missing."""
    note = {**job, "input": str(args.input.absolute()), "stamp": rows.stamp(), "rows": rows.rows}
    # How many texts are written at a time changes none of them.
    note.pop("parallel")
    known = parts / "job.json"
    if known.exists():
        if json.loads(known.read_text(encoding="utf-8")) != note:
            raise FileError(f"{parts}: these parts are of another job: remove them, or name another output")
    else:
        parts.mkdir(parents=True, exist_ok=True)
        temporary = parts / ".job.json.tmp"
        temporary.write_text(json.dumps(note), encoding="utf-8")
        temporary.replace(known)
    return [number for number in range(rows.blocks()) if not part(parts, number, rows).exists()]


def work(args: argparse.Namespace, job: dict[str, Any], rows: Source, parts: Path, todo: list[int]) -> None:
    """Has workers write the blocks that are missing."""
    import ray
    import ray.data

    ray.init(address=args.address, ignore_reinit_error=True, log_to_driver=False)
    workers = min(args.workers, len(todo))
    blocks = ray.data.from_items(todo, override_num_blocks=len(todo))
    done = blocks.map_batches(
        Worker,
        batch_size=1,
        concurrency=workers,
        num_cpus=args.cpus,
        fn_constructor_args=(job, rows, str(parts.absolute())),
    )
    for _ in done.iter_rows():
        pass


def finish(args: argparse.Namespace, rows: Source, parts: Path) -> int:
    """Puts the parts together. The number of rows."""
    files = [part(parts, number, rows) for number in range(rows.blocks())]
    temporary = parts / "all"
    with open(temporary, "wb") as out:
        count = rows.join(files, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(args.output)
    shutil.rmtree(parts)
    return count


def run(args: argparse.Namespace) -> None:
    """Does a job."""
    if args.input.suffix != args.output.suffix or args.input.suffix not in (".jsonl", ".parquet"):
        raise OptionError("INPUT and OUTPUT: expected two .jsonl or two .parquet files")
    if args.output.exists() and args.output.samefile(args.input):
        raise OptionError(f"{args.output}: this is the input, which must not be overwritten")
    if args.block < 1 or args.workers < 1 or args.cpus < 1:
        raise OptionError("--block, --workers and --cpus: expected 1 at least")
    parts = args.output.with_name(args.output.name + ".parts")
    if args.output.exists() and not parts.exists():
        raise FileError(f"{args.output}: it is there: remove it, or name another output")
    job, start = job_of(args), time.monotonic()
    rows = source(args.input, args.block)
    todo = begin(args, job, rows, parts)
    if todo:
        work(args, job, rows, parts, todo)
    count, seconds = finish(args, rows, parts), time.monotonic() - start
    print(f"{args.output}: {count} rows, {len(todo)} blocks in {seconds:.1f} s", file=sys.stderr)


def main(argv: Optional[list[str]] = None) -> None:
    """The command."""
    args = arguments().parse_args(argv)
    try:
        run(args)
    except Error as error:
        print(f"brooklet.ray: {error}", file=sys.stderr)
        # The codes of the program `brooklet`: wrong usage, or a failure.
        sys.exit(2 if isinstance(error, OptionError) else 1)
    except KeyboardInterrupt:
        print("brooklet.ray: interrupted: called again, it goes on from here", file=sys.stderr)
        sys.exit(130)
