"""What a cell states about what it has measured: `claim`, `check`, and the `interval` of seeds."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from companion.checks import choice, real

__all__ = ["VARIES", "Claim", "ClaimError", "check", "claim", "interval"]

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
    rf"(?: over (?P<n_seeds>\d+) seeds(?:, (?P<n_overflowed>\d+) more overflowed)?)?"
    rf" \((?P<bounds>estimate|(?:expected|above|below) [^;]*?)"
    rf"(?:; varies: (?P<varies>{'|'.join(VARIES)}))?(?:; (?P<source>.*))?\)"
)


class ClaimError(AssertionError):
    """A claim that does not hold; its message is the claim's line, marked ✗."""


@dataclass(frozen=True)
class Claim:
    """One claim: what was measured, and what it was required to be.

    The fields are the arguments of `claim`. `value` is the mean where there are several seeds;
    then `spread` is half the width of its 95 % interval, `n_seeds` the number of seeds in it, and
    `n_overflowed` the number of further seeds whose nets overflowed and are not in it.
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
    n_overflowed: int = 0

    @property
    def kind(self) -> str:
        """By what it requires: "theory", "order" or "estimate"."""
        if self.expect is not None:
            return "theory"
        return "estimate" if self.above is None and self.below is None else "order"

    @property
    def holds(self) -> bool:
        """Whether value and interval are as required; what is no finite number never is."""
        return self._admits(self.value, self.spread or 0.0)

    def _admits(self, value: float, spread: float) -> bool:
        if self.expect is not None and self.within is not None:
            rounding = 1e-15 * (abs(self.expect) + self.within)  # 1.02 - 1 is not 0.02 in binary
            return abs(value - self.expect) <= self.within + rounding
        lowest = -math.inf if self.above is None else self.above
        highest = math.inf if self.below is None else self.below
        return lowest < value - spread and value + spread < highest

    @property
    def measured(self) -> str:
        """The measured value as the line prints it, with spread, unit and number of seeds."""
        mean, spread = self._printed()
        unit = self.unit if self.unit in ("", "×") else f" {self.unit}"
        if spread is None:
            return mean + unit
        lost = f", {self.n_overflowed} more overflowed" if self.n_overflowed else ""
        return f"{mean} ± {spread}{unit} over {self.n_seeds} seeds{lost}"

    def _printed(self) -> tuple[str, str | None]:
        """Mean and spread, in as many places that rounding carries neither across a bound."""
        for more in range(10):  # 0.9999 is below 1
            mean = _rounded(self.value, self._decimals, more)
            spread = None if self.spread is None else _rounded(self.spread, self._decimals, more)
            if self._admits(float(mean), float(spread or 0)) == self.holds:
                break
        return mean, spread

    @property
    def required(self) -> str:
        """In words: "expected 1.00 ± 0.02", "above 0.9, below 1", "estimate"."""
        if self.expect is not None and self.within is not None:
            if self.within == 0:
                return f"expected {self.expect:.12g} exactly"
            tolerance = f"{self.within:.12g}"
            decimals = max(-int(Decimal(tolerance).as_tuple().exponent), 0)
            return f"expected {_rounded(self.expect, decimals)} ± {tolerance}"
        bounds = (("above", self.above), ("below", self.below))
        return ", ".join(f"{word} {x:.12g}" for word, x in bounds if x is not None) or "estimate"

    @property
    def _decimals(self) -> int | None:
        """Decimals that show the tolerance, one more than its own; None: three digits in all."""
        if self.spread:
            return max(_last_place(float(f"{self.spread:.0e}")), 0)  # 0.97 is printed as 1
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
        for phrase in part["bounds"].split(", ") if part["bounds"] != "estimate" else ():
            word, number, *tolerance = phrase.split()
            bounds["expect" if word == "expected" else word] = float(number)
            if word == "expected":
                bounds["within"] = 0.0 if tolerance == ["exactly"] else float(tolerance[-1])
        return cls(
            part["id"],
            float(part["value"]),
            spread=None if part["spread"] is None else float(part["spread"]),
            n_seeds=None if part["n_seeds"] is None else int(part["n_seeds"]),
            n_overflowed=int(part["n_overflowed"] or 0),
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
    overflowed: ArrayLike | None = None,
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
        Without `expect`, `above` and `below` the claim is an estimate, which needs several seeds:
        that other seeds and machines agree is for the replications to show.
    expect, within : float, optional
        The value expected, from theory or a source, and the difference from it that theory allows:
        finite width, sampling error. Zero asks for equality.
    above, below : float, optional
        Strict bounds, instead of `expect`: of several seeds the whole interval must lie inside.
    overflowed : array_like of bool of shape (n_seeds,), optional
        Nets that are no longer finite, as ``Curves.overflowed`` tells. They don't enter the mean;
        the line says how many there are.
    unit : str, default ""
        Unit of value and bounds, printed behind the number.
    varies : {None, "rounding", "timing"}, default None
        Why a second run may print another value: then the stored value and the new one must both
        lie inside the bounds. By default they must agree: within their interval, or to the last
        printed place where there is none.
    source : str, default ""
        Where the expectation comes from: paper and equation, or the argument.

    Raises
    ------
    ClaimError
        If the value is not as required, or not a finite number. In a replication, where
        ``COMPANION_CLAIMS`` names a file, the value is noted there and the run goes on.
    TypeError, ValueError
        If the arguments make no claim.

    Examples
    --------
    >>> claim("half-of-the-digits-are-odd", 5, expect=5, within=0)
    ✓ half-of-the-digits-are-odd: 5 (expected 5 exactly)
    >>> claim("gain", [2.1, 1.7, 2.4, 1.9], above=0, unit="points")
    ✓ gain: 2.0 ± 0.5 points over 4 seeds (above 0)
    """
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ValueError(f"id must be kebab-case, like 'half-active-at-init', not {id!r}")
    for name, bound in (("expect", expect), ("above", above), ("below", below)):
        if bound is not None:
            real(name, bound)
    if within is not None:
        real("within", within, 0)
    if expect is not None and not (above is None and below is None):
        raise ValueError(f"{id}: give either expect, or above and/or below")
    if (expect is None) != (within is None):
        raise ValueError(f"{id}: expect and within go together")
    if above is not None and below is not None and not above < below:
        raise ValueError(f"above must be less than below, not {above!r} and {below!r}")
    if expect is not None and within == 0 and not float(expect).is_integer():
        raise ValueError("within=0 is for whole numbers; give a tolerance for a measured one")
    choice("varies", varies, (*VARIES, None))
    if not isinstance(unit, str) or re.search(r"[\d(;]|over", unit):
        raise ValueError(f"unit must be text without digits, '(' and ';', not {unit!r}")
    if not isinstance(source, str) or "\n" in source:
        raise ValueError(f"source must be one line of text, not {source!r}")
    try:
        values, lost = _measured_values(id, value, overflowed)
    except ClaimError as error:
        _note_or_raise(id, None, False, error)
        return
    mean, spread = float(values.mean()), None
    if values.ndim:
        _, low, high = interval(values)
        spread = float(high - low) / 2
        spread = 0.0 if spread < 1e-12 * abs(mean) else spread  # the rounding of equal values
    if expect is None and above is None and below is None and not values.ndim:
        raise ValueError(f"{id}: an estimate needs the values of several seeds, not one number")
    seeds = values.size if values.ndim else None
    made = Claim(
        id, mean, expect, within, above, below, spread, seeds, unit, varies, source, lost
    )  # fmt: skip
    _note_or_raise(id, mean, bool(made.holds), ClaimError(str(made)))
    print(made)


