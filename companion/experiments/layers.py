"""Layers that a reader can see and that can be mapped over many replicas.

What a layer keeps beside its parameters are buffers, and every draw comes from a NumPy generator:
PyTorch's own dropout and spectral norm do neither, and do not run under `torch.func.vmap` as the
laboratory needs it.

Used in the chapters that train networks, by way of `companion.experiments`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, prelu

from companion.activations import activation as find_activation
from companion.checks import Seed, generator, real

__all__ = ["Dropout", "Elementwise", "PReLU", "Residual", "SpectralLinear"]


class Elementwise(nn.Module):
    """One of the book's activations as a layer.

    Parameters
    ----------
    activation : str
        Name in `companion.activations.ACTIVATIONS`.
    **options : float
        Its parameters, such as ``negative_slope=0.2``; those not named keep their defaults.

    Raises
    ------
    TypeError, ValueError
        If the name is unknown, the activation has no twin in PyTorch, or no such parameter.
    """

    def __init__(self, activation: str, **options: float) -> None:
        super().__init__()
        self.activation, self.options = find_activation(activation), options
        self.function = self.activation.twin()
        self.activation(np.zeros(1), **options)  # which refuses what it does not know

    def forward(self, z: Tensor) -> Tensor:
        """Apply the activation to a pre-activation of any shape."""
        return self.function(z, **self.options)

    def derivative(self, z: np.ndarray) -> np.ndarray:
        """Return the activation's derivative at each pre-activation."""
        return self.activation.derivative(z, **self.options)

    def extra_repr(self) -> str:
        """Name the activation where the model is printed."""
        return ", ".join([self.activation.name, *(f"{k}={v}" for k, v in self.options.items())])


class PReLU(Elementwise):
    """ReLU with one learned slope below zero, which starts at 1/4.

    `Elementwise("prelu")` has the same shape, but keeps the slope as it is.

    Notes
    -----
    Source: He et al. 2015, eq. 1.
    """

    def __init__(self) -> None:
        super().__init__("prelu")
        self.slope = nn.Parameter(torch.full((1,), 0.25, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        """Apply the activation, with the slope as it is now."""
        return prelu(z, self.slope)

    def derivative(self, z: np.ndarray) -> np.ndarray:
        """Return the derivative at each pre-activation, with the slope as it is now."""
        slope = self.slope.item()
        if not math.isfinite(slope):  # of a net that has overflowed
            return np.full(np.shape(z), np.nan)
        return self.activation.derivative(z, slope=slope)


class Residual(nn.Module):
    """Add to the input what the branch makes of it: x + scale · branch(x)."""

    def __init__(self, branch: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return x + scale · branch(x), of the shape of x."""
        return x + self.scale * self.branch(x)


class Dropout(nn.Module):
    """Inverted dropout whose mask is a buffer, drawn when it is told to.

    In training mode it multiplies by `mask`, which is one until `draw` has been called; in
    evaluation mode it does nothing. `companion.experiments.train` draws a mask before each step.

    Parameters
    ----------
    p : float
        Share of the units that are set to zero, at least 0 and less than 1; the others are
        multiplied by 1 / (1 - p).
    width : int
        Units of the layer before it.

    Raises
    ------
    TypeError, ValueError
        If `p` is not in its range.
    """

    mask: Tensor

    def __init__(self, p: float, width: int) -> None:
        super().__init__()
        self.p = real("dropout", p, 0, 1, open_high=True)
        self.width = width
        self.register_buffer("mask", torch.ones(width, dtype=torch.float64))

    def fresh(self, n: int, rng: Seed = None) -> np.ndarray:
        """Draw a mask of shape (n, width) with zeros and 1 / (1 - p), and keep the old one."""
        return (generator("rng", rng).random((n, self.width)) >= self.p) / (1 - self.p)

    def draw(self, n: int, rng: Seed = None) -> None:
        """Draw the mask for a batch of n examples; it stays until the next."""
        self.mask = torch.from_numpy(self.fresh(n, rng)).to(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """Drop outputs of shape (n, width) where the module is in training mode."""
        return x * self.mask if self.training else x

    def extra_repr(self) -> str:
        """Tell the share where the model is printed."""
        return f"p={self.p}"


class SpectralLinear(nn.Linear):
    """A linear layer whose weight is divided by its largest singular value, the spectral norm.

    The value is estimated as PyTorch's `torch.nn.utils.parametrizations.spectral_norm` does it:
    one step of power iteration for each forward pass in training mode, from the vectors of the pass
    before; the gradient takes the vectors for constants. `weight` is the weight before division.

    Parameters
    ----------
    fan_in, fan_out, bias, device, dtype
        As for `torch.nn.Linear`. Call `start` once the weight is there.

    Notes
    -----
    Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks",
    algorithm 1.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(fan_in, fan_out, bias, device, dtype)
        self.register_buffer("u", torch.zeros_like(self.weight[:, 0]))
        self.register_buffer("v", torch.zeros_like(self.weight[0]))

    def start(self, rng: Seed = None, n_iterations: int = 15) -> None:
        """Draw the first vectors and iterate, 15 times as PyTorch does."""
        rng = generator("rng", rng)
        draws = (torch.from_numpy(rng.normal(size=len(vector))) for vector in (self.u, self.v))
        self.u, self.v = (normalize(draw, dim=0).to(self.weight) for draw in draws)
        for _ in range(n_iterations):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> None:
        """Take one step of power iteration."""
        self.u.copy_(normalize(self.weight @ self.v, dim=0))
        self.v.copy_(normalize(self.weight.T @ self.u, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ (weight / sigma).T + bias, of shape (n, fan_out)."""
        if self.training:
            self.iterate()
        u, v = self.u.clone(), self.v.clone()  # the next pass changes them in place
        return linear(x, self.weight / torch.dot(u, self.weight @ v), self.bias)
