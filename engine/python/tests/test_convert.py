"""Conversion, with a callback, and calibrated."""

import json
import os
import subprocess
from pathlib import Path

import numpy
import pytest

import brooklet


@pytest.fixture
def source(shared):
    return shared / "models" / "rwkv7-nano" / "rwkv7-nano.safetensors"


def test_converts(source, tmp_path):
    steps = []
    done = brooklet.convert(
        source, tmp_path / "a.brk", "int4", overrides={"^head": "int8"}, calibrate=False,
        progress=lambda *step: steps.append(step),
    )
    assert done.architecture == "rwkv7" and 4 < done.bits_per_weight < 8
    assert done.target_bytes == (tmp_path / "a.brk").stat().st_size < done.source_bytes
    assert steps[-1][0] == steps[-1][1] and any("layers" in tensor for _, _, tensor in steps)
    model = brooklet.Model.open(tmp_path / "a.brk")
    assert len(model.generate("Once", 3, temperature=0).text()) > 0


def test_stops_when_asked(source, tmp_path):
    with pytest.raises(brooklet.Error, match="cancelled"):
        brooklet.convert(source, tmp_path / "a.brk", progress=lambda done, total, tensor: done < 1_000_000)
    with pytest.raises(ZeroDivisionError):
        brooklet.convert(source, tmp_path / "a.brk", progress=lambda *_: 1 // 0)
    assert list(tmp_path.iterdir()) == []


def test_refuses(source, tmp_path):
    with pytest.raises(brooklet.OptionError, match="int3"):
        brooklet.convert(source, tmp_path / "a.brk", "int3")
    with pytest.raises(brooklet.OptionError, match="overrides"):
        brooklet.convert(source, tmp_path / "a.brk", overrides={"(": "int8"})
    with pytest.raises(brooklet.OptionError, match="group of 48"):
        brooklet.convert(source, tmp_path / "a.brk", group=48)
    with pytest.raises(brooklet.FileError, match="must not be overwritten"):
        brooklet.convert(source, source)
    taken = tmp_path / "taken.txt"
    taken.write_text("mine")
    with pytest.raises(brooklet.FileError, match="it is there"):
        brooklet.convert(source, taken)
    assert taken.read_text() == "mine"
    with pytest.raises(brooklet.FileError):
        brooklet.convert(tmp_path / "nothing.pth", tmp_path / "a.brk")


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A GRU over bytes, of random weights."""
    random, width = numpy.random.default_rng(1), 64
    shapes = {"embedding.weight": (256, width), "head.weight": (256, width)}
    shapes |= {f"rnn.{name}_l0": (3 * width, width) for name in ["weight_ih", "weight_hh"]}
    header, data = {}, b""
    for name, shape in shapes.items():
        values = random.normal(0, 0.3, shape).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    folder = tmp_path / "tiny"
    folder.mkdir()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text('{"model_type": "gru"}')
    return folder


def fingerprint(file: Path) -> int:
    return brooklet.Model.open(file).fingerprint


def test_int4_is_calibrated(tiny, tmp_path):
    out, heard = tmp_path / "out", []
    out.mkdir()
    done = brooklet.convert(tiny, out / "a.brk", "int4", progress=lambda *step: heard.append(step))
    assert done.calibration_tokens > 30_000 and done.tokenizer == "bytes"
    assert 4 < done.bits_per_weight < 9 and done.target_bytes == (out / "a.brk").stat().st_size
    totals = {total for _, total, _ in heard}
    assert len(totals) > 1 and max(totals) == done.weights, "weights, then layers"
    assert all(0 <= part <= total for part, total, _ in heard)
    plain = brooklet.convert(tiny, out / "b.brk", "int4", calibrate=False)
    assert plain.calibration_tokens == 0 and fingerprint(out / "a.brk") != fingerprint(out / "b.brk")
    text = " ".join(f"The ship {i} was lost in the storm, and {i * i} men with her." for i in range(300))
    own = brooklet.convert(tiny, out / "c.brk", "int4", calibrate=text)
    assert own.calibration_tokens > 10_000
    assert fingerprint(out / "c.brk") not in [fingerprint(out / "a.brk"), fingerprint(out / "b.brk")]
    assert brooklet.convert(tiny, out / "d.brk", "int8").calibration_tokens == 0
    assert brooklet.convert(tiny, out / "d.brk", overrides={"recurrent": "int4"}).calibration_tokens > 0
    program = os.environ.get("BROOKLET_PROGRAM")
    if program:
        subprocess.run([program, "--quiet", "convert", tiny, "-o", out / "e.brk", "--type", "int4"], check=True)
        assert fingerprint(out / "e.brk") == fingerprint(out / "a.brk")
    assert {path.suffix for path in out.iterdir()} == {".brk"}, "nothing else is left"


def test_texts_that_say_too_little(tiny, shared, tmp_path):
    out = tmp_path / "a.brk"
    with pytest.raises(brooklet.OptionError, match="10 tokens.*calibrate=False"):
        brooklet.convert(tiny, out, "int4", calibrate="ten bytes!")
    with pytest.raises(TypeError, match="True, False or a text"):
        brooklet.convert(tiny, out, "int4", calibrate=5)
    source = shared / "fixtures" / "rwkv4-a" / "model.pth"
    with pytest.raises(brooklet.OptionError, match="without a tokenizer"):
        brooklet.convert(source, out, "int4", calibrate="a text")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    done = brooklet.convert(source, out, "int4")
    assert done.calibration_tokens == 0 and any("not calibrated" in note for note in done.notes)


def test_a_calibration_that_is_stopped_goes_on(tiny, tmp_path):
    out = tmp_path / "a.brk"
    expected = fingerprint(brooklet.convert(tiny, tmp_path / "b.brk", "int4").file)
    heard = []

    def stop(done: int, total: int, doing: str) -> bool:
        heard.append(doing)
        return total > 10_000 or "head" not in doing or done == 0

    with pytest.raises(brooklet.Error, match="go on"):
        brooklet.convert(tiny, out, "int4", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.brk.unfinished", "b.brk", "tiny"], heard
    assert fingerprint(brooklet.convert(tiny, out, "int4").file) == expected
    assert not (tmp_path / "a.brk.unfinished").exists()
