"""Ctrl-C ends what the main thread computes, between two passes."""

import os
import signal
import threading
import time

import pytest

import brooklet

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers of this kind here")


@pytest.fixture(autouse=True)
def soon():
    """Ctrl-C in a moment."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.cancel()
    timer.join()
    signal.signal(signal.SIGINT, before)


ENDLESS = [7] * 2_000_000


def test_a_prompt(model):
    session = brooklet.Session(model)
    with pytest.raises(KeyboardInterrupt):
        session.prefill(ENDLESS)
    assert 0 < session.position < len(ENDLESS)
    assert not session.has_logits
    session.step(1)
    assert session.has_logits


def test_a_text(model):
    generation = model.generate("Once", 10**9, ignore_end=True)
    with pytest.raises(KeyboardInterrupt):
        generation.text()


def test_scores(model):
    with pytest.raises(KeyboardInterrupt):
        model.score(ENDLESS, [" a"])
    assert len(model.score("Once", [" a"])) == 1


def test_embeddings(model):
    with pytest.raises(KeyboardInterrupt):
        model.embed([ENDLESS])


def test_a_batch(model):
    with pytest.raises(KeyboardInterrupt):
        list(model.generate_batch(["Once"] * 4, 10**9, ignore_end=True))


def test_a_session_that_waits_its_turn(model):
    session = brooklet.Session(model, threads=1)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            session.prefill([7] * 2000)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            while True:
                session.position
    finally:
        stop.set()
        thread.join()


def test_a_handler_that_uses_what_it_interrupts(model):
    session = brooklet.Session(model)
    told = []

    def handler(*_):
        try:
            session.position
        except brooklet.StateError as error:
            told.append(str(error))
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    with pytest.raises(KeyboardInterrupt):
        session.prefill(ENDLESS)
    assert told and "this very thread" in told[0]
