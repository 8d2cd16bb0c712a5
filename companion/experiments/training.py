"""Training of many replicas of a model at once, and what it finds: `train` and `Curves`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from companion.checks import choice, finite_array, real, whole
from companion.devices import generator
from companion.experiments.datasets import Data
from companion.experiments.ensemble import Ensemble, State, batches_of, few_threads
from companion.experiments.models import mlp

__all__ = ["OPTIMIZERS", "Curves", "train"]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
"""PyTorch's optimizers with its defaults; momentum is 0.9."""

Rate = float | Callable[[int], float]


@dataclass(frozen=True)
class Curves:
    """What `train` returns. Several learning rates add an axis before the one of the seeds.

    A net is **overflowed** from the first look on at which a parameter, or an output on an example,
    is no finite number. Nothing else can be said of it: its other numbers are NaN.

    Attributes
    ----------
    steps : ndarray of shape (n_times,)
        Steps taken when the net was looked at; the first is 0.
    accuracy : ndarray of shape (n_times, n_seeds)
        Share of the test examples that are right. NaN where the targets are no labels.
    loss : ndarray of shape (n_times, n_seeds)
        Mean cross-entropy on the training set, in nats; for real targets, mean squared error.
    living : ndarray of shape (n_times, n_seeds)
        Share of the hidden units (outputs of `Elementwise` layers) whose derivative is a number
        other than zero on at least one training example; NaN where the model has none.
    gradient_norm : ndarray of shape (n_times, n_seeds)
        Largest norm of a mini-batch's gradient, before clipping, since the look before; NaN at
        step 0.
    overflowed : ndarray of bool of shape (n_times, n_seeds)
        Nets that are no longer finite.
    start, end : dict of str to ndarray of shape (n_seeds, ...)
        The parameters before and after training, under PyTorch's names, such as ``0.weight``.
    alive : ndarray of bool of shape (n_times, n_seeds, n_units)
        What `living` averages: one layer's units, or channels, after the other's; the features
        of a sequence are on its last axis. False, and without a meaning, where `overflowed`.
    layers : tuple of int
        Number of units of each layer in `alive`.
    """

    steps: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    living: np.ndarray
    gradient_norm: np.ndarray
    overflowed: np.ndarray
    start: State = field(repr=False)
    end: State = field(repr=False)
    alive: np.ndarray = field(repr=False)
    layers: tuple[int, ...]
    _places: np.ndarray = field(repr=False)
    _net_of: Callable[[int], nn.Module] = field(repr=False)

    def net(self, *place: int) -> nn.Module:
        """Return a copy of one net as it is after training, in evaluation mode.

        `place` is the place of its seed; where there are several rates, that of the rate, and then
        of the seed. Its batch norms hold the training set's mean and variance.
        """
        if len(place) != self._places.ndim:
            raise TypeError(f"net takes {self._places.ndim} places, but got {place!r}")
        return self._net_of(int(self._places[place]))


