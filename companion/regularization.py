r"""What is done to weights and signals to keep a net from over-fitting, in NumPy.

Two penalties with their gradients, inverted dropout, and the spectral norm by power iteration.

>>> value, gradient = l2_penalty([3.0, -4.0], strength=0.1)
>>> value, gradient.tolist()  # λ/2 · 25, and λ w
(1.25, [0.30000000000000004, -0.4])

The conventions are PyTorch's: `l2_penalty` is ``weight_decay`` of `torch.optim.SGD`, `dropout` is
`torch.nn.functional.dropout`, a weight has the shape (fan_out, fan_in, ...). Taught in the chapter
`regularization`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.checks import Seed, finite_array, generator, real, whole

__all__ = [
    "SpectralNorm", "dropout", "l1_penalty", "l2_penalty", "spectral_norm",
]  # fmt: skip

Array = NDArray[np.float64]

_TINY = np.finfo(float).tiny  # zeros divided by it stay zeros


def l1_penalty(w: ArrayLike, strength: float) -> tuple[float, Array]:
    r"""Charge for the absolute values of the weights.

    .. math:: \lambda \sum_i |w_i|, \qquad \lambda\, \operatorname{sign}(w_i)

    Parameters
    ----------
    w : array_like
        Weights, of any shape.
    strength : float
        λ, not negative.

    Returns
    -------
    value : float
        The penalty.
    gradient : ndarray of the shape of `w`
        Its gradient; where a weight is 0, a subgradient, 0.

    Raises
    ------
    TypeError, ValueError
        If `w` holds what is no finite real number, or `strength` is out of its range.

    Notes
    -----
    Source: Tibshirani 1996, "Regression shrinkage and selection via the lasso".

    Examples
    --------
    >>> l1_penalty([3.0, 0.0, -4.0], strength=0.5)
    (3.5, array([ 0.5,  0. , -0.5]))
    """
    w, strength = finite_array("w", w), real("strength", strength, 0)
    return strength * float(np.abs(w).sum()), strength * np.sign(w)


def l2_penalty(w: ArrayLike, strength: float) -> tuple[float, Array]:
    r"""Charge for the squares of the weights.

    .. math:: \frac{\lambda}{2} \sum_i w_i^2, \qquad \lambda\, w_i

    Arguments, results and errors are those of `l1_penalty`. λ is PyTorch's ``weight_decay``, but
    for AdamW's, which stays out of the gradient and so out of Adam's averages.

    Notes
    -----
    Source: Krogh and Hertz 1991, "A simple weight decay can improve generalization".

    Examples
    --------
    >>> l2_penalty([3.0, 0.0, -4.0], strength=2.0)
    (25.0, array([ 6.,  0., -8.]))
    """
    w, strength = finite_array("w", w), real("strength", strength, 0)
    return strength / 2 * float(np.vdot(w, w)), strength * w


def dropout(x: ArrayLike, p: float, rng: Seed = None) -> tuple[Array, Array]:
    r"""Set a random share p of the outputs to zero and divide the others by 1 - p.

    .. math:: y_i = m_i\, x_i, \qquad m_i = \begin{cases} 0 & \text{with probability } p \\
        1 / (1 - p) & \text{otherwise} \end{cases}

    The mask's mean is 1, its second moment 1 / (1 - p). This is *inverted* dropout: nothing is left
    to do in evaluation.

    Parameters
    ----------
    x : array_like
        Outputs of a layer, of any shape.
    p : float
        Probability of being dropped, at least 0 and less than 1.
    rng : numpy.random.Generator or int, optional
        Draws one number for each output; a seed, or None for a fresh generator.

    Returns
    -------
    y, mask : ndarray of the shape of `x`
        What goes on, and by what it was multiplied: the gradient passes through the same mask.

    Raises
    ------
    TypeError, ValueError
        If `x` holds what is no finite real number, or `p` is out of its range.

    Notes
    -----
    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from
    overfitting".

    Examples
    --------
    >>> y, mask = dropout(np.ones(6), 0.5, np.random.default_rng(0))
    >>> y.tolist()
    [2.0, 0.0, 0.0, 0.0, 2.0, 2.0]
    """
    x, p = finite_array("x", x), real("p", p, 0, 1, open_high=True)
    mask = (generator("rng", rng).random(x.shape) >= p) / (1.0 - p)
    return x * mask, mask


class SpectralNorm(NamedTuple):
    """A largest singular value with its vectors, as `spectral_norm` returns them."""

    sigma: float  #: the estimate, never above the true value
    u: Array  #: of shape (fan_out,), of length 1; to start from the next time
    v: Array  #: of shape (fan_in,), of length 1


def spectral_norm(
    w: ArrayLike, n_iterations: int = 1, *, u: ArrayLike | None = None, rng: Seed = None
) -> SpectralNorm:
    r"""Estimate the largest singular value of a matrix by power iteration.

    .. math:: v \leftarrow \frac{W^\top u}{\|W^\top u\|}, \qquad u \leftarrow \frac{W v}{\|W v\|},
        \qquad \sigma = u^\top W v

    Each iteration multiplies the error of the vectors by :math:`(\sigma_2 / \sigma_1)^2`, a ratio
    of the two largest singular values.

    Parameters
    ----------
    w : array_like of shape (fan_out, fan_in, ...)
        A weight. Further axes, as those of a convolution, are flattened into the second, as PyTorch
        does it: then σ is the norm of that matrix, not of the convolution.
    n_iterations : int, default 1
        At least 1.
    u : array_like of shape (fan_out,), optional
        Where to start, such as the `u` of the last time; if it is orthogonal to the vector sought,
        it never finds it. If it is orthogonal to all columns (to a relative 1e-14, for rounding
        would decide), σ = 0 and v = 0.
    rng : numpy.random.Generator or int, optional
        Draws the start where `u` is not given; a seed, or None for a fresh generator.

    Returns
    -------
    SpectralNorm
        σ, u and v; σ = 0 and v = 0 for a matrix of zeros.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by its name, or both `u` and `rng` are given.

    Notes
    -----
    Source: Miyato et al. 2018, "Spectral normalization for generative adversarial networks",
    algorithm 1.

    Examples
    --------
    >>> sheared = [[0.0, 100.0], [0.0, 0.0]]  # both eigenvalues are 0
    >>> spectral_norm(sheared, u=[1.0, 1.0]).sigma
    100.0
    """
    matrix, largest = _matrix(w)
    if u is not None and rng is not None:
        raise ValueError("u or rng must be given, and not both")
    left = generator("rng", rng).normal(size=len(matrix)) if u is None else finite_array("u", u)
    if left.shape != matrix.shape[:1] or not left.any():
        raise ValueError(f"u must be {len(matrix)} numbers and not all of them 0, not {left!r}")
    left = _unit(left)
    for _ in range(whole("n_iterations", n_iterations)):
        right = matrix.T @ left
        right = _unit(np.where(np.abs(right).max() > 1e-14 * len(matrix), right, 0.0))
        left = _unit(matrix @ right) if right.any() else left
    return SpectralNorm(largest * float(left @ matrix @ right), left, right)


def _matrix(w: ArrayLike) -> tuple[Array, float]:
    """Flatten a weight into a matrix and divide by its largest entry, so that squares are safe."""
    w = finite_array("w", w)
    if w.ndim < 2 or not w.size:
        raise ValueError(f"w must have two axes or more, none of length 0, not shape {w.shape}")
    largest = max(float(np.abs(w).max()), _TINY)
    return w.reshape(len(w), w[0].size) / largest, largest


def _unit(vector: Array) -> Array:
    """Scale to length 1; a vector of zeros stays."""
    vector = vector / max(np.abs(vector).max(), _TINY)
    return vector / max(np.linalg.norm(vector), _TINY)
