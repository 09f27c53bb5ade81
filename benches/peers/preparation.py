"""What a comparison needs before it can measure: the peer in a virtual environment, brooklet, model files of both.

Standard library only, since this is what makes the virtual environment. Everything is made once and kept in the cache
folder; a file takes its name only when it is whole. Not here: what is in the peer's files (`gguf_files.py`), measuring
(`compare.py`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ["llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy>=1.26"]
# Whether a virtual environment comes with pip: some systems package that apart, and this Python's pip serves there.
HAS_PIP = importlib.util.find_spec("ensurepip") is not None
# Changes whenever the way `gguf_files.py` fills files does.
VERSION = 1
# The peer's formats, and ours that each is compared with.
OURS = {"Q4_0": "int4", "Q4_K_M": "int4", "Q8_0": "int8", "F16": "f16"}


class Failure(Exception):
    """What went wrong, and where there is one, the obvious next act on a second line."""


def interrupted(*_: object) -> None:
    """Ends a run that is told to end as Ctrl-C does: children are stopped, half files removed."""
    raise KeyboardInterrupt


def watched(work: Callable[[], None]) -> int:
    """Does something that may fail or be interrupted; says so, and gives the exit code."""
    try:
        work()
    except (Failure, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 0


class Model(NamedTuple):
    """One model as brooklet has it, and what brooklet says of it."""

    name: str
    path: Path
    architecture: str
    config: dict
    weights: int


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def cache_home() -> Path:
    """Where programs keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def output(command: list[str | Path], text: str = "", environment: dict[str, str] | None = None) -> str:
    """What a command prints; a failure quotes the end of its complaints."""
    pipes = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE)
    try:
        # Out of the terminal's reach: it would send a second Ctrl-C, which brooklet does not wait for.
        child = subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        result, complaints = child.communicate(text)
    except BaseException:
        stop(child)
        raise
    if child.returncode != 0:
        complaints = "\n".join(complaints.strip().splitlines()[-8:])
        raise Failure(f"{' '.join(map(str, command))} failed ({child.returncode}):\n{complaints}")
    return result


def stop(child: subprocess.Popen) -> None:
    """Ends a command, with time to remove what it has written by half."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second comparison out of the folder: it would spoil files and figures of both."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failure(f"another comparison uses {folder}\nwait for it, or use --cache") from error
        yield


def has_packages(python: Path) -> bool:
    """Whether that Python has all that is needed."""
    if not python.exists():
        return False
    probe = [python, "-c", "import gguf, llama_cpp, numpy"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


class Origin(NamedTuple):
    """Where the peer comes from, and what it is built for."""

    # "cpu" or "cuda".
    device: str = "cpu"
    # The package's source, unpacked or as it was packed; else it is downloaded.
    source: Path | None = None
    # Wheels of everything else; else they are downloaded.
    wheels: Path | None = None


DOWNLOADED = Origin()


def environment(cache: Path, given: Path | None, origin: Origin = DOWNLOADED) -> Path:
    """The Python of a virtual environment with the peer, built for this machine first if need be."""
    version = PACKAGES[0].partition("==")[2]
    folder = given or cache / (f"venv-{version}" if origin.device == "cpu" else f"venv-{version}-{origin.device}")
    python = folder.absolute() / "bin" / "python"
    if has_packages(python):
        return python
    if given:
        raise Failure(f"{given} lacks {', '.join(PACKAGES)}, or is no virtual environment\nleave --venv out")
    if not any(map(shutil.which, [os.environ.get("CXX", "c++"), "g++", "clang++"])):
        raise Failure("building llama.cpp needs a C++ compiler\ninstall one, for example g++")
    if origin.device == "cuda" and not shutil.which(os.environ.get("CUDACXX", "nvcc")):
        raise Failure("building llama.cpp for a card needs nvcc\ninstall CUDA's tools, or name it in CUDACXX")
    say(f"making {folder} (builds llama.cpp: 5 to 20 minutes)")
    try:
        output([sys.executable, "-m", "venv", "--clear", *([] if HAS_PIP else ["--without-pip"]), folder])
        install(python, origin)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def pip_command(python: Path, origin: Origin) -> list[str | Path]:
    """How the packages are installed, llama.cpp from its source: a cache may be another machine's."""
    name = PACKAGES[0].partition("==")[0]
    peer = origin.source.absolute() if origin.source else PACKAGES[0]
    offline = ["--no-index", "--find-links", origin.wheels.absolute()] if origin.wheels else []
    pip = [python, "-m", "pip"] if HAS_PIP else [sys.executable, "-m", "pip", "--python", python]
    return [*pip, "install", "--no-cache-dir", "--no-binary", name, *offline, peer, *PACKAGES[1:]]


