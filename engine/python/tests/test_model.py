"""Opening models: files, checkpoints, the demo model; devices."""

import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path

import numpy
import pytest

import brooklet
from conftest import DEMO, ROOT


def test_a_file_and_the_demo_model_are_the_same(model):
    demo = brooklet.Model.open()
    assert demo.fingerprint == model.fingerprint and demo.path is None
    assert Path(model.path) == DEMO and model.device == "cpu"
    assert (model.architecture, model.n_layer, model.d_model, model.n_vocab) == ("rwkv7", 6, 192, 6144)
    assert model.metadata["architecture"] == "rwkv7" and model.state_bytes > 100_000
    assert repr(model).startswith("<brooklet.Model rwkv7")


def test_pickles_of_a_model_share_it(model):
    again, other = (pickle.loads(pickle.dumps(model)) for _ in range(2))
    assert again.fingerprint == model.fingerprint and other.path == model.path
    one, two = brooklet.Session(model), brooklet.Session(again)
    assert (one.prefill([1, 2, 3]) == two.prefill([1, 2, 3])).all()


def test_a_model_goes_when_nobody_has_it():
    model = brooklet.Model.open(DEMO)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None


def test_a_checkpoint_is_converted_once(shared, tmp_path):
    source = shared / "models" / "rwkv7-nano" / "rwkv7-nano.safetensors"
    steps = []
    model = brooklet.Model.open(
        source, cache=tmp_path / "cache", progress=lambda done, total, tensor: steps.append((done, total))
    )
    assert steps[-1][0] == steps[-1][1] > 5_000_000
    ids = list(range(1, 30))
    own, demo = (brooklet.Session(each).prefill(ids) for each in (model, brooklet.Model.open()))
    assert numpy.abs(own - demo).max() < 0.5
    (file,) = (tmp_path / "cache").iterdir()
    assert file == Path(model.path)
    before = file.stat().st_mtime_ns
    again = brooklet.Model.open(source, cache=tmp_path / "cache", progress=lambda *_: 1 / 0)
    assert again.fingerprint == model.fingerprint and file.stat().st_mtime_ns == before


def test_a_model_is_no_checkpoint(tmp_path):
    with pytest.raises(brooklet.OptionError, match="this is no checkpoint"):
        brooklet.Model.open(DEMO, dtype="int4")
    with pytest.raises(brooklet.OptionError, match="number format 'int3'|\"int3\""):
        brooklet.Model.open(DEMO, dtype="int3")


def test_devices():
    first = brooklet.devices()[0]
    assert first.name == "cpu" and "kernels" in first.description and first.memory is None
    assert brooklet.Model.open(device="auto").n_layer == 6
    with pytest.raises(brooklet.OptionError, match="expected cpu, auto, cuda"):
        brooklet.Model.open(device="gpu")
    if len(brooklet.devices()) == 1:
        with pytest.raises(brooklet.DeviceError):
            brooklet.Model.open(device="cuda:7")


def test_states_in_other_formats():
    model = brooklet.Model.open(state="f16")
    exact = brooklet.Session(brooklet.Model.open()).prefill("Once upon a time")
    rounded = brooklet.Session(model).prefill("Once upon a time")
    assert 0 < numpy.abs(exact - rounded).max() < 0.1 * exact.std()
    for state, words in [("int8", "no keys and values"), ("f8", "expected f32, f16 or int8")]:
        with pytest.raises(brooklet.OptionError, match=words):
            brooklet.Model.open(state=state)


def test_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(brooklet.FileError, match="nothing.brk"):
        brooklet.Model.open(tmp_path / "nothing.brk")
    text = tmp_path / "text.txt"
    text.write_text("no model")
    with pytest.raises(OSError, match="not a .brk file"):
        brooklet.Model.open(text)
    short = tmp_path / "short.brk"
    shutil.copy(DEMO, short)
    with open(short, "r+b") as file:
        file.truncate(10_000)
    with pytest.raises(brooklet.Error, match="short.brk"):
        brooklet.Model.open(short)
    with pytest.raises(TypeError):
        brooklet.Model.open(7)


def test_logits_are_those_of_the_fixtures(shared):
    """Logits of an independent implementation, at every position."""
    folder = shared / "models" / "rwkv7-nano" / "fixtures"
    ids, logits = numpy.load(folder / "ids.npy"), numpy.load(folder / "logits.npy")
    model = brooklet.Model.open(ROOT / "models" / "rwkv7-nano-int8.brk")
    own = brooklet.Session(model).forward(ids[: len(logits)])
    assert own.shape == logits.shape and own.dtype == numpy.float32
    spread = logits.std()
    assert numpy.abs(own - logits).max() < 0.2 * spread


@pytest.mark.parametrize(
    ("name", "file", "logits"),
    [
        ("rwkv4-a", "model.pth", "logits.npy"),
        ("rwkv7-a", "model.pth", "logits.npy"),
        ("mamba2-a", "", "logits.npy"),
        ("gated_deltanet-a", "", "logits.npy"),
        ("qwen3_5-a", "", "logits.npy"),
        ("gguf-mamba-a", "model-F32.gguf", "logits-F32.npy"),
    ],
)
def test_checkpoints_meet_their_fixtures(shared, tmp_path, name, file, logits):
    """In f32, opened as they are, at every position."""
    folder = shared / "fixtures" / name
    model = brooklet.Model.open(folder / file, dtype="f32", cache=tmp_path)
    expected = numpy.load(folder / logits)
    ids = json.loads((folder / "fixture.json").read_text())["token_ids"]
    own = brooklet.Session(model).forward(ids[: len(expected)])
    assert own.shape == expected.shape
    assert numpy.abs(own - expected).max() < 2e-4 * max(1, numpy.abs(expected).max())
