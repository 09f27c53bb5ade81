"""Reads the tensors of a checkpoint as f32, and writes some as safetensors; needs numpy, not torch.

`.safetensors`, and `.pth` or `.bin` as torch.save writes them (zip archives). Of a pickle only tensors are taken: no code of
the file runs. Not here: what the tensors mean (`gguf_trained.py`, `twins.py`).
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preparation import Failure

# The element types as safetensors and torch name them; bf16 has no type in numpy.
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}

Tensors = dict[str, np.ndarray]


def weights(path: Path) -> list[Path]:
    """The files with the weights of a checkpoint: the file itself, or those in the folder."""
    if path.is_file():
        return [path]
    for pattern in ["*.safetensors", "*.pth", "pytorch_model*.bin"]:
        files = sorted(path.glob(pattern))
        if files:
            return files
    raise Failure(f"{path} has no weights\nname a .safetensors, .pth or .bin file, or a folder with such files")


def source(path: Path) -> Path:
    """What brooklet converts: the folder if it is one of Hugging Face, else the file with the weights."""
    if path.is_file() or (path / "config.json").exists():
        return path
    files = weights(path)
    if len(files) > 1:
        raise Failure(f"{path} has several files with weights and no config.json\nname one of them")
    return files[0]


def read(path: Path) -> Tensors:
    """All tensors by name."""
    tensors: Tensors = {}
    for file in weights(path):
        try:
            tensors |= safetensors(file) if file.suffix == ".safetensors" else torch_archive(file)
        except (OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise Failure(f"cannot read {file}: {error}") from error
    return tensors


def widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Elements of a file as f32."""
    if dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def safetensors(file: Path) -> Tensors:
    """The tensors of one safetensors file."""
    raw = np.memmap(file, np.uint8, "r")
    (length,) = struct.unpack("<Q", raw[:8].tobytes())
    header = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        elements = np.frombuffer(raw[begin:end], TYPES[entry["dtype"]])
        tensors[name] = widen(elements, entry["dtype"]).reshape(entry["shape"])
    return tensors


class TensorsOnly(pickle.Unpickler):
    """An unpickler that makes dictionaries and tensors, and refuses everything else."""

    def __init__(self, archive: zipfile.ZipFile, index: str) -> None:
        super().__init__(io.BytesIO(archive.read(index)))
        self.archive, self.folder = archive, index.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return strided
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it holds {module}.{name}")

    def persistent_load(self, pid: tuple) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return widen(np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), TYPES[dtype]), dtype)


def strided(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object) -> np.ndarray:
    """A tensor over a part of its storage."""
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if min(shape, default=1) < 1 or offset < 0 or min(strides, default=0) < 0 or last >= storage.size:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False).copy()


def torch_archive(file: Path) -> Tensors:
    """The tensors of one file of torch.save."""
    with zipfile.ZipFile(file) as archive:
        index = next((name for name in archive.namelist() if name.endswith("data.pkl")), "data.pkl")
        return dict(TensorsOnly(archive, index).load())


def write(file: Path, tensors: Tensors) -> None:
    """Writes f32 tensors as safetensors."""

    def entries() -> Iterator[tuple[str, dict]]:
        at = 0
        for name, tensor in tensors.items():
            end = at + 4 * tensor.size
            yield name, {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, end]}
            at = end

    header = json.dumps({"__metadata__": {"format": "pt"}, **dict(entries())}).encode()
    header += b" " * (-len(header) % 8)
    with open(file, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        out.writelines(np.ascontiguousarray(tensor, "<f4").tobytes() for tensor in tensors.values())
