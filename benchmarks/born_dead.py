"""How much faster thousands of networks are drawn at once than one after the other.

The question is how many of 10,000 ReLU networks, drawn by He's rule, are dead at birth. The loop is
what one would write by hand: an ``nn.Sequential`` of linear layers, ``kaiming_normal_``, biases of
zero or normal ones, a look whether a layer is silent at 64 points, or at one on either side of 0,
which are the whole line if there are no biases. It builds all layers; a second loop stops at the
first one that is silent. The loops draw a few networks a round, and their times are
extrapolated to 10,000; `born_dead_probability` draws them all each round. They run in turn on one
thread; a number is the median of the rounds, the ratio that of the rounds' ratios, and the lowest
ratios to the first loop close the table. All must agree on the share within four standard errors.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.born_dead import born_dead_probability

NETS, ROUNDS, LOOPED = 10_000, 20, 10
CASES = {  # inputs, where they lie, whether there are biases
    "1 input, the line": (1, None, False),
    "1 input, biases": (1, np.linspace(-(3**0.5), 3**0.5, 64)[:, None], True),
    "2 inputs": (2, np.random.default_rng(0).normal(size=(64, 2)), False),
}
SHAPES = [(2, 10), (2, 50), (3, 50), (4, 20), (4, 50), (5, 50), (6, 20), (6, 50)]


def he_layer(fan_in: int, width: int, bias: bool) -> nn.Linear:
    """Draw a linear layer by He's rule."""
    linear = nn.Linear(fan_in, width)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    if bias:
        nn.init.normal_(linear.bias, std=(2 / fan_in) ** 0.5)
    else:
        nn.init.zeros_(linear.bias)
    return linear


def one_net(width: int, depth: int, x: Tensor, bias: bool) -> bool:
    """Build a network, and tell whether a layer is silent; without biases, the last one tells."""
    layers: list[nn.Module] = []
    for fan_in in (x.shape[1], *[width] * (depth - 1)):
        layers += [he_layer(fan_in, width, bias), nn.ReLU()]
    net = nn.Sequential(*layers)
    if not bias:
        return not net(x).any()
    silent = False
    for module in net:
        x = module(x)
        silent |= isinstance(module, nn.ReLU) and not x.any()
    return silent


def layer_by_layer(width: int, depth: int, x: Tensor, bias: bool) -> bool:
    """Do the same, but draw a layer only if the one below speaks."""
    for fan_in in (x.shape[1], *[width] * (depth - 1)):
        x = he_layer(fan_in, width, bias)(x).relu()
        if not x.any():
            return True
    return False


def timed(run: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    """Seconds by the wall clock and of the process, and what was returned."""
    start = time.perf_counter(), time.process_time()
    found = run()
    return np.array([time.perf_counter() - start[0], time.process_time() - start[1]]), found


def measure(case: str, width: int, depth: int) -> list[tuple[float, float]]:
    """Seconds for 10,000 of the loop, of ours; ratios to both loops; wall clock and process."""
    d_in, points, bias = CASES[case]
    x = torch.tensor([[1.0], [-1.0]] if points is None else points, dtype=torch.float32)
    rng, rows, dead, shares = np.random.default_rng(width * depth), [], [], []
    for _ in range(ROUNDS + 1):
        times = []
        for build in (one_net, layer_by_layer):
            spent, found = timed(lambda b=build: [b(width, depth, x, bias) for _ in range(LOOPED)])
            times.append(spent * NETS / LOOPED)
            dead += found
        spent, born = timed(
            lambda: born_dead_probability(
                [width] * depth, d_in, bias=bias, inputs=points, simulate=NETS, rng=rng
            )
        )
        shares.append(born)
        rows.append((times[0], spent, times[0] / spent, times[1] / spent))
    share = float(shares[-1])
    error = math.sqrt(max(share * (1 - share), 1e-3) / len(dead))
    assert abs(np.mean(dead) - share) < 4 * error + 4 * shares[-1].standard_error, (case, share)
    columns = zip(*rows[1:], strict=True)  # the first warms up
    return [tuple(statistics.median(part) for part in zip(*c, strict=True)) for c in columns]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{NETS} nets; median of {ROUNDS} rounds; loops extrapolated from {LOOPED} nets a round")
    print("seconds by the wall clock (process time)")
    print("                                          × a loop of        × one that stops")
    print("inputs               width depth   loop   ours  nn.Sequential      at a dead layer")
    lowest: dict[str, float] = {}
    with torch.no_grad():
        for case in CASES:
            for width, depth in SHAPES:
                loop, ours, ratio, early = measure(case, width, depth)
                print(
                    f"{case:20} {width:5} {depth:5} {loop[0]:6.1f} {ours[0]:6.3f} "
                    f"{ratio[0]:7.0f} ({ratio[1]:5.0f}) {early[0]:10.0f} ({early[1]:5.0f})",
                    flush=True,
                )
                lowest[case] = min(lowest.get(case, math.inf), *ratio)
    print("lowest:", ", ".join(f"{case}: {ratio:.0f} ×" for case, ratio in lowest.items()))


if __name__ == "__main__":
    main()
