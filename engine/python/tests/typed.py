"""Never run: what type checkers must know of the package, and what they must not accept."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Optional

import numpy
import numpy.typing

import brooklet


def models(path: Path) -> None:
    model: brooklet.Model = brooklet.Model.open(path, dtype="int4", threads=2, progress=lambda done, total, tensor: None)
    model.open("x", progress=lambda done, total, tensor: done < total)
    width: int = model.d_model
    where: Optional[Path] = model.path
    print(width, where, model.metadata["architecture"])
    model.n_layer = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    brooklet.Model.open(path, dtyp="int4")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def sessions(model: brooklet.Model) -> numpy.typing.NDArray[numpy.float32]:
    session = brooklet.Session(model, rollback=3)
    logits = session.prefill("Once")
    logits = session.prefill(numpy.array([1, 2, 3]))
    logits = session.step(int(logits.argmax()))
    fork: brooklet.Session = session.fork()
    state: brooklet.State = fork.state
    data: bytes = state.to_bytes("f16")
    fork.resume(brooklet.State.from_bytes(model, data))
    session.step("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return session.logits


def texts(model: brooklet.Model) -> Iterator[str]:
    for piece in model.generate("Once", 5, temperature=0.5, stop=["a"], seed=1, bias={"a": 1.0, 3: 2.0}):
        token: Optional[int] = piece.token
        logprob: Optional[float] = piece.logprob
        top: list[tuple[int, float]] = piece.top
        print(token, logprob, top)
        yield piece.text
    for done in model.generate_batch(["a", [1, 2], b"c"], seed=[1, 2, 3]):
        yield done.text
    talk = [{"role": "user", "content": "Hello"}]
    yield model.chat(talk, template={"enable_thinking": False}).text()
    model.generate("Once", temprature=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    model.generate(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def scores(model: brooklet.Model) -> float:
    best = max(model.score("a", ["b", "c"]), key=lambda score: score.logprob)
    vectors: numpy.typing.NDArray[numpy.float32] = model.embed(["a", "b"], pooling="mean")
    model.embed("a", pooling="max")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return best.logprob + float(vectors.sum())


async def later(model: brooklet.Model) -> AsyncIterator[str]:
    async for piece in brooklet.stream(model.generate("Once")):
        yield piece.text


def errors() -> None:
    try:
        brooklet.convert("a", "b", progress=None, calibrate=False)
        brooklet.convert("a", "b", calibrate="Once upon a time")
        brooklet.convert("a", "b", calibrate=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    except (brooklet.FileError, brooklet.OptionError) as error:
        print(isinstance(error, brooklet.Error), error)
