"""Data for the experiments: digits that need no download, synthetic sets, Fashion-MNIST on request.

Every set is a `Data`: inputs and labels, a training and a test part, split once and for all.

Used in the chapters that train networks, by way of `companion.experiments`.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from companion.checks import choice, real, whole
from companion.devices import generator

__all__ = ["Data", "digits", "fashion_mnist", "gaussian_noise", "xor"]

FORMS = ("centred", "uncentred", "raw")
"""What may be made of the pixels; see `digits`."""


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
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))  # the split is part of the data
    x, y = _scaled(pixels[order] / 16, 1297, form), labels[order].astype(np.int64)
    y_train = y[:1297].copy()
    if label_noise:
        rng = generator(0)
        noisy = rng.random(1297) < label_noise
        y_train[noisy] = rng.integers(10, size=noisy.sum())
    return Data(x[:n_train], y_train[:n_train], x[1297:], y[1297:])


def fashion_mnist(form: str = "centred", *, data_home: str | None = None) -> Data:
    """Fetch Fashion-MNIST from OpenML, 70 000 pictures of clothes, 28 × 28 pixels, ten classes.

    The only set that has to be downloaded (30 MB, once); scikit-learn keeps a copy.

    Parameters
    ----------
    form : {"centred", "uncentred", "raw"}, default "centred"
        As for `digits`.
    data_home : str, optional
        Folder of scikit-learn's copies; by default its own choice, ``~/scikit_learn_data``.

    Returns
    -------
    Data
        60 000 training and 10 000 test examples, in the order of the set's authors.

    Raises
    ------
    ConnectionError
        If there is no copy and the network does not answer.
    ValueError
        If `form` is unknown or what was fetched is no Fashion-MNIST.

    Notes
    -----
    Source: Xiao, Rasul & Vollgraf 2017; OpenML data set 40996.
    """
    from sklearn.datasets import fetch_openml

    choice("form", form, FORMS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every try that failed
            pixels, labels = fetch_openml(
                data_id=40996, return_X_y=True, as_frame=False, parser="liac-arff",
                data_home=data_home, n_retries=1, delay=0.01,
            )  # fmt: skip
    except OSError as error:  # what urllib raises without a network
        raise ConnectionError(
            "fashion_mnist() fetches 30 MB from openml.org once and could not reach it: "
            f"{error}. Run it where there is a network, or use digits(), which is always there."
        ) from error
    if pixels.shape[1] != 784:
        raise ValueError(f"data_home must hold pictures of 784 pixels, not {pixels.shape[1]}")
    n = 6 * len(pixels) // 7
    x, y = _scaled(pixels / 255, n, form), labels.astype(np.int64)
    return Data(x[:n], y[:n], x[n:], y[n:])


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


def _scaled(x: np.ndarray, n_train: int, form: str) -> np.ndarray:
    """Bring raw inputs, from 0 to 1, into a form; only the first `n_train` set mean and scale."""
    choice("form", form, FORMS)
    mean = x[:n_train].mean(axis=0)
    scale = 1.0 if form == "raw" else np.sqrt(((x[:n_train] - mean) ** 2).mean())
    return (x - (mean if form == "centred" else 0.0)) / scale