def _note_or_raise(id: str, value: float | None, holds: bool, error: ClaimError) -> None:
    """In a replication note the value, elsewhere raise the error unless the claim holds."""
    if note := os.environ.get("COMPANION_CLAIMS"):
        with Path(note).open("a") as file:
            file.write(json.dumps({"id": id, "value": value, "holds": holds}) + "\n")
    elif not holds:
        raise error


def check(says: str, value: ArrayLike, expected: ArrayLike, *, within: float = 0.0) -> None:
    """Assert an identity, an agreement to rounding or any other thing that no seed can change.

    Parameters
    ----------
    says : str
        What holds, in a few words, such as "three layers are one".
    value, expected : array_like
        Numbers or booleans, of shapes that broadcast.
    within : float, default 0
        Largest difference allowed, of any element.

    Raises
    ------
    ClaimError
        If an element differs by more, or is not a finite number.
    ValueError
        If `within` is negative or no finite number, or `says` is not one line of text.

    Examples
    --------
    >>> check("two halves are one", 0.5 + 0.5, 1)
    ✓ check: two halves are one
    >>> check("sin is odd", np.sin([-1.0, -2.0]), -np.sin([1.0, 2.0]), within=1e-15)
    ✓ check: sin is odd, to 1e-15
    """
    if not isinstance(says, str) or not says.strip() or "\n" in says:
        raise ValueError(f"says must be one line of text, not {says!r}")
    within = real("within", within, 0)
    got, wanted = (np.asarray(given, dtype=float) for given in (value, expected))
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        raise ClaimError(f"✗ check: {says}: not all of it is a finite number")
    gap = float(abs(got - wanted).max(initial=0.0))
    if not gap <= within:
        raise ClaimError(f"✗ check: {says}: off by {gap:.3g}, allowed {within:.3g}")
    print(f"✓ check: {says}" + (f", to {within:.3g}" if within else ""))


