"""Plain networks whose layers a reader can see, drawn with NumPy from a generator.

A builder is called with the number of inputs and outputs, a generator, and what it names; it
returns an `nn.Module` in float64. `companion.experiments.train` takes any such builder.

Used in the chapters that train networks, by way of `companion.experiments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from companion.checks import Seed, choice, finite_array, generator, real, whole
from companion.experiments.layers import Dropout, Elementwise, Residual, SpectralLinear
from companion.initialization import STDS, fans

__all__ = ["Activation", "Init", "fill", "mlp", "residual_mlp"]

Init = str | float | Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
"""How weights are drawn: a rule's name, σ_w, or a function of the weights' shape."""

Activation = str | Callable[[], nn.Module]
"""An activation's name, or what makes a layer of it."""


def mlp(
    n_in: int,
    n_out: int,
    rng: Seed = None,
    *,
    widths: Sequence[int] = (64, 64),
    activation: Activation = "relu",
    init: Init = "he",
    bias: float = 0.0,
    bias_std: float = 0.0,
    batch_norm: bool = False,
    layer_norm: bool = False,
    dropout: float = 0.0,
    spectral_norm: bool = False,
) -> nn.Sequential:
    """Build a fully connected net: linear layers with an activation between them.

    Parameters
    ----------
    n_in, n_out : int
        Number of inputs and outputs.
    rng : numpy.random.Generator or int, optional
        Draws the weights, layer by layer; a seed, or None for a fresh generator.
    widths : sequence of int, default (64, 64)
        Units of each hidden layer.
    activation : str or callable, default "relu"
        Name in `companion.activations.ACTIVATIONS`, with its default parameters; or what makes a
        layer of it, such as `PReLU` or ``partial(Elementwise, "leaky_relu", negative_slope=0.2)``.
    init : str, float or callable, default "he"
        Rule for the weights: "he", "xavier" or "lecun", normal, with biases of zero; "pytorch",
        weights and biases uniform on ±1/√fan_in; σ_w: normal weights of variance σ_w²/fan_in; or
        a callable that takes the shape (fan_out, fan_in) and `rng` and returns the weights, such as
        those of `companion.initialization`, with biases of zero.
    bias : float, default 0
        Where the biases of the hidden layers start; 0 leaves them as the rule has them.
    bias_std : float, default 0
        σ_b, the standard deviation of normal biases about `bias`, and of the output's about 0; 0
        leaves them as `bias` or the rule has them.
    batch_norm, layer_norm : bool, default False
        Put `nn.BatchNorm1d`, or `nn.LayerNorm`, between each hidden layer and its activation. Under
        batch norm, which would subtract it, the layer has no bias, so `bias` says nothing.
    dropout : float, default 0
        Share of the units that `Dropout` sets to zero after each activation, less than 1.
    spectral_norm : bool, default False
        Divide the weight of every linear layer by its largest singular value: `SpectralLinear`.
        The weights are those that the rule draws without.

    Returns
    -------
    nn.Sequential
        In float64.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, a number out of its range, both norms are asked for, or a callable
        returns weights that do not fit.
    """
    rng, bias, bias_std = generator("rng", rng), real("bias", bias), real("bias_std", bias_std, 0)
    widths = (n_in, *widths, n_out)
    layers: list[nn.Module] = []
    for depth, ends in enumerate(pairwise(widths), 1):
        hidden = depth < len(widths) - 1
        layers.append(
            _linear(
                *ends, rng, init=init, bias=bias if hidden else 0.0, bias_std=bias_std,
                biased=not (batch_norm and hidden), spectral_norm=spectral_norm,
            )
        )  # fmt: skip
        if hidden:
            layers += [*_norm(ends[1], batch_norm, layer_norm), _activation(activation)]
        if hidden and dropout:
            layers.append(Dropout(dropout, ends[1]))
    return nn.Sequential(*layers)


