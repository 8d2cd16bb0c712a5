r"""What is special about a convolution: positions, borders, and its norm. In NumPy.

A channel is one unit at many positions. `active_share` counts where and how often it answers;
`padded_signal` and `padding_factor` tell what zeros beyond the border cost a deep net,
`delta_orthogonal` draws kernels that no border touches, `convolution_norm` is how far a convolution
stretches an image at most.

>>> padded_signal(8, 2).mean(axis=(1, 2)).round(3).tolist(), round(padding_factor(8), 5)
([0.84, 0.742], 0.92121)

Axes are PyTorch's: images are (n, channels, height, width), kernels (channels_out, channels_in,
height, width). Taught in the chapter `dead_channels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.checks import Seed, finite_array, whole, wholes
from companion.initialization import orthogonal

__all__ = [
    "active_share", "convolution_norm", "delta_orthogonal", "padded_signal", "padding_factor",
]  # fmt: skip

Array = NDArray[np.float64]


def active_share(slope: ArrayLike) -> Array:
    """Count the share of images on which a channel has a slope, position by position.

    A channel is dead where the share is 0 at every position; at a single one it says little.

    Parameters
    ----------
    slope : array_like of shape (n, channels, height, width)
        The activation's derivative, for a ReLU its output, or a mask: what is not 0 is active.

    Returns
    -------
    ndarray of shape (channels, height, width)
        Shares from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        If `slope` holds what is no finite number, has other axes, or no image.

    Examples
    --------
    >>> slope = np.zeros((4, 2, 1, 3))
    >>> slope[0, 1, 0, 2] = 1.0
    >>> share = active_share(slope)
    >>> share[1].tolist(), (share == 0).all(axis=(1, 2)).tolist()
    ([[0.0, 0.0, 0.25]], [True, False])
    """
    if isinstance(slope, np.ndarray) and slope.dtype == bool:
        slope = slope.astype(float)
    slope = _images("slope", slope, "(n, channels, height, width)")
    return np.asarray((slope != 0).mean(axis=0))


def padded_signal(side: int, depth: int, kernel_size: int = 3) -> Array:
    r"""Expect the square of a pre-activation, with zeros beyond the border, relative to without.

    .. math:: q_l = K q_{l-1}\, K, \qquad q_0 = 1, \qquad
        K_{ij} = 1/k \text{ where } |i - j| \le (k - 1) / 2

    K is symmetric, q an image. Exact for ReLU, kernels by He's rule and zero biases, at any width;
    with circular padding every q is 1.

    Parameters
    ----------
    side : int
        Of the square image; positive.
    depth : int
        Number of convolutions; positive.
    kernel_size : int, default 3
        k; odd.

    Returns
    -------
    ndarray of shape (depth, side, side)
        :math:`q_1, q_2, \ldots`, to be multiplied by twice the mean square of the input's pixels,
        which is to be the same at all of them.

    Raises
    ------
    TypeError, ValueError
        If an argument is no whole number or out of its range.

    Notes
    -----
    Source: He et al. 2015, section 2.2, with the taps counted that fall into the image.

    Examples
    --------
    >>> padded_signal(4, 1)[0].round(2).tolist()[:2]
    [[0.44, 0.67, 0.67, 0.44], [0.67, 1.0, 1.0, 0.67]]
    """
    taps, q = _taps(side, kernel_size), np.ones((side, side))
    profile = np.empty((whole("depth", depth), side, side))
    for layer in profile:
        q = layer[:] = taps @ q @ taps
    return profile


def padding_factor(side: int, kernel_size: int = 3) -> float:
    r"""Compute what zero padding leaves of the signal's square in each of many layers.

    .. math:: \lambda_{\max}(K)^2 = \left(\frac{1 + 2 \cos(\pi / (S + 1))}{3}\right)^2
        \text{ for a kernel of } 3 \times 3

    Arguments and errors as for `padded_signal`, K as there.

    Examples
    --------
    >>> round(padding_factor(8), 4), round(padding_factor(32), 4)
    (0.9212, 0.994)
    """
    return float(np.linalg.eigvalsh(_taps(side, kernel_size))[-1] ** 2)


def delta_orthogonal(shape: Sequence[int], rng: Seed = None, *, gain: float = 1.0) -> Array:
    r"""Draw kernels that are 0 but at the centre, where a random orthogonal matrix stands.

    With gain 1 and as many channels out as in, or more, the convolution keeps the norm of every
    image, whatever the padding.

    Parameters
    ----------
    shape : sequence of int
        (channels_out, channels_in, height, width), height and width odd.
    rng : numpy.random.Generator or int, optional
        Draws the matrix; a seed, or None for a fresh generator.
    gain : float, default 1
        Factor of the matrix, not negative; :math:`\sqrt 2` before a ReLU.

    Returns
    -------
    ndarray of `shape`

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    Source: Xiao et al. 2018, algorithm 1.

    Examples
    --------
    >>> kernel = delta_orthogonal((4, 2, 3, 3), np.random.default_rng(0))
    >>> centre = kernel[:, :, 1, 1]
    >>> int(np.count_nonzero(kernel)), (centre.T @ centre + 0.0).round(9).tolist()[0][0]
    (8, 1.0)
    """
    shape = wholes("shape", shape)
    if len(shape) != 4:
        raise ValueError(f"shape must have four axes, not {shape}")
    height, width = (_odd("shape's height and width", size) for size in shape[2:])
    kernel = np.zeros(shape)
    kernel[:, :, height // 2, width // 2] = orthogonal(shape[:2], rng, gain=gain)
    return kernel


def convolution_norm(kernel: ArrayLike, side: int) -> float:
    r"""Compute how far a convolution with circular padding stretches an image at most.

    .. math:: \max_x \frac{\|k * x\|}{\|x\|} = \max_f \sigma_{\max}(\hat k_f)

    :math:`\hat k_f` is the kernel's Fourier transform at frequency f, a matrix of channels_out ×
    channels_in. With zero padding the norm is at most that on an image larger by the kernel less 1.

    Parameters
    ----------
    kernel : array_like of shape (channels_out, channels_in, height, width)
        Not larger than the image.
    side : int
        Of the square image; positive.

    Returns
    -------
    float
        The largest singular value of the convolution as a linear map.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit.

    Notes
    -----
    The norm of the kernel as a matrix of channels_out × (channels_in · height · width), which
    `companion.regularization.spectral_norm` estimates, is at most this number, and at least this
    number divided by :math:`\sqrt{\text{height} \cdot \text{width}}`. Source: Sedghi, Gupta and
    Long 2019, theorem 6.

    Examples
    --------
    >>> convolution_norm(np.full((1, 1, 3, 3), 1 / 3), 8)  # as a matrix of 1 × 9 its norm is 1
    3.0
    """
    kernel = _images("kernel", kernel, "(channels_out, channels_in, height, width)")
    if max(kernel.shape[2:]) > whole("side", side):
        raise ValueError(f"side must be {max(kernel.shape[2:])} at least, not {side!r}")
    transforms = np.fft.fft2(kernel, (side, side)).transpose(2, 3, 0, 1)
    return float(np.linalg.norm(transforms, 2, axis=(2, 3)).max())


def _taps(side: int, kernel_size: int) -> Array:
    """Make K: which pixels of a row each pixel's kernel sees, divided by its size."""
    size = _odd("kernel_size", kernel_size)
    row = np.arange(whole("side", side))
    return (abs(row[:, None] - row) <= size // 2) / size


def _odd(name: str, given: int) -> int:
    number = whole(name, given)
    if number % 2 == 0:
        raise ValueError(f"{name} must be odd, not {number}")
    return number


def _images(name: str, given: ArrayLike, shape: str) -> Array:
    x = finite_array(name, given)
    if x.ndim != 4 or not x.size:
        raise ValueError(f"{name} must be of shape {shape}, no axis of length 0, not {x.shape}")
    return x
