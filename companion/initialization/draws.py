"""Uniform and normal numbers of a given standard deviation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from companion.checks import Seed, generator

__all__ = ["normal", "uniform"]

Array = NDArray[np.floating[Any]]


def uniform(shape: Sequence[int], rng: Seed, std: float, dtype: DTypeLike) -> Array:
    """Draw numbers between ±√3 std."""
    end = math.sqrt(3) * std
    return 2 * end * generator("rng", rng).random(tuple(shape), dtype=_float(dtype)) - end


def normal(shape: Sequence[int], rng: Seed, std: float, dtype: DTypeLike) -> Array:
    """Draw normal numbers of mean 0."""
    return std * generator("rng", rng).standard_normal(tuple(shape), dtype=_float(dtype))


def _float(dtype: DTypeLike) -> Any:
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind not in (np.float64, np.float32):
        raise TypeError(f"dtype must be float64 or float32, not {dtype!r}")
    return kind
