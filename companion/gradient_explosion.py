r"""By how much batch norm makes the gradient grow from layer to layer: in theory, and measured.

A layer is :math:`u = \mathrm{BN}(W h)`, :math:`h' = f(u + \beta)`, with random weights.

Taught in the chapter `gradient_explosion`.
"""

from __future__ import annotations

import math

import numpy as np

from companion.activations import Activation
from companion.batch_norm import batch_norm, batch_norm_backward
from companion.checks import Seed, generator, real, whole
from companion.quadrature import TINY, Function, Moments, gaussian_mean, panel_rule

__all__ = ["batch_norm_gradient_growth", "measure_gradient_growth"]


def batch_norm_gradient_growth(
    activation: str | Activation,
    *,
    batch_size: int | None = None,
    beta: float = 0.0,
    eps: float = 0.0,
    **parameters: float,
) -> float:
    r"""Factor by which a layer with batch norm multiplies the squared gradient, in a wide net.

    .. math:: \frac{E\,f'(u + \beta)^2}{\mathrm{Var}\,f(u + \beta) + \epsilon},
        \quad u \sim N(0, q)

    at infinite batch. Without :math:`\epsilon` batch norm leaves q = 1, and the variance of the
    weights does not matter. For ReLU it is then :math:`\pi / (\pi - 1)`; it is 1 for a linear
    function and larger for all others. A finite batch of B makes it larger; that of the linear net
    is :math:`(B - 2) / (B - 3)`.

    Parameters
    ----------
    activation : str or Activation
        One of `companion.activations.ACTIVATIONS`, by name, or an `Activation` of your own.
    batch_size : int, optional
        B, 4 or more: below, the mean of the squared gradient is infinite. By default the limit.
    beta : float, default 0
        Shift of every unit, in the limit only.
    eps : float, default 0
        Batch norm's :math:`\epsilon` over the variance :math:`\sigma_w^2` that n weights to a unit
        have together, in the limit only. It leaves :math:`q = v / (v + \epsilon)` of the variance
        :math:`v = \mathrm{Var}\,f(u + \beta)`; the factor is taken where q no longer changes from
        layer to layer.
    **parameters : float
        Of the activation, such as ``negative_slope=0.2``.

    Returns
    -------
    float
        For independent inputs and scales of 1. Where f has kinks, precise to 1e-5 at a batch of 4,
        to 1e-12 from 8 on.

    Raises
    ------
    TypeError, ValueError
        If the activation is none with a known derivative, a number is out of its range, or beta or
        eps are given with a batch size.

    Notes
    -----
    Of B normalized values in an infinitely wide net, every direction at a right angle to
    :math:`(1, \dots, 1)` is as likely as any other, and independent of their length before. With
    D the diagonal matrix of slopes at :math:`\hat x` and :math:`G = I - 11^\top / B`, the factor is

    .. math:: \frac{B}{(B - 1)(B - 3)} \cdot \frac{E\,\mathrm{tr}(G D G D) -
        E\,\hat x^\top D G D\,\hat x / B}{E\,f(\hat x_1)^2 - E\,f(\hat x_1)\,f(\hat x_2)}

    which contains two of the B values at most.

    References
    ----------
    Yang et al. 2019, "A mean field theory of batch normalization", who derive both limits and
    compute the general case in another way.

    Examples
    --------
    >>> print(f"{batch_norm_gradient_growth('relu'):.6f}")
    1.466942
    >>> for name in ("identity", "relu"):
    ...     print(f"{batch_norm_gradient_growth(name, batch_size=8):.6f}")
    1.200000
    1.788190
    """
    moments = Moments(activation, **parameters)
    beta, eps = real("beta", beta), real("eps", eps, 0)
    if batch_size is None:
        return _in_the_limit(moments, beta, eps)
    if beta or eps:
        raise ValueError("beta and eps must be 0 where batch_size is given")
    B = whole("batch_size", batch_size, 4)  # of fewer, the mean of the squared gradient is infinite
    pairs = _Pairs(B, moments.activation.kinks)
    same, other = zip(
        pairs.means(moments.f),
        pairs.means(moments.slope),
        pairs.means(lambda u: u * moments.slope(u)),
        strict=True,
    )
    spread = same[0] - other[0]
    trace = (B - 2 + 1 / B) * same[1] + (1 - 1 / B) * other[1]
    along = (1 - 1 / B) * (same[2] - other[2])
    return B * (trace - along) / ((B - 1) * (B - 3) * spread)


