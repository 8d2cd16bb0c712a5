"""How much faster many replicas train at once than one after the other: `make bench`.

The loop is what one would write by hand: for each seed a plain `nn.Module` and its optimizer. Both
ways start from the same weights, take the same steps on the same batches in float64, and must end
in the same place. The loop has one thread (a second one does not help it: the matrices are small),
the ensemble one, then two. They run in turn; a number is the median of the repetitions.
"""

from __future__ import annotations

import os
import statistics
import time
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from companion.devices import generator
from companion.experiments import OPTIMIZERS, digits, mlp
from companion.experiments.ensemble import Ensemble, batches_of, few_threads

STEPS, RATE, REPETITIONS = 100, 0.1, 5
DATA = digits()


def loop(seeds: range, batch_size: int, **architecture: Any) -> tuple[float, np.ndarray]:
    """Train one net after the other; return seconds and the first weights of each."""
    x, y = torch.from_numpy(DATA.x_train), torch.from_numpy(DATA.y_train)
    rngs = [generator(seed) for seed in seeds]
    nets = [mlp(x.shape[1], 10, rng, **architecture) for rng in rngs]
    start = time.perf_counter()
    for net, rng in zip(nets, rngs, strict=True):
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
        for batch in islice(batches_of([rng], len(x), batch_size), STEPS):
            chosen = torch.from_numpy(batch[0])
            optimizer.zero_grad()
            cross_entropy(net(x[chosen]), y[chosen]).backward()
            optimizer.step()
    elapsed = time.perf_counter() - start
    return elapsed, np.stack([net[0].weight.detach().numpy() for net in nets])


def at_once(seeds: range, batch_size: int, **architecture: Any) -> tuple[float, np.ndarray]:
    """Train all at once; return seconds and the first weights of each."""
    rngs = [generator(seed) for seed in seeds]
    nets = [mlp(DATA.x_train.shape[1], 10, rng, **architecture) for rng in rngs]
    start = time.perf_counter()
    ensemble = Ensemble(nets, DATA, OPTIMIZERS["sgd"], 1, 0.0, None)
    for batch in islice(batches_of(rngs, len(DATA.x_train), batch_size), STEPS):
        ensemble.step(batch, [RATE])
    return time.perf_counter() - start, ensemble.state()["0.weight"][0]


def measure(replicas: int, batch_size: int, widths: tuple[int, ...]) -> tuple[float, ...]:
    """Seconds of the loop, and how many times faster the ensemble is on one and two threads."""
    rows = []
    for _ in range(REPETITIONS):
        taken, ends = [], []
        for run, threads in ((loop, 1), (at_once, 1), (at_once, 2)):
            os.environ["OMP_NUM_THREADS"] = str(threads)
            with few_threads():
                elapsed, end = run(range(replicas), batch_size, widths=widths)
            taken.append(elapsed)
            ends.append(end)
        for end in ends[1:]:
            np.testing.assert_allclose(end, ends[0], rtol=1e-6, atol=1e-9)
        rows.append((taken[0], taken[0] / taken[1], taken[0] / taken[2]))
    return tuple(statistics.median(column) for column in zip(*rows, strict=True))


def main() -> None:
    """Print the table."""
    print(f"{STEPS} steps; median of {REPETITIONS} repetitions")
    print("hidden layers    batch  replicas   loop (s)   × faster: one thread   two threads")
    for widths, batch_size in (((32, 32), 32), ((32,) * 10, 32), ((64, 64), 64)):
        for replicas in (1, 5, 20, 50, 100):
            slow, one, two = measure(replicas, batch_size, widths)
            name = f"{len(widths)} × {widths[0]}"
            row = f"{name:15}  {batch_size:5}  {replicas:8}  {slow:9.2f}"
            print(f"{row}   {one:20.1f}   {two:11.1f}", flush=True)


if __name__ == "__main__":
    main()
