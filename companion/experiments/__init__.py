"""The laboratory: data that needs no download, and one training run for many seeds at once.

A result of one seed is an anecdote. `train` therefore stacks the parameters of all seeds along a
first axis and multiplies them as batches, so that twenty nets cost little more than a few. Every
random number is drawn on the CPU with NumPy, from one generator per seed, and the nets train in
float64: one seed alone gives the same curve as that seed among twenty.

Used in the chapters that train networks.

Examples
--------
>>> curves = train(xor(), widths=(4,), activation="tanh", steps=50, seeds=range(3))
>>> curves.accuracy.shape == (len(curves.steps), 3)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from companion.activations import activation as find_activation
from companion.devices import generator

__all__ = ["INITS", "Curves", "Data", "digits", "train", "xor"]

INITS: dict[str, Callable[[int, int], float]] = {
    "he": lambda fan_in, fan_out: math.sqrt(2 / fan_in),
    "xavier": lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "lecun": lambda fan_in, fan_out: math.sqrt(1 / fan_in),
}
"""Standard deviation of normal weights, by the name of the rule; biases start at zero."""


class Data(NamedTuple):
    """A classification task: inputs of shape (n, d) and labels of shape (n,), train and test."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Curves:
    """What `train` returns.

    Attributes
    ----------
    steps : ndarray of shape (n_times,)
        Steps taken when the net was looked at; the first is 0.
    accuracy : ndarray of shape (n_times, n_seeds)
        Share of the test examples that are right; none is where the net has overflowed.
    loss : ndarray of shape (n_times, n_seeds)
        Mean cross-entropy on the training set, in nats.
    living : ndarray of shape (n_times, n_seeds)
        Share of the hidden units whose derivative is a number other than zero on at least one
        training example.
    """

    steps: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    living: np.ndarray


def digits(form: str = "centred", *, n_train: int = 1297, label_noise: float = 0.0) -> Data:
    """Load scikit-learn's 1797 handwritten digits, 8 × 8 pixels, ten classes.

    Parameters
    ----------
    form : {"centred", "uncentred", "raw"}, default "centred"
        "raw": ink from 0 to 1. "centred": each pixel's training mean subtracted, and all divided
        by one number, so that an input's mean square is one. "uncentred": divided by that number,
        but no mean subtracted.
    n_train : int, default 1297
        Training examples kept, at most 1297; the 500 test examples are always the same.
    label_noise : float, default 0
        Share of the training labels replaced by random ones.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """
    from sklearn.datasets import load_digits

    if form not in ("centred", "uncentred", "raw"):
        raise ValueError(f"form must be 'centred', 'uncentred' or 'raw', not {form!r}")
    if not 0 < n_train <= 1297:
        raise ValueError(f"n_train must be from 1 to 1297, not {n_train!r}")
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be from 0 to 1, not {label_noise!r}")
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))  # the split is part of the data
    x, y = pixels[order] / 16, labels[order].astype(np.int64)
    x_train, y_train, x_test, y_test = x[:1297], y[:1297].copy(), x[1297:], y[1297:]
    mean = x_train.mean(axis=0)
    scale = 1.0 if form == "raw" else np.sqrt(((x_train - mean) ** 2).mean())
    shift = mean if form == "centred" else 0.0
    x_train, x_test = (x_train - shift) / scale, (x_test - shift) / scale
    if label_noise:
        rng = generator(0)
        noisy = rng.random(1297) < label_noise
        y_train[noisy] = rng.integers(10, size=noisy.sum())
    return Data(x_train[:n_train], y_train[:n_train], x_test, y_test)


def xor() -> Data:
    """Build the four points of exclusive or, ±1 each way: no line separates the classes."""
    x = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    y = (x[:, 0] * x[:, 1] < 0).astype(np.int64)
    return Data(x, y, x, y)


