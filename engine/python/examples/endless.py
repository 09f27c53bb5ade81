"""Steps through many tokens, and says how much memory the process has.

    python endless.py [MODEL.brk] [--tokens 1000000] [--sessions 4] [--slack 8]

Sessions take turns; each chooses its likeliest token, every tenth goes back three tokens, and one
array of logits is kept to the next step. A recurrent model's memory stays what it was: more than
`--slack` MB above that of the first tenth is a failure. Needs /proc.
"""

import argparse
import os
import sys
import time

import brooklet


def resident() -> float:
    """Memory of this process, MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="[default: the demo model]")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--slack", type=float, default=8.0, help="MB")
    args = parser.parse_args()
    model = brooklet.Model.open(args.model, threads=1)
    sessions = [brooklet.Session(model, rollback=4) for _ in range(args.sessions)]
    logits = [session.prefill("Once upon a time") for session in sessions]
    start, first, tenth = time.monotonic(), 0.0, max(args.tokens // 10, 1)
    for count in range(1, args.tokens + 1):
        turn = count % args.sessions
        session = sessions[turn]
        if count % 10 == 0:
            session.rollback(3)
        # A text that repeats itself would be another one after some more tokens.
        logits[turn] = session.step((int(logits[turn].argmax()) + count % 7) % model.n_vocab)
        if count % tenth == 0:
            now = resident()
            first = first or now
            print(f"{count:>9} tokens  {now:7.1f} MB  {time.monotonic() - start:6.1f} s", flush=True)
            if now > first + args.slack:
                sys.exit(f"memory grew: {first:.1f} MB, then {now:.1f} MB")


if __name__ == "__main__":
    main()
