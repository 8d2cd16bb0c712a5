"""What a norm leaves behind: for the backward pass, and for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


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
    >>> from companion.batch_norm import batch_norm
    >>> running = RunningStatistics.start(1)
    >>> _, cache = batch_norm([[1.0], [3.0]])
    >>> running.update(cache)  # a tenth of the mean, 2, and of the unbiased variance, 2
    RunningStatistics(mean=array([0.2]), var=array([1.1]), n_batches=1)
    """

    mean: Array
    var: Array
    n_batches: int = 0

    def __post_init__(self) -> None:
        mean, var = finite("mean", self.mean), finite("var", self.var)
        if mean.ndim != 1 or mean.shape != var.shape:
            raise ValueError(
                f"mean and var must both have the shape (n_features,), not {mean.shape} and "
                f"{var.shape}"
            )
        if (var < 0).any():
            raise ValueError(f"var must not be negative, not {var.min()}")
        object.__setattr__(self, "mean", mean.copy())
        object.__setattr__(self, "var", var.copy())

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
        share = 1 / n if momentum is None else momentum
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 1:
            raise ValueError(f"momentum must be None or a number from 0 to 1, not {momentum!r}")
        mean, unbiased = cache.mean.ravel(), cache.var.ravel() * (cache.n / (cache.n - 1))
        return RunningStatistics(
            (1 - share) * self.mean + share * mean, (1 - share) * self.var + share * unbiased, n
        )


def finite(name: str, values: ArrayLike) -> Array:
    """Return an array of finite float64, or an error that names the argument."""
    try:
        array = np.asarray(values)
        array = array.astype(float, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of real numbers: {error}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, but holds NaN or infinity")
    return array
