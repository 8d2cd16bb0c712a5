"""What `signal_profile` costs beside the plain forward and backward pass that it looks at.

Both run in turn on the same net and batch, with one thread; a number is the median of the
repetitions, and the ratio the median of the pairs' ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from companion.vanishing_gradients import signal_profile

REPETITIONS = 60


def perceptron() -> nn.Module:
    """Twenty layers of 256 units."""
    layers = [nn.Linear(*fans) for fans in pairwise([256] * 20 + [10])]
    return nn.Sequential(
        *[part for layer in layers for part in (layer, nn.ReLU(inplace=True))][:-1]
    )


def convolutional() -> nn.Module:
    """Four convolutions and a classifier, with batch norm."""
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise([1, 16, 32, 32, 64]):
        parts += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10))


def measure(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, ...]:
    """Seconds of the plain passes, seconds of the profile, and their ratio."""

    def plain() -> None:
        cross_entropy(model(x), y).backward()

    def profile() -> None:
        signal_profile(model, x, y)

    seconds: dict[Callable[[], None], list[float]] = {plain: [], profile: []}
    for _ in range(REPETITIONS + 5):
        for run in seconds:
            model.zero_grad()  # neither finds gradients in memory
            start = time.perf_counter()
            run()
            seconds[run].append(time.perf_counter() - start)
    pairs = list(zip(seconds[plain], seconds[profile], strict=True))[5:]  # without the first five
    ratio = statistics.median(b / a for a, b in pairs)
    return *(statistics.median(column) for column in zip(*pairs, strict=True)), ratio


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    y = torch.randint(10, (256,))
    print("net                            plain    profile   ratio")
    for name, model, x in (
        ("perceptron, 20 x 256 units", perceptron(), torch.randn(256, 256)),
        ("convolutional, 8 x 8 pixels", convolutional(), torch.randn(256, 1, 8, 8)),
    ):
        plain, profile, ratio = measure(model, x, y)
        print(f"{name:28} {1e3 * plain:5.1f} ms  {1e3 * profile:5.1f} ms  {ratio:6.2f}")


if __name__ == "__main__":
    main()
