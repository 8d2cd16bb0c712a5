r"""How many ReLU networks are dead before their first step, by a formula or by drawing them.

A network is *born dead* when, before any training, some hidden layer is silent on the whole domain:
whatever follows is a constant, and no gradient passes that layer.

>>> born_dead_probability([2, 2])  # one input, no biases, two hidden layers of two units
BornDead(probability=0.15625, standard_error=0.0, lower=0.15625, upper=0.15625, method='exact')

Taught in the chapter `born_dead`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.initialization import randomized_asymmetric
from companion.initialization.draws import check_generator, normal

__all__ = ["BornDead", "born_dead_bounds", "born_dead_probability"]

Array = NDArray[np.floating[Any]]
Draw = Callable[[int, int, int, np.random.Generator], tuple[Array, Array | None]]
"""Takes nets, fan_out, fan_in, rng; gives weights and biases of one layer of all the nets."""

_DIRECTIONS = 256
_NUMBERS = 4_000_000  # to be held at a time, 16 MB of float32, which is fine for signs
_WITNESSES = 4  # points followed in every net; the others only where these fall silent


@dataclass(frozen=True)
class BornDead:
    """What `born_dead_probability` returns; `float` gives the probability.

    Attributes
    ----------
    probability : float
        That a network is born dead.
    standard_error : float
        Of the simulation; 0 where the probability is exact.
    lower, upper : float
        Proven bounds; equal to the probability where it is exact, 0 and 1 where nothing is known.
    method : {"exact", "simulation"}
    """

    probability: float
    standard_error: float
    lower: float
    upper: float
    method: str

    def __float__(self) -> float:
        return self.probability

    def __str__(self) -> str:
        if self.method == "exact":
            return f"born dead with probability {self.probability:.6g} (exact)"
        return (
            f"born dead with probability {self.probability:.4g} ± {self.standard_error:.1g} "
            f"(simulation; bounds {self.lower:.4g} to {self.upper:.4g})"
        )


def born_dead_probability(
    widths: Sequence[int],
    d_in: int = 1,
    *,
    init: str = "he",
    bias: bool = False,
    inputs: ArrayLike | None = None,
    simulate: int | None = None,
    rng: np.random.Generator | None = None,
) -> BornDead:
    r"""Compute how often a ReLU network is born dead, by a formula or by drawing networks.

    Parameters
    ----------
    widths : sequence of int
        Units of each hidden layer.
    d_in : int, default 1
        Number of inputs.
    init : {"he", "randomized_asymmetric"}, default "he"
        How weights are drawn. The formulas under "he" hold for all weights that are independent,
        continuous and symmetric, and of one distribution in a layer.
    bias : bool, default False
        Whether biases are drawn, as large as the weights, instead of being zero; the randomized
        asymmetric rule draws its own in any case.
    inputs : array_like of shape (n_points, d_in), optional
        Where the network must be silent to count; (n_points,) will do for one input. By default all
        of :math:`\mathbb{R}^{d_\text{in}}`.
    simulate : int, optional
        Number of networks to draw. By default none is drawn: the formula must be known.
    rng : numpy.random.Generator, optional
        Draws them.

    Returns
    -------
    BornDead

    Raises
    ------
    ValueError
        If a width or number is not positive, `init` is unknown, `inputs` do not fit; if no formula
        is known and `simulate` is not given; if biases are drawn and networks are to be simulated
        on all of space, for which no set of points can stand.
    TypeError
        If a width or number is not whole, or `rng` is no Generator where it is needed.

    Notes
    -----
    Formulas. At one point, :math:`1-\prod_l(1-2^{-N_l})` (the upper bound of Lu et al. 2020, here
    exact). One input, no biases, two layers: :math:`2^{1-N_1}2^{-N_2}+(1-2^{1-N_1})4^{-N_2}`. Two
    layers and no more units in the first than inputs: the second is silent if all its weights and
    biases are negative. With biases, :math:`d+1` units in the first layer and one in the second:
    :math:`(2^d+1)/4^{d+1}` (Brownlowe et al. 2024).

    Simulation. One input and no biases: two rays and the angle between them, exact but for the
    draws. Otherwise the network is tried at `inputs`; if none are given and there are no biases, in
    256 random directions, which counts as dead a network that speaks only between them. The
    standard error is that of the mean with one dead and one living network added, so that it is
    not 0 where all drawn networks agree.

    Examples
    --------
    >>> float(born_dead_probability([3] * 9, inputs=[1.0])) == 1 - (7 / 8) ** 9
    True
    >>> rng = np.random.default_rng(0)
    >>> born = born_dead_probability([3] * 9, simulate=10_000, rng=rng)
    >>> f"{born.probability:.2f} between {born.lower:.3f} and {born.upper:.3f}"
    '0.58 between 0.513 and 0.699'
    """
    widths = _whole_widths(widths)
    d_in = _positive("d_in", d_in)
    asymmetric = init == "randomized_asymmetric"
    if (init, bias or asymmetric) not in DRAWS:
        raise ValueError(f"init must be 'he' or 'randomized_asymmetric', not {init!r}")
    points = None if inputs is None else _points(inputs, d_in)
    domain = _domain(points, bias or asymmetric)
    bounds = _bounds(widths, d_in, bias=bias, domain=domain)
    if simulate is None:
        known = _exact(widths, d_in, bias=bias, domain=domain)
        if asymmetric or known is None:
            within = "" if asymmetric else " (it lies between {:.4g} and {:.4g})".format(*bounds)
            raise ValueError(
                f"simulate must say how many networks to draw, such as 10_000: no formula is known "
                f"for widths {widths} on this domain{within}"
            )
        return BornDead(known, 0.0, *bounds, "exact")
    simulate = _positive("simulate", simulate)
    check_generator(rng)  # type: ignore[arg-type]
    assert rng is not None
    if points is None and (bias or asymmetric):
        raise ValueError(
            "inputs must be given where biases are drawn: no set of points stands for all of space"
        )
    if domain == "space" and d_in == 1 and not asymmetric:
        chances = on_two_rays(widths, simulate, rng)
    else:
        if points is None:
            points = rng.standard_normal((_DIRECTIONS, d_in))
        chances = on_points(widths, points, simulate, rng, DRAWS[init, bias or asymmetric])
    mean = float(chances.mean())
    variance = float(np.concatenate([chances, [0.0, 1.0]]).var())
    error = math.sqrt(variance / (simulate + 2))
    return BornDead(mean, error, *((0.0, 1.0) if asymmetric else bounds), "simulation")


def born_dead_bounds(
    widths: Sequence[int], d_in: int = 1, *, bias: bool = False
) -> tuple[float, float]:
    r"""Bound from both sides how often a ReLU network is born dead.

    Parameters
    ----------
    widths, d_in, bias
        As for `born_dead_probability`, on all of :math:`\mathbb{R}^{d_\text{in}}`.

    Returns
    -------
    lower, upper : float
        Equal where the probability is known.

    Raises
    ------
    ValueError, TypeError
        As `born_dead_probability`.

    Notes
    -----
    Upper: silent everywhere means silent at a point, :math:`1-\prod_l(1-2^{-N_l})`. Lower, for one
    input and no biases: the two rays come through most easily while they stay at right angles; for
    equal widths this is the bound of Lu et al. 2020. Lower otherwise: a layer whose weights and
    biases are all negative is silent whatever it is given.

    Examples
    --------
    >>> lower, upper = born_dead_bounds([2] * 9)
    >>> f"{lower:.5f} {upper:.5f}"
    '0.87026 0.92492'
    """
    return _bounds(_whole_widths(widths), _positive("d_in", d_in), bias=bias)


def _whole_widths(widths: Sequence[int]) -> list[int]:
    if isinstance(widths, str) or not hasattr(widths, "__iter__"):
        raise TypeError(f"widths must be a sequence of whole numbers, not {widths!r}")
    found = [_positive(f"widths[{place}]", n) for place, n in enumerate(widths)]
    if not found:
        raise ValueError("widths must hold one hidden layer at least")
    return found


def _positive(name: str, number: int) -> int:
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} must be a whole number, not {number!r}")
    if number < 1:
        raise ValueError(f"{name} must be positive, not {number}")
    return int(number)


def _points(inputs: ArrayLike, d_in: int) -> Array:
    points = np.array(inputs, dtype=float)
    if points.ndim == 1 and d_in == 1:
        points = points[:, None]
    if points.ndim != 2 or points.shape[1] != d_in or not len(points):
        raise ValueError(f"inputs must have shape (n_points, {d_in}), not {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("inputs must be finite")
    return points


def _domain(points: Array | None, bias: bool) -> str:
    """Tell whether the points are one, or in one direction; or, without biases, the whole line."""
    if points is None:
        return "space"
    if bias:
        return "ray" if len(points) == 1 else "some"
    points = points[points.any(axis=1)]
    if not len(points):
        raise ValueError("inputs must hold a point other than 0, where no unit can speak")
    if points.shape[1] == 1:
        return "space" if np.unique(np.sign(points)).size > 1 else "ray"
    return "ray" if len(points) == 1 else "some"


# ---- what is known in closed form ---------------------------------------------------------------
#
# Weights are independent, continuous and symmetric about zero, biases zero or just as symmetric.
# Then a unit is silent at a given point with probability 1/2, whatever stands below it, and N of
# them are silent together with probability 2^-N.


def _exact(widths: Sequence[int], d_in: int, *, bias: bool, domain: str) -> float | None:
    """Return the probability that some layer is silent on the whole domain, where it is known.

    The domain is "ray", a point or all its positive multiples; "space", all of R^d_in; or "some",
    any other set of points.
    """
    first, *later = widths
    if domain == "ray":
        return 1 - _passing(widths)
    if domain == "some":
        return None
    if not later:
        return 0.0  # a unit that is silent at x speaks at -x, or further out
    if first == 1 and not bias:
        return 1 - _passing(later)  # one half-space, along which all points have one direction
    if len(later) > 1:
        return None
    second = later[0]
    if d_in == 1 and not bias:
        return _two_layers(first, second)
    if first <= d_in:  # the first layer reaches every point that is not negative
        return 2.0 ** (-(first + bias) * second)
    if bias and first == d_in + 1 and second == 1:
        return (2**d_in + 1) / 4 ** (d_in + 1)
    return None


def _bounds(
    widths: Sequence[int], d_in: int, *, bias: bool, domain: str = "space"
) -> tuple[float, float]:
    """Return a lower and an upper bound of the same probability."""
    first, *later = widths
    if (known := _exact(widths, d_in, bias=bias, domain=domain)) is not None:
        return known, known
    upper = 1 - _passing(widths)  # silent everywhere means silent at one point
    if d_in == 1 and not bias and domain == "space":
        one, both = 1.0, 1.0  # chances to pass the layers above, of one ray, and of two
        for n in reversed(later):
            one, both = (
                (1 - 2.0**-n) * one,
                (1 - 2.0 ** (1 - n) - (n - 1) * 4.0**-n) * both
                + (2.0 ** (1 - n) + (n - 2) * 4.0**-n) * one,
            )
        single = 2.0 ** (1 - first)
        return 1 - single * one - (1 - single) * both, upper
    below = [first, *later[:-1]]
    hopeless = [2.0 ** (-(m + bias) * n) for m, n in zip(below, later, strict=True)]
    return 1 - math.prod(1 - p for p in hopeless), upper  # all weights of a layer negative


def _passing(widths: Sequence[int]) -> float:
    """Probability that one point gets through every layer."""
    return math.prod(1 - 2.0**-n for n in widths)


def _two_layers(first: int, second: int) -> float:
    """One input, no biases: one ray passes the first layer, or two that share no unit."""
    single = 2.0 ** (1 - first)
    return single * 2.0**-second + (1 - single) * 4.0**-second


# ---- thousands of networks at once --------------------------------------------------------------


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
