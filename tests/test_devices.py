"""Seeds: the same numbers everywhere, all shifted at once."""

import numpy as np
import pytest
import torch

from companion.devices import device, generator, shifted


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
    assert shifted(5) == 5 + 3 * 100_003
    assert generator().random() == generator(0).random() == np.random.default_rng(300_009).random()


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", 100_003, None])
def test_bad_seed_is_refused(seed):
    with pytest.raises((TypeError, ValueError), match="seed must be "):
        generator(seed)
    assert shifted(100_002) == 100_002


@pytest.mark.parametrize("shift", ["-1", "1.5", "many", "²"])
def test_bad_shift_is_refused(shift, monkeypatch):
    monkeypatch.setenv("COMPANION_SEED", shift)
    with pytest.raises(ValueError, match="COMPANION_SEED must be a whole number"):
        generator(0)


@pytest.mark.parametrize(
    ("told", "cuda", "chosen"),
    [
        ("", 0, "cpu"),
        ("", 1, "cuda"),
        ("cpu", 1, "cpu"),
        ("cuda:1", 2, "cuda:1"),
        ("mps", 1, "mps"),
    ],
)
def test_device_is_the_one_named_or_a_gpu_if_there_is_one(told, cuda, chosen, monkeypatch):
    monkeypatch.setenv("COMPANION_DEVICE", told)
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: told == "mps")
    assert device() == torch.device(chosen)


@pytest.mark.parametrize("told", ["gpu", "cuda", "cuda:1", "mps", "xpu"])
def test_device_that_is_not_there_is_refused(told, monkeypatch):
    monkeypatch.setenv("COMPANION_DEVICE", told)
    monkeypatch.setattr("torch.cuda.device_count", lambda: int(told == "cuda:1"))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match=f"COMPANION_DEVICE must be .*{told}"):
        device()
