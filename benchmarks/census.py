"""What `census` costs beside a bare forward pass and beside the textbook's loop: `make bench`.

The net and the number of images are those of the best-known tutorial (Lippe 2022): ten hidden ReLU
layers, 784-5x256-5x128-10, and 50,000 inputs in batches of 1024, here synthetic. Its loop is typed
anew: layer after layer, a boolean per unit is "and"ed with "zero on the whole batch". All three run
in turn with one thread, after a first round that is left out; a number is the median of the rounds.

``python benchmarks/census.py 40`` runs 40 rounds; the default is 20.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from companion.detection import census

Loader = list[tuple[Tensor, Tensor]]


def ten_layers() -> nn.Sequential:
    """Build the net with PyTorch's default weights and biases."""
    layers = [nn.Linear(*fans) for fans in pairwise([784] + [256] * 5 + [128] * 5)]
    hidden = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(128, 10))


def bare(model: nn.Sequential, loader: Loader) -> None:
    """Run the model and keep nothing."""
    with torch.no_grad():
        for x, _ in loader:
            model(x)


def textbook(model: nn.Sequential, loader: Loader) -> list[int]:
    """Count the dead units of each hidden layer."""
    model.eval()
    dead = [
        torch.ones(m.out_features, dtype=torch.bool) for m in model[:-1] if isinstance(m, nn.Linear)
    ]
    with torch.no_grad():
        for x, _ in loader:
            place = 0
            for layer in model[:-1]:
                x = layer(x)
                if isinstance(layer, nn.ReLU):
                    dead[place] = torch.logical_and(dead[place], (x == 0).all(dim=0))
                    place += 1
    return [int(mask.sum()) for mask in dead]


def ours(model: nn.Sequential, loader: Loader) -> list[int]:
    """The same count, with all else that a census holds."""
    return [int(layer.dead.sum()) for layer in census(model, loader).layers]


def main() -> None:
    """Print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ten_layers()
    images = -0.43 + 0.39 * torch.randn(784) + 0.59 * torch.randn(50_000, 784)
    loader = [(batch, torch.zeros(len(batch))) for batch in images.split(1024)]
    assert ours(model, loader) == textbook(model, loader)
    runs: dict[str, Callable[..., Any]] = {
        "bare forward pass": bare, "the textbook's loop": textbook, "census": ours,
    }  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run(model, loader)
            times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    print(f"50,000 x 784 through ten layers, one thread; medians of {rounds} rounds")
    print(f"{'':20}  s of CPU   x bare: CPU    wall")
    for name, taken in times.items():
        pairs = list(zip(taken, times["bare forward pass"], strict=True))[1:]
        cpu, wall = (statistics.median(a[k] / b[k] for a, b in pairs) for k in (0, 1))
        seconds = statistics.median(a[0] for a, _ in pairs)
        print(f"{name:20}  {seconds:8.2f}   {cpu:11.3f}   {wall:5.3f}")


if __name__ == "__main__":
    main()
