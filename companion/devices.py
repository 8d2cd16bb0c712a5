"""Where the random numbers come from, and where the nets train.

Every draw in the book is made on the CPU, from a generator whose seed stands in the cell, and moved
afterwards: on every device a net starts from the same numbers. ``COMPANION_SEED=n`` in the
environment shifts all seeds at once, so that the whole book can be run again on numbers that nobody
chose. ``COMPANION_DEVICE`` names the device; without it, a GPU is taken where there is one.

Used in every chapter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from companion.checks import whole

if TYPE_CHECKING:
    import torch

__all__ = ["device", "generator", "shifted"]

_STRIDE = 100_003
"""Distance between two shifts; larger than any seed that stands in a cell."""


def shifted(seed: int) -> int:
    """Shift a seed by ``COMPANION_SEED``.

    Parameters
    ----------
    seed : int
        Not negative, less than 100,003.

    Returns
    -------
    int
        `seed` itself where ``COMPANION_SEED`` is unset, empty or 0.

    Raises
    ------
    TypeError, ValueError
        If `seed` or ``COMPANION_SEED`` is not a whole number in its range.

    Examples
    --------
    >>> shifted(7)
    7
    """
    if (seed := whole("seed", seed, 0)) >= _STRIDE:
        raise ValueError(f"seed must be less than {_STRIDE}, not {seed}")
    shift = os.environ.get("COMPANION_SEED") or "0"
    if not (shift.isascii() and shift.isdigit()):
        raise ValueError(f"COMPANION_SEED must be a whole number from 0 on, not {shift!r}")
    return seed + _STRIDE * int(shift)


def generator(seed: int = 0) -> np.random.Generator:
    """Make NumPy's random generator for a seed, shifted by ``COMPANION_SEED``.

    Parameters
    ----------
    seed : int, default 0
        Not negative, less than 100,003.

    Returns
    -------
    numpy.random.Generator
        The same numbers for the same seed and shift, on every machine.

    Raises
    ------
    TypeError, ValueError
        As `shifted`.

    Examples
    --------
    >>> generator(0).integers(10, size=3)
    array([8, 6, 5])
    """
    return np.random.default_rng(shifted(seed))


def device() -> torch.device:
    """Choose where to train: ``COMPANION_DEVICE``, or else CUDA where it is at hand, or the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If ``COMPANION_DEVICE`` is no device's name, or names one that this machine lacks.

    Notes
    -----
    Apple's MPS is taken only if asked for: it knows no float64, in which the book trains, so that
    nets train in float32 there and numbers differ from those on the page.

    Examples
    --------
    >>> device().type in ("cpu", "cuda")
    True
    """
    import torch

    name = os.environ.get("COMPANION_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    allowed = "COMPANION_DEVICE must be 'cpu', 'cuda', 'cuda:N' or 'mps'"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ValueError(f"{allowed}, not {name!r}") from None
    if chosen.type == "cuda":
        there = (chosen.index or 0) < torch.cuda.device_count()
    else:
        there = chosen.type == "cpu" or (chosen.type == "mps" and torch.backends.mps.is_available())
    if not there:
        raise ValueError(f"{allowed}, and one that this machine has, not {name!r}")
    return chosen
