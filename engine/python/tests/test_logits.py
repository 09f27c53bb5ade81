"""Logits as arrays without a copy, which never change."""

import gc
import os
import threading

import numpy
import pytest

import brooklet


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_array_shows_the_memory_itself(session):
    logits = session.prefill("Once upon a time")
    assert logits.dtype == numpy.float32 and logits.shape == (6144,) and numpy.isfinite(logits).all()
    assert not logits.flags.owndata and not logits.flags.writeable
    assert numpy.shares_memory(logits, session.logits)
    with pytest.raises(ValueError):
        logits[0] = 1.0
    with pytest.raises(ValueError):
        logits.flags.writeable = True


def test_an_array_keeps_its_values(session):
    first = session.prefill("Once upon a time")
    kept, values = [first], [first.copy()]
    for token in range(20):
        kept.append(session.step(token))
        values.append(kept[-1].copy())
        assert not numpy.shares_memory(kept[-1], kept[-2])
    session.reset()
    session.prefill([1, 2, 3])
    for logits, value in zip(kept, values):
        assert (logits == value).all()


def test_memory_that_nobody_looks_at_is_used_again(session):
    places = set()
    logits = session.prefill([1])
    for token in range(50):
        logits = session.step(token)
        places.add(logits.ctypes.data)
    assert len(places) <= 3
    del logits
    places = {session.step(token).ctypes.data for token in range(50)}
    assert len(places) <= 2


def test_an_array_outlives_its_session(model):
    session = brooklet.Session(model)
    logits = session.prefill("Once upon a time")
    value = logits.copy()
    part = logits[10:20]
    del session, logits
    gc.collect()
    others = [brooklet.Session(model) for _ in range(4)]
    [other.prefill([7, 8, 9]) for other in others]
    assert (part == value[10:20]).all()


def test_arrays_do_not_change_under_another_threads_steps(session):
    logits = session.prefill("Once upon a time")
    value = logits.copy()
    thread = threading.Thread(target=lambda: [session.step(token) for token in range(100)])
    thread.start()
    while thread.is_alive():
        assert (logits == value).all()
    thread.join()


def test_there_are_none_before_the_first_token(session):
    assert not session.has_logits
    with pytest.raises(brooklet.StateError, match="no logits"):
        session.logits


def test_scores_and_forks_keep_what_is_shown(session):
    logits = session.prefill("The sea was")
    value = logits.copy()
    fork = session.fork()
    fork.step(5)
    session.score([" calm", " green and deep"])
    assert (logits == value).all() and (session.logits == value).all()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
def test_memory_stays_where_it_is(session):
    logits = session.prefill([1])
    for token in range(300):
        logits = session.step(token)
    before = rss()
    for token in range(2000):
        logits = session.step(token % 6000)
    assert logits.shape == (6144,)
    assert rss() - before < 4 << 20