def _in_the_limit(moments: Moments, beta: float, eps: float) -> float:
    """The factor at infinite batch, where the variance after batch norm no longer changes."""
    kinks = tuple(kink - beta for kink in (0.0, *moments.activation.kinks))

    def mean(g: Function, q: float) -> float:
        return float(gaussian_mean(lambda u: g(u + beta), q, kinks))

    def variance(q: float) -> float:
        return mean(lambda u: moments.f(u) ** 2, q) - mean(moments.f, q) ** 2

    low, high = 0.0, 1.0  # of them, the fixed point of q -> v / (v + ε), by bisection
    for _ in range(60 if eps else 0):
        q = (low + high) / 2
        grows = variance(q) > q / (1 - q) * eps
        low, high = (q, high) if grows else (low, q)
    q = max(high, TINY)
    return mean(lambda u: moments.slope(u) ** 2, q) / (variance(q) + eps)


class _Pairs:
    r"""Two of B values whose direction is uniform among those at a right angle to (1, ..., 1).

    The first is :math:`\sqrt{B - 1} \sin a` with density :math:`\cos^{B-3} a`; of the second,
    given the first, the same holds in one dimension less.
    """

    def __init__(self, B: int, kinks: tuple[float, ...]) -> None:
        places, radius = np.array([0.0, *kinks]), math.sqrt(B - 1)
        a, self.weight = _rule(B - 3, places / radius)
        self.first = radius * np.sin(a)
        centre = -self.first / (B - 1)
        reach = math.sqrt(1 - (B - 1) ** -2) * radius * np.cos(a)
        inner, self.inner_weight = _rule(B - 4, (places - centre[:, None]) / reach[:, None])
        self.second = centre[:, None] + reach[:, None] * np.sin(inner)

    def means(self, g: Function) -> tuple[float, float]:
        """E g(u1)² and E g(u1) g(u2)."""
        first, second = g(self.first), (self.inner_weight * g(self.second)).sum(axis=-1)
        return float(self.weight @ first**2), float(self.weight @ (first * second))


def _rule(power: int, kinks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes a and weights for the density cos^power; sin(a) jumps at kinks, of shape (..., k)."""
    far = min(math.pi / 2, 9 / math.sqrt(max(power, 1)))
    spread = np.broadcast_to(np.linspace(-far, far, 25), (*kinks.shape[:-1], 25))
    at = np.arcsin(kinks.clip(-1, 1)).clip(-far, far)
    a, weight = panel_rule(np.concatenate([spread, at], axis=-1))
    weight = weight * np.cos(a) ** power
    return a, weight / weight.sum(axis=-1, keepdims=True)


def measure_gradient_growth(
    activation: str | Activation,
    rng: Seed = None,
    *,
    width: int = 400,
    depth: int = 30,
    batch_size: int = 256,
    beta: float = 0.0,
    eps: float = 0.0,
    **parameters: float,
) -> np.ndarray:
    """Send random gradients back through a random net with batch norm, and measure their growth.

    Parameters
    ----------
    activation, beta, eps, **parameters
        As for `batch_norm_gradient_growth`.
    rng : numpy.random.Generator or int, optional
        Draws the inputs, the weights and the gradient at the top, all of them normal; a seed, or
        None for a fresh generator.
    width : int, default 400
        Units of each layer.
    depth : int, default 30
        Layers, 2 or more.
    batch_size : int, default 256
        Examples.

    Returns
    -------
    ndarray of shape (depth - 1,)
        By what the mean square of the gradient at the inputs of batch norm is multiplied from
        layer l + 1 to layer l, for l from 1. The geometric mean is the factor per layer.

    Raises
    ------
    TypeError, ValueError
        If the activation is none with a known derivative, or a number is too small.

    Examples
    --------
    >>> factors = measure_gradient_growth("relu", np.random.default_rng(0), width=200, depth=10)
    >>> bool(1.3 < np.exp(np.log(factors).mean()) < 1.6)
    True
    """
    f = Moments(activation, **parameters)
    width, depth = whole("width", width), whole("depth", depth, 2)
    batch_size, rng = whole("batch_size", batch_size, 2), generator("rng", rng)
    beta, eps = real("beta", beta), real("eps", eps, 0)
    u = batch_norm(rng.normal(size=(batch_size, width)))[0]  # as it is in every layer
    layers = []
    for _ in range(depth):
        W = rng.normal(0, width**-0.5, (width, width))
        u, cache = batch_norm(f.f(u + beta) @ W, eps=max(eps, 1e-30))
        layers.append((W, f.slope(u + beta), cache))
    g = rng.normal(size=u.shape)
    g -= g.mean(axis=0)  # as what comes from a layer above
    squares = []
    for W, slope, cache in layers[::-1]:
        dz = batch_norm_backward(slope * g, cache)[0]
        squares.append(np.mean(dz**2))
        g = dz @ W.T / math.sqrt(squares[-1])  # its size would overflow in the end
    return np.array(squares[:0:-1])
