"""Rules that draw each weight by itself, from a uniform or a normal distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from companion.checks import Seed, choice, generator
from companion.initialization.draws import normal, uniform
from companion.initialization.scales import fans, he_std, lecun_std, pytorch_std, xavier_std

__all__ = [
    "he_normal", "he_uniform", "lecun_normal", "lecun_uniform", "pytorch_default",
    "xavier_normal", "xavier_uniform",
]  # fmt: skip

Array = NDArray[np.floating[Any]]
Shape = Sequence[int]


def xavier_uniform(
    shape: Shape,
    rng: Seed = None,
    *,
    gain: float = 1.0,
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw weights by Xavier's rule from a uniform distribution.

    .. math:: W_{ij} \sim U(-a, a), \quad a = g \sqrt{6 / (n_\text{in} + n_\text{out})}

    Parameters
    ----------
    shape : sequence of int
        (fan_out, fan_in), or that of a convolution's weights; see `fans`.
    rng : numpy.random.Generator or int, optional
        Draws the weights; a seed, or None for a fresh generator, as in NumPy.
    gain : float, default 1
        g, for example of `companion.initialization.gain`; not negative.
    groups : int, default 1
    transposed : bool, default False
        Of a convolution, as for `fans`.
    dtype : float64 or float32, default float64
        Of the weights.

    Returns
    -------
    ndarray of `shape`
        Of mean 0 and the standard deviation that `xavier_std` computes.

    Raises
    ------
    ValueError
        If a fan is not positive, the shape has fewer than two axes, or the gain is negative.
    TypeError
        If `rng` is no generator, or another argument of the wrong kind.

    Notes
    -----
    Source: Glorot and Bengio 2010, eq. 16. In PyTorch: ``torch.nn.init.xavier_uniform_``.

    Examples
    --------
    >>> W = xavier_uniform((50, 100), np.random.default_rng(0))
    >>> bool(abs(W).max() < 0.2), f"{W.std():.3f} {xavier_std(100, 50):.3f}"
    (True, '0.116 0.115')
    """
    std = xavier_std(*fans(shape, groups=groups, transposed=transposed), gain)
    return uniform(shape, rng, std, dtype)


