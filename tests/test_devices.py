"""Seeds: the same numbers everywhere, all shifted at once."""

import numpy as np
import pytest

from companion.devices import generator, shifted


def test_seed_is_itself_without_a_shift(monkeypatch):
    for unset in ("", "0"):
        monkeypatch.setenv("COMPANION_SEED", unset)
        assert shifted(7) == 7
    monkeypatch.delenv("COMPANION_SEED")
    assert shifted(np.int64(7)) == 7
    assert np.array_equal(generator(7).normal(size=5), np.random.default_rng(7).normal(size=5))


def test_shift_moves_every_seed_to_a_new_one(monkeypatch):
    seen = set()
    for shift in range(4):
        monkeypatch.setenv("COMPANION_SEED", str(shift))
        seen |= {shifted(seed) for seed in range(500)}
    assert len(seen) == 4 * 500


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", 100_003, None])
def test_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        generator(seed)


@pytest.mark.parametrize("shift", ["-1", "1.5", "many", "²"])
def test_bad_shift_is_refused(shift, monkeypatch):
    monkeypatch.setenv("COMPANION_SEED", shift)
    with pytest.raises(ValueError, match="COMPANION_SEED must be a whole number"):
        generator(0)
