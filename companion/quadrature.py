r"""Averages over Gaussian pre-activations, to machine precision, also across kinks.

In a wide net with random weights a pre-activation is normally distributed, and the pre-activations
of two inputs are a correlated pair. What such a net does to a signal, or a rule for its weights
should do, is therefore an average :math:`E\,f(u)` or :math:`E\,f(u_1)\,g(u_2)`. Fixed
Gauss-Legendre rules on panels compute it: no panel is longer than three standard deviations, none
longer than its distance from 0 or than 1, whichever is more, and none runs across a kink.

Used in the chapters `vanishing_gradients` and `initialization`.

>>> from companion import relu
>>> f"{gaussian_mean(lambda u: relu(u) ** 2):.15f}"  # half of the variance passes a ReLU
'0.500000000000000'
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from companion.activations import ACTIVATIONS, Activation
from companion.activations import activation as find_activation
from companion.checks import finite_array, function

__all__ = ["Moments", "gaussian_mean", "gaussian_pair_mean"]

Function = Callable[[np.ndarray], Any]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(14)
_FAR = 9.0  # standard deviations at which the integral ends; 2e-19 of the mass lies beyond
_SPREAD = np.linspace(-_FAR, _FAR, 7)
TINY = 1e-200  # a variance that stands for the limit 0


def gaussian_mean(f: Function, q: ArrayLike = 1.0, kinks: ArrayLike = ()) -> Any:
    r"""Mean of f over a normal variable of mean 0 and variance q.

    .. math:: E\,f(\sqrt{q}\,z), \quad z \sim N(0, 1)

    Parameters
    ----------
    f : callable
        Array in, array of the same shape out. It may bend within a distance of 1 near 0 and at
        its kinks, and farther out over distances of the size of `u`, as activations do, their
        products and derivatives; it may grow like a power.
    q : array_like, default 1
        Variances, not negative; of any shape. At 0 the mean is f(0).
    kinks : array_like, default ()
        Where f or its derivative jumps, such as `Activation.kinks`. 0 need not be listed.

    Returns
    -------
    float or ndarray of the shape of `q`
        Within 1e-13 of the largest :math:`|f|` in reach, for the activations of the book.

    Raises
    ------
    ValueError
        If a variance is negative or not finite, or a kink is not finite.

    Examples
    --------
    >>> gaussian_mean(lambda u: u**4, [1.0, 2.0]).round(12).tolist()  # 3 q²
    [3.0, 12.0]
    """
    q, f = _variances(q), function("f", f)
    u, weight = _rule(np.zeros_like(q), np.sqrt(q), _places(q.max(initial=0), _kinks(kinks)))
    return (weight * f(u)).sum(axis=-1) / weight.sum(axis=-1)  # the mean of 1 is exactly 1


def gaussian_pair_mean(
    f: Function, g: Function, q: ArrayLike, c: ArrayLike, kinks: ArrayLike = ()
) -> Any:
    r"""Mean of a product over a pair of normal variables of variance q and correlation c.

    .. math:: E\,f(u_1)\,g(u_2), \quad
        u_1 = \sqrt{q}\,z_1, \quad u_2 = \sqrt{q}\,(c\,z_1 + \sqrt{1 - c^2}\,z_2)

    The inner integral over :math:`u_2` given :math:`u_1` is split at the kinks of g. It is a smooth
    function of :math:`u_1`, but close to c = ±1 a steep one where :math:`c\,u_1` passes a kink,
    and there the outer integral has panels as short as :math:`\sqrt{q\,(1 - c^2)}`.

    Parameters
    ----------
    f, g : callable
        As in `gaussian_mean`.
    q : array_like
        Variances, not negative.
    c : array_like
        Correlations, from -1 to 1; `q` and `c` are broadcast together, and each pair of numbers
        takes one or two milliseconds.
    kinks : array_like, default ()
        Where f, g or their derivatives jump. 0 need not be listed.

    Returns
    -------
    float or ndarray of the shape of `q` and `c` together
        As precise as `gaussian_mean`, at every c.

    Raises
    ------
    ValueError
        As `gaussian_mean`, or if a correlation is not between -1 and 1.

    References
    ----------
    The closed form for ReLU, against which the tests hold this: Cho and Saul 2009, "Kernel methods
    for deep learning".

    Examples
    --------
    >>> from companion import relu
    >>> means = gaussian_pair_mean(relu, relu, 1.0, [0.0, 1.0])
    >>> bool(np.allclose(means, [1 / (2 * np.pi), 1 / 2], rtol=1e-14))
    True
    """
    q, c = np.broadcast_arrays(_variances(q), _correlations(c))
    f, g, kinks = function("f", f), function("g", g), _kinks(kinks)
    means = [_pair_mean(f, g, *pair, kinks) for pair in zip(q.flat, c.flat, strict=True)]
    return np.array(means).reshape(c.shape)[()]


class Moments:
    r"""The Gaussian averages of an activation f and of its derivative, for u of variance q.

    Parameters
    ----------
    activation : str or Activation
        One of `companion.activations.ACTIVATIONS`, by name, or an `Activation` of your own.
    **parameters : float
        Of the activation, such as ``negative_slope=0.2``.

    Raises
    ------
    TypeError
        If `activation` is a function or module without a derivative, or a keyword is unknown.
    ValueError
        If the name is unknown or a parameter out of its range.

    Examples
    --------
    >>> tanh = Moments("tanh")
    >>> print(f"{tanh.square(1.0) ** -0.5:.6f} {tanh.slope_square(1.0):.6f}")
    1.592537 0.464403
    """

    def __init__(self, activation: str | Activation, **parameters: float) -> None:
        if callable(activation) and not isinstance(activation, Activation):
            raise TypeError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, by name, because its "
                f"derivative is needed; got {activation!r}. Give a function of your own its "
                "derivative: see companion.activations.Activation"
            )
        self.activation, self.parameters = find_activation(activation), parameters
        self.f(0.0), self.slope(0.0)  # refuse bad parameters now

    def f(self, u: ArrayLike) -> Any:
        """f(u), with the parameters."""
        return self.activation(u, **self.parameters)

    def slope(self, u: ArrayLike) -> Any:
        """f'(u), with the parameters."""
        return self.activation.derivative(u, **self.parameters)

    def square(self, q: ArrayLike) -> Any:
        """E f(u)²."""
        return gaussian_mean(lambda u: self.f(u) ** 2, q, self.activation.kinks)

    def slope_square(self, q: ArrayLike) -> Any:
        """E f'(u)²; at q = 0 its limit, the mean of the left and the right slope's square."""
        q = np.maximum(_variances(q), TINY)
        return gaussian_mean(lambda u: self.slope(u) ** 2, q, self.activation.kinks)

    def growth(self, q: ArrayLike) -> Any:
        """d E f(u)² / dq = E[u f(u) f'(u)] / q (Stein's lemma); at q = 0 its limit."""
        q = np.maximum(_variances(q), TINY)
        mean = gaussian_mean(lambda u: u * self.f(u) * self.slope(u), q, self.activation.kinks)
        return mean / q

    def product(self, q: ArrayLike, c: ArrayLike) -> Any:
        """E f(u1) f(u2) at correlation c."""
        return gaussian_pair_mean(self.f, self.f, q, c, self.activation.kinks)

    def slope_product(self, q: ArrayLike, c: ArrayLike) -> Any:
        """E f'(u1) f'(u2) at correlation c."""
        return gaussian_pair_mean(self.slope, self.slope, q, c, self.activation.kinks)

    @cached_property
    def slopes(self) -> tuple[float, float] | None:
        """Slopes above and below 0 if f is positively homogeneous, as ReLU is; else None."""
        t = np.array([1e-3, 0.3, 4.0, 1e3])
        up, down = float(self.f(1.0)), -float(self.f(-1.0))
        straight = np.allclose([self.f(t), self.f(-t)], [up * t, -down * t], rtol=1e-12, atol=0)
        return (up, down) if straight else None


