"""Where variance and correlation settle in a wide random net, and whether they do.

The search behind `mean_field` and `critical_sigma_w`, on `companion.quadrature.Moments`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from companion.quadrature import Moments

__all__ = [
    "CLOSE", "FixedPointError", "correlation_fixed_point", "critical_variance", "depth_scale",
    "variance_fixed_point",
]  # fmt: skip

CLOSE = 1e-9  # a factor per layer this close to 1 counts as 1
_SMALL, _HUGE = 1e-36, 1e18  # between these a fixed point is looked for
_ROUNDING = 1 + 2e-15  # a variance has grown if by more than rounding errors


class FixedPointError(ValueError):
    """There is no such fixed point; the message says why, and what to do."""


def variance_fixed_point(moments: Moments, sigma_w: float, sigma_b: float, q: float) -> float:
    """Where the variance settles that starts at q; layer after layer, it moves in one direction."""
    name = f"{moments.activation.name} has no fixed point at sigma_w = {sigma_w:g}"
    name += f", sigma_b = {sigma_b:g}"
    if moments.slopes:
        factor = sigma_w**2 * float(moments.slope_square(1.0))
        if factor < 1 - CLOSE:
            return sigma_b**2 / (1 - factor)
        if factor < 1 + CLOSE and sigma_b == 0:
            return float(q)
        raise FixedPointError(
            f"{name}: each layer multiplies the variance by {factor:.6g} and adds "
            f"{sigma_b**2:.6g}, without end. Choose sigma_w = "
            f"{moments.slope_square(1.0) ** -0.5:.6g} with sigma_b = 0, or a smaller sigma_w"
        )

    def grow(q: np.ndarray) -> np.ndarray:
        return sigma_w**2 * moments.square(q) + sigma_b**2 > _ROUNDING * q

    if q == sigma_b == moments.f(0.0) == 0:
        return 0.0
    q = q or _SMALL  # from nothing, it can but grow
    grows = grow(np.array(q))
    found = _crossing(grow, q, _HUGE if grows else _SMALL)
    if grows and found is None:
        raise FixedPointError(
            f"{name}: from q = {q:g} the variance grows without end. Choose a smaller sigma_w or q"
        )
    return found or 0.0


def correlation_fixed_point(
    moments: Moments, sigma_w: float, sigma_b: float, q: float
) -> tuple[float, float]:
    """Stable correlation in the chaotic phase, and the slope of the correlation map there.

    The map is convex from 0 to 1 (its power series has no negative coefficient), so Newton's steps
    from 0 rise to the fixed point and never pass it.
    """
    c = 0.0
    while True:
        slope = sigma_w**2 * float(moments.slope_product(q, c))
        step = (sigma_w**2 * float(moments.product(q, c)) + sigma_b**2) / q - c
        higher = min(c + step / max(1 - slope, CLOSE), 1.0)
        if higher <= c:  # at 1 it is too close to tell
            return c, min(slope, 1.0)
        c = higher


def critical_variance(moments: Moments, sigma_b: float) -> float:
    """Variance at the fixed point with chi = 1, for which sigma_w² = 1 / E f'(u)²."""
    if moments.slopes:
        return 0.0  # as well as any other

    def grow(q: np.ndarray) -> np.ndarray:
        return moments.square(q) / moments.slope_square(q) + sigma_b**2 > _ROUNDING * q

    if sigma_b == 0 == moments.f(0.0):
        q: float | None = 0.0
        repels = moments.square(1e-4) > 1.000001e-4 * moments.slope_square(0.0)
    else:
        q = _crossing(grow, _SMALL, _HUGE)
        repels = q is not None and moments.growth(q) > moments.slope_square(q)
    name = f"{moments.activation.name} with sigma_b = {sigma_b:g}"
    if q is None:
        raise FixedPointError(f"{name} has no fixed point with chi = 1, whatever sigma_w is")
    if repels:
        raise FixedPointError(
            f"{name} has chi = 1 at sigma_w = {moments.slope_square(q) ** -0.5:.6g} and q = {q:.6g}"
            ", but the variance moves away from there: no net stays critical. Try a larger sigma_b"
        )
    return q


def depth_scale(factor: float) -> float:
    """-1 / ln(factor), the layers in which something shrinks e-fold."""
    if abs(factor - 1) < CLOSE:
        return math.inf
    return -1 / math.log(factor) if factor > 0 else 0.0


def _crossing(test: Callable[[np.ndarray], np.ndarray], start: float, end: float) -> float | None:
    """First q on the way from start to end at which the answer of the test is another."""
    first = test(np.array(start))
    steps = np.geomspace(start, end, 300)  # means over a normal variable bend less quickly
    others = np.flatnonzero(test(steps) != first)
    if not others.size:
        return None
    near, far = steps[others[0] - 1], steps[others[0]]
    for _ in range(12):  # each narrows sixteenfold
        between = np.linspace(near, far, 17)
        i = np.flatnonzero(test(between) != first).min(initial=16)  # rounding may hide it
        near, far = between[max(i - 1, 0)], between[i]
    return float(far)
