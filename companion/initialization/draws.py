"""Uniform and normal numbers of a given standard deviation, as fast as PyTorch draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["check_generator", "normal", "uniform"]

Array = NDArray[np.floating[Any]]

_BLOCK = 1 << 14  # pairs of normal numbers made at a time, few enough for the processor's cache


def uniform(shape: Sequence[int], rng: np.random.Generator, std: float, dtype: DTypeLike) -> Array:
    """Draw numbers between ±√3 std."""
    kind = _float(dtype)
    check_generator(rng)
    w = rng.random(tuple(shape), dtype=kind)
    w *= 2 * math.sqrt(3) * std
    w -= math.sqrt(3) * std
    return w


def normal(shape: Sequence[int], rng: np.random.Generator, std: float, dtype: DTypeLike) -> Array:
    """Draw normal numbers of mean 0.

    In float32 by Box and Muller's transform, in a third of the time that NumPy's method takes;
    numbers there end at 5.8 standard deviations, and the last bit depends on the processor.
    """
    kind = _float(dtype)
    check_generator(rng)
    if kind == np.float64:
        w = rng.standard_normal(tuple(shape))
        w *= std
        return w
    w = np.empty(tuple(shape), kind)
    flat = w.reshape(-1)
    for start in range(0, flat.size, 2 * _BLOCK):
        part = flat[start : start + 2 * _BLOCK]
        half = -(-part.size // 2)
        radius = np.sqrt(-2 * np.log(1 - rng.random(half, dtype=kind)))
        radius *= std
        angle = rng.random(half, dtype=kind)
        angle *= 2 * math.pi
        np.multiply(radius, np.cos(angle), out=part[:half])
        part[half:] = (radius * np.sin(angle))[: part.size - half]
    return w


def check_generator(rng: np.random.Generator) -> None:
    """Refuse what is no Generator, such as a seed or the module `numpy.random`."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng must be a numpy.random.Generator, such as numpy.random.default_rng(0), not "
            f"{rng!r}"
        )


def _float(dtype: DTypeLike) -> Any:
    kind = np.dtype(dtype)
    if kind not in (np.float64, np.float32):
        raise TypeError(f"dtype must be float64 or float32, not {kind}")
    return kind
