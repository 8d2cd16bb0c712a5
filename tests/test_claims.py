"""Claims: what holds, what is refused, and that the printed line reads back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.claims import VARIES, Claim, ClaimError, claim, interval


def test_claim_prints_one_line(capsys):
    claim("he-preserves-rms", 0.998, expect=1.0, within=0.02, source="He et al. 2015, eq. 10")
    line = "✓ he-preserves-rms: 0.998 (expected 1.00 ± 0.02; He et al. 2015, eq. 10)\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0.97, {"expect": 1.0, "within": 0.02}),
        (4, {"expect": 5, "within": 0}),
        (0.5, {"above": 0.5}),
        (0.5, {"below": 0.5}),
        (2.0, {"above": 0, "below": 1}),
        (math.nan, {"above": 0}),
        (math.nan, {"expect": 1.0, "within": 0.1}),
        (math.inf, {"expect": 1.0, "within": 0.1}),
    ],
)
def test_claim_that_does_not_hold_raises(value, bounds, capsys):
    with pytest.raises(ClaimError, match="✗ a-claim: "):
        claim("a-claim", value, **bounds)
    assert capsys.readouterr().out == ""


def test_replication_run_records_what_fails(monkeypatch, capsys):
    monkeypatch.setenv("COMPANION_CLAIMS", "record")
    claim("a-claim", 0.9, expect=1.0, within=0.02)
    made = Claim.parse(capsys.readouterr().out)
    assert made is not None
    assert not made.holds


def test_seeds_give_mean_interval_and_tolerance(capsys):
    values = np.array([0.9, 1.0, 1.1, 1.0])
    claim("over-seeds", values, expect=1.0)
    made = Claim.parse(capsys.readouterr().out)
    error = values.std(ddof=1) / 2
    assert made.n_seeds == 4
    assert made.within == pytest.approx(4 * error, rel=0.05)
    assert made.spread == pytest.approx(3.182446 * error, abs=0.05)
    with pytest.raises(ClaimError):
        claim("over-seeds", values, expect=1.2)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    _, low, high = interval(rng.normal(size=(20_000, 5)))
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.95, abs=0.006)


NUMBERS = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9)
TEXT = st.text("abcdef XYZ(),.;0123 ²", max_size=20).map(str.strip)


@settings(deadline=None, derandomize=True)
@given(
    value=NUMBERS,
    expect=NUMBERS,
    within=st.floats(1e-9, 1e6),
    source=TEXT,
    unit=st.sampled_from(["", "%", "×", "ms"]),
    varies=st.sampled_from([None, *VARIES]),
)
def test_line_reads_back_two_sided(value, expect, within, source, unit, varies):
    made = Claim("a-1-b", value, expect, within, unit=unit, varies=varies, source=source)
    read = Claim.parse(str(made))
    assert read is not None
    assert (read.id, read.unit, read.varies, read.source) == ("a-1-b", unit, varies, source)
    assert abs(read.value - value) <= within
    assert read.within == pytest.approx(within, rel=1e-9)


@settings(deadline=None, derandomize=True)
@given(value=NUMBERS, bound=NUMBERS, more=st.booleans())
def test_line_reads_back_one_sided_and_never_across_its_bound(value, bound, more):
    made = Claim("x", value, above=bound) if more else Claim("x", value, below=bound)
    read = Claim.parse(str(made))
    assert read is not None
    if abs(value - bound) > 1e-8 * max(abs(value), abs(bound)):
        assert read.holds == made.holds
    assert read.value == pytest.approx(value, rel=0.006)


def test_other_lines_are_no_claims():
    for line in (
        "",
        "✓ looks fine",
        "✓ a-claim: 0.5",
        "a-claim: 0.5 (above 0)",
        "✓ A: 1 (above 0)",
    ):
        assert Claim.parse(line) is None


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"id": "Not Kebab"}, ValueError, "id must be kebab-case"),
        ({"id": 5}, ValueError, "id must be kebab-case"),
        ({"value": "0.5"}, TypeError, "value must be a real number"),
        ({"value": True}, TypeError, "value must be a real number"),
        ({"value": 1j}, TypeError, "value must be a real number"),
        ({"value": [[1.0], [2.0]]}, ValueError, "value must be one number"),
        ({"value": [1.0]}, ValueError, "value must be one number"),
        ({"within": math.nan}, ValueError, "within must be finite"),
        ({"within": math.inf}, ValueError, "within must be finite"),
        ({"within": "1 %"}, TypeError, "within must be a real number"),
        ({"within": -1.0}, ValueError, "within must not be negative"),
        ({"within": None}, ValueError, "expect and within go together"),
        ({"expect": None, "within": None}, ValueError, "give either expect"),
        ({"above": 0.0}, ValueError, "give either expect"),
        ({"expect": None}, ValueError, "give either expect"),
        ({"expect": 0.5, "within": 0}, ValueError, "whole numbers"),
        ({"varies": "mood"}, ValueError, "varies must be one of"),
        ({"unit": "m2 (x)"}, ValueError, "unit must be text"),
        ({"source": "two\nlines"}, ValueError, "source must be one line"),
    ],
)
def test_what_makes_no_claim_is_refused(arguments, error, says, capsys):
    given = {"id": "a-claim", "value": 1.0, "expect": 1.0, "within": 0.1} | arguments
    with pytest.raises(error, match=says):
        claim(given.pop("id"), given.pop("value"), **given)
    assert capsys.readouterr().out == ""


def test_bounds_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="above must be less than below"):
        claim("a-claim", 1.0, above=2, below=1)


def test_interval_needs_two_seeds():
    with pytest.raises(ValueError, match="two seeds at least"):
        interval([1.0])
