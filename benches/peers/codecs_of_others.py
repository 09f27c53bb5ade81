"""Other systems' number formats and prunings as functions of one matrix: what its weights become. Needs numpy.

Each takes weights `[out, in]` in f32 and gives them back rounded, so that any engine measures them with f32 weights. Not here:
which matrices (`systems.py`), rounding of activations (`forward.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Twice the values of E2M1, the four bits of MXFP4 and NVFP4, and brooklet's table of int4 (formats/SPEC.md).
E2M1 = np.array([-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12], np.float32) / 2
TABLE = np.array([-32, -25, -20, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 21, 27], np.float32)
# Lines that are searched at once.
PIECE = 2048
# Rounds that DSnoT swaps a weight of each row in, at the most.
SWAPS = 50


class Inputs(NamedTuple):
    """What a matrix reads on a calibration text, by channel."""

    mean: np.ndarray
    square: np.ndarray
    # The steps of static inputs by the number of levels on each side of zero: of channels, and of runs of 64.
    steps: dict[int, np.ndarray]
    runs: dict[int, np.ndarray]


def nearest(grid: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The values of an ascending grid that are nearest."""
    return grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, x)]


def float8(x: np.ndarray, mantissa: int, lowest: int, largest: float) -> np.ndarray:
    """8-bit floats, saturating; `lowest` is the exponent of the smallest normal number."""
    _, exponent = np.frexp(x)
    step = np.ldexp(np.float32(1), np.maximum(exponent - 1, lowest) - mantissa)
    return np.clip(np.rint(x / step) * step, -largest, largest).astype(np.float32)


def e4m3(x: np.ndarray) -> np.ndarray:
    return float8(x, 3, -6, 448.0)


def e5m2(x: np.ndarray) -> np.ndarray:
    return float8(x, 2, -14, 57344.0)


