"""Plain convolutional nets, drawn with NumPy from a generator.

`cnn` is called as `companion.experiments.mlp` is, with images that come flat, and goes with
`companion.experiments.train`. Used in the chapter `dead_channels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from companion.checks import Seed, choice, generator, real, whole
from companion.experiments.layers import Elementwise
from companion.experiments.models import Activation, Init, fill, mlp

__all__ = ["POOLS", "cnn"]

POOLS: dict[str | None, type[nn.Module] | None] = {
    "max": nn.MaxPool2d,
    "average": nn.AvgPool2d,
    None: None,
}
"""What may halve the image after each activation, by name."""


def cnn(
    n_in: int,
    n_out: int,
    rng: Seed = None,
    *,
    channels: Sequence[int] = (16, 32),
    activation: Activation = "relu",
    init: Init = "he",
    bias: float = 0.0,
    batch_norm: bool = False,
    kernel_size: int = 3,
    padding_mode: str = "zeros",
    pool: str | None = "max",
) -> nn.Sequential:
    """Build a convolutional net: blocks of convolution, activation and pool, then a linear layer.

    Parameters
    ----------
    n_in, n_out : int
        Number of pixels of a square image of one channel, which comes flat; number of outputs.
    rng : numpy.random.Generator or int, optional
        Draws the weights, layer by layer; a seed, or None for a fresh generator.
    channels : sequence of int, default (16, 32)
        Channels of each convolution.
    activation : str or callable, default "relu"
        As for `companion.experiments.mlp`.
    init : str, float or callable, default "he"
        Rule for the weights, as for `companion.experiments.mlp`; the fan-in of a convolution is its
        channels in times the pixels of the kernel, and a callable takes the shape (channels out,
        channels in, `kernel_size`, `kernel_size`).
    bias : float, default 0
        Where the biases of the convolutions start; 0 leaves them as the rule has them.
    batch_norm : bool, default False
        Put `nn.BatchNorm2d` between each convolution, which has no bias then, and its activation.
    kernel_size : int, default 3
        Side of the kernels; odd, so that a convolution keeps the size of the image.
    padding_mode : str, default "zeros"
        What stands beyond the border, as in `nn.Conv2d`: "zeros", "circular", "reflect" or
        "replicate".
    pool : {"max", "average", None}, default "max"
        What halves the image after each activation.

    Returns
    -------
    nn.Sequential
        In float64. Its modules are, in order, a view of the input as images, the blocks, a view of
        the last block as a vector (channel by channel), and the linear layer.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, a number out of its range, `n_in` is no square, the image cannot be
        halved once for each block, or a callable returns weights that do not fit.

    Examples
    --------
    >>> net = cnn(64, 10, rng=0, channels=(8,))
    >>> [type(module).__name__ for module in net]
    ['Unflatten', 'Conv2d', 'Elementwise', 'MaxPool2d', 'Flatten', 'Linear']
    >>> net(torch.zeros(5, 64, dtype=torch.float64)).shape
    torch.Size([5, 10])
    """
    rng, bias = generator("rng", rng), real("bias", bias)
    side = math.isqrt(whole("n_in", n_in))
    if side**2 != n_in:
        raise ValueError(f"n_in must be the square of a whole number, not {n_in}")
    if whole("kernel_size", kernel_size) % 2 == 0:
        raise ValueError(f"kernel_size must be odd, not {kernel_size}")
    halve = POOLS[choice("pool", pool, POOLS)]
    if halve is not None and side % 2 ** len(channels):
        raise ValueError(
            f"channels must be fewer where pool is {pool!r}: an image of {side} by {side} pixels "
            f"cannot be halved {len(channels)} times"
        )
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    channels_in = 1
    for width in channels:
        layer = nn.utils.skip_init(
            nn.Conv2d, channels_in, whole("channels", width), kernel_size,
            padding=kernel_size // 2, padding_mode=padding_mode, bias=not batch_norm,
            dtype=torch.float64,
        )  # fmt: skip
        fill(layer, rng, init, bias)
        layers.append(layer)
        layers += [nn.BatchNorm2d(width, dtype=torch.float64)] if batch_norm else []
        layers.append(activation() if callable(activation) else Elementwise(activation))
        if halve is not None:
            layers.append(halve(2))
            side //= 2
        channels_in = width
    output = mlp(channels_in * side**2, n_out, rng, widths=(), init=init)
    return nn.Sequential(*layers, nn.Flatten(1), *output)
