"""`companion.regularization` against PyTorch, NumPy's SVD and what must hold."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from companion.regularization import (
    dropout,
    l1_penalty,
    l2_penalty,
    spectral_norm,
)

inf, nan = math.inf, math.nan


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# --- penalties ----------------------------------------------------------------------------------

PENALTIES = {
    "l1": (l1_penalty, lambda w: w.abs().sum()),
    "l2": (l2_penalty, lambda w: (w**2).sum() / 2),
}
each_penalty = pytest.mark.parametrize(("penalty", "formula"), PENALTIES.values(), ids=PENALTIES)


@pytest.mark.parametrize("shape", [(), (7,), (4, 3), (4, 3, 2, 2)], ids=str)
@each_penalty
def test_penalties_and_gradients_are_autograds(penalty, formula, shape):
    w = torch.tensor(draw(*shape), requires_grad=True)
    cost = 0.3 * formula(w)
    cost.backward()
    value, gradient = penalty(w.detach().numpy(), 0.3)
    assert value == pytest.approx(cost.item(), rel=1e-12)
    assert isinstance(value, float)
    np.testing.assert_allclose(gradient, w.grad, rtol=1e-12)
    assert gradient.shape == shape


@each_penalty
def test_gradients_are_finite_differences(penalty, formula):
    w, h = draw(5), 1e-6
    for i in range(5):
        step = h * np.eye(5)[i]
        slope = (penalty(w + step, 0.7)[0] - penalty(w - step, 0.7)[0]) / (2 * h)
        assert penalty(w, 0.7)[1][i] == pytest.approx(slope, rel=1e-6)


def test_subgradient_of_a_zero_is_zero_as_in_torch():
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    w.abs().sum().backward()
    assert np.array_equal(l1_penalty(np.zeros(3), 2.0)[1], w.grad)


def test_weight_decay_of_sgd_is_the_gradient_of_l2():
    w = torch.tensor(draw(4, 3), requires_grad=True)
    before, data = w.detach().numpy().copy(), draw(4, 3, seed=1)
    optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=0.3)
    w.grad = torch.tensor(data)
    optimizer.step()
    _, gradient = l2_penalty(before, 0.3)
    np.testing.assert_allclose(w.detach(), before - 0.1 * (data + gradient), rtol=1e-13)


@each_penalty
def test_strength_zero_is_free_and_whole_numbers_are_numbers(penalty, formula):
    value, gradient = penalty([3, -4], 0)
    assert value == 0
    assert not gradient.any()
    assert penalty([3, -4], 1)[0] == formula(torch.tensor([3.0, -4.0])).item()


@pytest.mark.parametrize(
    ("w", "strength", "error", "says"),
    [
        ([1.0], -0.1, ValueError, "strength must be a finite number, 0 or more, not -0.1"),
        ([1.0], nan, ValueError, "strength must"),
        ([1.0], inf, ValueError, "strength must"),
        ([1.0], "0.1", TypeError, "strength must be a finite number, 0 or more, not '0.1'"),
        ([1.0], True, TypeError, "strength must be a finite number"),
        ([1.0, nan], 0.1, ValueError, "w must be finite"),
        ([1.0, inf], 0.1, ValueError, "w must be finite"),
        (["a"], 0.1, TypeError, "w must hold real numbers"),
        ([1j], 0.1, TypeError, "w must hold real numbers"),
        ([[1.0], [1.0, 2.0]], 0.1, TypeError, "w must be an array, not a ragged list"),
    ],
)
@each_penalty
def test_bad_penalties_are_refused(penalty, formula, w, strength, error, says):
    with pytest.raises(error, match=says):
        penalty(w, strength)


# --- dropout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_masks_have_the_statistics_of_torchs(p):
    n = 200_000
    y, mask = dropout(np.ones(n), p, np.random.default_rng(0))
    torch.manual_seed(0)
    theirs = nn.functional.dropout(torch.ones(n, dtype=torch.float64), p, training=True).numpy()
    assert np.array_equal(y, mask)
    np.testing.assert_allclose(np.unique(y), np.unique(theirs), rtol=1e-12)
    error = 4 * math.sqrt(p * (1 - p) / n)
    for sample in (y, theirs):
        assert abs((sample == 0).mean() - p) <= error
        assert abs(sample.mean() - 1) <= error / (1 - p)
        assert abs((sample**2).mean() - 1 / (1 - p)) <= error / (1 - p) ** 2


def test_the_gradient_passes_where_the_signal_passed():
    x = torch.tensor(draw(6, 5), requires_grad=True)
    y, mask = dropout(x.detach().numpy(), 0.4, np.random.default_rng(1))
    gradient = draw(6, 5, seed=2)
    out = x * torch.tensor(mask)
    out.backward(torch.tensor(gradient))
    np.testing.assert_allclose(y, out.detach(), rtol=1e-14)
    np.testing.assert_allclose(gradient * mask, x.grad, rtol=1e-14)
    assert (y == 0).any()
    assert (y != 0).any()


def test_dropout_repeats_with_its_generator_and_leaves_its_input():
    x = draw(50)
    before = x.copy()
    first, again, other = (dropout(x, 0.5, np.random.default_rng(seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(x, before)
    assert np.array_equal(dropout(x, 0.0, np.random.default_rng(3))[0], x)


def test_what_is_drawn_below_p_is_dropped_and_p_itself_is_not():
    """The numbers drawn are from 0, which may come, to 1, which may not; and p may be 0."""
    drawn = np.random.default_rng(3).random(50)
    for p in drawn[:5]:
        kept = dropout(np.ones(50), p, np.random.default_rng(3))[1] > 0
        assert np.array_equal(kept, drawn >= p)


@pytest.mark.parametrize("p", [1.0, -0.1, 1.5, nan])
def test_impossible_shares_are_refused(p):
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match="p must be a finite number, 0 or more and less than 1, not"
    ):
        dropout([1.0], p, rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_other_bad_dropout_is_refused():
    with pytest.raises(TypeError, match="p must be a finite number"):
        dropout([1.0], None, np.random.default_rng(0))
    with pytest.raises(ValueError, match="x must be finite"):
        dropout([nan], 0.5, np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator"):
        dropout([1.0], 0.5, np.random)


def test_a_seed_is_a_generator_and_none_is_a_fresh_one():
    x = np.ones(100)
    assert np.array_equal(dropout(x, 0.5, 3)[0], dropout(x, 0.5, np.random.default_rng(3))[0])
    assert not np.array_equal(dropout(x, 0.5)[0], dropout(x, 0.5)[0])
    w = draw(9, 9)
    seeded, drawn = (spectral_norm(w, rng=rng).sigma for rng in (3, np.random.default_rng(3)))
    assert seeded == drawn != spectral_norm(w).sigma != spectral_norm(w).sigma


# --- spectral norm ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (1, 4), (4, 1), (6, 3, 3, 3)], ids=str)
def test_many_iterations_find_the_largest_singular_value(shape):
    w = draw(*shape)
    sigma, u, v = spectral_norm(w, 1000, rng=np.random.default_rng(1))
    matrix = torch.tensor(w.reshape(shape[0], -1))
    assert sigma == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-10)
    assert isinstance(sigma, float)
    for vector, length in ((u, shape[0]), (v, w[0].size)):
        assert vector.shape == (length,)
        assert np.linalg.norm(vector) == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(matrix.numpy() @ v, sigma * u, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("n_iterations", [1, 3])
def test_iterations_are_torchs(shape, n_iterations):
    w = draw(*shape)
    kind = nn.Linear(4, 6) if len(shape) == 2 else nn.Conv2d(2, 4, 3)
    kind = nn.utils.parametrizations.spectral_norm(kind.double(), n_power_iterations=n_iterations)
    parts = kind.parametrizations.weight
    u = parts[0]._u.numpy().copy()
    with torch.no_grad():
        parts.original.copy_(torch.tensor(w))
        parts[0]._v.copy_(torch.tensor(w.reshape(shape[0], -1).T @ u))
        parts[0]._v /= parts[0]._v.norm()
        theirs = kind.weight.numpy()  # in training mode: u from v, then v from u
    first = spectral_norm(w, 1, u=u)
    again = spectral_norm(w, n_iterations, u=u)
    left, right = torch.tensor(again.u), parts[0]._v
    torch.testing.assert_close(parts[0]._u, left, rtol=1e-12, atol=1e-14)
    following = w.reshape(shape[0], -1).T @ again.u
    np.testing.assert_allclose(right, following / np.linalg.norm(following), rtol=1e-12)
    sigma = again.u @ w.reshape(shape[0], -1) @ right.numpy()
    np.testing.assert_allclose(theirs, w / sigma, rtol=1e-12)
    assert first.sigma <= again.sigma + 1e-12


def test_estimates_rise_and_stay_below_and_a_start_saves_iterations():
    w = draw(30, 20)
    true = np.linalg.svd(w, compute_uv=False)[0]
    u, sigmas = draw(30, seed=1), []
    for _ in range(40):
        sigma, u, _ = spectral_norm(w, u=u)
        sigmas.append(sigma)
    assert (np.diff(sigmas) >= -1e-12).all()
    assert max(sigmas) <= true * (1 + 1e-14)
    assert sigmas[-1] == pytest.approx(spectral_norm(w, 40, u=draw(30, seed=1)).sigma, rel=1e-12)
    assert spectral_norm(w, u=u).sigma > spectral_norm(w, u=draw(30, seed=2)).sigma


def test_the_error_shrinks_by_the_ratio_of_squares():
    w, u = np.diag([2.0, 1.0]), np.array([1.0, 1.0])
    tangents = [np.divide(*spectral_norm(w, n, u=u).u[::-1]) for n in (1, 2, 3)]
    np.testing.assert_allclose(tangents, [1 / 4, 1 / 16, 1 / 64], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_neither_large_nor_small_weights_lose_their_norm(scale):
    w = draw(4, 3) / 10
    w[0, 0] = w[1] = 0.0
    u = np.array([0.0, 1.0, 1.0, 1.0])
    sigma = spectral_norm(w, 500, u=u).sigma
    large = spectral_norm(scale * w, 500, u=u).sigma
    assert large == pytest.approx(scale * sigma, rel=1e-12, abs=0)
    assert spectral_norm(w, 500, u=scale * u).sigma == pytest.approx(sigma, rel=1e-12)
    assert spectral_norm(w, 500, u=[scale, 1, 1, 1]).sigma == pytest.approx(sigma, rel=1e-12)


@pytest.mark.parametrize("sums", [(0.1, 0.2, 0.3), (0.3, 0.1, 0.2), (1.0, 2.0, 3.0)])
def test_a_start_across_all_columns_finds_nothing(sums):
    """0.1 + 0.2 - 0.3 is 0 but for rounding, which must not become a direction."""
    w, across = np.outer(sums, [1.0, -2.0]), np.sort(sums).searchsorted(sums).choose([1.0, 1, -1])
    assert abs(across @ w).max() < 1e-15
    norm = spectral_norm(w, 3, u=across)
    assert norm.sigma == 0
    assert not norm.v.any()
    nearly = across + np.array([1e-6, 0, 0])
    assert spectral_norm(w, 3, u=nearly).sigma == pytest.approx(np.linalg.norm(w, 2))


def test_a_start_is_across_up_to_a_relative_1e_14():
    w = np.ones((2, 1))
    assert spectral_norm(w, u=[1.0, -1 + 4.2e-14]).sigma == pytest.approx(2**0.5)
    assert spectral_norm(w, u=[1.0, -1 + 2e-14]).sigma == 0
    assert spectral_norm([[2e-14], [1.0]], u=[1.0, 0.0]).sigma == 0
    assert spectral_norm([[2.1e-14], [1.0]], u=[1.0, 0.0]).sigma == pytest.approx(1)


def test_a_direction_of_which_some_parts_are_zero_is_one():
    assert spectral_norm([[1.0, 0.0], [0.0, 0.0]], u=[1.0, 1.0]).sigma == pytest.approx(1)


def test_a_matrix_of_zeros_has_norm_zero():
    sigma, u, v = spectral_norm(np.zeros((3, 2)), 5, u=[1.0, 0.0, 0.0])
    assert sigma == 0
    assert u.tolist() == [1, 0, 0]
    assert v.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("w", "options", "error", "says"),
    [
        ([1.0, 2.0], {"u": [1.0, 1.0]}, ValueError, r"w must have two axes or more.*\(2,\)"),
        (3.0, {"u": [1.0]}, ValueError, "w must have two axes or more"),
        (np.ones((2, 0)), {"u": [1.0, 1.0]}, ValueError, "none of length 0"),
        ([[nan, 1.0]], {"u": [1.0]}, ValueError, "w must be finite"),
        ([["a"]], {"u": [1.0]}, TypeError, "w must hold real numbers"),
        ([[1.0]], {"u": [1.0], "rng": np.random.default_rng(0)}, ValueError, "and not both"),
        ([[1.0]], {"u": [1.0, 2.0]}, ValueError, "u must be 1 numbers"),
        ([[1.0]], {"u": [0.0]}, ValueError, "not all of them 0"),
        ([[1.0]], {"u": [nan]}, ValueError, "u must be finite"),
        (
            [[1.0]],
            {"u": [1.0], "n_iterations": 0},
            ValueError,
            "n_iterations must be a whole number, 1 or more, not 0",
        ),
        ([[1.0]], {"u": [1.0], "n_iterations": 1.5}, TypeError, "n_iterations must be a whole"),
        (
            [[1.0]],
            {"u": [1.0], "n_iterations": "9"},
            TypeError,
            "n_iterations must be a whole number",
        ),
        ([[1.0]], {"u": [1.0], "n_iterations": nan}, TypeError, "n_iterations must"),
    ],
)
def test_bad_matrices_are_refused(w, options, error, says):
    with pytest.raises(error, match=says):
        spectral_norm(w, **options)
