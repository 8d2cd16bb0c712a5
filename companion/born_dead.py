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
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.activations import relu
from companion.checks import Seed, choice, finite_array, generator, whole, wholes
from companion.initialization import he_std, randomized_asymmetric

__all__ = ["BornDead", "born_dead_bounds", "born_dead_probability"]

Array = NDArray[np.floating[Any]]
Draw = Callable[[int, int, int, np.random.Generator], tuple[Array, Array]]
"""Takes nets, fan_out, fan_in, rng; gives weights and biases of one layer of all the nets."""

_DIRECTIONS = 256
_NUMBERS = 1_000_000  # of a layer's outputs, to be held at a time


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
    rng: Seed = None,
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
    rng : numpy.random.Generator or int, optional
        Draws them; a seed, or None for a fresh generator.

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
        If a width or number is not whole, or `rng` is no generator.

    Notes
    -----
    Formulas. At one point, :math:`1-\prod_l(1-2^{-N_l})` (the upper bound of Lu et al. 2020, here
    exact). One input, no biases, two layers: :math:`2^{1-N_1}2^{-N_2}+(1-2^{1-N_1})4^{-N_2}`. Two
    layers and no more units in the first than inputs: the second is silent if all its weights and
    biases are negative. With biases, :math:`d+1` units in the first layer and one in the second:
    :math:`(2^d+1)/4^{d+1}` (Brownlowe et al. 2024).

    Simulation. A network is tried at `inputs`. If none are given and there are no biases, all that
    it knows of a point is its direction: for one input it is tried at -1 and 1, which is exact but
    for the draws, otherwise in 256 random directions, which counts as dead a network that speaks
    only between them. The standard error is that of the mean with one dead and one living network
    added, so that it is not 0 where all drawn networks agree.

    Examples
    --------
    >>> float(born_dead_probability([3] * 9, inputs=[1.0])) == 1 - (7 / 8) ** 9
    True
    >>> rng = np.random.default_rng(0)
    >>> born = born_dead_probability([3] * 9, simulate=10_000, rng=rng)
    >>> f"{born.probability:.2f} between {born.lower:.3f} and {born.upper:.3f}"
    '0.58 between 0.513 and 0.699'
    """
    widths, d_in, rng = _whole_widths(widths), whole("d_in", d_in), generator("rng", rng)
    asymmetric = choice("init", init, ("he", "randomized_asymmetric")) == "randomized_asymmetric"
    points = None if inputs is None else _points(inputs, d_in)
    domain = _domain(points, bias or asymmetric)
    bounds = (0.0, 1.0) if asymmetric else _bounds(widths, d_in, bias=bias, domain=domain)
    if simulate is None:
        known = None if asymmetric else _exact(widths, d_in, bias=bias, domain=domain)
        if known is None:
            raise ValueError(
                "simulate must say how many networks to draw, such as 10_000: no formula is known "
                "for widths {} on this domain, only bounds, {:.4g} and {:.4g}".format(
                    widths, *bounds
                )
            )
        return BornDead(known, 0.0, *bounds, "exact")
    nets = whole("simulate", simulate)
    if points is None and (bias or asymmetric):
        raise ValueError(
            "inputs must be given where biases are drawn: no set of points stands for all of space"
        )
    if points is None:
        points = np.array([[-1.0], [1.0]]) if d_in == 1 else rng.normal(size=(_DIRECTIONS, d_in))
    if not (bias or asymmetric):
        points = points / abs(points).max()  # only directions count
    draw = _asymmetric if asymmetric else partial(_he, bias=bias)
    dead = _count_dead(widths, points, nets, rng, draw)
    with_two = (dead + 1) / (nets + 2)
    error = math.sqrt(with_two * (1 - with_two) / (nets + 2))
    return BornDead(dead / nets, error, *bounds, "simulation")


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
    return _bounds(_whole_widths(widths), whole("d_in", d_in), bias=bias)


def _whole_widths(widths: Sequence[int]) -> list[int]:
    found = wholes("widths", widths)
    if not found:
        raise ValueError("widths must hold one hidden layer at least")
    return found


def _points(inputs: ArrayLike, d_in: int) -> Array:
    points = finite_array("inputs", inputs)
    if points.ndim == 1 and d_in == 1:
        points = points[:, None]
    if points.ndim != 2 or points.shape[1] != d_in or not len(points):
        raise ValueError(f"inputs must have shape (n_points, {d_in}), not {points.shape}")
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


def _he(
    nets: int, n_out: int, n_in: int, rng: np.random.Generator, bias: bool
) -> tuple[Array, Array]:
    """Draw He's weights, and biases of the same size or of zero."""
    weight = rng.normal(0, he_std(n_in), (nets, n_out, n_in))
    shape = nets, n_out, 1
    return weight, rng.normal(0, he_std(n_in), shape) if bias else np.zeros(shape)


def _asymmetric(nets: int, n_out: int, n_in: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw weights and biases by the randomized asymmetric rule."""
    weight, bias = randomized_asymmetric((nets * n_out, n_in), rng)
    return weight.reshape(nets, n_out, n_in), bias.reshape(nets, n_out, 1)


def _count_dead(
    widths: Sequence[int], points: Array, nets: int, rng: np.random.Generator, draw: Draw
) -> int:
    """Draw networks and count those of which some layer is silent at all points."""
    most = max(1, _NUMBERS // (len(points) * max(widths)))
    living = 0
    for start in range(0, nets, most):
        h = np.repeat(points.T[None], min(most, nets - start), axis=0)
        for n in widths:
            weight, bias = draw(len(h), n, h.shape[1], rng)
            h = relu(weight @ h + bias)
            h = h[(h > 0).any(axis=(1, 2))]  # the others are dead, whatever follows
        living += len(h)
    return nets - living
