"""Makes GGUF files with random weights at a real model's dimensions, and quantizes them.

Runs inside the virtual environment (needs gguf, numpy, llama-cpp-python). Not here: which tensors a family has
(`gguf_families.py`), where files are kept (`preparation.py`).

    gguf_files.py write OUT < config.json
    gguf_files.py quantize IN OUT TYPE THREADS
"""

from __future__ import annotations

import json
import sys

import numpy as np

from gguf_families import FAMILIES, Random, metadata

# How the package numbers what it can quantize to (`llama_ftype` in llama.h); plain F16 is 1.
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}


def write(path: str, model: dict) -> None:
    """Writes the F16 file of `model`: what `brooklet inspect --json` says of it."""
    import gguf

    architecture, tensors_of = FAMILIES[model["architecture"]]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(model["name"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # No vocabulary: ids go in, logits come out.
    writer.add_tokenizer_model("none")
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    for key, value in metadata(architecture, model["config"]).items():
        add[type(value)](f"{architecture}.{key}", value)
    tensors = list(tensors_of(model["config"]))
    for tensor in tensors:
        dtype = np.dtype(tensor.dtype)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, int(np.prod(tensor.shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = Random()
    for tensor in tensors:
        writer.write_tensor_data(np.ascontiguousarray(tensor.draw(random, tensor.shape), dtype=tensor.dtype))
    writer.close()


def quantize(source: str, target: str, kind: str, threads: int) -> None:
    """Quantizes a file as the package's own tool does, with its defaults."""
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[kind]
    parameters.nthread = threads
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), parameters) != 0:
        sys.exit(f"llama_model_quantize failed for {source} as {kind}")


def main() -> None:
    """One of the two commands above."""
    match sys.argv[1:]:
        case ["write", path]:
            write(path, json.load(sys.stdin))
        case ["quantize", source, target, kind, threads]:
            quantize(source, target, kind, int(threads))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
