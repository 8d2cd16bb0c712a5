r"""Dead ReLU units: how many networks are born dead, and how little a silent unit gives.

A unit is *dead on a data set* when the derivative of its activation is zero for every sample; a
ReLU unit then, when its pre-activation is never positive. A network is *born dead* when, before any
training, some hidden layer is silent on the whole domain: whatever follows is a constant.

>>> born_dead_probability([2, 2])  # one input, no biases, two hidden layers of two units
BornDead(probability=0.15625, standard_error=0.0, lower=0.15625, upper=0.15625, method='exact')

Formulas stand in ``formulas.py``, the simulation in ``simulation.py``, the dormancy score in
``dormancy.py``; all names are found here. NumPy only.

Taught in the chapter `dead_relu`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from companion.dead_relu import formulas
from companion.dead_relu.dormancy import dormancy_score, dormant_fraction
from companion.dead_relu.simulation import DRAWS, Array, on_points, on_two_rays
from companion.initialization.draws import check_generator

__all__ = [
    "BornDead", "born_dead_bounds", "born_dead_probability", "dormancy_score", "dormant_fraction",
]  # fmt: skip

_DIRECTIONS = 256


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
    bounds = formulas.bounds(widths, d_in, bias=bias, domain=domain)
    if simulate is None:
        known = formulas.exact(widths, d_in, bias=bias, domain=domain)
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
    return formulas.bounds(_whole_widths(widths), _positive("d_in", d_in), bias=bias)


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