def groups(weights: np.ndarray, size: int) -> np.ndarray:
    """Runs of columns, one a line; the last of a row may end in zeros."""
    rows, cols = weights.shape
    padded = np.zeros((rows, -(-cols // size) * size), np.float32)
    padded[:, :cols] = weights
    return padded.reshape(-1, size)


def ungroup(lines: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return lines.reshape(shape[0], -1)[:, : shape[1]].copy()


def best(lines: np.ndarray, scales: list[np.ndarray], grid: np.ndarray) -> np.ndarray:
    """Of scales for each line, those with the least squared error; a piece that fits the cache at a time."""
    if len(lines) > PIECE:
        pieces = [slice(at, at + PIECE) for at in range(0, len(lines), PIECE)]
        return np.concatenate([best(lines[piece], [scale[piece] for scale in scales], grid) for piece in pieces])
    least = np.full(len(lines), np.inf, np.float32)
    found = np.zeros_like(lines)
    for scale in scales:
        safe = np.where(scale == 0, 1, scale)[:, None].astype(np.float32)
        rounded = nearest(grid, lines / safe) * safe
        error = ((lines - rounded) ** 2).sum(1)
        better = error < least
        least[better], found[better] = error[better], rounded[better]
    return found


def exponents(lines: np.ndarray) -> np.ndarray:
    """MXFP4's exponents as the OCP specification takes them: of the largest magnitude, less E2M1's."""
    _, exponent = np.frexp(np.abs(lines).max(1))
    return exponent - 1 - 2


def mxfp4(weights: np.ndarray) -> np.ndarray:
    lines = groups(weights, 32)
    return ungroup(best(lines, [np.ldexp(np.float32(1), exponents(lines))], E2M1), weights.shape)


def mxfp4_searched(weights: np.ndarray) -> np.ndarray:
    """The best of four exponents."""
    lines = groups(weights, 32)
    own = exponents(lines)
    scales = [np.ldexp(np.float32(1), own + more) for more in [-1, 0, 1, 2]]
    return ungroup(best(lines, scales, E2M1), weights.shape)


def nvfp4(weights: np.ndarray) -> np.ndarray:
    """E4M3 scales of 16 columns under one f32 scale; as NVIDIA's tools take them."""
    lines = groups(weights, 16)
    whole = np.float32(np.abs(weights).max() / (6 * 448))
    return ungroup(best(lines, [e4m3(np.abs(lines).max(1) / 6 / whole) * whole], E2M1), weights.shape)


def nvfp4_searched(weights: np.ndarray) -> np.ndarray:
    lines = groups(weights, 16)
    whole = np.float32(np.abs(weights).max() / (6 * 448))
    largest = np.abs(lines).max(1) / whole
    scales = [e4m3(largest / top) * whole for top in [3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7]]
    return ungroup(best(lines, scales, E2M1), weights.shape)


def int4(weights: np.ndarray) -> np.ndarray:
    """brooklet's int4 without its 8-bit scales, which cost nothing: a searched f32 scale of 32 columns."""
    lines = groups(weights, 32)
    extreme = np.take_along_axis(lines, np.abs(lines).argmax(1)[:, None], 1)[:, 0]
    tops = [*np.linspace(-37, -19, 13), *np.linspace(19, 37, 13)]
    return ungroup(best(lines, [extreme / np.float32(top) for top in tops], TABLE), weights.shape)


def rotated(weights: np.ndarray, size: int) -> np.ndarray:
    """int4 of a matrix whose columns are rotated in blocks, by a Hadamard matrix with random signs, and rotated back."""
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < size:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    rotation = hadamard * np.random.default_rng(1).choice([-1, 1], (size, 1)).astype(np.float32) / np.sqrt(size)
    turned = (weights.reshape(-1, size) @ rotation).reshape(weights.shape)
    return (int4(turned).reshape(-1, size) @ rotation.T).reshape(weights.shape)


def palette(weights: np.ndarray) -> np.ndarray:
    """Sixteen values for the whole matrix by k-means, nothing else: eDKM's form, without its training."""
    values = np.sort(weights.reshape(-1))
    # Sums up to each weight: a cluster of sorted weights is an interval.
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    centres = np.quantile(values, (np.arange(16) + 0.5) / 16).astype(np.float64)
    for _ in range(200):
        edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(values)]])
        counts = np.diff(edges)
        moved = np.where(counts > 0, np.diff(sums[edges]) / np.maximum(counts, 1), centres)
        if np.abs(moved - centres).max() < 1e-7 * np.abs(values).max():
            break
        centres = np.sort(moved)
    return nearest(centres.astype(np.float32), weights)


def fp8_static(weights: np.ndarray) -> np.ndarray:
    """E4M3 with the scale 1."""
    return e4m3(weights)


def fp8_unit(weights: np.ndarray) -> np.ndarray:
    """E4M3 with µnit scaling's static factor: weights of about one over the root of the columns become those of about 1."""
    factor = np.float32(np.sqrt(weights.shape[1]))
    return e4m3(weights * factor) / factor


def fp8_tensor(weights: np.ndarray) -> np.ndarray:
    """E4M3 with one scale for the matrix, from its largest weight."""
    scale = np.float32(np.abs(weights).max() / 448)
    return e4m3(weights / scale) * scale


def fp8_row(weights: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.abs(weights).max(1, keepdims=True) / 448, 1e-30).astype(np.float32)
    return e4m3(weights / scale) * scale


def kept(score: np.ndarray, of_four: bool) -> np.ndarray:
    """Where the better half of each row is, or two of each four columns."""
    lines = score.reshape(-1, 4) if of_four else score
    order = lines.argsort(1).argsort(1)
    return (order >= lines.shape[1] // 2).reshape(score.shape)


def magnitude(weights: np.ndarray, of_four: bool) -> np.ndarray:
    return weights * kept(np.abs(weights), of_four)


def wanda(weights: np.ndarray, inputs: Inputs, of_four: bool) -> np.ndarray:
    """By magnitude times the root mean square of the inputs (arXiv 2306.11695)."""
    return weights * kept(np.abs(weights) * np.sqrt(inputs.square), of_four)


def dsnot(weights: np.ndarray, inputs: Inputs, of_four: bool) -> np.ndarray:
    """Wanda's mask, then in each row swaps that bring the mean error nearer to zero (arXiv 2310.08915)."""
    score = np.abs(weights) * np.sqrt(inputs.square)
    mask = kept(score, of_four)
    gains = weights * inputs.mean
    variance = np.sqrt(np.maximum(inputs.square - inputs.mean**2, 1e-12))
    rows = np.arange(len(weights))
    active = np.ones(len(weights), bool)
    for _ in range(SWAPS):
        error = (gains * ~mask).sum(1)
        sign = np.sign(error)[:, None]
        # In comes what takes the most off the error for its variance, out goes the least important that adds to it least.
        grow = np.where(mask, -np.inf, sign * gains / variance)
        inn = grow.argmax(1)
        if of_four:
            own = np.arange(score.shape[1])[None] // 4 == inn[:, None] // 4
        else:
            own = sign * gains < 0
        out = np.where(mask & own, score, np.inf).argmin(1)
        possible = (mask & own).any(1) & np.isfinite(grow[rows, inn])
        swapped = error - gains[rows, inn] + gains[rows, out]
        active &= possible & (np.abs(swapped) < np.abs(error))
        if not active.any():
            break
        mask[rows[active], inn[active]] = True
        mask[rows[active], out[active]] = False
    return weights * mask
