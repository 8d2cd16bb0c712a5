"""Plain networks whose layers a reader can see, drawn with NumPy from a generator.

A builder is called with the number of inputs and outputs, a generator, and what it names; it
returns an `nn.Module` in float64. `companion.experiments.train` takes any such builder.

Used in the chapters that train networks, by way of `companion.experiments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from companion.activations import activation as find_activation

__all__ = ["INITS", "Elementwise", "Residual", "mlp", "residual_mlp"]

INITS: dict[str, Callable[[int, int], float]] = {
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "lecun": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
    "pytorch": lambda fan_in, fan_out: math.sqrt(1 / (3 * fan_in)),
}
"""Standard deviation of the weights by the name of the rule.

Weights are normal and biases zero; under "pytorch" both are uniform on ±1/√fan_in, as `nn.Linear`
has them by default.
"""


class Elementwise(nn.Module):
    """One of the book's activations as a layer.

    Parameters
    ----------
    activation : str
        Name in `companion.activations.ACTIVATIONS`; its parameters keep their defaults.

    Raises
    ------
    ValueError
        If the name is unknown or the activation has no twin in PyTorch.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = find_activation(activation)
        self.function = self.activation.twin()

    def forward(self, z: Tensor) -> Tensor:
        """Apply the activation to a pre-activation of any shape."""
        return self.function(z)

    def extra_repr(self) -> str:
        """Name the activation where the model is printed."""
        return self.activation.name


class Residual(nn.Module):
    """Add to the input what the branch makes of it: x + scale · branch(x)."""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return x + scale · branch(x), of the shape of x."""
        return x + self.scale * self.branch(x)


def mlp(
    n_in: int,
    n_out: int,
    rng: np.random.Generator,
    *,
    widths: Sequence[int] = (64, 64),
    activation: str = "relu",
    init: str | float = "he",
    bias_std: float = 0.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Build a fully connected net: linear layers with an activation between them.

    Parameters
    ----------
    n_in, n_out : int
        Number of inputs and outputs.
    rng : numpy.random.Generator
        Draws the weights, layer by layer.
    widths : sequence of int, default (64, 64)
        Units of each hidden layer.
    activation : str, default "relu"
        Name in `companion.activations.ACTIVATIONS`, with its default parameters.
    init : str or float, default "he"
        Rule for the weights: "he", "xavier" or "lecun", normal, with biases of zero; "pytorch",
        weights and biases uniform on ±1/√fan_in; or σ_w: normal weights of variance σ_w²/fan_in.
    bias_std : float, default 0
        σ_b, the standard deviation of normal biases; 0 leaves them as the rule has them.
    batch_norm : bool, default False
        Put `nn.BatchNorm1d` between each hidden layer, then without a bias, and its activation.

    Returns
    -------
    nn.Sequential
        In float64.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of its range.
    """
    widths = (n_in, *widths, n_out)
    layers: list[nn.Module] = []
    for depth, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
        hidden = depth < len(widths) - 1
        bias = not (batch_norm and hidden)
        layers.append(_linear(fan_in, fan_out, rng, init=init, bias_std=bias_std, bias=bias))
        if hidden and batch_norm:
            layers.append(nn.BatchNorm1d(fan_out, dtype=torch.float64))
        if hidden:
            layers.append(Elementwise(activation))
    return nn.Sequential(*layers)


def residual_mlp(
    n_in: int,
    n_out: int,
    rng: np.random.Generator,
    *,
    width: int = 64,
    blocks: int = 10,
    activation: str = "relu",
    init: str | float = "he",
    scale: float = 1.0,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Build a net of residual blocks, x + scale · linear(activation(x)), between two linear layers.

    Parameters
    ----------
    n_in, n_out, rng, activation, init
        As for `mlp`.
    width, blocks : int
        Units of each block; number of blocks.
    scale : float, default 1
        Factor of each branch; 1/√blocks keeps the signal's size.
    batch_norm : bool, default False
        Let each branch begin with `nn.BatchNorm1d`.

    Returns
    -------
    nn.Sequential
        In float64.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of its range.

    Notes
    -----
    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks".
    """
    layers: list[nn.Module] = [_linear(n_in, width, rng, init=init)]
    for _ in range(blocks):
        norm: list[nn.Module] = [nn.BatchNorm1d(width, dtype=torch.float64)] if batch_norm else []
        linear = _linear(width, width, rng, init=init)
        layers.append(Residual(nn.Sequential(*norm, Elementwise(activation), linear), scale))
    return nn.Sequential(*layers, _linear(width, n_out, rng, init=init))


def _linear(
    fan_in: int,
    fan_out: int,
    rng: np.random.Generator,
    *,
    init: str | float,
    bias_std: float = 0.0,
    bias: bool = True,
) -> nn.Linear:
    """Make a linear layer with weights, and biases if they are not zero, from the generator."""
    if not (fan_in > 0 and fan_out > 0):
        raise ValueError(f"widths must be positive, not {fan_in} to {fan_out}")
    if not 0 <= bias_std < math.inf:
        raise ValueError(f"bias_std must be finite and not negative, not {bias_std!r}")
    if isinstance(init, str) and init not in INITS:
        raise ValueError(f"init must be a number or one of {sorted(INITS)}, not {init!r}")
    if not isinstance(init, str) and not 0 < init < math.inf:
        raise ValueError(f"init must be a positive number or a rule's name, not {init!r}")
    std = INITS[init](fan_in, fan_out) if isinstance(init, str) else init / math.sqrt(fan_in)
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias, dtype=torch.float64)
    uniform = init == "pytorch"
    end = math.sqrt(3) * std  # a uniform number on ±end has that standard deviation
    shape = (fan_in, fan_out)
    weight = rng.uniform(-end, end, shape) if uniform else rng.normal(0, std, shape)
    offset = np.zeros(fan_out)
    if bias and bias_std:
        offset = rng.normal(0, bias_std, fan_out)
    elif bias and uniform:
        offset = rng.uniform(-end, end, fan_out)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.T))
        if bias:
            layer.bias.copy_(torch.from_numpy(offset))
    return layer
