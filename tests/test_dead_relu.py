"""One deadly step against PyTorch's, and dormancy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from companion.dead_relu import deadly_rate, dormancy_score


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- one step -------------------------------------------------------------------------------


def stepped(x, w, b, target, rate):
    """Pre-activations of a ReLU unit after one step of PyTorch's SGD on the mean squared error."""
    w, b = (torch.tensor(p, requires_grad=True) for p in (w, b))
    inputs = torch.tensor(x)
    (((inputs @ w + b).relu() - target) ** 2).mean().div(2).backward()
    torch.optim.SGD([w, b], lr=rate).step()
    return (inputs @ w + b).detach().numpy()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("centre", [0.0, 2.0])
def test_deadly_rate_is_where_pytorch_s_step_kills(seed, centre):
    r = rng(seed)
    x, w, b = r.normal(centre, 1.0, size=(30, 3)), r.normal(size=3) + centre / 2, 0.1
    z = x @ w + b
    g = (x @ x.T + 1) @ np.maximum(z, 0) / len(x)
    rate = float(deadly_rate(z, g))
    if np.isfinite(rate):
        assert stepped(x, w, b, 0.0, 0.999 * rate).max() > 0
        assert stepped(x, w, b, 0.0, 1.001 * rate).max() <= 0
    else:
        assert all(stepped(x, w, b, 0.0, tried).max() > 0 for tried in np.geomspace(1e-3, 1e3, 400))


def test_deadly_rate_where_a_step_saves_what_another_kills():
    z = np.array([[1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 2.0, -2.0]])
    g = np.array([[1.0, 1.0, 0.0, 1.0], [-0.9, -1.1, 1.0, -1.0]])
    np.testing.assert_array_equal(deadly_rate(z, g), [1.0, np.inf, np.inf, 0.0])


def test_deadly_rate_at_the_edge():
    assert deadly_rate([1.0, -1.0], [1.0, -1.0]) == 1.0  # both end at zero, where ReLU is off
    assert deadly_rate([0.0, -1.0], [0.0, 0.0]) == 0.0
    assert deadly_rate([1.0, 0.0], [1.0, -1.0]) == np.inf  # zero is off, and on after any step
    assert deadly_rate([1.0, -1.0], [1.0, 0.5]) == 1.0


# ---- dormancy -------------------------------------------------------------------------------


def test_dormancy_score_is_relative():
    sizes = rng().exponential(size=(5, 40))
    score = dormancy_score(sizes)
    np.testing.assert_allclose(score.mean(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(score, sizes / sizes.mean(axis=-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(dormancy_score(1e-3 * sizes), score, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-320, 1e308])
def test_dormancy_score_of_any_size(scale):
    np.testing.assert_allclose(dormancy_score(np.array([1.0, 1.0, 0.0]) * scale), [1.5, 1.5, 0])


def test_dormancy_of_silent_layers_and_nan_units():
    sizes = np.array([[0.0, 0.0, 0.0], [np.nan, 1.0, 3.0], [np.inf, 0.0, 0.0], [np.nan] * 3])
    before = sizes.copy()
    score = dormancy_score(sizes)
    nan = np.nan
    np.testing.assert_array_equal(score, [[0, 0, 0], [nan, 0.5, 1.5], [nan, 0, 0], [nan] * 3])
    np.testing.assert_array_equal(sizes, before)
    np.testing.assert_array_equal(dormancy_score([nan, 3.0]), [nan, 1.0])


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([1.0, -1.0], "mean_abs must not be negative"),
        ([], "mean_abs must have a last axis"),
        (1.0, "mean_abs must have a last axis"),
    ],
)
def test_bad_sizes_are_refused(sizes, says):
    with pytest.raises(ValueError, match=says):
        dormancy_score(sizes)


@pytest.mark.parametrize("sizes", ["x", [1j], [[1.0], [1.0, 2.0]], None, [True]])
def test_sizes_that_are_no_numbers_are_refused(sizes):
    with pytest.raises(TypeError, match="mean_abs must "):
        dormancy_score(sizes)


@pytest.mark.parametrize(
    ("z", "g", "error", "says"),
    [
        (["a"], [1.0], TypeError, "z must hold real numbers"),
        ([1.0], [np.nan], ValueError, "g must be finite"),
        ([1.0, 2.0], [1.0], ValueError, r"z and g must have one shape .* \(2,\) and \(1,\)"),
        (1.0, 1.0, ValueError, r"not \(\) and \(\)"),
        ([], [], ValueError, r"not \(0,\) and \(0,\)"),
    ],
)
def test_bad_steps_are_refused(z, g, error, says):
    with pytest.raises(error, match=says):
        deadly_rate(z, g)
