"""What the matrix of the chapter `revival` costs, by seeds and by remedy: `make bench`.

First, the whole matrix: six regimes that kill, each with every remedy, trained and counted by
`census`, for 5, 10 and 20 seeds in turn; seconds are medians of the rounds, on one thread, of the
process's own time and by the clock. Twice the seeds must not cost more than twice the seconds.
Then the remedies one by one: 50 steps of 20 nets, in turn, and the median of the rounds' ratios to
the net without any. All nets are trained side by side (`companion.experiments`), where a small
layer's cost is mostly that of calling it; a large net may order them differently.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from companion.detection import census
from companion.devices import generator
from companion.experiments import Curves, Elementwise, digits, residual_mlp, train
from companion.experiments.ensemble import few_threads
from companion.revival import revive

SEEDS, ROUNDS, STEP_ROUNDS = (5, 10, 20), 3, 20
CENTRED, PIXELS = digits(n_train=640), digits("raw", n_train=640)
BASE = {"data": CENTRED, "widths": (32,) * 3, "steps": 50, "every": 50, "batch_size": 32}


def small(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw weights of standard deviation 0.01."""
    return rng.normal(0, 0.01, shape)


def skipping(
    n_in: int, n_out: int, rng: np.random.Generator, widths: tuple[int, ...], **architecture: Any
) -> nn.Module:
    """Build a residual net with as many activations as the plain one."""
    sizes = {"width": widths[0], "blocks": len(widths)}
    return residual_mlp(n_in, n_out, rng, **sizes, **architecture)


REGIMES: dict[str, dict[str, Any]] = {
    "Adam 0.05": {"optimizer": "adam", "learning_rate": 0.05},
    "descent 0.85": {"learning_rate": 0.85},
    "momentum 0.15": {"optimizer": "momentum", "learning_rate": 0.15},
    "raw pixels": {"optimizer": "adam", "learning_rate": 0.01, "data": PIXELS},
    "weights 0.01": {"optimizer": "adam", "learning_rate": 0.01, "init": small},
    "biases -2": {"learning_rate": 0.1, "bias": -2.0},
}
CAUSES: dict[str, dict[str, Any]] = {
    "raw pixels": {"data": CENTRED},
    "weights 0.01": {"init": "he"},
    "biases -2": {"bias": 0.0},
}
REMEDIES: dict[str, dict[str, Any]] = {
    "Leaky ReLU, 0.01": {"activation": "leaky_relu"},
    "Leaky ReLU, 0.2": {"activation": partial(Elementwise, "leaky_relu", negative_slope=0.2)},
    "PReLU": {"activation": partial(nn.PReLU, dtype=torch.float64)},
    "ELU": {"activation": "elu"},
    "SELU": {"activation": "selu"},
    "GELU": {"activation": "gelu"},
    "batch norm": {"batch_norm": True},
    "layer norm": {"layer_norm": True},
    "spectral norm": {"spectral_norm": True},
    "residual": {"model": skipping},
    "L2": {"weight_decay": 0.01},
    "L1 on weights": {"l1": 0.001},
    "dropout 0.2": {"dropout": 0.2},
    "clip to 1": {"clip_norm": 1.0},
}


def count(curves: Curves, options: dict[str, Any], n: int, *rate: int) -> float:
    """Take a census of every net, and return the share of dead units."""
    images = torch.from_numpy(options["data"].x_train)
    reports = [census(curves.net(*rate, seed), images, progress=False) for seed in range(n)]
    return float(np.mean([np.concatenate([layer.dead for layer in r]).mean() for r in reports]))


def reset(curves: Curves, images: torch.Tensor, n: int) -> dict[str, np.ndarray]:
    """Reset the dead units of every net, and return the parameters of all."""
    nets = [curves.net(seed) for seed in range(n)]
    for seed, net in enumerate(nets):
        report = census(net, images, progress=False)
        revive(net, report, rng=generator(seed), incoming="he")
    states = [dict(net.named_parameters()) for net in nets]
    return {k: np.stack([s[k].detach().numpy() for s in states]) for k in states[0]}


def matrix(n: int) -> int:
    """Fill the whole matrix for n seeds; return its number of cells."""
    cells = 0
    for regime, how in REGIMES.items():
        options = BASE | how | {"seeds": range(n)}
        rate = options["learning_rate"]
        plans: list[Any] = [rate, rate / 10]
        plans += [
            lambda t, r=rate: r * min(1, (t + 1) / 25),
            lambda t, r=rate: r / (1 + 9 * (t > 24)),
        ]
        curves = train(**options | {"learning_rate": plans})
        for place in range(4):
            count(curves, options, n, place)
        half = train(**options | {"steps": 25})
        start = reset(half, torch.from_numpy(options["data"].x_train), n)
        later = {"start": start, "steps": 25, "learning_rate": [rate, rate / 10]}
        curves = train(**options | later)
        for place in range(2):
            count(curves, options, n, place)
        single = [*REMEDIES.values(), *([CAUSES[regime]] if regime in CAUSES else [])]
        for remedy in single:
            changed = options | remedy
            count(train(**changed), changed, n)
        cells += 6 + len(single)
    return cells


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Process time and time by the clock that a run takes, in seconds."""
    process, clock = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - process, time.perf_counter() - clock


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    cells = matrix(2)  # which warms everything up
    taken: dict[int, list[tuple[float, float]]] = {n: [] for n in SEEDS}
    for _ in range(ROUNDS):
        for n in SEEDS:
            taken[n].append(seconds(partial(matrix, n)))
    print(f"the matrix, {cells} cells; medians of {ROUNDS} rounds, one thread")
    print("seeds   process (s)   clock (s)   process, ms per cell and seed")
    process: dict[int, float] = {}
    for n, times in taken.items():
        process[n], clock = (statistics.median(column) for column in zip(*times, strict=True))
        each = 1000 * process[n] / cells / n
        print(f"{n:5}   {process[n]:11.1f}   {clock:9.1f}   {each:29.2f}")
    for few, many in pairwise(SEEDS):
        assert process[many] <= 1.05 * many / few * process[few], "worse than linear in the seeds"
    kinds: dict[str, dict[str, Any]] = {"nothing": {}} | REMEDIES
    steps: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(STEP_ROUNDS):
        for name, remedy in kinds.items():
            options = BASE | {"learning_rate": 0.1} | remedy
            steps[name].append(seconds(partial(train, **options))[0])
    print(f"\n50 steps of 20 nets by plain descent; medians of {STEP_ROUNDS} rounds, process time")
    print("remedy              seconds   ratio to nothing")
    for name, runs in steps.items():
        ratios = [t / t0 for t, t0 in zip(runs, steps["nothing"], strict=True)]
        print(f"{name:18}   {statistics.median(runs):7.3f}   {statistics.median(ratios):16.2f}")


if __name__ == "__main__":
    with few_threads():
        main()
