#!/usr/bin/env python3
"""How fast a model runs while other programs use the processors.

    benches/busy.py target/release/brooklet models/rwkv7-nano-int8.brk
    benches/busy.py NEW MODEL --beside OLD --loads 0,1,2,20

For each number of busy loops (at the same priority) it runs `brooklet bench` with one thread and
with two (`--threads`), in turn, several rounds, and prints medians. The *fair share* of T threads
on P processors beside L loops is their quiet speed times min(1, P / (L + T)): what a scheduler that
treats every thread alike can give. The last columns compare the most threads with the better fair
share, and with one thread under the same load. Python's standard library only; Linux or macOS.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys


@contextlib.contextmanager
def busy(loops):
    """That many endless loops, gone at the end whatever happens."""
    started = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in started:
            loop.kill()
            loop.wait()


def speed(binary, options, threads):
    """(decode, prompt), tokens per second."""
    command = [binary, "bench", options.model, "--json", "--repeat", "1", "--threads", str(threads)]
    command += ["-n", str(options.tokens), "-p", str(options.prompt)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=options.timeout)
    if done.returncode != 0:
        sys.exit(done.stderr)
    result = json.loads(done.stdout)
    return result.get("decode_tps"), result.get("prefill_tps")


def measure(options, binaries, loops):
    """{(binary, threads): [(decode, prompt), …]}, one load, all in turn."""
    runs = {(binary, threads): [] for binary in binaries for threads in options.threads}
    with busy(loops):
        for _ in range(options.rounds):
            for key, found in runs.items():
                found.append(speed(key[0], options, key[1]))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--beside", metavar="OLD", help="another version, run in turn")
    parser.add_argument("--loads", default=None, help="busy loops: 0,1,PROCESSORS,20 unless said")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-n", "--tokens", type=int, default=256)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("--timeout", type=float, default=300)
    options = parser.parse_args()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options.threads = [int(n) for n in options.threads.split(",")]
    loads = options.loads or f"0,1,{processors},20"
    loads = sorted({0, *(int(n) for n in loads.split(","))})
    binaries = [options.binary] + ([options.beside] if options.beside else [])
    one, most = min(options.threads), max(options.threads)

    quiet = {}
    print(f"{processors} processors, {options.model}, medians of {options.rounds}")
    print("| version | loops | what | " + " | ".join(f"{t} threads" for t in options.threads)
          + " | of the better fair share | of one thread |")
    print("|---|---:|---|" + "---:|" * (len(options.threads) + 2))
    for loops in loads:
        runs = measure(options, binaries, loops)
        for name, binary in zip(["new", "old"], binaries):
            for i, what in enumerate(["decode", "prompt"]):
                at = {t: statistics.median(r[i] for r in runs[binary, t]) for t in options.threads}
                if loops == 0:
                    quiet[binary, what] = at
                rest = quiet[binary, what]
                fair = max(rest[t] * min(1, processors / (loops + t)) for t in options.threads)
                cells = " | ".join(f"{at[t]:.0f}" for t in options.threads)
                print(f"| {name} | {loops} | {what} | {cells} | {at[most] / fair:.2f} "
                      f"| {at[most] / at[one]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
