#!/usr/bin/env python3
"""Compiles kernels (*.cu) to PTX with NVIDIA's run-time compiler (PyPI: nvidia-cuda-nvrtc-cu12).

`build.py` writes them, `build.py run.cu` those of one source; `build.py --check` compiles again and
fails where a file differs;
`build.py --requires` prints the compiler's package. Its version is pinned: another one may give
other text.
"""

import ctypes
import importlib.metadata
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
PACKAGE, PINNED = "nvidia-cuda-nvrtc-cu12", "12.4.127"
# Sources, and the oldest cards that run each; newer ones compile the same text. Those of
# capability 8 multiply 8-bit integers by 32 columns, those of capability 9 copy by themselves.
TARGETS = {
    "choose.ptx": ("choose.cu", "compute_75"),
    "probe.ptx": ("probe.cu", "compute_75"),
    "probe.sm_80.ptx": ("probe.cu", "compute_80"),
    "run.ptx": ("run.cu", "compute_75"),
    "run.sm_90.ptx": ("run.cu", "compute_90"),
}
# No contraction: see math.cuh.
OPTIONS = ["--fmad=false", "--std=c++17"]
HEADERS = sorted(path.name for path in HERE.glob("*.cuh"))


def library():
    """The compiler, where pip put it."""
    try:
        found = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{PACKAGE} is not installed: pip install {PACKAGE}=={PINNED}")
    if found != PINNED:
        sys.exit(f"{PACKAGE} is {found}: pip install {PACKAGE}=={PINNED}")
    for file in importlib.metadata.files(PACKAGE):
        if file.name.startswith(("libnvrtc.so", "nvrtc64")) and "builtins" not in file.name:
            return ctypes.CDLL(str(file.locate()))
    sys.exit(f"{PACKAGE} has no compiler for this system")


def compiled(name, architecture):
    """A source as PTX."""
    nvrtc = library()
    program = ctypes.c_void_p()
    sources = [(HERE / name).read_bytes() for name in HEADERS]
    names = (ctypes.c_char_p * len(HEADERS))(*(name.encode() for name in HEADERS))
    texts = (ctypes.c_char_p * len(HEADERS))(*sources)
    source = (HERE / name).read_bytes()
    nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source, name.encode(), len(HEADERS), texts, names
    )
    all_options = [f"--gpu-architecture={architecture}", *OPTIONS]
    options = (ctypes.c_char_p * len(all_options))(*(option.encode() for option in all_options))
    failed = nvrtc.nvrtcCompileProgram(program, len(all_options), options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if log.value.strip():
        print(log.value.decode(), file=sys.stderr)
    if failed:
        sys.exit(f"{name} does not compile")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value


def build(source, is_check):
    """Writes what comes of a source, or compares it."""
    for name, (of, architecture) in TARGETS.items():
        if of != source:
            continue
        ptx, target = compiled(source, architecture), HERE / name
        if not is_check:
            target.write_bytes(ptx)
        elif target.read_bytes() != ptx:
            sys.exit(f"{target} is not what its sources compile to: run {HERE}/build.py")
        print(f"{name}: {len(ptx)} bytes")


def main():
    if "--requires" in sys.argv[1:]:
        print(f"{PACKAGE}=={PINNED}")
        return
    is_check = "--check" in sys.argv[1:]
    named = [argument for argument in sys.argv[1:] if argument.endswith(".cu")]
    if named:
        build(named[0], is_check)
        return
    # A process for each source: the compiler numbers calls on from one source to the next.
    for source in dict.fromkeys(source for source, _ in TARGETS.values()):
        command = [sys.executable, __file__, source, *sys.argv[1:]]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(1)


if __name__ == "__main__":
    main()
