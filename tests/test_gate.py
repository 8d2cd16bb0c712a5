"""Claims can fail: the gate itself, and the claims of the book."""

import re
from collections import Counter
from pathlib import Path

import pytest

from companion.claims import Claim
from companion.claims.records import Record, Replication, read_claims, replications
from tests.gate import faults, is_far, says

BOOK = Path(__file__).parent.parent / "book"
RECORDS = read_claims(BOOK)
RUNS = replications(BOOK)

STRICT = ("intro", "activations")
"""Pages without a claim that could not have failed; each rewritten page joins them."""

FEWEST = 5
"""Replications that a claim needs; 20 on a strict page."""

LOOSE = {"vanishing_gradients": 1, "dead_channels": 2}
"""How many claims of the other pages could not have failed, or have. It may only fall."""

FAR = 0
"""How many one-sided bounds in the whole book lie twice away from the value. It may only fall."""


def found(record: Record) -> list[str]:
    least = 20 if record.page in STRICT else FEWEST
    return faults(record, RUNS.get(record.claim.id), least)


@pytest.mark.parametrize("page", STRICT)
def test_claims_of_a_strict_page_can_fail(page):
    assert [fault for record in RECORDS if record.page == page for fault in found(record)] == []


def test_loose_claims_of_other_pages_grow_fewer():
    loose = {record.claim.id: record.page for record in RECORDS if found(record)}
    counts = Counter(page for page in loose.values() if page not in STRICT)
    assert dict(counts) == LOOSE, [found(r) for r in RECORDS if r.page not in STRICT and found(r)]


def test_far_bounds_grow_fewer():
    assert sum(is_far(record.claim) for record in RECORDS) == FAR


def test_no_replication_is_kept_of_a_claim_that_nobody_makes():
    assert RUNS.keys() <= {record.claim.id for record in RECORDS}


SEEDS = [50.2, 49.1, 51.3, 48.8, 50.9, 49.6, 50.4, 49.9, 51.0, 48.9]
SHARE = Claim("share", 50.0, unit="%", spread=1.0, n_seeds=20)


def judged(claim: Claim, *sentences: str, values=SEEDS, fell=(), least=10) -> list[str]:
    record = Record(claim, "page", "section", sentences)
    return faults(record, Replication(values, [*fell]), least)


def test_estimate_that_replications_predict_passes():
    assert judged(SHARE) == []


@pytest.mark.parametrize(
    ("claim", "sentence", "values", "says"),
    [
        (SHARE, "", [], "has 0 replications, not 10"),
        (SHARE, "", SEEDS[:9], "has 9 replications, not 10"),
        (SHARE, "", [*SEEDS, None], "is no number at COMPANION_SEED=11"),
        (Claim("share", 60.0, unit="%", spread=1.0, n_seeds=20), "", SEEDS, "outside what its"),
        (Claim("a", 50.0, expect=50, within=20), "", SEEDS, "deviations from failure"),
        (Claim("a", 2.0, expect=2, within=0.1), "", [2.0] * 10, "wide for a value that no seed"),
        (Claim("a", 50.0, above=40), "It is more.", SEEDS, "above 40 does not stand"),
        (Claim("a", 50.0, below=60), "Not 40 %.", SEEDS, "below 60 does not stand"),
        (Claim("a", 50.0, above=0, unit="%"), "It is 0.", SEEDS, "excludes nothing of a share"),
        (Claim("a", 1.0, below=2, varies="timing"), "The same.", [], "below 2 does not stand"),
        (Claim("a", 50.0), "", SEEDS, "is an estimate from one seed"),
        (Claim("a", float("nan"), above=0), "", SEEDS, "is no number"),
    ],
)
def test_claim_that_cannot_fail_or_has_is_named(claim, sentence, values, says):
    (fault,) = judged(claim, sentence, values=values)

    assert fault.startswith(claim.id)
    assert re.search(says, fault)


def test_claim_that_fell_is_named():
    claim = Claim("a", 50.0, above=49)
    assert judged(claim, "More than 49.", fell=[4, 10]) == ["a: fell at COMPANION_SEED=[4, 10]"]


def test_claim_that_was_never_replicated_is_named():
    record = Record(SHARE, "page", "section", ())
    assert faults(record, None, 5) == ["share: has 0 replications, not 5: `make replicate`"]


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        (Claim("a", 50.0, expect=50, within=2.5), ""),
        (Claim("a", 50.0, above=40), "More than 40 %."),
        (Claim("a", 50.0, above=0, unit="points"), "It gains."),
        (Claim("a", 50.0, above=1, unit="×"), "Slower."),
        (Claim("a", 50.0, above=10, below=100, unit="%"), "From a tenth to 100 %."),
    ],
)
def test_claim_that_can_fail_passes(claim, sentence):
    assert judged(claim, sentence) == []


@pytest.mark.parametrize(
    ("text", "number", "there"),
    [
        ("less than 1e-14", 1e-14, True),
        ("below $10^{-6}$", 1e-6, True),
        ("of 1,297 digits", 1297, True),
        ("$10{,}000$ nets", 10_000, True),
        ("fewer than half", 0.5, True),
        ("more than twice", 2, True),
        ("behalf", 0.5, False),
        ("20 of 30", 2, False),
        ("−6 or less", -6, True),
    ],
)
def test_number_is_found_in_a_sentence(text, number, there):
    assert says(text, number) is there


@pytest.mark.parametrize(
    ("claim", "far"),
    [
        (Claim("a", 10.0, above=5), True),
        (Claim("a", 9.9, above=5), False),
        (Claim("a", 9.9, above=0), False),
        (Claim("a", 2.0, below=4), True),
        (Claim("a", 2.0, below=3.9), False),
        (Claim("a", 0.0, below=1), True),
        (Claim("a", 2.0, above=0.1, below=4), False),
        (Claim("a", 2.0, expect=2, within=4), False),
        (Claim("a", 1.0, below=2, varies="timing"), False),
    ],
)
def test_bound_twice_away_is_far(claim, far):
    assert is_far(claim) is far
