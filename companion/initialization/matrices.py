"""Initial weights that are not drawn one by one: orthogonal, scaled to data, asymmetric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from companion.activations import Activation
from companion.activations import activation as find_activation
from companion.checks import Seed, finite_array, generator, real, whole
from companion.initialization.draws import normal
from companion.initialization.scales import fans

__all__ = ["LSUV", "lsuv", "orthogonal", "randomized_asymmetric"]

Array = NDArray[np.floating[Any]]

RAI_SIGMA = math.sqrt(1 + 8 / (9 * math.pi)) - 2 / 3 * math.sqrt(2 / math.pi)
r"""0.600747, the solution of :math:`\sigma^2/2 + (2/3)\sqrt{2/\pi}\,\sigma + 1/2 = 1`."""


def orthogonal(
    shape: Sequence[int],
    rng: Seed = None,
    *,
    gain: float = 1.0,
    dtype: DTypeLike = np.float64,
) -> Array:
    r"""Draw a random orthogonal matrix, times a gain.

    The axes after the first are taken as one. A tall matrix has orthonormal columns, a wide one
    orthonormal rows: all its singular values are the gain.

    Parameters
    ----------
    shape : sequence of int
        (fan_out, fan_in), or (channels_out, channels_in, \*kernel).
    rng : numpy.random.Generator or int, optional
        Draws a normal matrix, whose Q factor (with positive diagonal of R) is taken; a seed, or
        None for a fresh generator.
    gain : float, default 1
        Not negative.
    dtype : float64 or float32, default float64
        Of the weights.

    Returns
    -------
    ndarray of `shape`

    Raises
    ------
    ValueError
        If a fan is not positive, the shape has fewer than two axes, or the gain is negative.
    TypeError
        If `rng` is no generator, or another argument of the wrong kind.

    Notes
    -----
    Source: Saxe et al. 2014. In PyTorch: ``torch.nn.init.orthogonal_``.

    Examples
    --------
    >>> W = orthogonal((3, 5), np.random.default_rng(0), gain=2.0)
    >>> np.linalg.svd(W, compute_uv=False).round(12).tolist()
    [2.0, 2.0, 2.0]
    """
    fans(shape)  # refuses impossible shapes
    factor = real("gain", gain, 0)
    rows, columns = shape[0], math.prod(shape[1:])
    matrix = normal((rows, columns), rng, 1.0, dtype)
    q, r = np.linalg.qr(matrix.T if rows < columns else matrix)
    q *= factor * np.where(np.diag(r) < 0, -1, 1).astype(q.dtype)
    return np.ascontiguousarray(q.T if rows < columns else q).reshape(tuple(shape))


class LSUV(NamedTuple):
    """What `lsuv` returns."""

    weights: list[Array]  #: scaled, in the order of the layers
    iterations: list[int]  #: how often each was divided


def lsuv(
    weights: Sequence[ArrayLike],
    activation: str | Activation,
    x: ArrayLike,
    *,
    tolerance: float = 0.1,
    max_iterations: int = 10,
    **parameters: float,
) -> LSUV:
    r"""Scale each layer until its pre-activations have unit variance on the data.

    Layer-sequential unit-variance initialization: from the first layer to the last, divide the
    weights by the standard deviation of :math:`z_l = W_l\,f(z_{l-1})` over all examples and units.

    Parameters
    ----------
    weights : sequence of array_like of shape (fan_out, fan_in)
        Of the layers, in their order; the paper starts from `orthogonal`. They stay as they are.
    activation : str or Activation
        Between the layers, such as "relu"; the keywords `parameters` are its own.
    x : array_like of shape (n_examples, fan_in)
        Data, for the first layer.
    tolerance : float, default 0.1
        A layer is done when its variance differs from 1 by less.
    max_iterations : int, default 10
        Most divisions per layer.

    Returns
    -------
    LSUV
        Without biases a layer's output is proportional to its weights, so one division, or none,
        is enough.

    Raises
    ------
    ValueError
        If data or weights hold NaN or infinity, shapes don't fit, a number is out of its range, or
        a layer's outputs do not vary (by more than 1e-12 of the largest).
    TypeError
        If `weights` is a single array, or an argument of the wrong kind.

    Notes
    -----
    Source: Mishkin and Matas 2016, algorithm 1.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, start = rng.normal(size=(256, 64)), [orthogonal((64, 64), rng) for _ in range(3)]
    >>> scaled = lsuv(start, "relu", x)
    >>> scaled.iterations, [f"{W.std() / V.std():.2f}" for W, V in zip(scaled.weights, start)]
    ([0, 1, 1], ['1.00', '1.42', '1.48'])
    """
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise TypeError(f"weights must be a list of arrays, one per layer, not {type(weights)}")
    f = find_activation(activation)
    f(0.0, **parameters)  # refuse bad parameters now
    tolerance = real("tolerance", tolerance, 0, open_low=True)
    max_iterations = whole("max_iterations", max_iterations, 0)
    h, done, counts = _matrix("x", x), list[Array](), list[int]()
    for layer, given in enumerate(weights):
        name = f"weights[{layer}]"
        w = _matrix(name, given)
        if w.shape[1] != h.shape[1]:
            raise ValueError(f"{name} must have {h.shape[1]} columns, not {w.shape[1]}")
        z, count = h @ w.T, 0
        while abs(z.var() - 1) >= tolerance and count < max_iterations:
            if not 1e-12 * np.abs(z).max() < z.std() < math.inf:  # less is rounding
                raise ValueError(f"{name}: its outputs have standard deviation {z.std()!r}")
            w /= z.std()
            z, count = h @ w.T, count + 1
        done.append(w)
        counts.append(count)
        h = f(z, **parameters)
    return LSUV(done, counts)


def _matrix(name: str, given: ArrayLike) -> Array:
    matrix = finite_array(name, given)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a matrix, not of shape {matrix.shape}")
    return matrix


def randomized_asymmetric(
    shape: Sequence[int], rng: Seed = None, *, dtype: DTypeLike = np.float64
) -> tuple[Array, Array]:
    r"""Draw weights and biases so that a unit is more often on than off, against dying ReLUs.

    Weights and biases are :math:`N(0, \sigma^2 / n_\text{in})` with :math:`\sigma = 0.600747`;
    then one of each unit's :math:`n_\text{in} + 1` numbers, chosen at random, is replaced by a
    positive one from Beta(2, 1).

    Parameters
    ----------
    shape, rng, dtype
        As for `orthogonal`.

    Returns
    -------
    weight : ndarray of `shape`
    bias : ndarray of shape (fan_out,) or (channels_out,)

    Raises
    ------
    ValueError, TypeError
        As `orthogonal`.

    Notes
    -----
    Source: Lu et al. 2020, "Dying ReLU and Initialization". Let a unit's pre-activation be
    :math:`G + B`, with B the part of the replaced number, and its inputs not negative. Then
    :math:`\mathrm{relu}(G + B) \le \mathrm{relu}(G) + B`, and :math:`\sigma` makes the mean square
    of the right side that of the inputs: :math:`\sigma^2/2` of it from G, 1/2 from B,
    :math:`(2/3)\sqrt{2/\pi}\,\sigma` from their product.

    Examples
    --------
    >>> weight, bias = randomized_asymmetric((200, 50), np.random.default_rng(0))
    >>> weight.shape, bias.shape, bool((weight > 0.5).sum() + (bias > 0.5).sum() > 100)
    ((200, 50), (200,), True)
    """
    fan_in, _ = fans(shape)
    rng = generator("rng", rng)
    rows = normal((shape[0], fan_in + 1), rng, RAI_SIGMA / math.sqrt(fan_in), dtype)
    chosen = rng.integers(fan_in + 1, size=shape[0])
    rows[np.arange(shape[0]), chosen] = rng.beta(2, 1, size=shape[0])
    return np.ascontiguousarray(rows[:, :-1]).reshape(tuple(shape)), rows[:, -1].copy()
