r"""Batch norm and layer norm: forward, backward, running statistics.

A unit's m values :math:`x_i` in a batch are brought to mean 0 and variance 1, and then to a mean
and a size that are learned (Ioffe and Szegedy 2015):

.. math:: y_i = \gamma\,\hat x_i + \beta, \quad \hat x_i = \frac{x_i - \mu}{\sqrt{v + \epsilon}},
    \quad \mu = \frac1m \sum_i x_i, \quad v = \frac1m \sum_i (x_i - \mu)^2

Layer norm (Ba et al. 2016) takes mean and variance over the units of an example instead. All work
is done in float64, and PyTorch is the check.

Taught in the chapter `batch_norm`; `gradient_explosion` follows the gradient through many layers.

>>> x = [[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]]  # three examples, two units
>>> y, cache = batch_norm(x, eps=1e-12)
>>> print(y.round(4))
[[-0.9258 -0.9258]
 [-0.4629 -0.4629]
 [ 1.3887  1.3887]]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from companion.checks import finite_array, real

__all__ = [
    "Cache", "RunningStatistics", "batch_norm", "batch_norm_backward", "batch_norm_eval",
    "layer_norm", "layer_norm_backward",
]  # fmt: skip

Array = np.ndarray

_MADE_BY = {"batch": "batch_norm", "evaluation": "batch_norm_eval", "layer": "layer_norm"}


@dataclass(frozen=True, eq=False)
class Cache:
    """What the forward pass leaves for the backward pass and for the running statistics."""

    kind: str  #: "batch", "evaluation" or "layer": what made it
    normalized: Array  #: x̂, of the shape of x
    std: Array  #: √(v + ε), by which was divided; broadcasts against x
    gamma: Array  #: as it was given; broadcasts against x
    mean: Array  #: μ; broadcasts against x
    var: Array  #: v, biased: the sum of squares over m; of the shape of `mean`
    over: tuple[int, ...]  #: axes of x along which mean and variance are shared
    shared: tuple[int, ...]  #: axes along which γ and β are shared

    @property
    def n(self) -> int:
        """m, the number of values that share a mean."""
        return math.prod(self.normalized.shape[axis] for axis in self.over)


@dataclass(frozen=True, eq=False)
class RunningStatistics:
    """Mean and variance for evaluation, kept as PyTorch keeps them; an update makes new ones.

    Parameters
    ----------
    mean, var : array_like of shape (n_features,)
        PyTorch's `running_mean` and `running_var`.
    n_batches : int, default 0
        Updates so far, PyTorch's `num_batches_tracked`.

    Raises
    ------
    ValueError
        If the shapes differ, a number is not finite or a variance negative.

    Examples
    --------
    >>> running = RunningStatistics.start(1)
    >>> _, cache = batch_norm([[1.0], [3.0]])
    >>> running.update(cache)  # a tenth of the mean, 2, and of the unbiased variance, 2
    RunningStatistics(mean=array([0.2]), var=array([1.1]), n_batches=1)
    """

    mean: Array
    var: Array
    n_batches: int = 0

    def __post_init__(self) -> None:
        mean, var = finite_array("mean", self.mean), finite_array("var", self.var)
        if mean.ndim != 1 or mean.shape != var.shape:
            raise ValueError(
                f"mean and var must both have the shape (n_features,), not {mean.shape} and "
                f"{var.shape}"
            )
        if (var < 0).any():
            raise ValueError(f"var must not be negative, not {var.min()}")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "var", var)

    @classmethod
    def start(cls, n_features: int) -> RunningStatistics:
        """Return what PyTorch begins with: means of 0 and variances of 1."""
        return cls(np.zeros(n_features), np.ones(n_features))

    def update(self, cache: Cache, momentum: float | None = 0.1) -> RunningStatistics:
        r"""Move towards the statistics of a training batch, and return the new ones.

        .. math:: \mu_r \leftarrow (1 - \alpha)\,\mu_r + \alpha\,\mu, \quad
            v_r \leftarrow (1 - \alpha)\,v_r + \alpha\,\tfrac{m}{m - 1}\,v

        Parameters
        ----------
        cache : Cache
            From `batch_norm`. Its biased variance is stored as an unbiased one.
        momentum : float or None, default 0.1
            :math:`\alpha`, the share of the *new* batch (in other books, momentum is the share of
            the old); None weighs all batches alike, :math:`\alpha = 1 / n` at the n-th.

        Raises
        ------
        TypeError, ValueError
            If the cache comes from elsewhere or the momentum is not between 0 and 1.
        """
        if not isinstance(cache, Cache) or cache.kind != "batch":
            raise TypeError("cache must come from batch_norm, in training")
        if cache.mean.size != self.mean.size:
            raise ValueError(
                f"cache must be of {self.mean.size} features, as these statistics are, not "
                f"{cache.mean.size}"
            )
        n = self.n_batches + 1
        share = 1 / n if momentum is None else real("momentum", momentum, 0, 1)
        mean, unbiased = cache.mean.ravel(), cache.var.ravel() * (cache.n / (cache.n - 1))
        return RunningStatistics(
            (1 - share) * self.mean + share * mean, (1 - share) * self.var + share * unbiased, n
        )


def batch_norm(
    x: ArrayLike, gamma: ArrayLike | None = None, beta: ArrayLike | None = None, eps: float = 1e-5
) -> tuple[Array, Cache]:
    """Normalize each unit over the batch, as in training.

    Parameters
    ----------
    x : array_like of shape (n, n_features) or (n, n_channels, ...)
        Examples are rows; a channel is normalized over the examples and all positions.
    gamma, beta : array_like of shape (n_features,), optional
        Scale and shift; by default ones and zeros, as a layer begins.
    eps : float, default 1e-5
        Added to the variance; PyTorch's default. Keras has 1e-3.

    Returns
    -------
    y : ndarray of the shape of x
    cache : Cache
        For `batch_norm_backward` and `RunningStatistics.update`.

    Raises
    ------
    TypeError, ValueError
        If an argument holds no finite numbers or does not fit; if there is one value per unit,
        such as a batch of one: it is its own mean, and the result would be `beta` whatever x is.

    References
    ----------
    Ioffe and Szegedy 2015, algorithm 1.

    Examples
    --------
    >>> batch_norm([[1.0], [3.0]], gamma=[2.0], beta=[5.0])[0].round(3).tolist()
    [[3.0], [7.0]]
    """
    x, axes = _batch(x)
    if (n := math.prod(x.shape[axis] for axis in axes)) < 2:
        raise ValueError(
            f"x must hold two values or more of each unit in training, not {n} as in shape "
            f"{x.shape}: a single value is its own mean. Use batch_norm_eval, or a larger batch"
        )
    return _normalize("batch", x, *_moments(x, axes), gamma, beta, eps, over=axes, shared=axes)


def batch_norm_eval(
    x: ArrayLike,
    running: RunningStatistics,
    gamma: ArrayLike | None = None,
    beta: ArrayLike | None = None,
    eps: float = 1e-5,
) -> tuple[Array, Cache]:
    """Normalize with statistics that were kept, as in evaluation: each example for itself.

    Parameters
    ----------
    x, gamma, beta, eps
        As for `batch_norm`; one example is enough.
    running : RunningStatistics
        Of as many features.

    Returns
    -------
    y : ndarray of the shape of x
    cache : Cache
        For `batch_norm_backward`, which takes the statistics for the constants that they are.

    Raises
    ------
    TypeError, ValueError
        If an argument holds no finite numbers or does not fit.

    Examples
    --------
    >>> y, _ = batch_norm_eval([[4.0]], RunningStatistics([2.0], [4.0]), eps=1e-12)
    >>> y.round(6).tolist()
    [[1.0]]
    """
    x, axes = _batch(x)
    if not isinstance(running, RunningStatistics):
        raise TypeError(f"running must be RunningStatistics, not {running!r}")
    if len(running.mean) != x.shape[1]:
        raise ValueError(
            f"running must be of {x.shape[1]} features, as x is, not {len(running.mean)}"
        )
    mean, var = np.expand_dims(running.mean, axes), np.expand_dims(running.var, axes)
    return _normalize("evaluation", x, mean, var, gamma, beta, eps, over=axes, shared=axes)


def layer_norm(
    x: ArrayLike, gamma: ArrayLike | None = None, beta: ArrayLike | None = None, eps: float = 1e-5
) -> tuple[Array, Cache]:
    """Normalize each example over its units; training and evaluation are the same.

    Parameters
    ----------
    x : array_like of shape (..., n_features)
    gamma, beta : array_like, optional
        Scale and shift of each unit. Their shape, by default (n_features,), names the last axes of
        x, over which mean and variance are taken.
    eps : float, default 1e-5
        Added to the variance.

    Returns
    -------
    y : ndarray of the shape of x
    cache : Cache
        For `layer_norm_backward`.

    Raises
    ------
    TypeError, ValueError
        If an argument holds no finite numbers or does not fit.

    References
    ----------
    Ba, Kiros and Hinton 2016, eq. 4.

    Examples
    --------
    >>> layer_norm([[1.0, 3.0], [10.0, 30.0]])[0].round(3).tolist()
    [[-1.0, 1.0], [-1.0, 1.0]]
    """
    x = finite_array("x", x)
    if not x.ndim or not x.shape[-1]:
        raise ValueError(f"x must have a last axis of one unit or more, not the shape {x.shape}")
    given = [np.shape(p) for p in (gamma, beta) if p is not None]
    last = given[0] if given else x.shape[-1:]
    if not last or x.shape[-len(last) :] != last:
        raise ValueError(
            f"gamma and beta must have the shape of the last axes of x, {x.shape}, not {last}"
        )
    first = x.ndim - len(last)
    over, shared = tuple(range(first, x.ndim)), tuple(range(first))
    return _normalize("layer", x, *_moments(x, over), gamma, beta, eps, over=over, shared=shared)


def batch_norm_backward(dy: ArrayLike, cache: Cache) -> tuple[Array, Array, Array]:
    r"""Gradients of x, gamma and beta, from that of y.

    .. math:: \frac{\partial\mathcal L}{\partial x_i} = \frac{\gamma}{\sqrt{v + \epsilon}}
        \Bigl(g_i - \frac1m \sum_j g_j - \hat x_i\,\frac1m \sum_j g_j\,\hat x_j\Bigr),
        \quad g_i = \frac{\partial\mathcal L}{\partial y_i}

    In evaluation the two sums are absent.

    Parameters
    ----------
    dy : array_like of the shape of y
    cache : Cache
        From `batch_norm` or `batch_norm_eval`.

    Returns
    -------
    dx : ndarray of the shape of x
    dgamma, dbeta : ndarray of shape (n_features,)

    Raises
    ------
    TypeError, ValueError
        If `dy` has another shape or holds no finite numbers, or the cache comes from elsewhere.

    References
    ----------
    Ioffe and Szegedy 2015, section 3, simplified.

    Examples
    --------
    >>> y, cache = batch_norm([[0.0], [1.0], [5.0]])
    >>> dx, dgamma, dbeta = batch_norm_backward([[1.0], [0.0], [0.0]], cache)
    >>> print(abs(dx.sum()) < 1e-15, dbeta)
    True [1.]
    """
    return _backward(dy, cache, "batch", "evaluation")


def layer_norm_backward(dy: ArrayLike, cache: Cache) -> tuple[Array, Array, Array]:
    r"""Gradients of x, gamma and beta, from that of y.

    As `batch_norm_backward`, with the sums over the units of an example and
    :math:`g_i = \gamma_i\,\partial\mathcal L / \partial y_i`. Arguments and errors are the same,
    but the cache comes from `layer_norm`.

    Examples
    --------
    >>> y, cache = layer_norm([[0.0, 1.0, 5.0]])
    >>> dx, dgamma, dbeta = layer_norm_backward([[1.0, 0.0, 0.0]], cache)
    >>> print(abs(dx.sum()) < 1e-15, dbeta)
    True [1. 0. 0.]
    """
    return _backward(dy, cache, "layer")


def _batch(x: ArrayLike) -> tuple[Array, tuple[int, ...]]:
    """x as an array, and all its axes but that of the units."""
    x = finite_array("x", x)
    if x.ndim < 2:
        raise ValueError(
            f"x must be of shape (n, n_features) or (n, n_channels, ...), not {x.shape}"
        )
    return x, (0, *range(2, x.ndim))


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and biased variance over the axes, which stay as axes of length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = x.mean(axis=axes, keepdims=True)
        var = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    if not np.isfinite(var).all():
        raise ValueError(f"x must be small enough to be squared, but reaches {np.abs(x).max():g}")
    return mean, var


def _normalize(
    kind: str,
    x: Array,
    mean: Array,
    var: Array,
    gamma: ArrayLike | None,
    beta: ArrayLike | None,
    eps: float,
    *,
    over: tuple[int, ...],
    shared: tuple[int, ...],
) -> tuple[Array, Cache]:
    eps = real("eps", eps, 0, open_low=True)
    scale = _parameter("gamma", gamma, 1.0, x.shape, shared)
    shift = _parameter("beta", beta, 0.0, x.shape, shared)
    std = np.sqrt(var + eps)
    normalized = (x - mean) / std
    cache = Cache(kind, normalized, std, scale, mean, var, over, shared)
    return scale * normalized + shift, cache


def _parameter(
    name: str,
    given: ArrayLike | None,
    default: float,
    of_x: tuple[int, ...],
    shared: tuple[int, ...],
) -> Array:
    """A scale or shift that broadcasts against x; one number for each unit."""
    shape = tuple(length for axis, length in enumerate(of_x) if axis not in shared)
    values = np.full(shape, default) if given is None else finite_array(name, given)
    if values.shape != shape:
        raise ValueError(
            f"{name} must have the shape {shape}, one number per unit, not {values.shape}"
        )
    return np.expand_dims(values, shared)


def _backward(dy: ArrayLike, cache: Cache, *kinds: str) -> tuple[Array, Array, Array]:
    if not isinstance(cache, Cache) or cache.kind not in kinds:
        raise TypeError(f"cache must come from {' or '.join(_MADE_BY[kind] for kind in kinds)}")
    dy, x = finite_array("dy", dy), cache.normalized
    if dy.shape != x.shape:
        raise ValueError(f"dy must have the shape of y, {x.shape}, not {dy.shape}")
    g = cache.gamma * dy
    if cache.kind != "evaluation":
        along = (g * x).mean(axis=cache.over, keepdims=True)
        g = g - g.mean(axis=cache.over, keepdims=True) - x * along
    return g / cache.std, (dy * x).sum(axis=cache.shared), dy.sum(axis=cache.shared)
