r"""What is known in closed form about networks that are dead at birth.

Throughout, weights are independent, continuous and symmetric about zero, and biases are zero or
just as symmetric. Then a unit is silent at a given point with probability 1/2, whatever stands
below it, and N of them are silent together with probability :math:`2^{-N}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["bounds", "exact"]


def exact(widths: Sequence[int], d_in: int, *, bias: bool, domain: str) -> float | None:
    """Return the probability that some layer is silent on the whole domain, where it is known.

    The domain is "ray", a point or all its positive multiples; "space", all of R^d_in; or "some",
    any other set of points.
    """
    first, *later = widths
    if domain == "ray":
        return 1 - _passing(widths)
    if domain == "some":
        return None
    if not later:
        return 0.0  # a unit that is silent at x speaks at -x, or further out
    if first == 1 and not bias:
        return 1 - _passing(later)  # one half-space, along which all points have one direction
    if len(later) > 1:
        return None
    second = later[0]
    if d_in == 1 and not bias:
        return _two_layers(first, second)
    if first <= d_in:  # the first layer reaches every point that is not negative
        return 2.0 ** (-(first + bias) * second)
    if bias and first == d_in + 1 and second == 1:
        return (2**d_in + 1) / 4 ** (d_in + 1)
    return None


def bounds(
    widths: Sequence[int], d_in: int, *, bias: bool, domain: str = "space"
) -> tuple[float, float]:
    """Return a lower and an upper bound of the same probability."""
    first, *later = widths
    if (known := exact(widths, d_in, bias=bias, domain=domain)) is not None:
        return known, known
    upper = 1 - _passing(widths)  # silent everywhere means silent at one point
    if d_in == 1 and not bias and domain == "space":
        one, both = 1.0, 1.0  # chances to pass the layers above, of one ray, and of two
        for n in reversed(later):
            one, both = (
                (1 - 2.0**-n) * one,
                (1 - 2.0 ** (1 - n) - (n - 1) * 4.0**-n) * both
                + (2.0 ** (1 - n) + (n - 2) * 4.0**-n) * one,
            )
        single = 2.0 ** (1 - first)
        return 1 - single * one - (1 - single) * both, upper
    below = [first, *later[:-1]]
    hopeless = [2.0 ** (-(m + bias) * n) for m, n in zip(below, later, strict=True)]
    return 1 - math.prod(1 - p for p in hopeless), upper  # all weights of a layer negative


def _passing(widths: Sequence[int]) -> float:
    """Probability that one point gets through every layer."""
    return math.prod(1 - 2.0**-n for n in widths)


def _two_layers(first: int, second: int) -> float:
    """One input, no biases: one ray passes the first layer, or two that share no unit."""
    single = 2.0 ** (1 - first)
    return single * 2.0**-second + (1 - single) * 4.0**-second
