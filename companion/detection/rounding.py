"""Which numbers are the same but for rounding, so that rounding decides nothing."""

from __future__ import annotations

import torch

__all__ = ["tied"]

_TIED = {torch.float64: 1e-10, torch.float32: 1e-6}


def tied(dtype: torch.dtype) -> float:
    """Tell how far apart numbers may be that count as equal, relative to the largest of them.

    1e-10 in double precision and 1e-6 in single: far more than another processor, another order of
    summation or another number of threads changes, and far less than data differ by. In half
    precision it is the distance of 1 from the next number.
    """
    return _TIED.get(dtype, torch.finfo(dtype).eps)