def cmake_flags(device: str, given: str) -> str:
    """How llama.cpp is built, behind the flags that are given.

    Of llama.cpp only what `peer.py` loads is built: neither the library of its tools nor the one for pictures. For a
    card without its kernels of attention, which take most of the time and which no recurrent layer uses.
    """
    flags = ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={HERE}/without_common.cmake"]
    if device == "cuda":
        flags += ["-DGGML_CUDA=ON", "-DGGML_CUDA_FA=OFF"]
        flags += [] if "CMAKE_CUDA_ARCHITECTURES" in given else ["-DCMAKE_CUDA_ARCHITECTURES=native"]
    return " ".join([given, *flags]).strip()


def install(python: Path, origin: Origin) -> None:
    """Installs the packages."""
    pip, flags = pip_command(python, origin), cmake_flags(origin.device, os.environ.get("CMAKE_ARGS", ""))
    say(f"CMAKE_ARGS='{flags}' {' '.join(map(str, pip))}")
    done = subprocess.run(pip, stdout=sys.stderr, env=os.environ | {"CMAKE_ARGS": flags}, check=False)
    if done.returncode != 0 or not has_packages(python):
        needs = "a C++ compiler" if origin.device == "cpu" else "a C++ compiler, CUDA's"
        needs += "" if origin.source and origin.wheels else ", the network"
        raise Failure(f"pip could not install the peer\nits messages are above; it needs {needs}")


def brooklet(given: Path | None) -> Path:
    """brooklet's program, built first unless one is given."""
    if given:
        return given.absolute()
    say("building brooklet")
    cargo = ["cargo", "build", "--release", "--locked", "--bin", "brooklet", "--message-format=json"]
    try:
        done = subprocess.run(cargo, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Failure("cannot run cargo\ninstall Rust, or name a program with --brooklet") from error
    programs = [json.loads(line).get("executable") for line in done.stdout.splitlines() if line.startswith("{")]
    programs = [program for program in programs if program]
    if done.returncode != 0 or not programs:
        raise Failure("brooklet does not build\ncargo's messages are above")
    return Path(programs[-1])


def card(program: Path, device: str) -> str | None:
    """The name of the card that models shall run on; none for the processor."""
    if device == "cpu":
        return None
    names = {entry["device"]: entry["name"] for entry in json.loads(output([program, "devices", "--json"]))}
    if f"{device}:0" not in names:
        raise Failure("brooklet sees no card\n`brooklet devices` lists them")
    return names[f"{device}:0"]


def our_file(program: Path, name: str, kind: str) -> Model:
    """brooklet's file of a model with random weights; brooklet writes it if it is not there."""
    bench = [program, "bench", "--synthetic", name, "--type", kind, "-p0", "-n0", "--repeat", "1", "--json"]
    bench += ["--device", "cpu"]
    path = cache_home() / "brooklet" / json.loads(output(bench))["model"]
    facts = json.loads(output([program, "inspect", path, "--json"]))
    return Model(name, path, facts["architecture"], facts["config"], facts["weights"])


def their_files(python: Path, cache: Path, model: Model, kinds: list[str], threads: int) -> dict[str, Path]:
    """The peer's files of a model by format, made first where they are not there."""
    facts = {"name": model.name, "architecture": model.architecture, "config": model.config}
    key = hashlib.sha256(json.dumps([VERSION, facts], sort_keys=True).encode()).hexdigest()[:8]
    paths = {kind: cache / f"{model.name}-{kind}-{key}.gguf" for kind in [*kinds, "F16"]}
    missing = [kind for kind in kinds if not paths[kind].exists()]
    if missing:
        check_space(cache, model, missing)
        make(python, paths, facts, missing, threads)
    return {kind: paths[kind] for kind in kinds}


def check_space(cache: Path, model: Model, missing: list[str]) -> None:
    """Fails while nothing is written yet if the disk is too small."""
    bits = {"Q4_0": 6, "Q4_K_M": 6, "Q8_0": 9, "F16": 0}
    need = model.weights * (17 + sum(bits[kind] for kind in missing)) // 8
    free = shutil.disk_usage(cache).free
    if free < need:
        raise Failure(f"{cache} has {free / 1e9:.1f} GB free, {model.name} takes {need / 1e9:.1f}\nuse --cache")


def make(python: Path, paths: dict[str, Path], facts: dict, missing: list[str], threads: int) -> None:
    """Writes the F16 file, quantizes it to what is missing, and leaves only whole files that were asked for."""
    script = HERE / "gguf_files.py"
    parts = {kind: path.with_suffix(".part") for kind, path in paths.items()}
    try:
        source = paths["F16"]
        if not source.exists():
            source = parts["F16"]
            say(f"writing {paths['F16'].name}")
            output([python, script, "write", source], json.dumps(facts))
        for kind in missing:
            if kind != "F16":
                say(f"quantizing {paths[kind].name}")
                output([python, script, "quantize", source, parts[kind], kind, str(threads)])
                parts[kind].rename(paths[kind])
        if "F16" in missing:
            source.rename(paths["F16"])
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
