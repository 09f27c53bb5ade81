"""Measures what Python costs per token: steps from Python beside the same steps inside of the engine.

    python overhead.py [MODEL.brk]

Both go in turn, several times, on one thread; the figure is the median of the differences, in time of the
processor, so that other programs count little.
"""

import statistics
import sys
import time
from collections.abc import Callable

import brooklet

TOKENS = 400
ROUNDS = 9


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    model = brooklet.Model.open(sys.argv[1] if len(sys.argv) > 1 else None, threads=1)
    ids = [7 + i % 5000 for i in range(TOKENS)]
    inside, steps, views = [], [], []
    for _ in range(ROUNDS):
        session = brooklet.Session(model, threads=1)
        session.step(1)
        # Reads the same tokens one by one, and copies each row of logits.
        inside.append(seconds(lambda: session.forward(ids)))
        session.reset()

        def each() -> None:
            for token in ids:
                session.step(token)

        steps.append(seconds(each))
        session.reset()

        def kept() -> None:
            for token in ids:
                logits = session.step(token)
            assert logits.shape == (model.n_vocab,)

        views.append(seconds(kept))
    base = statistics.median(inside)
    print(f"a step inside: {base / TOKENS * 1e6:.1f} us")
    for name, times in [("dropped", steps), ("kept to the next step", views)]:
        cost = statistics.median(own - other for own, other in zip(times, inside))
        print(f"Python's part, logits {name}: {cost / TOKENS * 1e6:.2f} us a token")
    # Nothing is computed here: a call, a turn, an array.
    again = statistics.median(seconds(lambda: [session.logits for _ in range(1000)]) for _ in range(ROUNDS))
    print(f"Session.logits alone: {again * 1e3:.2f} us")
    written = []
    for logprobs in [None, 0, None, 0, None, 0]:
        generation = model.generate("Once upon a time", TOKENS, temperature=0, logprobs=logprobs, ignore_end=True)
        next(generation)
        written.append(seconds(lambda: list(generation)) / TOKENS * 1e6)
    print(f"a piece of generate(): {min(written[::2]):.1f} us, with its log-probability {min(written[1::2]):.1f} us")


if __name__ == "__main__":
    main()
