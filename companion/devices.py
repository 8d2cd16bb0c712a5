"""Where the random numbers come from.

Every draw in the book is made on the CPU, from a generator whose seed stands in the cell.
``COMPANION_SEED=n`` in the environment shifts all of them at once, so that the whole book can be
run again on numbers that nobody chose.

Used in every chapter.
"""

from __future__ import annotations

import os

import numpy as np

__all__ = ["generator", "shifted"]

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
    ValueError
        If `seed` or ``COMPANION_SEED`` is not a whole number in its range.

    Examples
    --------
    >>> shifted(7)
    7
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < _STRIDE:
        raise ValueError(f"seed must be a whole number from 0 to {_STRIDE - 1}, not {seed!r}")
    shift = os.environ.get("COMPANION_SEED") or "0"
    if not (shift.isascii() and shift.isdigit()):
        raise ValueError(f"COMPANION_SEED must be a whole number from 0 on, not {shift!r}")
    return int(seed) + _STRIDE * int(shift)


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
    ValueError
        As `shifted`.

    Examples
    --------
    >>> generator(0).integers(10, size=3)
    array([8, 6, 5])
    """
    return np.random.default_rng(shifted(seed))
