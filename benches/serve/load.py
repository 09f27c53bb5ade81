#!/usr/bin/env python3
"""Load on an OpenAI-compatible server: clients of mixed lengths, for some time.

Prints a line of a table: requests, errors, tokens per second, median and 99th percentile of the time to the first
token and of the gaps between tokens, the server's peak memory. Needs Python alone, and works on brooklet's server and
on llama.cpp's.

    brooklet serve model.brk --parallel 16 --port 8080 &
    benches/serve/load.py http://127.0.0.1:8080 --clients 64 --seconds 120 --pid $!
"""

import argparse
import http.client
import json
import random
import threading
import time
from urllib.parse import urlparse

WORDS = "the sea a hill of captain storm and ship in night was long when old harbour light rain to".split()


class Tally:
    """What all clients saw."""

    def __init__(self):
        self.lock = threading.Lock()
        self.first, self.gaps, self.errors = [], [], []
        self.requests = self.tokens = self.prompt = self.cached = 0


def ask(place, body, tally, key, end):
    """One request, read as it is written."""
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=300)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    start, last, tokens, gaps, first = time.monotonic(), None, 0, [], None
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read(200)!r}")
        usage = {}
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            usage = event.get("usage") or usage
            if event["choices"] and event["choices"][0].get("text"):
                now = time.monotonic()
                tokens += 1
                if last is None:
                    first = now - start
                elif now < end:
                    gaps.append(now - last)
                last = now
        with tally.lock:
            tally.requests += 1
            tally.tokens += usage.get("completion_tokens", tokens)
            tally.prompt += usage.get("prompt_tokens", 0)
            tally.cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            tally.gaps += gaps
            if first is not None:
                tally.first.append(first)
    except Exception as error:  # noqa: BLE001: every failure counts
        with tally.lock:
            tally.errors.append(repr(error))
    finally:
        connection.close()


def client(seed, args, place, tally, end):
    """Asks until the time is over."""
    draw = random.Random(seed)
    while time.monotonic() < end:
        prompt = " ".join(draw.choices(WORDS, k=draw.choice(args.prompts)))
        body = {
            "prompt": prompt, "max_tokens": draw.choice(args.tokens), "temperature": 0.8, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}, "model": "any",
        }
        ask(place, body, tally, args.key, end)


def percentile(values, share):
    """The value below which this share of them is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def peak(pid):
    """A process's peak memory in MB."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return float("nan")


def main():
    """The command line."""
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--prompts", type=numbers, default=[4, 16, 64, 256], help="words of a prompt")
    parser.add_argument("--tokens", type=numbers, default=[8, 32, 64, 128], help="tokens of a text")
    parser.add_argument("--key")
    parser.add_argument("--pid", type=int, help="the server's process, for its memory")
    args = parser.parse_args()
    tally, place = Tally(), urlparse(args.url)
    start = time.monotonic()
    end = start + args.seconds
    threads = [
        threading.Thread(target=client, args=(seed, args, place, tally, end), daemon=True)
        for seed in range(args.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    ms = lambda values, share: f"{percentile(values, share) * 1e3:.0f}"  # noqa: E731
    print("| clients | requests | errors | written, tokens/s | prompts, tokens/s | first token p50 / p99, ms "
          "| gap p50 / p99, ms | peak memory, MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    print(f"| {args.clients} | {tally.requests} | {len(tally.errors)} | {tally.tokens / seconds:.1f} "
          f"| {tally.prompt / seconds:.0f} | {ms(tally.first, .5)} / {ms(tally.first, .99)} "
          f"| {ms(tally.gaps, .5)} / {ms(tally.gaps, .99)} | {peak(args.pid):.0f} |")
    for error in sorted(set(tally.errors))[:5]:
        print("error:", error)
    return 1 if tally.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
