"""Whether a claim can fail: its distance to failure, from what it measured at other seeds."""

from __future__ import annotations

import math
import re

import numpy as np
from scipy import stats

from companion.claims import Claim
from companion.claims.records import Record, Replication

FARTHEST = 4.0
"""Deviations between replications that a tolerance may lie beyond what they measure."""

CONFIDENCE = 0.999
"""Of the interval in which replications predict a further one: with 20, four deviations wide."""

EXACT = 0.01
"""Largest tolerance, relative to what is expected, of a value that no seed changes."""

_WORDS = {
    "half": (0.5, 50), "a quarter": (0.25, 25), "a third": (1 / 3, 100 / 3), "twice": (2,),
    "a tenth": (0.1, 10), "one": (1,), "two": (2,), "three": (3,), "four": (4,), "five": (5,),
    "six": (6,), "eight": (8,), "ten": (10,), "twenty": (20,), "a hundred": (100,),
    "a thousand": (1000,),
}  # fmt: skip
_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-−]?\d+)?")


def faults(record: Record, run: Replication | None, least: int) -> list[str]:
    """Say why a claim could not have failed, or has, by its values under other seeds.

    Parameters
    ----------
    record : Record
        The claim and the sentences that lean on it.
    run : Replication or None
        What it came to under each seed shift.
    least : int
        Fewest replications allowed.
    """
    claim, run = record.claim, run or Replication([], [])
    there = np.array([value for value in run.values if value is not None])
    if not math.isfinite(claim.value):
        return [f"{claim.id}: is no number"]
    if claim.kind == "estimate" and not claim.n_seeds:
        return [f"{claim.id}: is an estimate from one seed"]
    if claim.varies == "timing":
        return unsaid(record)
    if len(there) < len(run.values):
        return [f"{claim.id}: is no number at COMPANION_SEED={run.values.index(None) + 1}"]
    if len(there) < least:
        return [f"{claim.id}: has {len(there)} replications, not {least}: `make replicate`"]
    if not predicted(claim, there):
        return [
            f"{claim.id}: {claim.measured} lies outside what its replications allow, "
            f"{there.mean():.4g} with a deviation of {there.std(ddof=1):.2g}"
        ]
    found = [f"{claim.id}: fell at COMPANION_SEED={run.fell}"] if run.fell else []
    if claim.kind == "theory":
        found += tolerance(claim, there)
    return found + unsaid(record)


def predicted(claim: Claim, there: np.ndarray) -> bool:
    """Whether replications allow what is stored."""
    n, deviation = len(there), there.std(ddof=1)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * deviation * math.sqrt(1 + 1 / n)
    printed = 0.006 * abs(claim.value) + (claim.spread or claim.within or 0) / 10  # its rounding
    return bool(abs(claim.value - there.mean()) <= half + printed)


def tolerance(claim: Claim, there: np.ndarray) -> list[str]:
    """Say if a theory is tolerated too far from what was measured."""
    expect, within = claim.expect or 0.0, claim.within or 0.0
    deviation = there.std(ddof=1)
    to_failure = within - abs(there.mean() - expect)
    if deviation > 1e-6 * abs(there.mean()):
        if to_failure > FARTHEST * deviation * (1 + 1e-9):
            return [
                f"{claim.id}: ± {within:g} is {to_failure / deviation:.0f} deviations "
                f"from failure, more than {FARTHEST:g}"
            ]
    elif within > EXACT * max(abs(expect), EXACT):
        return [f"{claim.id}: ± {within:g} is wide for a value that no seed changes"]
    return []


def unsaid(record: Record) -> list[str]:
    """Say which bounds of a claim stand in none of its sentences, or exclude nothing."""
    claim, found = record.claim, []
    text = " ".join(record.statements)
    for side, bound in (("above", claim.above), ("below", claim.below)):
        if bound is None:
            continue
        if bound == 0 and side == "above" and claim.unit == "%":
            found.append(f"{claim.id}: above 0 excludes nothing of a share")
        elif bound != (1 if claim.unit == "×" else 0) and not says(text, bound):
            found.append(f"{claim.id}: {side} {bound:g} does not stand in its sentence")
    return found


def says(text: str, number: float) -> bool:
    """Whether a text names a number, in digits or in a word."""
    plain = text.replace("{,}", "").replace(r"\,", "")
    for found in _NUMBER.findall(plain):
        if math.isclose(float(found.replace("−", "-").replace(",", "")), number, rel_tol=1e-9):
            return True
    for power in re.findall(r"10\^\{?(-?\d+)\}?", plain):
        if math.isclose(10.0 ** int(power), number, rel_tol=1e-9):
            return True
    return any(
        math.isclose(number, value, rel_tol=1e-9) and re.search(rf"\b{word}\b", text, re.I)
        for word, meanings in _WORDS.items()
        for value in meanings
    )


def is_far(claim: Claim) -> bool:
    """Whether a one-sided bound lies at least twice away from the value.

    That of a time may: it has to hold on a slower or busier machine.
    """
    if claim.varies == "timing" or (claim.above is None) == (claim.below is None):
        return False
    if claim.above is not None:
        return 0 < 2 * claim.above <= claim.value
    return 0 < 2 * abs(claim.value) <= (claim.below or 0) or claim.value == 0 < (claim.below or 0)
