"""Callable classes for `ray.data.Dataset.map_batches`: each worker makes one, and keeps its model."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import numpy

from . import Completion, Model
from ._types import Pooling, SamplingWithoutSeed

Columns = dict[str, Any]
"""A batch as Ray Data gives it: arrays by the names of columns."""


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process of this machine at a time."""
    try:
        import fcntl
    except ImportError:  # Windows: a conversion is whole or not there, whoever makes it.
        yield
        return
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    user = os.getuid()
    path = os.path.join(tempfile.gettempdir(), f"brooklet-{user}-{digest}.lock")
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def open_model(path: Optional[str], threads: int = 0, **options: Any) -> Model:
    """A worker's model. A checkpoint is converted by the first worker of a machine, for all."""
    with _alone(str(path)):
        return Model.open(path, threads=threads, **options)


def _threads(asked: Optional[int]) -> int:
    """Threads of a worker: as many as Ray gives it processors, one at least."""
    if asked is not None:
        return asked
    import ray

    resources = ray.get_runtime_context().get_assigned_resources()
    return max(1, int(resources.get("CPU", 1)))


class Generate:
    """Adds a column with the text that the model writes behind each prompt.

    `prompt` and `output` name columns; `tokens`, `stop` and the keywords of sampling are those of
    `Model.generate_batch`. Each row's seed is the one in its column `seeds`, if there is such a
    column, or else `seed`: the text of a row is the same in whatever batch it comes. `parallel` texts
    are written at a time. A row that fails has no text, and its error in the column `error`.
    """

    def __init__(
        self,
        model: Optional[str] = None,
        *,
        prompt: str = "prompt",
        output: str = "text",
        tokens: int = 256,
        stop: Sequence[str] = (),
        seed: int = 0,
        seeds: str = "seed",
        parallel: int = 8,
        threads: Optional[int] = None,
        options: Optional[dict[str, Any]] = None,
        sampling: Optional[SamplingWithoutSeed] = None,
    ) -> None:
        self.model = open_model(model, _threads(threads), **(options or {}))
        self.prompt, self.output, self.tokens, self.stop = prompt, output, tokens, list(stop)
        self.seed, self.seeds, self.parallel = seed, seeds, parallel
        self.sampling: SamplingWithoutSeed = sampling or {}

    def completions(self, prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Completion]:
        """What becomes of prompts, in their order."""
        return self.model.generate_batch(
            prompts,
            self.tokens,
            stop=self.stop,
            parallel=self.parallel,
            keep_errors=True,
            seed=seeds,
            **self.sampling,
        )

    def __call__(self, batch: Columns) -> Columns:
        prompts = [str(prompt) for prompt in batch[self.prompt]]
        seeds = batch.get(self.seeds)
        numbers = [self.seed] * len(prompts) if seeds is None else [int(seed) for seed in seeds]
        done = list(self.completions(prompts, numbers))
        result = dict(batch)
        result[self.output] = numpy.array([each.text for each in done], dtype=object)
        result["reason"] = numpy.array([each.reason for each in done], dtype=object)
        result["tokens"] = numpy.array([len(each.tokens) for each in done], dtype=numpy.int64)
        errors = [None if each.error is None else str(each.error) for each in done]
        if any(error is not None for error in errors):
            result["error"] = numpy.array(errors, dtype=object)
        return result


class Score:
    """Adds the likeliest of some endings behind each prompt: a classification.

    `template` has {text} in the place of the row's column `text`. New columns: `label`, the number of
    the likeliest ending, and `share`, its share among them (a softmax of the log-probabilities).
    """

    def __init__(
        self,
        model: Optional[str] = None,
        *,
        endings: Sequence[str],
        template: str = "{text}",
        text: str = "text",
        threads: Optional[int] = None,
        options: Optional[dict[str, Any]] = None,
    ) -> None:
        self.model = open_model(model, _threads(threads), **(options or {}))
        self.endings, self.template, self.text = list(endings), template, text

    def __call__(self, batch: Columns) -> Columns:
        rows = []
        for text in batch[self.text]:
            scores = self.model.score(self.template.replace("{text}", str(text)), self.endings)
            rows.append([score.logprob for score in scores])
        logprobs = numpy.array(rows, dtype=numpy.float64).reshape(-1, len(self.endings))
        weights = numpy.exp(logprobs - logprobs.max(axis=1, keepdims=True))
        shares = weights / weights.sum(axis=1, keepdims=True)
        return {
            **batch,
            "label": logprobs.argmax(axis=1).astype(numpy.int64),
            "share": shares.max(axis=1),
        }


class Embed:
    """Adds a column `embedding`: of each text (column `text`) a vector of the model's width."""

    def __init__(
        self,
        model: Optional[str] = None,
        *,
        text: str = "text",
        pooling: Pooling = "mean",
        normalize: bool = True,
        threads: Optional[int] = None,
        options: Optional[dict[str, Any]] = None,
    ) -> None:
        self.model = open_model(model, _threads(threads), **(options or {}))
        self.text, self.normalize = text, normalize
        self.pooling: Pooling = pooling

    def __call__(self, batch: Columns) -> Columns:
        texts = [str(text) for text in batch[self.text]]
        vectors = self.model.embed(texts, pooling=self.pooling, normalize=self.normalize)
        return {**batch, "embedding": numpy.array(vectors)}
