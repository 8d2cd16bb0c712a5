"""State what the prose is about to say, and fail where it isn't so.

A chapter's cell calls `claim` with the number it has just measured and the bound that theory or the
spread over seeds allows. The call prints one line, which is stored with the notebook, compared when
the notebook is run again, linked from the prose and listed in the ledger; `Claim.parse` reads the
line back. Nothing else keeps a record.

Used in every chapter; listed in the chapter `claims`.

>>> claim("he-preserves-rms", 0.998, expect=1.0, within=0.02, source="He et al. 2015, eq. 10")
✓ he-preserves-rms: 0.998 (expected 1.00 ± 0.02; He et al. 2015, eq. 10)
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["VARIES", "Claim", "ClaimError", "claim", "interval"]

VARIES: Mapping[str, str] = MappingProxyType(
    {
        "rounding": "the size of rounding errors depends on the processor",
        "timing": "times depend on the machine and on what else it does",
    }
)
"""Reasons for which a measured value may differ from run to run, within its own bounds."""

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|inf|nan)"
_LINE = re.compile(
    rf"(?P<mark>[✓✗]) (?P<id>{_ID.pattern}): (?P<value>{_NUMBER})"
    rf"(?: ± (?P<spread>{_NUMBER}))?(?P<unit> ?[^\d\s(][^\d(]*?)??"
    rf"(?: over (?P<n_seeds>\d+) seeds)?"
    rf" \((?P<bounds>(?:expected|above|below) [^;]*?)"
    rf"(?:; varies: (?P<varies>{'|'.join(VARIES)}))?(?:; (?P<source>.*))?\)"
)


class ClaimError(AssertionError):
    """A claim that does not hold; its message is the claim's line, marked ✗."""


@dataclass(frozen=True)
class Claim:
    """One claim: what was measured, and what it was required to be.

    The fields are the arguments of `claim`. `value` is the mean where there are several seeds;
    then `spread` is half the width of its 95 % interval, and `n_seeds` their number.
    """

    id: str
    value: float
    expect: float | None = None
    within: float | None = None
    above: float | None = None
    below: float | None = None
    spread: float | None = None
    n_seeds: int | None = None
    unit: str = ""
    varies: str | None = None
    source: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value lies inside its bounds; a value that is NaN never does."""
        return self._admits(self.value)

    def _admits(self, value: float) -> bool:
        if self.expect is not None and self.within is not None:
            rounding = 1e-15 * (abs(self.expect) + self.within)  # 1.02 - 1 is not 0.02 in binary
            return abs(value - self.expect) <= self.within + rounding
        lowest = -math.inf if self.above is None else self.above
        highest = math.inf if self.below is None else self.below
        return lowest < value < highest

    @property
    def measured(self) -> str:
        """The measured value as the line prints it, with spread, unit and number of seeds."""
        for more in range(10):  # rounding must not carry it across a bound: 0.9999 is below 1
            mean = _rounded(self.value, self._decimals, more)
            if self._admits(float(mean)) == self.holds:
                break
        unit = self.unit if self.unit in ("", "×") else f" {self.unit}"
        if self.spread is None:
            return mean + unit
        spread = _rounded(self.spread, self._decimals, more)
        return f"{mean} ± {spread}{unit} over {self.n_seeds} seeds"

    @property
    def required(self) -> str:
        """The bounds in words: "expected 1.00 ± 0.02", "above 0.9, below 1"."""
        if self.expect is not None and self.within is not None:
            if self.within == 0:
                return f"expected {self.expect:.12g} exactly"
            decimals = max(_last_place(self.within), 0)
            return f"expected {_rounded(self.expect, decimals)} ± {self.within:.12g}"
        bounds = (("above", self.above), ("below", self.below))
        return ", ".join(f"{word} {x:.12g}" for word, x in bounds if x is not None)

    @property
    def _decimals(self) -> int | None:
        """Decimals that show the tolerance, one more than its own; None: three digits in all."""
        if self.spread:
            return max(_last_place(self.spread), 0)
        if self.within:
            return max(_last_place(self.within) + 1, 0)
        return None

    def __str__(self) -> str:
        varies = f"; varies: {self.varies}" if self.varies else ""
        source = f"; {self.source}" if self.source else ""
        mark = "✓" if self.holds else "✗"
        return f"{mark} {self.id}: {self.measured} ({self.required}{varies}{source})"

    @classmethod
    def parse(cls, line: str) -> Claim | None:
        """Read a printed line back; None for any other line. Numbers come as precise as printed."""
        found = _LINE.fullmatch(line.strip())
        if found is None:
            return None
        part = found.groupdict()
        bounds: dict[str, float] = {}
        for phrase in part["bounds"].split(", "):
            word, number, *tolerance = phrase.split()
            bounds["expect" if word == "expected" else word] = float(number)
            if word == "expected":
                bounds["within"] = 0.0 if tolerance == ["exactly"] else float(tolerance[-1])
        return cls(
            part["id"],
            float(part["value"]),
            spread=None if part["spread"] is None else float(part["spread"]),
            n_seeds=None if part["n_seeds"] is None else int(part["n_seeds"]),
            unit=(part["unit"] or "").strip(),
            varies=part["varies"],
            source=part["source"] or "",
            **bounds,
        )


def claim(
    id: str,
    value: ArrayLike,
    *,
    expect: float | None = None,
    within: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
    varies: str | None = None,
    source: str = "",
) -> None:
    """Assert what the prose is about to say, and print it on one line.

    Parameters
    ----------
    id : str
        Kebab-case name, unique in the book: the prose links to it as ``[50 %](claim:id)``.
    value : float or array_like of shape (n_seeds,)
        What was measured. Of several seeds the mean is claimed, with its 95 % interval (Student).
    expect : float, optional
        The value expected, from theory or a source.
    within : float, optional
        Difference from `expect` that is allowed. Default, for several seeds only: four standard
        errors of their mean. Zero asks for equality.
    above, below : float, optional
        Strict bounds, instead of `expect`; at least one of the three is needed.
    unit : str, default ""
        Unit of value and bounds, printed behind the number.
    varies : {None, "rounding", "timing"}, default None
        Why a second run may print another value: then the stored value and the new one must both
        lie inside the bounds. By default they must agree to the last printed place.
    source : str, default ""
        Where the expectation comes from: paper and equation, or the argument.

    Raises
    ------
    ClaimError
        If the value is outside its bounds, or not a number. With ``COMPANION_CLAIMS=record`` in
        the environment (the replication run) the line is printed with ✗ instead.
    TypeError, ValueError
        If the arguments make no claim.

    Examples
    --------
    >>> claim("half-of-the-digits-are-odd", 5, expect=5, within=0)
    ✓ half-of-the-digits-are-odd: 5 (expected 5 exactly)
    >>> claim("accuracy", [96.1, 95.7, 96.4, 95.9], above=95, unit="%")
    ✓ accuracy: 96.0 ± 0.5 % over 4 seeds (above 95)
    """
    values = _measured_values(value)
    mean, spread = float(values.mean()), None
    if values.ndim:
        _, low, high = interval(values)
        spread = float(high - low) / 2
        if expect is not None and within is None:
            within = float(f"{4 * values.std(ddof=1) / math.sqrt(values.size):.2g}")
    _check(id, expect, within, above, below, unit, varies, source)
    seeds = values.size if values.ndim else None
    made = Claim(id, mean, expect, within, above, below, spread, seeds, unit, varies, source)
    if not made.holds and os.environ.get("COMPANION_CLAIMS") != "record":
        raise ClaimError(str(made))
    print(made)


def interval(values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and the ends of its 95 % interval (Student's t).

    Parameters
    ----------
    values : array_like of shape (..., n_seeds)
        Two seeds at least.

    Returns
    -------
    mean, low, high : ndarray of shape (...)
    """
    from scipy.special import stdtrit

    values = np.asarray(values)
    n = values.shape[-1]
    if n < 2:
        raise ValueError(f"values must hold two seeds at least along the last axis, not {n}")
    mean = values.mean(axis=-1)
    half = stdtrit(n - 1, 0.975) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def _measured_values(value: ArrayLike) -> np.ndarray:
    values = np.asarray(value)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"value must be a real number or an array of them, not {value!r}")
    if values.ndim > 1 or (values.ndim == 1 and values.size < 2):
        raise ValueError(f"value must be one number, or one per seed, not of shape {values.shape}")
    return values.astype(float)