def residual_mlp(
    n_in: int,
    n_out: int,
    rng: Seed = None,
    *,
    width: int = 64,
    blocks: int = 10,
    activation: Activation = "relu",
    init: Init = "he",
    bias: float = 0.0,
    scale: float = 1.0,
    batch_norm: bool = False,
    layer_norm: bool = False,
    spectral_norm: bool = False,
) -> nn.Sequential:
    """Build a net of residual blocks, x + scale · linear(activation(x)), between two linear layers.

    Parameters
    ----------
    n_in, n_out, rng, activation, init, bias, spectral_norm
        As for `mlp`; all layers but the last are hidden.
    width, blocks : int
        Units of each block; number of blocks.
    scale : float, default 1
        Factor of each branch; 1/√blocks keeps the signal's size.
    batch_norm, layer_norm : bool, default False
        Let each branch begin with `nn.BatchNorm1d`, or with `nn.LayerNorm`.

    Returns
    -------
    nn.Sequential
        In float64.

    Raises
    ------
    TypeError, ValueError
        As `mlp`.

    Notes
    -----
    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks".
    """
    rng, bias = generator("rng", rng), real("bias", bias)
    linear = partial(_linear, rng=rng, init=init, spectral_norm=spectral_norm)
    layers: list[nn.Module] = [linear(n_in, width, bias=bias)]
    for _ in range(blocks):
        norm = _norm(width, batch_norm, layer_norm)
        branch = *norm, _activation(activation), linear(width, width, bias=bias)
        layers.append(Residual(nn.Sequential(*branch), scale))
    return nn.Sequential(*layers, linear(width, n_out))


def _activation(activation: Activation) -> nn.Module:
    """Make the layer that was asked for."""
    return activation() if callable(activation) else Elementwise(activation)


def _norm(width: int, batch_norm: bool, layer_norm: bool) -> list[nn.Module]:
    """Make the norm that was asked for, if any."""
    if batch_norm and layer_norm:
        raise ValueError("layer_norm must be False where batch_norm is True")
    if batch_norm:
        return [nn.BatchNorm1d(width, dtype=torch.float64)]
    return [nn.LayerNorm(width, dtype=torch.float64)] if layer_norm else []


def _linear(
    fan_in: int,
    fan_out: int,
    rng: np.random.Generator,
    *,
    init: Init,
    bias: float = 0.0,
    bias_std: float = 0.0,
    biased: bool = True,
    spectral_norm: bool = False,
) -> nn.Linear:
    """Make a linear layer with weights, and biases if they are not zero, from the generator."""
    fan_in, fan_out = whole("widths", fan_in), whole("widths", fan_out)
    kind = SpectralLinear if spectral_norm else nn.Linear
    layer = nn.utils.skip_init(kind, fan_in, fan_out, bias=biased, dtype=torch.float64)
    fill(layer, rng, init, bias, bias_std)
    if isinstance(layer, SpectralLinear):
        layer.start(rng.spawn(1)[0])  # which leaves the draws to come as they are
    return layer


@torch.no_grad()
def fill(
    layer: nn.Linear | nn.Conv2d,
    rng: np.random.Generator,
    init: Init,
    bias: float,
    bias_std: float = 0.0,
) -> None:
    """Draw the weights of a layer, and its biases if it has any and they are not zero."""
    weight, end = _draw_weight(tuple(layer.weight.shape), rng, init)
    layer.weight.copy_(torch.from_numpy(weight))
    if layer.bias is None:
        return
    offset = np.full(len(weight), bias)
    if bias_std:
        offset = rng.normal(bias, bias_std, len(weight))
    elif init == "pytorch" and not bias:
        offset = rng.uniform(-end, end, len(weight))
    layer.bias.copy_(torch.from_numpy(offset))


def _draw_weight(
    shape: tuple[int, ...], rng: np.random.Generator, init: Init
) -> tuple[np.ndarray, float]:
    """Draw weights of a shape; also return the end of PyTorch's interval."""
    if callable(init):
        drawn = finite_array("what init returns", init(shape, rng))
        if drawn.shape != shape:
            raise ValueError(f"init must return weights of shape {shape}, not {drawn.shape}")
        return drawn, math.nan
    fan_in, fan_out = fans(shape)
    if isinstance(init, str):
        std = STDS[choice("init", init, STDS)](fan_in, fan_out)
    else:
        std = real("init", init, 0, open_low=True) / math.sqrt(fan_in)
    end = math.sqrt(3) * std  # a uniform number on ±end has that standard deviation
    rows = fan_in, shape[0]
    drawn = rng.uniform(-end, end, rows) if init == "pytorch" else rng.normal(0, std, rows)
    return drawn.T.reshape(shape), end
