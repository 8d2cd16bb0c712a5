"""`companion.batch_norm` against PyTorch, finite differences and identities."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from companion.batch_norm import (
    RunningStatistics,
    batch_norm,
    batch_norm_backward,
    batch_norm_eval,
    layer_norm,
    layer_norm_backward,
)

inf, nan = math.inf, math.nan
SHAPES = [(2, 1), (7, 4), (5, 3, 6), (4, 3, 2, 5), (1, 3, 4, 4), (1, 2, 3), (3, 2, 2, 2, 2)]
LAYERS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
NEGLIGIBLE = 1e-30  # an eps


def draw(shape, seed=0, mean=3.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, 2.0, shape)
    n = shape[1]
    return x, rng.normal(1, 0.5, n), rng.normal(size=n), rng.normal(size=shape)


def torch_layer(shape, gamma, beta, **options):
    layer = LAYERS[len(shape)](shape[1], dtype=torch.float64, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(gamma))
        layer.bias.copy_(torch.tensor(beta))
    return layer


def torch_gradients(layer, x, dy):
    inputs = torch.tensor(x, requires_grad=True)
    y = layer(inputs)
    (y * torch.tensor(dy)).sum().backward()
    return y.detach().numpy(), [t.grad.numpy() for t in (inputs, layer.weight, layer.bias)]


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


# --- against PyTorch ----------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_equals_pytorch(shape, eps):
    x, gamma, beta, dy = draw(shape)
    expected, gradients = torch_gradients(torch_layer(shape, gamma, beta, eps=eps), x, dy)
    y, cache = batch_norm(x, gamma, beta, eps)
    assert_same([y], [expected])
    assert_same(batch_norm_backward(dy, cache), gradients)


@pytest.mark.parametrize("momentum", [0.1, 0.7, 0.0, 1.0, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_running_statistics_equal_pytorchs_after_every_step(shape, momentum):
    _, gamma, beta, dy = draw(shape)
    layer = torch_layer(shape, gamma, beta, momentum=momentum)
    running = RunningStatistics.start(shape[1])
    for step in range(4):
        x = draw(shape, seed=step, mean=step)[0]
        layer.train()
        layer(torch.tensor(x))
        running = running.update(batch_norm(x, gamma, beta)[1], momentum)
        assert_same([running.mean, running.var], [layer.running_mean, layer.running_var])
        assert running.n_batches == layer.num_batches_tracked
        layer.eval()
        layer.zero_grad()
        expected, gradients = torch_gradients(layer, x[:1], dy[:1])
        y, cache = batch_norm_eval(x[:1], running, gamma, beta)
        assert_same([y], [expected])
        assert_same(batch_norm_backward(dy[:1], cache), gradients)


@pytest.mark.parametrize(
    ("shape", "last"), [((7, 4), 1), ((5, 3, 6), 2), ((4, 3, 2, 5), 3), ((6,), 1)]
)
def test_layer_norm_equals_pytorchs(shape, last):
    rng = np.random.default_rng(0)
    x, dy = rng.normal(3, 2, shape), rng.normal(size=shape)
    gamma, beta = rng.normal(1, 0.5, shape[-last:]), rng.normal(size=shape[-last:])
    layer = nn.LayerNorm(shape[-last:], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(gamma))
        layer.bias.copy_(torch.tensor(beta))
    expected, gradients = torch_gradients(layer, x, dy)
    y, cache = layer_norm(x, gamma, beta)
    assert_same([y], [expected])
    assert_same(layer_norm_backward(dy, cache), gradients)


def test_without_scale_and_shift():
    x, *_, dy = draw((7, 4))
    t = torch.tensor(x)
    assert_same([batch_norm(x)[0]], [functional.batch_norm(t, None, None, training=True).numpy()])
    assert_same([layer_norm(x)[0]], [functional.layer_norm(t, (4,)).numpy()])
    assert_same([layer_norm(x, beta=np.ones(4))[0]], [layer_norm(x)[0] + 1])
    assert_same([batch_norm(x, np.full(4, 2.0))[0]], [2 * batch_norm(x)[0]])
    dx, dgamma, dbeta = layer_norm_backward(dy, layer_norm(x)[1])
    assert (dx.shape, dgamma.shape, dbeta.shape) == ((7, 4), (4,), (4,))


def test_any_numbers_are_taken_and_arguments_stay_as_they_were():
    x = np.array([[1, 5], [2, 5], [6, 5]])
    before = x.copy()
    y, cache = batch_norm(x)
    assert y.dtype == np.float64
    assert (y[:, 1] == 0).all()  # a constant column: beta
    np.testing.assert_array_equal(x, before)
    running = RunningStatistics.start(2)
    running.update(cache)
    assert (running.mean == 0).all()
    assert (running.var == 1).all()
    assert running.n_batches == 0


def test_variance_far_from_zero_is_not_lost():
    x = np.random.default_rng(0).normal(size=(64, 3))
    np.testing.assert_allclose(batch_norm(x + 1e8)[0], batch_norm(x)[0], atol=1e-6)


# --- against finite differences -----------------------------------------------------------------


def differences(f, x, h=1e-5):
    slopes = np.empty_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        slopes[index] = (f(up) - f(down)) / (2 * h)
    return slopes


@pytest.mark.parametrize("norm", ["batch", "layer", "evaluation"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 2)])
def test_backward_equals_finite_differences(norm, shape):
    x, _, _, dy = draw(shape)
    n = shape[-1] if norm == "layer" else shape[1]
    gamma, beta = np.linspace(0.5, 2, n), np.linspace(-1, 1, n)
    kept = RunningStatistics(np.linspace(1, 3, n), np.linspace(0.5, 2, n))
    forward = {
        "batch": batch_norm,
        "layer": layer_norm,
        "evaluation": lambda x, gamma, beta: batch_norm_eval(x, kept, gamma, beta),
    }[norm]
    backward = layer_norm_backward if norm == "layer" else batch_norm_backward
    found = backward(dy, forward(x, gamma, beta)[1])
    expected = [
        differences(lambda x: (forward(x, gamma, beta)[0] * dy).sum(), x),
        differences(lambda gamma: (forward(x, gamma, beta)[0] * dy).sum(), gamma),
        differences(lambda beta: (forward(x, gamma, beta)[0] * dy).sum(), beta),
    ]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


# --- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 4), (4, 3, 2, 5)])
def test_output_has_mean_beta_and_deviation_gamma(shape):
    x, gamma, beta, _ = draw(shape)
    y, cache = batch_norm(x, gamma, beta, NEGLIGIBLE)
    axes = (0, *range(2, len(shape)))
    np.testing.assert_allclose(y.mean(axis=axes), beta, atol=1e-14)
    np.testing.assert_allclose(y.std(axis=axes), abs(gamma), rtol=1e-14)
    assert cache.n == x.size // shape[1]
    assert abs(cache.normalized).max() <= math.sqrt(cache.n - 1) + 1e-12  # Samuelson


def test_most_extreme_value_is_the_root_of_m_minus_one():
    x = np.zeros((64, 1))
    x[5] = 0.01
    assert batch_norm(x, eps=NEGLIGIBLE)[0].max() == pytest.approx(math.sqrt(63), rel=1e-12)


@pytest.mark.parametrize("eps", [NEGLIGIBLE, 1e-5, 0.3])
def test_gradient_loses_its_mean_and_its_part_along_the_output(eps):
    """B6, with what epsilon leaves: a share ε / (v + ε) of the part along x̂."""
    x, gamma, beta, dy = draw((50, 6))
    _, cache = batch_norm(x, gamma, beta, eps)
    dx, dgamma, _ = batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx.sum(axis=0), 0, atol=1e-13)
    along = (dx * cache.normalized).sum(axis=0)
    left = gamma * dgamma / cache.std.ravel() * eps / cache.std.ravel() ** 2
    np.testing.assert_allclose(along, left, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("m", [2, 5, 128])
def test_mean_cosine_of_examples_gradients_is_minus_one_over_m_minus_one(m):
    """B6: of many units, all with the same m; exact for the mean weighted by the norms."""
    x, gamma, beta, dy = draw((m, 300))
    dx = batch_norm_backward(dy, batch_norm(x, gamma, beta)[1])[0]
    products = dx @ dx.T
    off = products.sum() - np.trace(products)
    assert off / np.trace(products) == pytest.approx(-1, abs=1e-10)
    units = dx / np.linalg.norm(dx, axis=1, keepdims=True)
    if m == 128:
        mean = ((units.sum(axis=0) ** 2).sum() - m) / (m * (m - 1))
        assert mean == pytest.approx(-1 / (m - 1), abs=3e-4)


def test_norm_of_the_gradient_is_santurkars():
    """B4: Santurkar et al. 2018, theorem 4.1, the part of the activations."""
    x, gamma, beta, dy = draw((50, 6))
    _, cache = batch_norm(x, gamma, beta, NEGLIGIBLE)
    dx = batch_norm_backward(dy, cache)[0]
    m, var, hat = 50, x.var(axis=0), cache.normalized
    lost = dy.sum(axis=0) ** 2 / m + (dy * hat).sum(axis=0) ** 2 / m
    expected = gamma**2 / var * ((dy**2).sum(axis=0) - lost)
    np.testing.assert_allclose((dx**2).sum(axis=0), expected, rtol=1e-10)


@pytest.mark.parametrize("a", [1e-3, 0.5, 40.0])
def test_scale_of_the_weights_does_not_matter(a):
    """B5: Ioffe and Szegedy 2015, section 3.3."""
    rng = np.random.default_rng(0)
    h, W, dy = rng.normal(size=(30, 8)), rng.normal(size=(8, 5)), rng.normal(size=(30, 5))
    y, cache = batch_norm(h @ W, eps=NEGLIGIBLE)
    scaled, scaled_cache = batch_norm(h @ (a * W), eps=NEGLIGIBLE)
    np.testing.assert_allclose(scaled, y, atol=1e-12)
    dz, dz_scaled = (batch_norm_backward(dy, c)[0] for c in (cache, scaled_cache))
    np.testing.assert_allclose(dz_scaled @ (a * W).T, dz @ W.T, atol=1e-12)
    np.testing.assert_allclose(a * (h.T @ dz_scaled), h.T @ dz, atol=1e-11)
    np.testing.assert_allclose((W * (h.T @ dz)).sum(axis=0), 0, atol=1e-12)


def test_bias_before_it_is_cancelled():
    x, gamma, beta, _ = draw((9, 4))
    shifted = batch_norm(x + np.array([0.0, -2.0, 7.0, 1e3]), gamma, beta)[0]
    np.testing.assert_allclose(shifted, batch_norm(x, gamma, beta)[0], atol=1e-10)


def test_layer_norm_is_batch_norm_of_the_transpose():
    x, *_, dy = draw((6, 9))
    (y, cache), (t, t_cache) = layer_norm(x), batch_norm(x.T)
    np.testing.assert_allclose(y, t.T, atol=1e-14)
    ours = layer_norm_backward(dy, cache)[0]
    np.testing.assert_allclose(ours, batch_norm_backward(dy.T, t_cache)[0].T, atol=1e-14)


# --- what is refused ----------------------------------------------------------------------------

GOOD = np.arange(12.0).reshape(3, 4) ** 2


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1), (1, 3, 1, 1), (0, 4), (2, 3, 0)])
def test_a_batch_of_one_is_refused_in_training_as_pytorch_refuses_it(shape):
    with pytest.raises(
        ValueError, match=r"x must hold two values or more of each unit in training"
    ):
        batch_norm(np.ones(shape))
    if math.prod(shape) and len(shape) < 4:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            nn.BatchNorm1d(shape[1])(torch.ones(shape))
    if math.prod(shape):
        assert batch_norm_eval(np.ones(shape), RunningStatistics.start(shape[1]))[0].shape == shape


BAD = [
    ({"x": np.ones(4)}, ValueError, r"x must be of shape \(n, n_features\).*not \(4,\)"),
    ({"x": [["a"]]}, TypeError, "x must hold real numbers"),
    ({"x": [[1j], [2]]}, TypeError, "x must hold real numbers"),
    ({"x": [[1.0], [1.0, 2.0]]}, TypeError, "x must be an array, not a ragged list"),
    ({"x": np.where(GOOD == 4, nan, GOOD)}, ValueError, "x must be finite"),
    ({"x": np.where(GOOD == 4, inf, GOOD)}, ValueError, "x must be finite"),
    ({"gamma": np.ones(3)}, ValueError, r"gamma must have the shape \(4,\).*not \(3,\)"),
    ({"gamma": 2.0}, ValueError, r"gamma must have the shape \(4,\).*not \(\)"),
    ({"gamma": [1, 2, nan, 4]}, ValueError, "gamma must be finite"),
    ({"beta": np.zeros((1, 4))}, ValueError, r"beta must have the shape \(4,\).*not \(1, 4\)"),
    ({"beta": [None] * 4}, TypeError, "beta must hold real numbers"),
    ({"eps": 0}, ValueError, "eps must be a finite number, more than 0, not 0"),
    ({"eps": -1e-5}, ValueError, "eps must be a finite number, more than 0, not -1e-05"),
    ({"eps": nan}, ValueError, "eps must be a finite number, more than 0, not nan"),
    ({"eps": "1e-5"}, TypeError, "eps must be a finite number, more than 0, not '1e-5'"),
    ({"eps": True}, TypeError, "eps must be a finite number, more than 0, not True"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_input_is_refused_by_name_in_training_and_evaluation(change, error, message):
    running = RunningStatistics.start(4)
    with pytest.raises(error, match=message):
        batch_norm(**{"x": GOOD} | change)
    with pytest.raises(error, match=message):
        batch_norm_eval(**{"x": GOOD, "running": running} | change)
    assert (running.mean == 0).all()
    assert (running.var == 1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"x": 3.0},
            ValueError,
            r"x must have a last axis of one unit or more, not the shape \(\)",
        ),
        ({"x": np.ones((3, 0))}, ValueError, "x must have a last axis of one unit"),
        (
            {"x": GOOD, "gamma": np.ones(3)},
            ValueError,
            r"shape of the last axes of x, \(3, 4\), not",
        ),
        (
            {"x": GOOD, "gamma": 1.0},
            ValueError,
            "gamma and beta must have the shape of the last axes",
        ),
        ({"x": GOOD, "gamma": np.ones(4), "beta": np.ones(3)}, ValueError, r"beta must .* \(4,\)"),
        (
            {"x": GOOD, "gamma": np.ones((2, 3, 4))},
            ValueError,
            "gamma and beta must have the shape",
        ),
        ({"x": GOOD * nan}, ValueError, "x must be finite"),
        ({"x": GOOD, "eps": 0.0}, ValueError, "eps must be a finite number, more than 0, not 0.0"),
    ],
)
def test_layer_norm_refuses_bad_input_by_name(arguments, error, message):
    with pytest.raises(error, match=message):
        layer_norm(**arguments)


@pytest.mark.parametrize("norm", [batch_norm, layer_norm])
def test_numbers_too_large_to_square_are_refused(norm):
    with pytest.raises(
        ValueError, match=r"x must be small enough to be squared, but reaches 1e\+200"
    ):
        norm([[1e200, 0.0], [0.0, 1.0]])


def test_gradients_that_do_not_fit_are_refused():
    batch, layer = batch_norm(GOOD)[1], layer_norm(GOOD)[1]
    for backward, cache in ((batch_norm_backward, batch), (layer_norm_backward, layer)):
        with pytest.raises(ValueError, match=r"dy must have the shape of y, \(3, 4\), not \(4,\)"):
            backward(np.ones(4), cache)
        with pytest.raises(ValueError, match="dy must be finite"):
            backward(GOOD * nan, cache)
    with pytest.raises(TypeError, match="cache must come from batch_norm or batch_norm_eval"):
        batch_norm_backward(GOOD, layer)
    with pytest.raises(TypeError, match="cache must come from layer_norm"):
        layer_norm_backward(GOOD, batch)
    with pytest.raises(TypeError, match="cache must come from layer_norm"):
        layer_norm_backward(GOOD, GOOD)


def test_running_statistics_stay_as_they_were_when_an_update_fails():
    running = RunningStatistics([1.0, 2.0], [3.0, 4.0], 5)
    good = batch_norm([[1.0, 2.0], [3.0, 5.0]])[1]
    cases = [
        (batch_norm(GOOD)[1], 0.1, ValueError, "cache must be of 2 features, .* not 4"),
        (layer_norm(GOOD)[1], 0.1, TypeError, "cache must come from batch_norm, in training"),
        (batch_norm_eval([[1.0, 2.0]], running)[1], 0.1, TypeError, "in training"),
        (GOOD, 0.1, TypeError, "cache must come from batch_norm"),
        (
            good,
            1.1,
            ValueError,
            "momentum must be a finite number, 0 or more and at most 1, not 1.1",
        ),
        (good, nan, ValueError, "momentum must be"),
        (good, "0.1", TypeError, "momentum must be"),
    ]
    for cache, momentum, error, message in cases:
        with pytest.raises(error, match=message):
            running.update(cache, momentum)
        assert running.mean.tolist() == [1, 2]
        assert running.var.tolist() == [3, 4]
        assert running.n_batches == 5


@pytest.mark.parametrize(
    ("mean", "var", "message"),
    [
        ([0.0], [1.0, 1.0], r"mean and var must both have the shape \(n_features,\)"),
        (0.0, 1.0, "mean and var must both have the shape"),
        ([0.0], [-1.0], "var must not be negative, not -1.0"),
        ([0.0, 0.0], [1.0, -1.0], "var must not be negative, not -1.0"),
        ([nan], [1.0], "mean must be finite"),
    ],
)
def test_impossible_statistics_are_refused(mean, var, message):
    with pytest.raises(ValueError, match=message):
        RunningStatistics(mean, var)


def test_evaluation_needs_statistics_that_fit():
    with pytest.raises(ValueError, match="running must be of 4 features, as x is, not 3"):
        batch_norm_eval(GOOD, RunningStatistics.start(3))
    with pytest.raises(TypeError, match="running must be RunningStatistics, not None"):
        batch_norm_eval(GOOD, None)