def train(
    data: Data,
    *,
    widths: Sequence[int] = (64, 64),
    activation: str = "relu",
    init: str = "he",
    optimizer: str = "sgd",
    learning_rate: float = 0.1,
    steps: int = 200,
    batch_size: int = 64,
    every: int = 20,
    seeds: Iterable[int] = range(20),
    batch_norm: bool = False,
) -> Curves:
    """Train a fully connected classifier from every seed at once.

    Parameters
    ----------
    data : Data
        As `digits` or `xor` give it.
    widths : sequence of int, default (64, 64)
        Units of each hidden layer.
    activation : str, default "relu"
        Name in `companion.activations.ACTIVATIONS`, with its default parameters.
    init : {"he", "xavier", "lecun"}, default "he"
        Rule for the weights, see `INITS`; biases start at zero.
    optimizer : {"sgd", "adam"}, default "sgd"
        PyTorch's, with its defaults.
    learning_rate : float, default 0.1
        Of the optimizer.
    steps : int, default 200
        Steps to take.
    batch_size : int, default 64
        Examples drawn for a step, without replacement; at most the training set.
    every : int, default 20
        Steps between two looks at the net.
    seeds : iterable of int, default range(20)
        Each gives its own weights and batches; shifted by ``COMPANION_SEED``.
    batch_norm : bool, default False
        Normalize each hidden pre-activation over the batch; looks use the whole training set's
        mean and variance.

    Returns
    -------
    Curves

    Raises
    ------
    ValueError
        If a name is unknown or a number out of its range.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {sorted(INITS)}, not {init!r}")
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    if optimizer not in optimizers:
        raise ValueError(f"optimizer must be one of {sorted(optimizers)}, not {optimizer!r}")
    numbers = {"batch_size": batch_size, "every": every, "learning_rate": learning_rate}
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite, not {number!r}")
    if steps < 0:
        raise ValueError(f"steps must not be negative, not {steps!r}")
    if not all(width > 0 for width in widths):
        raise ValueError(f"widths must be positive, not {tuple(widths)!r}")
    if not np.isfinite(data.x_train).all():
        raise ValueError("x_train must be finite, but holds NaN or infinity")
    unit = find_activation(activation)
    torch.set_flush_denormal(True)  # dying nets produce denormal numbers, which are slow
    generators = [generator(seed) for seed in seeds]
    if not generators:
        raise ValueError("seeds must hold one seed at least")
    shape = (data.x_train.shape[1], *widths, int(data.y_train.max()) + 1)
    weights = [_draw(generators, *fans, init) for fans in pairwise(shape)]
    biases = [
        torch.zeros(len(generators), 1, fan_out, dtype=torch.float64) for fan_out in shape[1:]
    ]
    gammas = [torch.ones_like(bias) for bias in biases[:-1]] if batch_norm else []
    parameters = [p.requires_grad_() for p in (*weights, *biases, *gammas)]
    net = _Net(weights, biases, gammas, unit.twin(), unit.derivative)
    optimize = optimizers[optimizer](parameters, lr=learning_rate)
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    batches = _batches(generators, len(x), min(batch_size, len(x)))
    with _one_thread():
        looks = [net.look(data)]
        times = [0]
        for step in range(1, steps + 1):
            batch = next(batches)
            logits = net.forward(x[batch])[-1]
            each = cross_entropy(logits.flatten(0, 1), y[batch].flatten(), reduction="sum")
            optimize.zero_grad()
            (each / batch.shape[1]).backward()
            optimize.step()
            if step % every == 0 or step == steps:
                looks.append(net.look(data))
                times.append(step)
    accuracy, loss, living = (np.stack(column) for column in zip(*looks, strict=True))
    return Curves(np.array(times), accuracy, loss, living)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: on these small matrices a second one gains nothing.

    Where another program holds a core, it even waits for its turn at every product: measured here,
    40 s instead of 4 s.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _draw(generators: list[np.random.Generator], fan_in: int, fan_out: int, init: str) -> Tensor:
    """Weights of one layer for every seed, of shape (n_seeds, fan_in, fan_out)."""
    std = INITS[init](fan_in, fan_out)
    return torch.tensor(np.stack([rng.normal(0, std, (fan_in, fan_out)) for rng in generators]))


def _batches(
    generators: list[np.random.Generator], n: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield indices of shape (n_seeds, batch_size): shuffled anew for each pass over the data."""
    while True:
        order = np.stack([rng.permutation(n) for rng in generators])
        for start in range(0, n - batch_size + 1, batch_size):
            yield order[:, start : start + batch_size]


@dataclass(frozen=True)
class _Net:
    """The nets of all seeds: every parameter has the seeds along its first axis."""

    weights: list[Tensor]
    biases: list[Tensor]
    gammas: list[Tensor]
    activate: Callable[[Tensor], Tensor]
    derivative: Callable[[np.ndarray], np.ndarray]

    def forward(self, x: Tensor, n_statistics: int | None = None) -> list[Tensor]:
        """Pre-activations of each layer; batch norm's mean and variance from the first examples."""
        pre_activations: list[Tensor] = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = x @ weight + (bias if not self.gammas or layer == len(self.gammas) else 0)
            if layer < len(self.gammas):
                z = z - z[..., :n_statistics, :].mean(dim=-2, keepdim=True)
                variance = z[..., :n_statistics, :].square().mean(dim=-2, keepdim=True)
                z = self.gammas[layer] * torch.rsqrt(variance + 1e-5) * z + bias
            pre_activations.append(z)
            x = self.activate(z)
        return pre_activations

    @torch.no_grad()
    def look(self, data: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Test accuracy, training loss and share of living units; seed by seed fits a cache."""
        x = torch.tensor(np.concatenate([data.x_train, data.x_test]))
        labels = torch.tensor(data.y_train), torch.tensor(data.y_test)
        seeds = range(len(self.weights[0]))
        accuracy, loss, living = np.array([self._look(seed, x, *labels) for seed in seeds]).T
        return accuracy, loss, living

    def _look(self, seed: int, x: Tensor, y_train: Tensor, y_test: Tensor) -> tuple[float, ...]:
        n = len(y_train)
        weights, biases, gammas = (
            [parameter[seed] for parameter in parameters]
            for parameters in (self.weights, self.biases, self.gammas)
        )
        one = _Net(weights, biases, gammas, self.activate, self.derivative)
        *hidden, logits = one.forward(x, n)
        correct = logits[n:].argmax(-1) == y_test
        correct &= logits[n:].isfinite().all(-1)  # the largest of NaNs is no answer
        loss = cross_entropy(logits[:n], y_train)
        slopes = [self.derivative(z[:n].numpy()) for z in hidden]
        alive = [((slope != 0) & np.isfinite(slope)).any(axis=0) for slope in slopes]
        return correct.double().mean().item(), loss.item(), np.concatenate(alive).mean().item()
