"""The half-dead net of ten layers, counted on the pictures it was published for.

The chapter `initialization` counts on synthetic inputs, since no page downloads anything. This
script fetches Fashion-MNIST from OpenML (30 MB, once; scikit-learn keeps it), sends 50,000
of its pictures through the same untrained net, and prints which units of layers 6 to 10 are on for
no picture, and for every one. Published, for the default: 48.0 % dead (Lippe 2022, PyTorch).

Measured on 2026-11-21 on 50,000 of the pictures, five nets, mean and standard deviation: dead
47.2 ± 0.9 % with the default, 5.1 ± 2.2 % with biases of zero, 5.0 ± 2.1 % with He's weights beside
the default's biases; always on 48.7 ± 1.2, 6.2 ± 3.5 and 5.3 ± 1.9 %.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from sklearn.datasets import fetch_openml

from companion import relu
from companion.initialization import he_normal, pytorch_default

SEEDS = range(5)
WIDTHS = [784] + [256] * 5 + [128] * 5
PUBLISHED = [0, 0, 7, 27, 89, 60, 58, 61, 72, 56]  # dead units per layer, of the default

Layers = list[tuple[np.ndarray, np.ndarray]]


def ten_layers(rule: str, seed: int) -> Layers:
    """Draw weights and biases: the default's, or with one of the two changed."""
    rng, layers = np.random.default_rng(seed), []
    for fan_in, fan_out in pairwise(WIDTHS):
        W, b = pytorch_default((fan_out, fan_in), rng, dtype=np.float32)
        he = he_normal((fan_out, fan_in), rng, dtype=np.float32)
        layers.append((he if rule == "He's weights" else W, 0 * b if rule == "zero biases" else b))
    return layers


def census(layers: Layers, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the units that are on for no picture, and for every one, in each layer."""
    low, high = ([np.full(len(b), end) for _, b in layers] for end in (np.inf, -np.inf))
    for h in np.split(images, len(images) // 1000):
        for place, (W, b) in enumerate(layers):
            z = h @ W.T + b
            low[place] = np.minimum(low[place], z.min(axis=0))
            high[place] = np.maximum(high[place], z.max(axis=0))
            h = relu(z)
    return np.array([(u <= 0).sum() for u in high]), np.array([(u > 0).sum() for u in low])


def main() -> None:
    """Print the table."""
    try:
        pixels = fetch_openml(data_id=40996, as_frame=False, parser="liac-arff").data
    except OSError as error:
        print(f"openml.org does not answer: {error}")
        return
    pictures = np.float32(2 * pixels[:50_000] / 255 - 1)  # as in the tutorial, between -1 and 1
    cases = {"pictures": pictures, "centred": pictures - pictures.mean(axis=0)}
    units = np.array(WIDTHS[1:])
    print(f"published, default: {100 * sum(PUBLISHED[5:]) / sum(units[5:]):.1f} % dead")
    print(f"layers 6 to 10, mean ± standard deviation of {len(SEEDS)} nets")
    print("inputs    rule           dead (%)  always on (%)")
    for name, images in cases.items():
        for rule in ("default", "zero biases", "He's weights"):
            counts = np.array([census(ten_layers(rule, seed), images) for seed in SEEDS])
            share = 100 * counts[:, :, 5:].sum(axis=2) / sum(units[5:])
            (dead, on), (dead_std, on_std) = share.mean(axis=0), share.std(axis=0, ddof=1)
            print(f"{name:9} {rule:13} {dead:5.1f} ± {dead_std:3.1f}  {on:6.1f} ± {on_std:3.1f}")
            print("          dead per layer:", *counts[:, 0].mean(axis=0).round(1))


if __name__ == "__main__":
    main()