def train(
    data: Data,
    model: Callable[..., nn.Module] = mlp,
    *,
    optimizer: str = "sgd",
    learning_rate: Rate | Sequence[Rate] = 0.1,
    weight_decay: float = 0.0,
    l1: float = 0.0,
    penalized: str | None = None,
    clip_norm: float | None = None,
    frozen: Sequence[str] = (),
    start: Curves | State | None = None,
    steps: int = 200,
    batch_size: int = 64,
    every: int = 20,
    seeds: Iterable[int] = range(20),
    **architecture: Any,
) -> Curves:
    """Train a net from every seed at once, and under every learning rate.

    Parameters
    ----------
    data : Data
        As `digits` or `xor` give it. Whole numbers in `y_train` are labels, to be learned by
        cross-entropy; real ones, of shape (n,) or (n, k), by mean squared error.
    model : callable, default `mlp`
        ``model(n_in, n_out, rng, **architecture)`` returns an `nn.Module`.
    optimizer : str, default "sgd"
        One of `OPTIMIZERS`.
    learning_rate : float, callable or sequence of them, default 0.1
        Of the optimizer; a callable gives it for each step, counted from 0. A sequence trains
        every seed under each of them, from the same weights and with the same batches.
    weight_decay : float, default 0
        As the optimizer has it: on every trained parameter, weights and biases, unless `penalized`
        says otherwise.
    l1 : float, default 0
        Strength of the penalty l1 · Σ|w| on each net, part of what is descended but not of `loss`.
        Its gradient is l1 · sign(w), with sign(0) = 0. w are the trained weights: parameters of two
        or more axes, so that biases and the parameters of norms are left out, unless `penalized`
        says otherwise.
    penalized : {"weights", "all"}, optional
        Trained parameters that `weight_decay` and `l1` both cover: the weights, or all. By default
        each follows its own custom: decay covers all, the L1 penalty the weights.
    clip_norm : float, optional
        Largest norm of a replica's gradient, penalty and all; a longer one is cut to it.
    frozen : sequence of str, default ()
        Parameters that stay as they start, by the end of their names: "bias" is every bias,
        "2.weight" the weight of the module 2.
    start : Curves or dict of str to ndarray of shape (n_seeds, ...), optional
        Where to begin instead of a fresh draw: the end of an earlier run under one rate, or its
        parameters as you changed them. The optimizer's memory begins anew.
    steps : int, default 200
        Steps to take.
    batch_size : int, default 64
        Examples drawn for a step, without replacement; at most the training set.
    every : int, default 20
        Steps between two looks at the net.
    seeds : iterable of int, default range(20)
        Each gives its own weights and batches; shifted by ``COMPANION_SEED``.
    **architecture
        For `model`, such as ``widths=(64, 64)``, ``activation="relu"``, ``init="he"``.

    Returns
    -------
    Curves
        Batch norm's mean and variance are those of the whole training set there.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, a number out of its range, or the model has no parameters.
    """
    rates = list(learning_rate) if isinstance(learning_rate, Sequence) else [learning_rate]
    if not rates:
        raise ValueError("learning_rate must hold one rate at least")
    for rate in rates:
        if not callable(rate):
            real("learning_rate", rate, 0, open_low=True)
    make = OPTIMIZERS[choice("optimizer", optimizer, OPTIMIZERS)]
    batch_size, every = whole("batch_size", batch_size), whole("every", every)
    steps = whole("steps", steps, 0)
    weight_decay, l1 = real("weight_decay", weight_decay, 0), real("l1", l1, 0)
    if clip_norm is not None:
        clip_norm = real("clip_norm", clip_norm, 0, open_low=True)
    choice("penalized", penalized, ("weights", "all", None))
    finite_array("x_train", data.x_train)
    generators = [generator(seed) for seed in seeds]
    if not generators:
        raise ValueError("seeds must hold one seed at least")
    fans = data.x_train.shape[1], _n_out(data.y_train)
    nets = [model(*fans, rng, **architecture) for rng in generators]
    if not any(True for _ in nets[0].parameters()):
        raise ValueError(f"model must have parameters to train, but {model!r} built {nets[0]}")
    ensemble = Ensemble(
        nets, data, make, len(rates), weight_decay, clip_norm,
        l1=l1, penalized=penalized, frozen=frozen, generators=generators,
    )  # fmt: skip
    if start is not None:
        ensemble.load(start.end if isinstance(start, Curves) else start)
    batches = batches_of(generators, len(data.x_train), min(batch_size, len(data.x_train)))
    with few_threads():
        before = ensemble.state()
        looks, times = [ensemble.look()], [0]
        for step in tqdm(range(1, steps + 1), desc="train", delay=2, leave=False):
            ensemble.step(
                next(batches), [rate(step - 1) if callable(rate) else rate for rate in rates]
            )
            if step % every == 0 or step == steps:
                looks.append(ensemble.look())
                times.append(step)
    accuracy, loss, norm, lost, alive = (np.stack(column) for column in zip(*looks, strict=True))
    lost = np.logical_or.accumulate(lost)
    living = alive.mean(-1) if alive.shape[-1] else np.full(alive.shape[:-1], np.nan)
    accuracy, loss, norm, living = (
        np.where(lost, np.nan, x) for x in (accuracy, loss, norm, living)
    )
    alive = alive & ~lost[..., None]
    after = ensemble.state()
    places = np.arange(len(rates) * len(generators)).reshape(len(rates), -1)
    if not isinstance(learning_rate, Sequence):
        accuracy, loss, norm, lost = (x[:, 0] for x in (accuracy, loss, norm, lost))
        living, alive = living[:, 0], alive[:, 0]
        before, after = ({name: p[0] for name, p in state.items()} for state in (before, after))
        places = places[0]
    return Curves(
        np.array(times), accuracy, loss, living, norm, lost, before, after, alive, ensemble.layers,
        places, ensemble.net_of,
    )  # fmt: skip


def _n_out(y: np.ndarray) -> int:
    if y.dtype.kind in "iu":
        return int(y.max()) + 1
    return 1 if y.ndim == 1 else y.shape[1]
