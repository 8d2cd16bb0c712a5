"""Data for the experiments: digits that need no download, and synthetic sets.

Every set is a `Data`: inputs and labels, a training and a test part, split once and for all.

Used in the chapters that train networks, by way of `companion.experiments`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from companion.checks import choice, real, whole
from companion.devices import generator

__all__ = ["Data", "digits", "gaussian_noise", "xor"]


class Data(NamedTuple):
    """A task: inputs of shape (n, d) and labels of shape (n,), train and test."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


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
    TypeError, ValueError
        If an argument is out of its range.
    """
    from sklearn.datasets import load_digits

    if whole("n_train", n_train) > 1297:
        raise ValueError(f"n_train must be at most 1297, not {n_train}")
    label_noise = real("label_noise", label_noise, 0, 1)
    choice("form", form, ("centred", "uncentred", "raw"))
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))  # the split is part of the data
    x, y = pixels[order] / 16, labels[order].astype(np.int64)
    if form != "raw":
        mean = x[:1297].mean(axis=0)
        scale = np.sqrt(((x[:1297] - mean) ** 2).mean())
        x = (x - mean) / scale if form == "centred" else x / scale
    y_train = y[:1297].copy()
    if label_noise:
        rng = generator(0)
        noisy = rng.random(1297) < label_noise
        y_train[noisy] = rng.integers(10, size=noisy.sum())
    return Data(x[:n_train], y_train[:n_train], x[1297:], y[1297:])


def xor() -> Data:
    """Build the four points of exclusive or, ±1 each way: no line separates the classes."""
    x = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    y = (x[:, 0] * x[:, 1] < 0).astype(np.int64)
    return Data(x, y, x, y)


def gaussian_noise(n: int, n_features: int, n_classes: int = 10, *, seed: int = 0) -> Data:
    """Draw standard normal inputs with labels that have nothing to do with them.

    Nothing can be learned from it; it serves to look at nets before training.

    Parameters
    ----------
    n : int
        Examples in each of the two parts.
    n_features, n_classes : int
        Columns of the inputs; number of labels.
    seed : int, default 0
        Shifted by ``COMPANION_SEED``.

    Raises
    ------
    TypeError, ValueError
        If a number is not whole or not positive.
    """
    n, rng = whole("n", n), generator(seed)
    x = rng.normal(size=(2 * n, whole("n_features", n_features)))
    y = rng.integers(whole("n_classes", n_classes), size=2 * n)
    return Data(x[:n], y[:n], x[n:], y[n:])