def _check(
    id: str,
    expect: float | None,
    within: float | None,
    above: float | None,
    below: float | None,
    unit: str,
    varies: str | None,
    source: str,
) -> None:
    """Refuse arguments that make no claim."""
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ValueError(f"id must be kebab-case, like 'half-active-at-init', not {id!r}")
    for name, bound in (("expect", expect), ("within", within), ("above", above), ("below", below)):
        if bound is None:
            continue
        if not isinstance(bound, Real) or isinstance(bound, bool):
            raise TypeError(f"{name} must be a real number, not {bound!r}")
        if not math.isfinite(bound):
            raise ValueError(f"{name} must be finite, not {bound!r}")
    if (expect is None) == (above is None and below is None):
        raise ValueError(f"{id}: give either expect, or above and/or below")
    if (expect is None) != (within is None):
        raise ValueError(f"{id}: expect and within go together (of one value, give both)")
    if within is not None and within < 0:
        raise ValueError(f"within must not be negative, not {within!r}")
    if above is not None and below is not None and not above < below:
        raise ValueError(f"above must be less than below, not {above!r} and {below!r}")
    if within == 0 and not isinstance(expect, Integral) and not float(expect or 0).is_integer():
        raise ValueError("within=0 is for whole numbers; give a tolerance for a measured one")
    if varies is not None and varies not in VARIES:
        raise ValueError(f"varies must be one of {sorted(VARIES)} or None, not {varies!r}")
    if not isinstance(unit, str) or re.search(r"[\d(;]|over", unit):
        raise ValueError(f"unit must be text without digits, '(' and ';', not {unit!r}")
    if not isinstance(source, str) or "\n" in source:
        raise ValueError(f"source must be one line of text, not {source!r}")


def _last_place(tolerance: float) -> int:
    """Decimals at which the first digit of a tolerance stands: 2 for 0.02, -1 for 10."""
    return -math.floor(math.log10(tolerance) + 1e-12)


def _rounded(number: float, decimals: int | None, more: int = 0) -> str:
    """Round to so many decimals, or (None) to three digits, and some more; leave whole numbers."""
    if not math.isfinite(number) or (decimals is None and float(number).is_integer()):
        return f"{number:.12g}"
    size = math.floor(math.log10(abs(number))) if number else 0
    if decimals is None:
        return f"{number:.{2 - size + more}f}" if -4 <= size <= 2 else f"{number:.{2 + more}e}"
    if decimals > 8 and size < -3 and decimals + size > 0:
        return f"{number:.{decimals + size + more}e}"
    return f"{number:.{decimals + more}f}"
