"""Sessions: the same bits however tokens come, forks, ways back, files, pickles."""

import multiprocessing
import pickle

import numpy
import pytest

import brooklet

TEXT = "Once upon a time there was a ship"


def test_prefill_steps_and_chunks_are_the_same(model):
    ids = model.tokenizer.prompt(TEXT)
    whole = brooklet.Session(model).prefill(ids)
    steps = brooklet.Session(model)
    for token in ids:
        last = steps.step(token)
    chunks = brooklet.Session(model, chunk=3, threads=1).prefill(ids)
    rows = brooklet.Session(model).forward(ids)
    assert (whole == last).all() and (whole == chunks).all() and (whole == rows[-1]).all()
    assert rows.shape == (len(ids), 6144) and steps.position == len(ids)
    parts = brooklet.Session(model)
    parts.prefill(ids[:3])
    assert (parts.prefill(ids[3:]) == whole).all()
    assert (brooklet.Session(model).prefill(TEXT) == whole).all()


def test_forks_go_their_own_ways(session):
    session.prefill(TEXT)
    fork = session.fork()
    assert (fork.logits == session.logits).all() and fork.position == session.position
    a, b = session.step(5).copy(), fork.step(6).copy()
    assert not (a == b).all()
    assert (fork.fork().logits == b).all() and (session.logits == a).all()


def test_rollback(model):
    session = brooklet.Session(model, rollback=16)
    session.prefill(TEXT)
    values = [session.logits.copy()]
    for token in range(12):
        values.append(session.step(token).copy())
    assert session.rollback_reach >= 12
    for back in [1, 4, 7]:
        session.rollback(back)
        values = values[: len(values) - back]
        assert (session.logits == values[-1]).all()
    with pytest.raises(brooklet.StateError, match="cannot go back"):
        session.rollback(1000)
    assert (session.logits == values[-1]).all()
    with pytest.raises(brooklet.StateError):
        brooklet.Session(model).rollback(1)


def test_files(model, session, tmp_path):
    logits = session.prefill(TEXT).copy()
    session.save(tmp_path / "here.brks")
    other = brooklet.Session(model)
    other.load(tmp_path / "here.brks")
    assert (other.logits == logits).all() and other.position == session.position
    assert (other.step(9) == session.step(9)).all()
    state = brooklet.State.load(model, tmp_path / "here.brks")
    state.save(tmp_path / "small.brks", "f16")
    assert (tmp_path / "small.brks").stat().st_size < 0.7 * (tmp_path / "here.brks").stat().st_size
    taken = tmp_path / "taken.txt"
    taken.write_text("mine")
    with pytest.raises(brooklet.FileError, match="it is there"):
        session.save(taken)
    assert taken.read_text() == "mine"
    with pytest.raises(brooklet.FileError):
        session.load(taken)
    assert session.has_logits


def test_states(model, session):
    start = brooklet.State(model)
    assert start.position == 0 and start.logits is None
    session.prefill(TEXT)
    state = session.state
    assert state.position == session.position and (state.logits == session.logits).all()
    assert state == session.fork().state and state != start
    slots = state.slots
    assert {slot.layer for slot in slots} == set(range(6))
    for i, slot in enumerate(slots):
        values = state.array(i)
        assert list(values.shape) == list(slot.shape) and numpy.isfinite(values).all()
    wkv = next(i for i, slot in enumerate(slots) if slot.name == "att.wkv")
    assert numpy.linalg.norm(state.array(wkv)) > 0
    with pytest.raises(brooklet.OptionError, match="slot 999"):
        state.array(999)
    session.resume(start)
    assert session.position == 0 and not session.has_logits
    session.resume(state)
    assert (session.logits == state.logits).all()
    again = brooklet.State.from_bytes(model, state.to_bytes())
    assert again == state
    with pytest.raises(brooklet.FileError):
        brooklet.State.from_bytes(model, state.to_bytes()[:-9])


def goes_on(pickled: bytes, token: int) -> bytes:
    """What a session, a state of another process does here."""
    value = pickle.loads(pickled)
    session = value if isinstance(value, brooklet.Session) else None
    if session is None:
        session = brooklet.Session(value.model)
        session.resume(value)
    return session.step(token).tobytes()


def test_pickles_between_processes(session):
    session.prefill(TEXT)
    pickles = [pickle.dumps(session), pickle.dumps(session.state)]
    expected = session.step(7).tobytes()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(goes_on, [(each, 7) for each in pickles]) == [expected] * 2
    # What the session did afterwards is not in them.
    assert goes_on(pickles[0], 7) == expected


def test_a_state_of_another_model(session, shared, tmp_path):
    folder = next((shared / "fixtures").glob("rwkv4-a"))
    source = next(path for path in folder.iterdir() if path.suffix in (".pth", ".safetensors"))
    brooklet.convert(source, tmp_path / "other.brk", "f32")
    other = brooklet.Model.open(tmp_path / "other.brk")
    session.prefill(TEXT)
    with pytest.raises(brooklet.StateError, match="another model"):
        session.resume(brooklet.State(other))
    assert session.has_logits
    with pytest.raises(brooklet.FileError):
        brooklet.State.from_bytes(other, session.state.to_bytes())
