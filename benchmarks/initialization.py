"""What the initializers cost beside torch.nn.init's, for a layer of 4096 x 4096.

Same kind of draw, same dtype, one thread: float64, in which the book works, and float32, PyTorch's
default. Both make a new array. The generators differ: NumPy's is PCG64, PyTorch's a Mersenne
twister. For normal numbers, in float64 ours come from NumPy's ziggurat, in float32, as PyTorch's,
from Box and Muller's transform. Orthogonal matrices need a factorization, PyTorch's by MKL where it
is there, ours by products of matrices. The two run in turn; a number is the median of the
repetitions, and the ratio the median of the pairs' ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from companion import initialization as ours

SIDE, REPETITIONS = 4096, 7
init: Any = torch.nn.init

PAIRS: dict[str, tuple[Callable[..., Any], Callable[[Tensor], Any]]] = {
    "xavier_uniform": (ours.xavier_uniform, init.xavier_uniform_),
    "xavier_normal": (ours.xavier_normal, init.xavier_normal_),
    "he_uniform": (ours.he_uniform, init.kaiming_uniform_),
    "he_normal": (ours.he_normal, init.kaiming_normal_),
    "lecun_uniform": (ours.lecun_uniform, lambda w: init.kaiming_uniform_(w, a=1)),
    "lecun_normal": (ours.lecun_normal, lambda w: init.kaiming_normal_(w, a=1)),
    "pytorch_default": (ours.pytorch_default, lambda w: init.kaiming_uniform_(w, a=5**0.5)),
    "randomized_asymmetric": (ours.randomized_asymmetric, init.kaiming_normal_),
    "orthogonal": (ours.orthogonal, init.orthogonal_),
}


def measure(name: str, dtype: str, repetitions: int) -> tuple[float, float, float]:
    """Seconds of ours, seconds of PyTorch's, and their ratio."""
    here, there = PAIRS[name]
    rng, seconds = np.random.default_rng(0), []
    for _ in range(repetitions + 1):
        times = [time.perf_counter()]
        here((SIDE, SIDE), rng, dtype=dtype)
        times.append(time.perf_counter())
        there(torch.empty(SIDE, SIDE, dtype=getattr(torch, dtype)))
        times.append(time.perf_counter())
        seconds.append((times[1] - times[0], times[2] - times[1]))
    pairs = seconds[1:]  # the first warms up
    ratio = statistics.median(a / b for a, b in pairs)
    return *(statistics.median(column) for column in zip(*pairs, strict=True)), ratio


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{SIDE} x {SIDE}          dtype        ours   torch.nn.init   ratio")
    for name in PAIRS:
        for dtype in ("float64", "float32"):
            few = 3 if name == "orthogonal" else REPETITIONS
            here, there, ratio = measure(name, dtype, few)
            row = f"{name:21} {dtype:9} {1e3 * here:5.0f} ms  {1e3 * there:11.0f} ms  {ratio:6.2f}"
            print(row, flush=True)
    print("randomized_asymmetric beside kaiming_normal_: PyTorch has no such rule")


if __name__ == "__main__":
    main()