def xavier_normal(
    shape: Shape,
    rng: Seed = None,
    *,
    gain: float = 1.0,
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw weights by Xavier's rule from a normal distribution.

    .. math:: W_{ij} \sim N\bigl(0,\; 2 g^2 / (n_\text{in} + n_\text{out})\bigr)

    Arguments, errors and source as for `xavier_uniform`, the distribution's variance in eq. 12. In
    PyTorch: ``torch.nn.init.xavier_normal_``.

    Examples
    --------
    >>> f"{xavier_normal((50, 100), np.random.default_rng(0)).std():.3f}"
    '0.115'
    """
    std = xavier_std(*fans(shape, groups=groups, transposed=transposed), gain)
    return normal(shape, rng, std, dtype)


def he_uniform(
    shape: Shape,
    rng: Seed = None,
    *,
    negative_slope: float = 0.0,
    mode: str = "fan_in",
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw weights by He's rule from a uniform distribution.

    .. math:: W_{ij} \sim U(-a, a), \quad a = \sqrt{6 / ((1 + s^2)\,n)}

    Arguments, errors and source as for `he_normal`. In PyTorch:
    ``torch.nn.init.kaiming_uniform_(W, a=s)``; with :math:`s = \sqrt 5` it is PyTorch's default.

    Examples
    --------
    >>> W = he_uniform((50, 100), np.random.default_rng(0), negative_slope=5**0.5)
    >>> bool(abs(W).max() < 0.1), f"{W.std():.4f}"
    (True, '0.0580')
    """
    n = _fan(shape, groups, transposed, mode)
    return uniform(shape, rng, he_std(n, negative_slope), dtype)


def he_normal(
    shape: Shape,
    rng: Seed = None,
    *,
    negative_slope: float = 0.0,
    mode: str = "fan_in",
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw weights by He's rule from a normal distribution.

    .. math:: W_{ij} \sim N\bigl(0,\; 2 / ((1 + s^2)\,n)\bigr)

    Parameters
    ----------
    shape, rng, groups, transposed, dtype
        As for `xavier_uniform`.
    negative_slope : float, default 0
        s, the slope left of 0 of a leaky ReLU; 0 is ReLU's.
    mode : {"fan_in", "fan_out"}, default "fan_in"
        What n is: "fan_in" keeps the size of the signal, "fan_out" that of the gradient.

    Returns
    -------
    ndarray of `shape`
        Of mean 0 and the standard deviation that `he_std` computes.

    Raises
    ------
    ValueError
        If a fan is not positive, the shape has fewer than two axes, the slope is not finite or the
        mode unknown.
    TypeError
        If `rng` is no generator, or another argument of the wrong kind.

    Notes
    -----
    Source: He et al. 2015, eq. 10, 14 and 15. In PyTorch:
    ``torch.nn.init.kaiming_normal_(W, a=s)``.

    Examples
    --------
    >>> W = he_normal((50, 200), np.random.default_rng(0))
    >>> f"{W.std():.3f} {he_std(200):.3f}"
    '0.100 0.100'
    """
    n = _fan(shape, groups, transposed, mode)
    return normal(shape, rng, he_std(n, negative_slope), dtype)


def lecun_uniform(
    shape: Shape,
    rng: Seed = None,
    *,
    gain: float = 1.0,
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw weights by LeCun's rule from a uniform distribution.

    .. math:: W_{ij} \sim U(-a, a), \quad a = g \sqrt{3 / n_\text{in}}

    Arguments and errors as for `xavier_uniform`. Source: LeCun et al. 1998, eq. 16.

    Examples
    --------
    >>> bool(abs(lecun_uniform((50, 300), np.random.default_rng(0))).max() < 0.1)
    True
    """
    n = _fan(shape, groups, transposed)
    return uniform(shape, rng, lecun_std(n, gain), dtype)


def lecun_normal(
    shape: Shape,
    rng: Seed = None,
    *,
    gain: float = 1.0,
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw weights by LeCun's rule from a normal distribution.

    .. math:: W_{ij} \sim N(0,\; g^2 / n_\text{in})

    Arguments and errors as for `xavier_uniform`. With the gain of `companion.initialization.gain`
    it keeps the size of the signal for any activation; with 1, for SELU (Klambauer et al. 2017).
    Source: LeCun et al. 1998, eq. 16.

    Examples
    --------
    >>> f"{lecun_normal((50, 100), np.random.default_rng(0)).std():.3f}"
    '0.100'
    """
    n = _fan(shape, groups, transposed)
    return normal(shape, rng, lecun_std(n, gain), dtype)


def pytorch_default(
    shape: Shape,
    rng: Seed = None,
    *,
    groups: int = 1,
    transposed: bool = False,
    dtype: DTypeLike = np.float64,
) -> tuple[Array, Array]:
    r"""Draw weights and biases as ``nn.Linear`` and ``nn.Conv2d`` do if nobody says otherwise.

    .. math:: W_{ij},\, b_i \sim U(-1/\sqrt{n_\text{in}},\; 1/\sqrt{n_\text{in}})

    The variance of both is :math:`1 / (3 n_\text{in})`: a third of LeCun's, a sixth of He's.

    Parameters
    ----------
    shape, rng, groups, transposed, dtype
        As for `xavier_uniform`.

    Returns
    -------
    weight : ndarray of `shape`
    bias : ndarray of shape (fan_out,) or (channels_out,)

    Raises
    ------
    ValueError, TypeError
        As `xavier_uniform`.

    Notes
    -----
    Source: ``torch.nn.Linear.reset_parameters``. It calls ``kaiming_uniform_`` with
    :math:`a = \sqrt 5`, a number chosen to give this interval, which Glorot and Bengio 2010, eq. 1,
    call the common heuristic. In transposed convolutions PyTorch takes fan_out for n, and so does
    this function.

    Examples
    --------
    >>> weight, bias = pytorch_default((50, 100), np.random.default_rng(0))
    >>> bias.shape, bool(abs(weight).max() < 0.1), bool(abs(bias).max() < 0.1)
    ((50,), True, True)
    """
    rng = generator("rng", rng)
    std = pytorch_std(_fan(shape, groups, transposed, "fan_out" if transposed else "fan_in"))
    n_out = shape[1] * groups if transposed else shape[0]
    return uniform(shape, rng, std, dtype), uniform((n_out,), rng, std, dtype)


def _fan(shape: Shape, groups: int, transposed: bool, mode: str = "fan_in") -> int:
    both = fans(shape, groups=groups, transposed=transposed)
    return both[("fan_in", "fan_out").index(choice("mode", mode, ("fan_in", "fan_out")))]