def interval(values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and the ends of its 95 % interval (Student's t).

    Parameters
    ----------
    values : array_like of shape (..., n_seeds)
        Two seeds at least. NaN marks a seed that has no value, since its net has overflowed: it is
        left out.

    Returns
    -------
    mean, low, high : ndarray of shape (...)
        NaN where fewer than two seeds are left.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, dtype=float)
    if values.shape[-1] < 2:
        n = values.shape[-1]
        raise ValueError(f"values must hold two seeds at least along the last axis, not {n}")
    there = ~np.isnan(values)
    n = there.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0.0).sum(axis=-1) / n
        squares = np.where(there, values - mean[..., None], 0.0) ** 2
        half = stdtrit(n - 1, 0.975) * np.sqrt(squares.sum(axis=-1) / (n - 1) / n)
    mean = np.where(n < 2, np.nan, mean)
    return mean, mean - half, mean + half


def _measured_values(
    id: str, value: ArrayLike, overflowed: ArrayLike | None
) -> tuple[np.ndarray, int]:
    """Check what was measured; return it without the nets that overflowed, and their number."""
    values = np.asarray(value)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"value must be a real number or an array of them, not {value!r}")
    if values.ndim > 1 or (values.ndim == 1 and values.size < 2):
        raise ValueError(
            f"{id}: value must be one number, or one per seed (two at least), "
            f"not of shape {values.shape}"
        )
    values, lost = values.astype(float), 0
    if overflowed is not None:
        gone = np.asarray(overflowed)
        if gone.dtype != bool or gone.shape != values.shape:
            raise ValueError(
                f"{id}: overflowed must hold a truth value per seed, of shape {values.shape}, "
                f"not {gone.dtype} of shape {gone.shape}"
            )
        lost = int(gone.sum())
        values = values[~gone]
        if values.size < 2:
            raise ClaimError(f"✗ {id}: of {gone.size} nets {lost} have overflowed: no mean is left")
    if not np.isfinite(values).all():
        raise ClaimError(
            f"✗ {id}: {np.count_nonzero(~np.isfinite(values))} of {values.size} values are no "
            "finite number; if nets have overflowed, say which: overflowed="
        )
    return values, lost


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
