"""Threads and asyncio."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import brooklet

PROMPTS = ["Once upon a time", "The sea was", "In the year", "He said"]


def test_eight_threads_on_one_model(model):
    def work(i):
        prompt = PROMPTS[i % 4]
        text = model.generate(prompt, 20, seed=i % 4).text()
        score = model.score(prompt, [" the", " a"])[0].logprob
        session = brooklet.Session(model, threads=1 + i % 2)
        session.prefill(prompt)
        return text, score, [session.fork().step(token).tobytes() for token in range(3)]

    expected = [work(i) for i in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(work, range(8))) == expected * 2


def test_a_session_takes_threads_in_turn(model):
    session = brooklet.Session(model)
    session.prefill([1])
    threads = [
        threading.Thread(target=lambda: [session.step(5) for _ in range(25)]) for _ in range(8)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert session.position == 201
    assert (session.logits == brooklet.Session(model).prefill([1] + [5] * 200)).all()


def test_others_run_while_it_computes(model):
    """Python's lock is free during a pass."""
    session = brooklet.Session(model, threads=1)
    counted = []

    def count():
        while not counted or counted[-1] is not None:
            counted.append(time.perf_counter())
            time.sleep(0.0005)
            if len(counted) > 100_000:
                break

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    time.sleep(0.05)
    before = len(counted)
    session.prefill([7] * 1500)
    during = len(counted) - before
    counted.append(None)
    thread.join(5)
    assert during > 10


def test_asyncio(model):
    async def both():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        one = [piece.text async for piece in brooklet.stream(model.generate(PROMPTS[0], 20, seed=1))]
        batch = [done.text async for done in brooklet.stream(model.generate_batch(PROMPTS, 5, seed=1))]
        session = brooklet.Session(model)
        await asyncio.to_thread(session.prefill, PROMPTS[0])
        ticking.cancel()
        return "".join(one), batch, ticks

    text, batch, ticks = asyncio.run(both())
    assert text == model.generate(PROMPTS[0], 20, seed=1).text()
    assert len(batch) == 4 and ticks > 20
