"""Mean-field theory: what a wide random net does to a signal and a gradient, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from companion.activations import Activation
from companion.checks import real
from companion.quadrature import TINY, Moments
from companion.vanishing_gradients.fixed_points import (
    CLOSE,
    correlation_fixed_point,
    critical_variance,
    depth_scale,
    variance_fixed_point,
)

__all__ = [
    "GradientFactor", "MeanField", "correlation_map", "critical_sigma_w", "gradient_factor",
    "length_map", "mean_field",
]  # fmt: skip

Name = str | Activation

LARGEST = 1e9  # of a standard deviation or variance


@dataclass(frozen=True)
class MeanField:
    r"""What `mean_field` returns; prints as a table.

    To a factor r per layer belongs the depth scale :math:`\xi = -1 / \ln r`, the layers in which
    something shrinks e-fold: 0 for r = 0, infinite for r = 1, negative for growth.
    """

    q: float  #: variance of a pre-activation
    chi: float  #: factor of a squared gradient per layer, and slope of the correlation map at 1
    c: float  #: stable correlation of two inputs; where q = 0 or chi = 1, by convention 1
    xi_q: float  #: depth scale of a deviation from q: r is the slope of the length map
    xi_c: float  #: depth scale of a deviation from c: r is the slope of the correlation map
    xi_grad: float  #: depth scale of the squared gradient: r is chi
    activation: str
    sigma_w: float
    sigma_b: float

    @property
    def phase(self) -> str:
        """'ordered' if gradients vanish (chi < 1), 'critical', or 'chaotic' if they explode."""
        if abs(self.chi - 1) < CLOSE:
            return "critical"
        return "ordered" if self.chi < 1 else "chaotic"

    def __str__(self) -> str:
        return (
            f"{self.activation}, sigma_w = {self.sigma_w:g}, sigma_b = {self.sigma_b:g}: "
            f"{self.phase}\n"
            f"q    = {self.q:<8.6g}  xi_q    = {self.xi_q:.5g} layers\n"
            f"c    = {self.c:<8.6g}  xi_c    = {self.xi_c:.5g} layers\n"
            f"chi  = {self.chi:<8.6g}  xi_grad = {self.xi_grad:.5g} layers"
        )


class GradientFactor(NamedTuple):
    """By how much one layer multiplies the size of a gradient, and why."""

    weights: float  #: the weights' part: their gain
    derivative: float  #: the activation's part: root mean square of its derivative
    product: float  #: both


def mean_field(
    activation: Name, sigma_w: float, sigma_b: float = 0.0, *, q: float = 1.0, **parameters: float
) -> MeanField:
    """Find the fixed point of a wide random net, and how fast signals approach it.

    Parameters
    ----------
    activation : str or Activation
        Such as "tanh"; the keywords `parameters` are its own.
    sigma_w : float
        Standard deviation of the weights, times the root of the number of inputs.
    sigma_b : float, default 0
        Standard deviation of the biases.
    q : float, default 1
        Variance in the first layer. It decides where there is more than one fixed point.

    Returns
    -------
    MeanField

    Raises
    ------
    FixedPointError
        If the variance grows without end.
    ValueError, TypeError
        If an argument is out of its range, or the activation is none with a known derivative.

    References
    ----------
    Poole et al. 2016 for q, chi and c; Schoenholz et al. 2017 for the depth scales.

    Examples
    --------
    >>> print(mean_field("tanh", sigma_w=1.3, sigma_b=0.3))
    tanh, sigma_w = 1.3, sigma_b = 0.3: ordered
    q    = 0.607047  xi_q    = 1.3377 layers
    c    = 1         xi_c    = 16.108 layers
    chi  = 0.939807  xi_grad = 16.108 layers
    """
    moments = Moments(activation, **parameters)
    sigma_w, sigma_b, q = _scale("sigma_w", sigma_w), _size("sigma_b", sigma_b), _size("q", q)
    q = variance_fixed_point(moments, sigma_w, sigma_b, q)
    chi = float(sigma_w**2 * moments.slope_square(q))
    c, slope = 1.0, chi
    if q > 0 and chi > 1 + CLOSE:
        c, slope = correlation_fixed_point(moments, sigma_w, sigma_b, q)
    factors = (sigma_w**2 * float(moments.growth(q)), slope, chi)
    xi_q, xi_c, xi_grad = map(depth_scale, factors)
    return MeanField(q, chi, c, xi_q, xi_c, xi_grad, moments.activation.name, sigma_w, sigma_b)


def critical_sigma_w(activation: Name, sigma_b: float = 0.0, **parameters: float) -> float:
    """Find the sigma_w with chi = 1, between vanishing and exploding gradients.

    For a positively homogeneous activation, such as ReLU, it is the same at every `sigma_b`; but
    only without biases does the variance then have a fixed point. Arguments as for `mean_field`.

    Raises
    ------
    FixedPointError
        If there is none, or the variance moves away from its fixed point there.
    ValueError, TypeError
        As `mean_field`.

    References
    ----------
    Schoenholz et al. 2017; for a net of 10,000 layers that uses it, Xiao et al. 2018.

    Examples
    --------
    >>> print(f"{critical_sigma_w('relu') ** 2:.6f} {critical_sigma_w('tanh', 0.05**0.5) ** 2:.6f}")
    2.000000 1.760955
    """
    moments = Moments(activation, **parameters)
    sigma_b = _size("sigma_b", sigma_b)
    return float(moments.slope_square(critical_variance(moments, sigma_b)) ** -0.5)


def length_map(
    activation: Name, q: ArrayLike, sigma_w: float, sigma_b: float = 0.0, **parameters: float
) -> Any:
    """Variance of the next layer's pre-activations, for q of any shape in this one.

    Arguments, errors and source as for `mean_field`; `q` may be 0.

    Examples
    --------
    >>> length_map("relu", [1.0, 3.0], sigma_w=2.0).round(12).tolist()
    [2.0, 6.0]
    """
    sigma_w, sigma_b = _scale("sigma_w", sigma_w), _size("sigma_b", sigma_b)
    return sigma_w**2 * Moments(activation, **parameters).square(q) + sigma_b**2


def correlation_map(
    activation: Name,
    c: ArrayLike,
    *,
    sigma_w: float | None = None,
    sigma_b: float = 0.0,
    q: float | None = None,
    **parameters: float,
) -> Any:
    r"""Correlation of two inputs in the next layer, for c of any shape in this one.

    For ReLU with the defaults it is :math:`(\sqrt{1 - c^2} + c\,(\pi - \arccos c)) / \pi`.

    Parameters
    ----------
    activation, sigma_b, **parameters
        As for `mean_field`.
    c : array_like
        From -1 to 1.
    sigma_w : float, optional
        By default the critical one, see `critical_sigma_w`.
    q : float, optional
        Variance of both inputs in this layer, by default that of the fixed point; for 0, the limit.

    Raises
    ------
    ValueError, TypeError
        As `mean_field` and `critical_sigma_w`, or if a correlation is out of its range.

    References
    ----------
    Poole et al. 2016; for ReLU, Cho and Saul 2009.

    Examples
    --------
    >>> c = 0.0  # two inputs at a right angle, in layer after layer of ReLU
    >>> for layer in range(3):
    ...     c = correlation_map("relu", c)
    ...     print(f"{c:.6f}")
    0.318310
    0.493731
    0.604826
    """
    if sigma_w is None:
        sigma_w = critical_sigma_w(activation, sigma_b, **parameters)
    moments = Moments(activation, **parameters)
    sigma_w, sigma_b = _scale("sigma_w", sigma_w), _size("sigma_b", sigma_b)
    if q is None:
        q = variance_fixed_point(moments, sigma_w, sigma_b, 1.0)
    q = max(_size("q", q), TINY)
    after = sigma_w**2 * moments.product(q, 1.0) + sigma_b**2  # so that 1 stays 1 to the last digit
    return np.clip((sigma_w**2 * moments.product(q, c) + sigma_b**2) / after, -1.0, 1.0)


def gradient_factor(
    activation: Name, gain: float, sigma_b: float = 0.0, **parameters: float
) -> GradientFactor:
    r"""By how much one layer multiplies a back-propagated gradient's root mean square.

    .. math:: g \cdot \sqrt{E\,f'(u)^2} = \sqrt{\chi}

    at the fixed point of a wide net with layers of equal width n, whose weights have standard
    deviation :math:`g / \sqrt{n}`: gain 1 is Xavier's rule, :math:`1 / \sqrt{3}` PyTorch's default.

    Parameters
    ----------
    gain : float
        What `mean_field` calls sigma_w.
    activation, sigma_b, **parameters
        As for `mean_field`. A positively homogeneous activation needs no fixed point here.

    Raises
    ------
    FixedPointError, ValueError, TypeError
        As `mean_field`.

    Examples
    --------
    >>> print("{:.3f} of weights times {:.3f} of slope: {:.3f}".format(*gradient_factor("relu", 1)))
    1.000 of weights times 0.707 of slope: 0.707
    """
    moments = Moments(activation, **parameters)
    gain, sigma_b = _scale("gain", gain), _size("sigma_b", sigma_b)
    q = 1.0 if moments.slopes else variance_fixed_point(moments, gain, sigma_b, 1.0)
    derivative = math.sqrt(moments.slope_square(q))
    return GradientFactor(gain, derivative, gain * derivative)


def _scale(name: str, value: float) -> float:
    return real(name, value, 0, LARGEST, open_low=True, open_high=True)


def _size(name: str, value: float) -> float:
    return real(name, value, 0, LARGEST, open_high=True)
