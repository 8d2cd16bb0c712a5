r"""When a ReLU unit dies in one step, and how little a silent unit gives, in NumPy.

A unit is *dead on a data set* when the derivative of its activation is zero for every example; a
ReLU unit then, when its pre-activation is never positive. `deadly_rate` tells how long a step of
gradient descent must be to kill it, `dormancy_score` how silent it is beside its neighbours.

Taught in the chapter `dead_relu`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.checks import finite_array, real_array

__all__ = ["deadly_rate", "dormancy_score"]

Array = NDArray[np.floating[Any]]


def deadly_rate(z: ArrayLike, g: ArrayLike) -> Array:
    r"""Find the lowest rate at which one step of gradient descent kills a ReLU unit.

    A step of rate :math:`\eta` moves a pre-activation from :math:`z_i` to
    :math:`z_i - \eta g_i`, with the push :math:`g_i = \frac1n \sum_j \delta_j (x_j \cdot x_i + 1)`
    and the gradient :math:`\delta_j` of example j at :math:`z_j`. The unit is dead if none is
    positive any more.

    Parameters
    ----------
    z, g : array_like of shape (n, ...)
        Pre-activations and pushes of n examples; further axes are units.

    Returns
    -------
    ndarray of shape (...)
        Infinite where no step kills: because an example that is on is not pushed down, or because
        one that is off is pushed up before the last one that is on has fallen. 0 for a unit that is
        dead already.

    Raises
    ------
    TypeError, ValueError
        If an argument holds what is no finite real number, or the shapes differ.

    Examples
    --------
    >>> float(deadly_rate([1.0, 2.0], [4.0, 6.5]))  # the second example falls last
    0.3076923076923077
    >>> float(deadly_rate([1.0, 2.0], [4.0, -1.0]))
    inf
    """
    z, g = finite_array("z", z), finite_array("g", g)
    if z.shape != g.shape or not z.ndim or not len(z):
        raise ValueError(f"z and g must have one shape (n, ...), not {z.shape} and {g.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):
        falls = np.where(z > 0, np.where(g > 0, z / g, np.inf), 0.0)
        rises = np.where((z <= 0) & (g < 0), z / g, np.inf)
    last, first = falls.max(axis=0), rises.min(axis=0)
    rate: Array = np.where(last <= first, last, np.inf)
    return rate


def dormancy_score(mean_abs: ArrayLike) -> Array:
    r"""Divide each unit's mean size by the mean over its layer.

    .. math:: s_i = \frac{\overline{|h_i|}}{\frac1n \sum_k \overline{|h_k|}}

    Parameters
    ----------
    mean_abs : array_like of shape (..., n_units)
        :math:`\overline{|h_i|}`, the mean of each unit's size over a data set; the last axis is the
        layer. NaN or infinity stands for a unit whose mean is no number.

    Returns
    -------
    ndarray of the same shape
        Scores of mean 1; 0 for every unit of a layer that is silent as a whole; NaN for a unit
        whose mean is no number, which the layer's mean leaves out.

    Raises
    ------
    TypeError, ValueError
        If a mean is negative or no real number, or there is no unit.

    Notes
    -----
    The score is relative: if every unit of a layer falls to a thousandth, no score changes. Source:
    Sokar et al. 2023, eq. 1. Taught in the chapter `detection`.

    Examples
    --------
    >>> dormancy_score([0.0, 0.01, 1.0, 2.99])
    array([0.  , 0.01, 1.  , 2.99])
    >>> dormancy_score([0.0, 0.0]), dormancy_score([1.0, 3.0, np.nan])
    (array([0., 0.]), array([0.5, 1.5, nan]))
    """
    size = real_array("mean_abs", mean_abs)
    if size.ndim == 0 or size.shape[-1] == 0:
        raise ValueError(f"mean_abs must have a last axis of units, not the shape {size.shape}")
    if (size < 0).any():
        raise ValueError(f"mean_abs must not be negative, as {size.min():g} is")
    finite = np.isfinite(size)
    size[~finite] = 0.0
    largest = size.max(axis=-1, keepdims=True)
    size /= np.where(largest > 0, largest, 1.0)  # so that no sum overflows
    n = finite.sum(axis=-1, keepdims=True)
    mean = size.sum(axis=-1, keepdims=True) / np.maximum(n, 1)
    score: Array = size / np.where(mean > 0, mean, 1.0)
    score[~finite] = np.nan
    return score