def _pair_mean(f: Function, g: Function, q: float, c: float, kinks: np.ndarray) -> Any:
    places = _places(q, kinks)
    within = np.sqrt(q * ((1 - c) * (1 + c)))  # standard deviation of u2 given u1
    if within == 0:
        u, weight = _rule(np.zeros(()), np.sqrt(q), np.concatenate([places, -places]))
        return np.sum(weight * f(u) * g(c * u))
    steep = c * np.add.outer([0.0, *kinks], within * _SPREAD).ravel()  # c for 1/c: only near ±1
    u, weight = _rule(np.zeros(()), np.sqrt(q), np.concatenate([places, steep]))
    u, weight = u[weight > 0], weight[weight > 0]
    inner, inner_weight = _rule(c * u, np.full_like(u, within), places)
    return np.sum(weight * f(u) * (inner_weight * g(inner)).sum(axis=-1))


def _places(q: float, kinks: np.ndarray) -> np.ndarray:
    """Where panels end: at the kinks, at 0, and at powers of 2 as far as the integral reaches."""
    doubling = 2.0 ** np.arange(np.ceil(np.log2(max(_FAR * np.sqrt(q), 1.0))))
    return np.concatenate([-doubling, [0.0], doubling, kinks])


def _rule(mean: np.ndarray, std: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of shape (..., n) for normal variables of mean and std of shape (...)."""
    ends = (places - mean[..., None]) / np.maximum(std[..., None], TINY)
    spread = np.broadcast_to(_SPREAD, (*mean.shape, _SPREAD.size))
    z, weight = panel_rule(np.concatenate([spread, ends.clip(-_FAR, _FAR)], axis=-1))
    weight = weight * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return mean[..., None] + std[..., None] * z, weight


def panel_rule(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights, both of shape (..., n), on panels between the ends.

    `ends` has shape (..., n_panels + 1), in any order. Panels between equal ends have weight 0.
    """
    ends = np.sort(ends, axis=-1)
    half = np.diff(ends)[..., None] / 2
    nodes = ends[..., :-1, None] + half * (1 + _NODES)
    flat = (*ends.shape[:-1], nodes.shape[-2] * nodes.shape[-1])
    return nodes.reshape(flat), (half * _WEIGHTS).reshape(flat)


def _kinks(kinks: ArrayLike) -> np.ndarray:
    return finite_array("kinks", kinks).ravel()


def _variances(q: ArrayLike) -> np.ndarray:
    variances = finite_array("q", q)
    if (variances < 0).any():
        raise ValueError(f"q must be 0 or more, but holds {variances.min():g}")
    return variances


def _correlations(c: ArrayLike) -> np.ndarray:
    correlations = finite_array("c", c)
    if (np.abs(correlations) > 1).any():
        raise ValueError(f"c must lie between -1 and 1, not {c!r}")
    return correlations
