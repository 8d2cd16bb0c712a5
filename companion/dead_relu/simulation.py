"""Thousands of networks at once, drawn to see which of them are dead at birth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.initialization import randomized_asymmetric
from companion.initialization.draws import normal

__all__ = ["DRAWS", "Draw", "on_points", "on_two_rays"]

Array = NDArray[np.floating[Any]]
Draw = Callable[[int, int, int, np.random.Generator], tuple[Array, Array | None]]
"""Takes nets, fan_out, fan_in, rng; gives weights and biases of one layer of all the nets."""

_NUMBERS = 4_000_000  # to be held at a time, 16 MB of float32, which is fine for signs
_WITNESSES = 4  # points followed in every net; the others only where these fall silent


def he(nets: int, n_out: int, n_in: int, rng: np.random.Generator) -> tuple[Array, None]:
    """Draw He's weights, without biases."""
    return normal((nets, n_out, n_in), rng, math.sqrt(2 / n_in), np.float32), None


def he_bias(nets: int, n_out: int, n_in: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw He's weights, and biases of the same size."""
    weight, _ = he(nets, n_out, n_in, rng)
    return weight, normal((nets, n_out, 1), rng, math.sqrt(2 / n_in), np.float32)


def asymmetric(nets: int, n_out: int, n_in: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw weights and biases by the randomized asymmetric rule."""
    weight, bias = randomized_asymmetric((nets * n_out, n_in), rng, dtype=np.float32)
    return weight.reshape(nets, n_out, n_in), bias.reshape(nets, n_out, 1)


DRAWS: dict[tuple[str, bool], Draw] = {
    ("he", False): he,
    ("he", True): he_bias,
    ("randomized_asymmetric", True): asymmetric,
}
"""By name, and whether the layers have biases."""


def on_two_rays(widths: Sequence[int], nets: int, rng: np.random.Generator) -> Array:
    """Return each net's chance to be silent on the line, for one input and no biases.

    All that such a net knows of its input is its sign: two rays. What a layer of normal weights
    makes of two vectors depends on the angle between them alone, so the angle is all that is kept,
    and two normal numbers per unit are all that is drawn. Where one ray is left, the rest is a
    formula, and the chance is neither 0 nor 1.
    """
    most = max(1, _NUMBERS // (16 * max(widths)))
    parts = [min(most, nets - start) for start in range(0, nets, most)]
    return np.concatenate([_rays(widths, part, rng) for part in parts])


def _rays(widths: Sequence[int], nets: int, rng: np.random.Generator) -> Array:
    first, *later = widths
    one_left = [1 - math.prod(1 - 2.0**-n for n in later[k:]) for k in range(len(later) + 1)]
    chances = np.zeros(nets)
    positive = rng.binomial(first, 0.5, size=nets)
    single = (positive == 0) | (positive == first)
    chances[single] = one_left[0]
    ids = np.flatnonzero(~single)
    cos, sin = np.zeros(ids.size, np.float32), np.ones(ids.size, np.float32)
    for layer, n in enumerate(later, 1):
        u, v = z = normal((2, n, ids.size), rng, 1.0, np.float32)
        v *= sin
        v += cos * u
        np.maximum(z, 0, out=z)
        passed = z.max(axis=1) > 0
        speaking = (z.max(axis=0) > 0).sum(axis=0)
        two = passed.all(axis=0) & (speaking > 1)  # one unit alone makes both rays one
        if not two.all():
            chances[ids[~two]] = one_left[layer]
            chances[ids[speaking == 0]] = 1.0
            ids, u, v = ids[two], u[:, two], v[:, two]
        size = np.sqrt(np.einsum("ij,ij->j", u, u))
        u /= size
        along = np.einsum("ij,ij->j", u, v)
        v -= along * u
        across = np.sqrt(np.einsum("ij,ij->j", v, v))
        size = np.hypot(along, across)
        cos, sin = along / size, across / size
    return chances


def on_points(
    widths: Sequence[int], inputs: Array, nets: int, rng: np.random.Generator, draw: Draw
) -> Array:
    """Return for each net 1 if some layer is silent at all the points, else 0.

    `inputs` has shape (n_points, d_in). Every net is followed at a few points. Where these fall
    silent, and only there, the same weights are tried on all.
    """
    inputs = (inputs / (abs(inputs).max() if draw is he else 1.0)).astype(np.float32)
    fans = [inputs.shape[1], *widths]
    stored = sum(m * n for m, n in zip(fans[:-1], widths, strict=True))
    most = max(1, _NUMBERS // max(stored, len(inputs) * max(fans)))
    silent = np.zeros(nets)
    for start in range(0, nets, most):
        part = silent[start : start + most]
        part[:] = _one_batch(fans, inputs, part.size, rng, draw)
    return silent


def _one_batch(
    fans: Sequence[int], inputs: Array, nets: int, rng: np.random.Generator, draw: Draw
) -> NDArray[np.bool_]:
    chosen = np.linspace(0, len(inputs) - 1, min(_WITNESSES, len(inputs))).round().astype(int)
    drawn: list[tuple[NDArray[np.intp], Array, Array | None]] = []
    ids, h = np.arange(nets), np.broadcast_to(inputs[chosen].T, (nets, fans[0], chosen.size))
    for layer in range(len(fans) - 1):
        weight, bias = draw(ids.size, fans[layer + 1], fans[layer], rng)
        drawn.append((ids, weight, bias))
        h = _forward(h, weight, bias, layer)
        alive = (h > 0).any(axis=(1, 2))
        if not alive.all():
            ids, h = ids[alive], h[alive]
    silent = np.ones(nets, dtype=bool)
    silent[ids] = False
    if len(inputs) == chosen.size:
        return silent
    ids = np.flatnonzero(silent)
    h = np.broadcast_to(inputs.T, (ids.size, fans[0], len(inputs)))
    for layer, (known, weights, biases) in enumerate(drawn):
        weight, bias = draw(ids.size, fans[layer + 1], fans[layer], rng)
        _, here, there = np.intersect1d(ids, known, assume_unique=True, return_indices=True)
        weight[here] = weights[there]
        if bias is not None and biases is not None:
            bias[here] = biases[there]
        h = _forward(h, weight, bias, layer)
        alive = (h > 0).any(axis=(1, 2))
        ids, h = ids[alive], h[alive]
    silent[ids] = False
    return silent


def _forward(h: Array, weight: Array, bias: Array | None, layer: int) -> Array:
    """One layer of every net; now and then, without biases, at a size of its own choice."""
    h = weight @ h
    if bias is not None:
        h += bias
    np.maximum(h, 0, out=h)
    if bias is None and layer % 8 == 7:
        size = h.max(axis=(1, 2), keepdims=True, initial=0)
        h /= np.where(size > 0, size, 1.0)
    return h
