"""Classifies lines by the likeliest of some endings, on Ray.

    python classify.py --lines 10000 --workers 2

The lines are made here, so that nothing is downloaded: sentences of the sea and of the land. Each is
put into a template, behind which the model scores " sea" and " land"; no text is written, and what
templates begin with alike is read once.
"""

import argparse
import itertools
import time

import ray

import brooklet.ray

SEA = ["ship", "captain", "harbour", "sail", "wave", "anchor"]
LAND = ["horse", "farmer", "forest", "road", "field", "mountain"]
DOES = ["was old", "came into sight", "lay before them", "had been lost", "was all he knew", "seemed far away"]
WHEN = ["in the morning", "at night", "when the storm came", "long ago", "that summer"]


def lines(count: int) -> list[dict[str, object]]:
    """So many sentences, and what they are about."""
    every = itertools.cycle(itertools.product(WHEN, DOES, [*zip(SEA, LAND)]))
    found = []
    for when, does, pair in itertools.islice(every, (count + 1) // 2):
        for truth, thing in enumerate(pair):
            found.append({"text": f"The {thing} {does} {when}.", "truth": truth})
    return found[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", help="a .brk file or a checkpoint [default: the demo model]")
    args = parser.parse_args()
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    start = time.monotonic()
    rows = (
        ray.data.from_items(lines(args.lines), override_num_blocks=8 * args.workers)
        .map_batches(
            brooklet.ray.Score,
            concurrency=args.workers,
            num_cpus=1,
            fn_constructor_kwargs={
                "model": args.model,
                "endings": [" sea", " land"],
                "template": "{text} It was a story of the",
            },
        )
        .take_all()
    )
    seconds = time.monotonic() - start
    right = sum(row["label"] == row["truth"] for row in rows)
    print(f"{len(rows)} lines in {seconds:.1f} s, {right / len(rows):.0%} as they were made")
    assert len(rows) == args.lines
    ray.shutdown()


if __name__ == "__main__":
    main()
