"""Conversion, with a callback."""

import pytest

import brooklet


@pytest.fixture
def source(shared):
    return shared / "models" / "rwkv7-nano" / "rwkv7-nano.safetensors"


def test_converts(source, tmp_path):
    steps = []
    done = brooklet.convert(
        source, tmp_path / "a.brk", "int4", overrides={"^head": "int8"}, progress=lambda *step: steps.append(step)
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
