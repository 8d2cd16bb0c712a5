"""Claims: what holds, what is refused, and that the printed line reads back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from companion.claims import VARIES, Claim, ClaimError, check, claim, interval


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
        (math.inf, {"above": 0}),
        ([1.0, math.nan], {}),
        ([1.0, math.inf, 1.0], {"above": 0}),
        ([1.0, 2.0, 3.0], {"above": 0}),  # 2 ± 2.5
        ([-1.0, -2.0, -3.0], {"below": 0}),
        ([0.9, 1.0, 1.1], {"expect": 1.2, "within": 0.1}),
    ],
)
def test_claim_that_does_not_hold_raises(value, bounds, capsys):
    with pytest.raises(ClaimError, match="✗ a-claim: "):
        claim("a-claim", value, **bounds)
    assert capsys.readouterr().out == ""


def test_replication_notes_every_value_and_goes_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COMPANION_CLAIMS", str(tmp_path / "notes"))
    claim("low", 0.9, expect=1.0, within=0.02)
    claim("high", [0.91234567, 1.0], unit="%")
    claim("lost", [math.nan, 1.0])
    claim("gone", [1.0, 1.0], overflowed=[True, True])
    claim("numpy", 1.0, expect=np.float64(1.0), within=np.float64(0.1))
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert notes == [
        {"id": "low", "value": 0.9, "holds": False},
        {"id": "high", "value": pytest.approx(0.956172835), "holds": True},
        {"id": "lost", "value": None, "holds": False},
        {"id": "gone", "value": None, "holds": False},
        {"id": "numpy", "value": 1.0, "holds": True},
    ]
    assert "✗ low: 0.900" in capsys.readouterr().out


def test_estimate_is_mean_and_interval_over_seeds(capsys):
    values = np.array([0.9, 1.0, 1.1, 1.0])
    claim("over-seeds", values)
    made = Claim.parse(capsys.readouterr().out)
    assert made.kind == "estimate"
    assert made.n_seeds == 4
    assert made.spread == pytest.approx(3.182446 * values.std(ddof=1) / 2, abs=0.05)
    with pytest.raises(ValueError, match="over-seeds: an estimate needs the values of several"):
        claim("over-seeds", 1.0)


def test_equal_values_have_no_spread(capsys):
    claim("equal", np.full(5, 8.4) * np.array([1, 1, 1, 1, 1 + 4e-16]), unit="%")
    assert capsys.readouterr().out == "✓ equal: 8.40 ± 0 % over 5 seeds (estimate)\n"


def test_only_the_rounding_of_equal_values_is_no_spread(capsys):
    claim("nearly", np.array([8.4, 8.4 + 1e-9]))
    assert Claim.parse(capsys.readouterr().out).spread > 0


@pytest.mark.parametrize("beyond", [1e-13, -1e-13])
def test_a_tolerance_is_no_wider_than_it_says(beyond):
    end = 1.02 if beyond > 0 else 0.98
    assert Claim("x", end, expect=1.0, within=0.02).holds
    assert not Claim("x", end + beyond, expect=1.0, within=0.02).holds


def test_noise_buys_no_tolerance():
    with pytest.raises(ValueError, match="expect and within go together"):
        claim("over-seeds", [0.0, 1.0, 2.0], expect=1.5)


def test_order_asks_for_the_whole_interval(capsys):
    claim("leads", [3.0, 4.0, 5.0, 4.0], above=0, unit="points")
    made = Claim.parse(capsys.readouterr().out)
    assert made.kind == "order"
    assert made.holds
    with pytest.raises(ClaimError, match=r"✗ leads: 4 ± 1 points over 4 seeds \(above 3.5\)"):
        claim("leads", [3.0, 4.0, 5.0, 4.0], above=3.5, unit="points")


def test_nets_that_overflowed_are_counted_and_enter_no_mean(capsys):
    claim("alive", [70.0, math.nan, 80.0, 75.0], overflowed=[False, True, False, False], unit="%")
    line = capsys.readouterr().out
    assert line == "✓ alive: 75 ± 12 % over 3 seeds, 1 more overflowed (estimate)\n"
    made = Claim.parse(line)
    assert (made.n_seeds, made.n_overflowed) == (3, 1)
    claim("alive", [70.0, 80.0, 75.0], overflowed=[False] * 3, unit="%")
    assert "overflowed" not in capsys.readouterr().out


@pytest.mark.parametrize("overflowed", [[True], [0, 1], [[True, False]], "no"])
def test_overflowed_is_one_truth_value_per_seed(overflowed):
    with pytest.raises(ValueError, match="alive: overflowed must hold a truth value per seed"):
        claim("alive", [70.0, 80.0], overflowed=overflowed)


def test_check_prints_what_holds(capsys):
    check("one is one", 1, 1)
    check("nearly", [1.0, 2.0], np.array([1.0, 2.0 + 1e-13]), within=1e-12)
    check("flags", np.array([True, True]), True)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["✓ check: one is one", "✓ check: nearly, to 1e-12", "✓ check: flags"]
    assert [Claim.parse(line) for line in lines] == [None] * 3


@pytest.mark.parametrize(
    ("value", "expected", "within", "says"),
    [
        (1.0, 1.1, 0.01, "off by 0.1, allowed 0.01"),
        ([1.0, 2.0], [1.0, 2.1], 0.01, "off by 0.1, allowed 0.01"),
        (True, False, 0, "off by 1"),
        (math.nan, math.nan, 1, "no.* finite number"),
        (math.inf, math.inf, 0, "no.* finite number"),
    ],
)
def test_check_that_does_not_hold_raises(value, expected, within, says, capsys):
    with pytest.raises(ClaimError, match=f"✗ check: it holds: .*{says}"):
        check("it holds", value, expected, within=within)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("says", "within", "error"),
    [("", 0, "says must be"), ("a\nb", 0, "says must be"), (5, 0, "says must be"),
     ("x", -1, "within must be"), ("x", math.nan, "within must be")],
)  # fmt: skip
def test_what_makes_no_check_is_refused(says, within, error):
    with pytest.raises(ValueError, match=error):
        check(says, 1, 1, within=within)


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    _, low, high = interval(rng.normal(size=(20_000, 5)))
    assert np.mean((low < 0) & (high > 0)) == pytest.approx(0.95, abs=0.006)


def test_interval_leaves_out_what_is_missing():
    mean, low, high = interval([[1.0, 2.0, np.nan], [1.0, np.nan, np.nan]])
    same, least, _ = interval([1.0, 2.0])
    assert (mean[0], low[0]) == (same, least)
    assert np.isnan([mean[1], low[1], high[1]]).all()


def test_expectation_has_as_many_places_as_its_tolerance():
    assert Claim("x", 1.26, 1.26483, 0.0105).required == "expected 1.2648 ± 0.0105"
    assert Claim("x", 100.0, 100.0, 20.0).required == "expected 100 ± 20"


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
        ({"within": math.nan}, ValueError, "within must be a finite number"),
        ({"within": math.inf}, ValueError, "within must be a finite number"),
        ({"within": "1 %"}, TypeError, "within must be a finite number"),
        ({"within": -1.0}, ValueError, "within must be a finite number, 0 or more, not -1.0"),
        ({"within": None}, ValueError, "expect and within go together"),
        ({"expect": None, "within": None}, ValueError, "an estimate needs the values"),
        ({"above": 0.0}, ValueError, "give either expect"),
        ({"expect": None}, ValueError, "expect and within go together"),
        ({"expect": 0.5, "within": 0}, ValueError, "whole numbers"),
        ({"varies": "mood"}, ValueError, "varies must be 'rounding', 'timing' or None"),
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


@pytest.mark.parametrize("spread", [0.96, 1.04, 0.0999, 0.0096, 9.7])
def test_printed_line_reads_back_as_itself(spread):
    line = str(Claim("a", 12.3456, spread=spread, n_seeds=20, unit="%"))
    assert str(Claim.parse(line)) == line
