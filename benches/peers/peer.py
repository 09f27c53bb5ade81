"""Runs the peer (llama.cpp, through llama-cpp-python's low-level calls) once on one file and prints one JSON object.

The counterpart of `brooklet bench --repeat 1 --json`: pseudo-random ids, nothing sampled, one run that is not timed,
then the prompt read by one sequence from an empty state, then `--decode` steps of all sequences behind `--depth`
tokens. Runs inside the virtual environment, in a process of its own. Clocks stand round the library's calls only:
Python's start and imports are in no figure.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import random
import re
import sys
import time
from collections.abc import Callable

import llama_cpp

from preparation import Failure

# Most tokens per call, the library's default for one pass.
BATCH = 512
# More layers than any model has.
ALL_LAYERS = 9999

log: list[str] = []
# A line of the library's that says how much of a card's memory a buffer takes, and of what kind it is.
BUFFER = re.compile(r"\bCUDA\d+ +(\w+) buffer size = +([\d.]+) MiB")
# Bytes on cards by kind of buffer, each as it was last said; weights stand in several.
buffers: dict[str, float] = {}


@llama_cpp.llama_log_callback
def keep_errors(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Keeps the library's warnings and errors (levels 2 and 3) for when something fails, and sizes of buffers."""
    line = text.decode(errors="replace").strip()
    if level in (2, 3):
        log.append(line)
    if found := BUFFER.search(line):
        kind, size = found[1], float(found[2]) * 2**20
        buffers[kind] = size + (buffers.get(kind, 0) if kind == "model" else 0)


class Failed(Failure):
    """A call of the library that did not succeed."""


class Peer:
    """A loaded model, its context and one batch that is filled again and again."""

    def __init__(
        self,
        path: str,
        threads: int,
        sequences: int,
        tokens: int,
        adjust: Callable[[llama_cpp.llama_context_params], None] = lambda _: None,
        device: str = "cpu",
    ) -> None:
        model = llama_cpp.llama_model_default_params()
        model.n_gpu_layers = 0 if device == "cpu" else ALL_LAYERS
        if device != "cpu" and not llama_cpp.llama_supports_gpu_offload():
            raise Failed("this llama.cpp was built without cards, or sees none")
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model)
        if not self.model:
            raise Failed(f"cannot load {path}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = sequences * (tokens + 1)
        context.n_batch = context.n_ubatch = BATCH
        context.n_seq_max = sequences
        context.n_threads = context.n_threads_batch = threads
        adjust(context)
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise Failed(f"cannot make a context for {path}")
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(max(BATCH, sequences), 0, 1)
        for i in range(max(BATCH, sequences)):
            self.batch.n_seq_id[i] = 1

    def clear(self) -> None:
        """Empties the state of every sequence."""
        llama_cpp.llama_memory_clear(self.memory, True)

    def fork(self, sequences: int) -> None:
        """Gives every sequence what the first has read."""
        for sequence in range(1, sequences):
            llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)

    def read(self, ids: list[int]) -> None:
        """Reads a prompt with sequence 0; logits of the last token only."""
        for start in range(0, len(ids), BATCH):
            part = ids[start:][:BATCH]
            for i, token in enumerate(part):
                self.place(i, token, start + i, 0, start + i + 1 == len(ids))
            self.decode(len(part))

    def step(self, ids: list[int], position: int) -> None:
        """One token for each sequence, logits of all."""
        for sequence, token in enumerate(ids):
            self.place(sequence, token, position, sequence, True)
        self.decode(len(ids))

    def place(self, i: int, token: int, position: int, sequence: int, logits: bool) -> None:
        """Sets entry `i` of the batch."""
        self.batch.token[i] = token
        self.batch.pos[i] = position
        self.batch.seq_id[i][0] = sequence
        self.batch.logits[i] = logits

    def decode(self, n: int) -> None:
        """Runs the first `n` entries of the batch and waits for their logits."""
        self.batch.n_tokens = n
        code = llama_cpp.llama_decode(self.context, self.batch)
        if code != 0:
            raise Failed(f"llama_decode answered {code}")
        llama_cpp.llama_synchronize(self.context)

    def check(self) -> None:
        """A fast wrong answer is no answer."""
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        if not logits or not all(map(math.isfinite, logits[: self.n_vocab])):
            raise Failed("the logits are not finite")


def memory(file: str) -> dict[str, int]:
    """Bytes by field, of one of this process's files in /proc that count in KiB."""
    with open(f"/proc/self/{file}", encoding="ascii") as lines:
        fields = (line.split() for line in lines if line.endswith(" kB\n"))
        return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def resident() -> dict[str, int]:
    """Resident bytes: all, those that are no file's, and those that huge pages map."""
    rollup = memory("smaps_rollup")
    huge = rollup["AnonHugePages"] + rollup.get("FilePmdMapped", 0)
    return {"all": rollup["Rss"], "private": rollup["Anonymous"], "huge": huge}


def reset_peak() -> None:
    """Forgets the peak of resident memory so far, where the system allows it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")
    except OSError:
        pass  # Not offered in some containers; the peak then includes Python's imports.


def seconds(run: Callable[[], None]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def steps(peer: Peer, ids: list[list[int]], first: int) -> None:
    """Decodes one token of each sequence after the other, from position `first` on."""
    for position, tokens in enumerate(ids, first):
        peer.step(tokens, position)


def measure(args: argparse.Namespace) -> dict:
    """All figures of one run."""
    llama_cpp.llama_log_set(keep_errors, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    reset_peak()
    before = resident()

    start = time.perf_counter()
    tokens = max(args.prompt, args.depth + args.decode, args.warm_up)
    peer = Peer(args.model, args.threads, args.sequences, tokens, device=args.device)
    opened = time.perf_counter() - start
    peer.read([0])
    first_token = time.perf_counter() - start
    peer.check()

    draw = random.Random(1)
    prompt = [draw.randrange(peer.n_vocab) for _ in range(args.prompt)]
    ids = [[draw.randrange(peer.n_vocab) for _ in range(args.sequences)] for _ in range(args.decode)]
    peer.clear()
    peer.read(prompt[: args.warm_up])
    peer.clear()
    peer.step([0] * args.sequences, 0)

    peer.clear()
    prefill = seconds(lambda: peer.read(prompt)) if prompt else None
    peer.clear()
    if args.depth and ids:
        peer.read([draw.randrange(peer.n_vocab) for _ in range(args.depth)])
        peer.fork(args.sequences)
    decode = seconds(lambda: steps(peer, ids, args.depth)) if ids else None
    peer.check()
    after = {kind: size - before[kind] for kind, size in resident().items()}
    return {
        "prefill_tps": prefill and args.prompt / prefill,
        "decode_tps": decode and args.decode * args.sequences / decode,
        "peak_rss_mb": (memory("status")["VmHWM"] - before["all"]) / 1e6,
        "private_mb": after["private"] / 1e6,
        "huge_share": after["huge"] / after["all"],
        "card_mb": sum(buffers.values()) / 1e6 if buffers else None,
        "open_ms": 1e3 * opened,
        "first_token_ms": 1e3 * first_token,
        "version": llama_cpp.__version__,
        "system": llama_cpp.llama_print_system_info().decode().strip(" |"),
    }


def main() -> None:
    """Reads the arguments, prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--depth", type=int, default=0, help="tokens that each sequence has read before it decodes")
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=512, help="tokens of the prompt read before the clocks run")
    try:
        print(json.dumps(measure(parser.parse_args())))
    except Failed as failed:
        sys.exit("\n".join([*log[-5:], str(failed)]))


if __name__ == "__main__":
    main()
