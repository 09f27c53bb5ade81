"""How far a model's distributions are from a reference's: KL(reference || model) after every token. Needs numpy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Positions that are worked on at once, and those that share one mean for the standard errors: divergences of neighbours are
# not independent.
ROWS, PIECE = 256, 512


class Figures(NamedTuple):
    """What a table has of one model."""

    kl_mean: float
    kl_error: float
    kl_p99: float
    top1: float
    nats: float


class Divergence:
    """Gathers positions, block by block."""

    def __init__(self) -> None:
        self.kl: list[np.ndarray] = []
        self.same: list[np.ndarray] = []
        self.nats: list[np.ndarray] = []

    def add(self, ids: list[int], reference: np.ndarray, logits: np.ndarray) -> None:
        """One text from an empty state: logits after each of its tokens, (tokens, vocabulary) each."""
        if reference.shape != logits.shape or len(ids) != len(logits):
            raise ValueError(f"logits are {logits.shape}, the reference's {reference.shape}, for {len(ids)} tokens")
        for at in range(0, len(ids), ROWS):
            truth, guess = (log_softmax(side[at:][:ROWS]) for side in [reference, logits])
            self.kl.append(np.einsum("ij,ij->i", np.exp(truth), truth - guess))
            self.same.append(truth.argmax(1) == guess.argmax(1))
            following = np.array(ids[at + 1 :][:ROWS], dtype=np.int64)
            self.nats.append(-guess[np.arange(len(following)), following])

    def figures(self) -> Figures:
        """All positions together; the standard error is that of the mean over pieces of `PIECE` tokens."""
        kl = np.concatenate(self.kl)
        if not np.isfinite(kl).all():
            raise ValueError("the logits are not finite")
        return Figures(
            kl_mean=float(kl.mean()),
            kl_error=error_of(self.pieces()),
            kl_p99=float(np.quantile(kl, 0.99)),
            top1=float(np.concatenate(self.same).mean()),
            nats=float(np.concatenate(self.nats).mean()),
        )

    def pieces(self) -> np.ndarray:
        """Mean KL of each piece of the text."""
        kl = np.concatenate(self.kl)
        return np.array([kl[at:][:PIECE].mean() for at in range(0, len(kl) - PIECE // 2, PIECE)] or [kl.mean()])


def ratio(ours: Divergence, theirs: Divergence) -> tuple[float, float]:
    """Quotient of the mean KLs, and its standard error: both saw the same pieces, whose difficulty cancels."""
    a, b = ours.pieces(), theirs.pieces()
    quotient = float(np.concatenate(ours.kl).mean() / np.concatenate(theirs.kl).mean())
    return quotient, error_of((a - quotient * b) / b.mean())


def error_of(values: np.ndarray) -> float:
    """Standard error of a mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, in f64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
