"""Logits of the peer (llama.cpp) after every token, and the mean squares of what its matrices read.

Needs numpy and llama-cpp-python. Not here: loading and batches (`peer.py`), what is done with logits (`divergence.py`).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

from peer import BATCH, Peer, keep_errors

# Numbers of ggml's types F32.
F32 = 0


class GgmlTensor(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as far as its name."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]


def start() -> None:
    """Once per process: the library's messages are kept, not printed."""
    llama_cpp.llama_log_set(keep_errors, ctypes.c_void_p())
    llama_cpp.llama_backend_init()


class Reader(Peer):
    """A model that reads one text after another, each from an empty state. Keys and values are kept as f32."""

    def __init__(self, path: Path, threads: int, tokens: int, observer: object = None) -> None:
        def adjust(context: llama_cpp.llama_context_params) -> None:
            context.type_k = context.type_v = F32
            if observer:
                context.cb_eval = observer

        super().__init__(str(path), threads, 1, tokens, adjust)

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits after each token, (tokens, vocabulary)."""
        self.clear()
        parts = []
        for start in range(0, len(ids), BATCH):
            part = ids[start:][:BATCH]
            for i, token in enumerate(part):
                self.place(i, token, start + i, 0, True)
            self.decode(len(part))
            values = llama_cpp.llama_get_logits(self.context)
            parts.append(np.ctypeslib.as_array(values, (len(part), self.n_vocab)).copy())
        return np.concatenate(parts)

    def close(self) -> None:
        """Gives the memory back."""
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


class Importance:
    """Sums x² of the inputs of every matrix that has a name, as llama.cpp's own tool does."""

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}
        self.product = product_number()
        # The library keeps the pointer only.
        self.observer = llama_cpp.ggml_backend_sched_eval_callback(self.see)

    def see(self, address: int, ask: bool, _: object) -> bool:
        """Called before (`ask`) and after every operation."""
        tensor = GgmlTensor.from_address(address)
        if tensor.op != self.product:
            return not ask
        name = GgmlTensor.from_address(tensor.src[0]).name.decode()
        if ask or not name.endswith(".weight"):
            return not ask or name.endswith(".weight")
        inputs = GgmlTensor.from_address(tensor.src[1])
        if (
            inputs.type != F32
            or inputs.nb[0] != 4
            or inputs.nb[1] != 4 * inputs.ne[0]
            or inputs.nb[2] != inputs.nb[1] * inputs.ne[1]
        ):
            return True
        shape = (inputs.ne[3] * inputs.ne[2] * inputs.ne[1], inputs.ne[0])
        values = np.ctypeslib.as_array(ctypes.cast(inputs.data, ctypes.POINTER(ctypes.c_float)), shape)
        squares = np.einsum("ij,ij->j", values, values, dtype=np.float64)
        self.sums[name] = self.sums.get(name, 0.0) + squares
        self.counts[name] = self.counts.get(name, 0) + shape[0]
        return True

    def means(self) -> dict[str, np.ndarray]:
        """Mean x² by the name of the matrix."""
        return {name: (total / self.counts[name]).astype(np.float32) for name, total in self.sums.items()}


def product_number() -> int:
    """ggml's number of the operation that multiplies by a matrix."""
    library = next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))
    op_name = ctypes.CDLL(str(library)).ggml_op_name
    op_name.restype = ctypes.c_char_p
    return next(number for number in range(100) if op_name(number) == b"MUL_MAT")


def importance(path: Path, threads: int, blocks: list[list[int]]) -> dict[str, np.ndarray]:
    """Mean x² of the inputs of every matrix over some texts."""
    seen = Importance()
    reader = Reader(path, threads, max(map(len, blocks)), seen.observer)
    for block in blocks:
        reader.logits(block)
    reader.close()
    return seen.means()
