#!/usr/bin/env python3
"""The server's speed beside the engine's own: tokens per second of `brooklet serve` with so many texts at a time, over
those of `brooklet bench -b` with as many, measured in turn.

Texts are long and behind a short prompt, so that all of them are written all the time; what is counted is what the server's
/metrics says between two looks. Clients read what they are sent (`--whole`: they wait for the end, and are sent nothing
meanwhile) and take processor time of their own. Needs Python alone, and a quiet machine.

    benches/serve/against_bench.py target/release/brooklet models/rwkv7-nano-int8.brk --parallel 1,8,16
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import threading
import time

PROMPT = "Once upon a time"


def bench(args, batch):
    """Tokens per second of the engine alone."""
    command = [args.brooklet, "bench", args.model, "-b", str(batch), "-n", str(args.tokens), "--prompt", "1", "--repeat", "1",
               "--threads", str(args.threads), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["decode_tps"]


class Served:
    """A server that runs."""

    def __init__(self, args, parallel):
        command = [args.brooklet, "serve", args.model, "--port", "0", "--parallel", str(parallel), "--threads",
                   str(args.threads), "--max-tokens", "100000000"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        found = re.search(r"http://([^/]+)/", line)
        if not found:
            self.process.kill()
            raise SystemExit(f"no address in {line!r}")
        self.place = found[1]
        # Nobody shall wait for the log to be read.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def metric(self, name):
        """A number of /metrics."""
        connection = http.client.HTTPConnection(self.place, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^brooklet_{name} (\S+)$", text, re.MULTILINE)[1])

    def begin(self, streams):
        """A text without an end, read in the background until its connection is closed."""
        connection = http.client.HTTPConnection(self.place, timeout=600)
        body = {"prompt": PROMPT, "max_tokens": 100_000_000, "ignore_eos": True, "stream": streams, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})

        def read():
            try:
                response = connection.getresponse()
                while response.read1(1 << 16):
                    pass
            except (OSError, http.client.HTTPException, ValueError, AttributeError):
                pass  # it was closed

        threading.Thread(target=read, daemon=True).start()
        return connection


def serve(args, parallel):
    """Tokens per second of the server."""
    server = Served(args, parallel)
    try:
        open_ones = [server.begin(not args.whole) for _ in range(parallel)]
        while server.metric("texts_running") < parallel:
            time.sleep(0.05)
        time.sleep(0.5)
        start, before = time.monotonic(), server.metric("generated_tokens_total")
        time.sleep(args.seconds)
        seconds, after = time.monotonic() - start, server.metric("generated_tokens_total")
        if server.metric("texts_running") < parallel:
            raise SystemExit("a text ended early")
        for connection in open_ones:
            if connection.sock:
                connection.sock.close()
        return (after - before) / seconds
    finally:
        server.process.kill()
        server.process.wait()


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("brooklet", help="the program, a release build")
    parser.add_argument("model")
    parser.add_argument("--parallel", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each sequence of the bench")
    parser.add_argument("--seconds", type=float, default=5, help="of a look at the server")
    parser.add_argument("--rounds", type=int, default=3, help="both in turn, so many times: medians count")
    parser.add_argument("--whole", action="store_true", help="clients are not sent anything while texts are written")
    args = parser.parse_args()
    print("| at a time | bench, tokens/s | server, tokens/s | ratio |\n|---:|---:|---:|---:|")
    for parallel in args.parallel:
        rounds = [(bench(args, parallel), serve(args, parallel)) for _ in range(args.rounds)]
        alone, served = (statistics.median(column) for column in zip(*rounds))
        ratios = sorted(b / a for a, b in rounds)
        print(f"| {parallel} | {alone:.0f} | {served:.0f} | {statistics.median(ratios):.2f} "
              f"({ratios[0]:.2f}–{ratios[-1]:.2f}) |", flush=True)


if __name__ == "__main__":
    main()
