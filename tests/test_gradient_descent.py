"""`companion.gradient_descent` against torch.optim, torch.nn.utils and what theory says."""

import doctest
import inspect
import itertools
import math
import pickle
import types

import numpy as np
import pytest
import torch

import companion.gradient_descent as module
from companion.gradient_descent import (
    DivergenceError,
    adam,
    adamw,
    clip_by_norm,
    clip_by_value,
    gradient_descent,
    momentum,
    nesterov,
    rmsprop,
    warmup_cosine,
)

inf, nan = math.inf, math.nan
SGD, RMSPROP = torch.optim.SGD, torch.optim.RMSprop
ADAM, ADAMW = torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS = [gradient_descent, momentum, nesterov, rmsprop, adam, adamw]
every_optimizer = pytest.mark.parametrize("optimize", OPTIMIZERS, ids=lambda f: f.__name__)


def bowl(x):
    """Compute the gradient of |x|²/2."""
    return x


# --- torch.optim, step by step ------------------------------------------------------------------


def rosenbrock(x):
    """Compute the gradient of ((1 - x)² + 100 (y - x²)²) / 20."""
    bend = 10 * (x[1] - x[0] ** 2)
    return np.array([(x[0] - 1) / 10 - 2 * x[0] * bend, bend])


RNG = np.random.default_rng(7)
INPUTS, LABELS = RNG.normal(size=(40, 6)), RNG.integers(3, size=40)


def logistic(w):
    """Compute the gradient of a logistic regression: 40 points, 6 features, 3 classes."""
    p = np.exp(INPUTS @ w)
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(40), LABELS] -= 1
    return INPUTS.T @ p / 40


def both(x):
    """Compute the gradients of the two side by side: no coordinate of one knows the other."""
    return np.concatenate([rosenbrock(x[:2]), logistic(x[2:].reshape(6, 3)).ravel()])


WEIGHTS = RNG.normal(size=(6, 3))
START, STEPS = np.concatenate([[-1.2, 1.0], WEIGHTS.ravel()]), 200


def in_torch(make, gradient, start, rate, steps=STEPS, **options):
    """Return the trajectory of a PyTorch optimizer."""
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = make([theta], lr=1.0, **options)
    points = [theta.detach().numpy().copy()]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step) if callable(rate) else rate
        theta.grad = torch.tensor(gradient(theta.detach().numpy()), dtype=torch.float64)
        optimizer.step()
        points.append(theta.detach().numpy().copy())
    return np.array(points)


def assert_equal_to_torch(optimize, options, make, torch_options):
    # Faster, those that divide by √v jump back and forth across the valley. That is chaotic: from a
    # start that differs by a rounding error they end elsewhere, in PyTorch as here.
    peak = 1.5e-2 if make is SGD else 3e-4
    for rate in (peak / 1.5, warmup_cosine(peak, STEPS, warmup=20)):
        ours = optimize(both, START, rate, STEPS, **options)
        theirs = in_torch(make, both, START, rate, **torch_options)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
        moved = np.abs(ours[-1] - START)
        assert moved[:2].max() > 0.02, "a walk that does not move proves nothing"
        assert moved[2:].max() > 0.02


def grid(**values):
    """List every combination of the values."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


BETAS = [(0.9, 0.999), (0.0, 0.99), (0.5, 0.9)]
CASES = [
    *[(gradient_descent, o, SGD, o) for o in grid(weight_decay=[0, 0.1])],
    *[
        (momentum, {"beta": b, **o}, SGD, {"momentum": b, **o})
        for b in (0.0, 0.5, 0.9)
        for o in grid(weight_decay=[0, 0.1])
    ],
    *[
        (nesterov, {"beta": b, **o}, SGD, {"momentum": b, "nesterov": True, **o})
        for b in (0.5, 0.9)
        for o in grid(weight_decay=[0, 0.1])
    ],
    *[
        (rmsprop, o, RMSPROP, o)
        for o in grid(alpha=[0.9, 0.99], eps=[1e-8, 1e-2], weight_decay=[0, 0.1])
    ],
    *[
        (ours, o, theirs, o)
        for ours, theirs in ((adam, ADAM), (adamw, ADAMW))
        for o in grid(betas=BETAS, eps=[1e-8, 1e-2], weight_decay=[0, 0.1])
    ],
    (momentum, {}, SGD, {"momentum": 0.9}),
    (nesterov, {}, SGD, {"momentum": 0.9, "nesterov": True}),
    *[
        (ours, {}, theirs, {})
        for ours, theirs in ((rmsprop, RMSPROP), (adam, ADAM), (adamw, ADAMW))
    ],
]


@pytest.mark.parametrize(("optimize", "options", "make", "torch_options"), CASES)
def test_every_step_equals_pytorchs(optimize, options, make, torch_options):
    assert_equal_to_torch(optimize, options, make, torch_options)


def test_the_gradients_compared_with_are_gradients():
    w = torch.tensor(WEIGHTS, requires_grad=True)
    torch.nn.functional.cross_entropy(torch.tensor(INPUTS) @ w, torch.tensor(LABELS)).backward()
    np.testing.assert_allclose(logistic(WEIGHTS), w.grad.numpy(), atol=1e-15)
    v = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    (((1 - v[0]) ** 2 + 100 * (v[1] - v[0] ** 2) ** 2) / 20).backward()
    np.testing.assert_allclose(rosenbrock([-1.2, 1.0]), v.grad.numpy(), rtol=1e-14)


FULL = {"betas": (0.9, 0.99), "eps": 1e-2, "weight_decay": 0.1}
MUTANTS = [  # optimizer, what stands in the module, the fault put there, a case that must notice
    ("gradient_descent", "theta - rate * g,", "theta - 0.9999 * rate * g,", {}, SGD, {}),
    ("momentum", "theta - rate * v, v", "theta - rate * g, v", {}, SGD, {"momentum": 0.9}),
    ("nesterov", "rate * (g + beta * v)", "rate * v", {}, SGD, {"momentum": 0.9, "nesterov": True}),
    ("rmsprop", "np.sqrt(v) + eps", "np.sqrt(v + eps)", {}, RMSPROP, {}),
    ("adam", "m / (1 - betas[0] ** (step + 1))", "m", {}, ADAM, {}),
    ("adam", "v / (1 - betas[1] ** (step + 1))", "v", {}, ADAM, {}),
    ("adam", "betas[1] ** (step + 1)", "betas[1] ** (step + 2)", {}, ADAM, {}),
    ("adam", "np.sqrt(v_hat) + eps", "np.sqrt(v_hat + eps)", FULL, ADAM, FULL),
    ("adamw", "(1 - rate * weight_decay) * theta", "(1 - weight_decay) * theta", FULL, ADAMW, FULL),
    ("adamw", "(1 - rate * weight_decay) * theta", "theta", FULL, ADAMW, FULL),
]  # fmt: skip


def mutant(right, wrong):
    """Return a copy of the module with a fault in it."""
    source = inspect.getsource(module)
    assert source.count(right) == 1
    copy = types.ModuleType("mutant")
    exec(compile(source.replace(right, wrong), "mutant", "exec"), vars(copy))
    return copy


@pytest.mark.parametrize(("name", "right", "wrong", "options", "make", "torch_options"), MUTANTS)
def test_a_fault_put_into_the_module_is_noticed(name, right, wrong, options, make, torch_options):
    optimize = getattr(mutant(right, wrong), name)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal_to_torch(optimize, options, make, torch_options)


@pytest.mark.parametrize(
    ("optimize", "options", "make", "torch_options"),
    [
        (adamw, {"weight_decay": 0.1}, ADAM, {"weight_decay": 0.1}),  # decay by the gradient
        (adam, {"weight_decay": 0.1}, ADAMW, {"weight_decay": 0.1}),
        (nesterov, {}, SGD, {"momentum": 0.9}),  # plain momentum
        (rmsprop, {}, ADAM, {"betas": (0.0, 0.99)}),  # what lacks is the correction
        (gradient_descent, {}, SGD, {"weight_decay": 1e-4}),
    ],
)
def test_one_optimizer_is_not_another(optimize, options, make, torch_options):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_equal_to_torch(optimize, options, make, torch_options)


# --- closed forms -------------------------------------------------------------------------------

CURVATURES = np.array([1.0, 100.0])  # condition number k = 100


def quadratic(x):
    return CURVATURES * x


def worst_rate(trajectory, first, last):
    """Return the factor per step by which the largest coordinate shrinks between two steps."""
    size = np.abs(trajectory).max(axis=1)
    return (size[last] / size[first]) ** (1 / (last - first))


def test_on_a_quadratic_each_coordinate_is_a_geometric_sequence():
    path = gradient_descent(quadratic, [1.0, -3.0], 0.015, 60)
    powers = (1 - 0.015 * CURVATURES) ** np.arange(61)[:, np.newaxis]
    np.testing.assert_allclose(path, [1.0, -3.0] * powers, rtol=1e-12)


def test_stable_exactly_up_to_two_over_the_largest_curvature():
    limit = 2 / CURVATURES.max()
    for factor, rate in ((0.99, 0.98), (1.0, 1.0), (1.01, 1.02)):
        path = gradient_descent(quadratic, [0.0, 1.0], factor * limit, 200)
        assert worst_rate(path, 0, 200) == pytest.approx(rate, rel=1e-12)


def test_the_best_rate_is_two_over_the_sum_of_the_extreme_curvatures():
    best = 2 / CURVATURES.sum()
    found = {
        f: worst_rate(gradient_descent(quadratic, [1.0, 1.0], f * best, 400), 200, 400)
        for f in (0.99, 1.0, 1.005)
    }
    assert found[1.0] == pytest.approx(99 / 101, rel=1e-12)
    assert found[1.0] == pytest.approx(0.980198, abs=5e-7)
    assert found[0.99] > found[1.0] + 1e-4
    assert found[1.005] > found[1.0] + 1e-3


def test_the_heavy_ball_takes_the_root_of_the_condition_number():
    root = np.sqrt(CURVATURES)
    rate, expected = 4 / root.sum() ** 2, 9 / 11
    path = momentum(quadratic, [1.0, 1.0], rate, 800, beta=expected**2)
    assert expected == pytest.approx(0.818182, abs=5e-7)
    assert worst_rate(path, 400, 800) == pytest.approx(expected, rel=0.01)


def test_momentum_is_polyaks_recurrence_while_the_rate_is_constant():
    path = momentum(logistic, WEIGHTS, 0.1, 50, beta=0.8)
    x = [WEIGHTS, WEIGHTS - 0.1 * logistic(WEIGHTS)]
    for _ in range(49):
        x.append(x[-1] - 0.1 * logistic(x[-1]) + 0.8 * (x[-1] - x[-2]))
    np.testing.assert_allclose(path, x, rtol=0, atol=1e-12)


def test_momentum_forgets_the_rates_of_the_past():
    # PyTorch's velocity is a sum of gradients, Sutskever's a sum of steps: after a drop of the
    # rate, the next step is short at once and does not go on with the old ones.
    path = momentum(lambda x: np.ones(()), 0.0, [1.0, 1e-3].__getitem__, 2)
    np.testing.assert_allclose(path, [0.0, -1.0, -1.0019], rtol=1e-15)


def test_nesterov_visits_the_points_that_sutskevers_form_looks_ahead_to():
    path = nesterov(logistic, WEIGHTS, 0.1, 50, beta=0.8)
    x, v = WEIGHTS, np.zeros((6, 3))
    for point in path:
        ahead = x + 0.8 * v
        np.testing.assert_allclose(point, ahead, rtol=0, atol=1e-12)
        v = 0.8 * v - 0.1 * logistic(ahead)
        x = x + v


def test_first_steps_by_hand():
    slopes = np.array([-1e-3, 1e-3, 1.0, 50.0, 1e6])

    def first(optimize, **options):
        return -optimize(lambda x: slopes, np.zeros(5), 0.01, 1, **options)[1]

    np.testing.assert_allclose(first(gradient_descent), 0.01 * slopes, rtol=1e-15)
    np.testing.assert_allclose(first(momentum), 0.01 * slopes, rtol=1e-15)
    np.testing.assert_allclose(first(nesterov), 0.019 * slopes, rtol=1e-15)
    # one rate long for Adam, whatever the gradient; uncorrected it were 0.1/√0.001 = 3.2
    for optimize in (adam, adamw):
        np.testing.assert_allclose(first(optimize, eps=0), 0.01 * np.sign(slopes), rtol=1e-14)
    # ten rates long for RMSProp
    np.testing.assert_allclose(first(rmsprop, eps=0), 0.1 * np.sign(slopes), rtol=1e-14)
    np.testing.assert_allclose(first(adam)[0], -0.01 * 1e-3 / (1e-3 + 1e-8), rtol=1e-12)


def test_momentum_by_hand():
    path = momentum(bowl, 1.0, 0.1, 3)
    np.testing.assert_allclose(path, [1.0, 0.9, 0.72, 0.486], rtol=1e-14)
    path = nesterov(bowl, 1.0, 0.1, 3)
    np.testing.assert_allclose(path, [1.0, 0.81, 0.5751, 0.327321], rtol=1e-14)


def test_decay_alone_is_geometric_for_adamw_and_a_walk_at_full_speed_for_adam():
    start = np.array([1.0, 1000.0])
    decayed = adamw(np.zeros_like, start, 0.1, 5, weight_decay=0.5)
    np.testing.assert_allclose(decayed, np.outer(0.95 ** np.arange(6), start), rtol=1e-14)
    for weight_decay in (1e-3, 1e3):
        walked = adam(np.zeros_like, start, 0.1, 1, weight_decay=weight_decay, eps=0)
        np.testing.assert_allclose(walked[1], start - 0.1, rtol=1e-14)


# --- arrays in, arrays out ----------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 2), (0,)])
def test_the_trajectory_has_the_steps_first_and_the_start_at_its_head(optimize, shape):
    start = np.random.default_rng(0).normal(size=shape)
    before = start.copy()
    path = optimize(np.tanh, start, 0.1, 7)
    assert path.shape == (8, *shape)
    assert path.dtype == np.float64
    np.testing.assert_array_equal(path[0], before)
    np.testing.assert_array_equal(start, before)
    assert not np.shares_memory(path, start)
    alone = optimize(np.tanh, start.ravel(), 0.1, 7)  # each coordinate walks by itself
    np.testing.assert_array_equal(path.reshape(8, -1), alone)
    assert start.size == 0 or np.all(np.abs(path[-1]) < np.abs(path[0]))


@every_optimizer
def test_no_steps_are_the_start_alone(optimize):
    np.testing.assert_array_equal(optimize(bowl, [1, 2], 0.1, 0), [[1.0, 2.0]])


@every_optimizer
def test_numbers_lists_and_small_types_are_taken_in_float64(optimize):
    expected = optimize(lambda x: 2.0 * x, np.array([3.0, -1.0]), 0.5, 4)
    for start in ([3, -1], (3.0, -1.0), np.array([3, -1], np.int8), np.float32([3, -1])):
        for gradient in (lambda x: (2 * x).astype(np.float32), lambda x: [2 * x[0], 2 * x[1]]):
            np.testing.assert_allclose(optimize(gradient, start, 0.5, 4), expected, atol=1e-6)
            assert optimize(gradient, start, 0.5, 4).dtype == np.float64
    short = optimize(lambda x: 2.0 * x, np.array([3.0, -1.0]), np.float64(0.5), np.int8(4))
    np.testing.assert_array_equal(short, expected)


@every_optimizer
def test_the_gradient_may_keep_its_result_or_change_its_argument(optimize):
    def reuses(x, result=np.empty(3)):  # noqa: B008
        return np.multiply(x, 2.0, out=result)

    def scribbles(x):
        x *= 2.0
        return x

    start = np.array([1.0, -2.0, 3.0])
    expected = optimize(lambda x: 2.0 * x, start, 0.05, 6)
    for gradient in (reuses, scribbles):
        np.testing.assert_array_equal(optimize(gradient, start, 0.05, 6), expected)
    np.testing.assert_array_equal(start, [1.0, -2.0, 3.0])


@every_optimizer
def test_gradient_and_schedule_are_asked_once_a_step_in_order(optimize):
    asked, points = [], []

    def rate(step):
        asked.append(step)
        return 0.1

    def gradient(x):
        points.append(x)
        return 2.0 * x

    path = optimize(gradient, [1.0, 2.0], rate, 5)
    assert asked == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(points, path[:-1])
    np.testing.assert_array_equal(path, optimize(gradient, [1.0, 2.0], 0.1, 5))


@every_optimizer
def test_a_rate_of_zero_stands_still_and_goes_on(optimize):
    path = optimize(bowl, [1.0, -2.0], [0.1, 0.0, 0, 0.1].__getitem__, 4)
    np.testing.assert_array_equal(path[2], path[1])
    np.testing.assert_array_equal(path[3], path[1])
    assert np.all(path[4] != path[3])


@every_optimizer
def test_two_runs_share_nothing(optimize):
    first, second = (optimize(bowl, [1.0, 5.0], 0.05, 9) for _ in range(2))
    np.testing.assert_array_equal(first, second)


# --- divergence ---------------------------------------------------------------------------------


def strict():
    """Turn every floating-point fault outside of the module into an exception."""
    return np.errstate(all="raise")


@strict()
def test_divergence_keeps_what_was_finite():
    with pytest.raises(DivergenceError) as caught:
        gradient_descent(bowl, [0.5, -1.0], 3, 2000)  # a factor of -2 per step
    assert isinstance(caught.value, ArithmeticError)
    assert caught.value.step == 1023  # where 3 · 2^1023 is above the largest float, 2^1024
    path = caught.value.trajectory
    np.testing.assert_array_equal(path[:, 1], -((-2.0) ** np.arange(1024)))
    assert str(caught.value) == (
        "the update of step 1023 is not finite. The largest parameter was 8.99e+307, "
        "the learning rate 3. Try a smaller learning rate."
    )


@strict()
@every_optimizer
@pytest.mark.parametrize("lost", [nan, inf, -inf])
def test_a_gradient_that_ends_diverges_at_the_step_that_needs_it(optimize, lost):
    values = iter([1.0, 1.0, lost])
    with pytest.raises(DivergenceError, match="the gradient of step 2 is not finite") as caught:
        optimize(lambda x: [next(values), 0.0], [1.0, -4e5], lambda step: 0.25 / (step + 1), 9)
    path = caught.value.trajectory
    assert caught.value.step == 2
    assert path.shape == (3, 2)
    assert np.isfinite(path).all()
    assert f"largest parameter was {-path[2, 1]:.3g}," in str(caught.value)
    assert "learning rate 0.0833. Try a smaller learning rate." in str(caught.value)


@strict()
@every_optimizer
def test_an_overflow_inside_the_gradient_does_not_warn(optimize):
    with pytest.raises(DivergenceError, match="the gradient of step 1 is not finite"):
        optimize(lambda x: -np.exp(1000.0 * (x > 0.5)), 0.0, 1.0, 3)


@strict()
@pytest.mark.parametrize("optimize", [rmsprop, adam, adamw])
def test_a_mean_square_that_overflows_is_no_silent_standstill(optimize):
    with pytest.raises(DivergenceError, match=r"update of step 0 .*smaller learning rate\.$"):
        optimize(lambda x: 1e160, 0.0, 0.01, 3)


def test_pytorchs_adam_stands_still_there():
    np.testing.assert_array_equal(in_torch(ADAM, lambda x: 1e160, 0.0, 0.01, 3), 0.0)


@strict()
@pytest.mark.parametrize("optimize", [rmsprop, adam, adamw])
def test_zero_divided_by_zero_asks_for_an_eps(optimize):
    with pytest.raises(DivergenceError, match="or an eps above 0") as caught:
        optimize(lambda x: [0.0, 1.0], [1.0, 1.0], 0.1, 3, eps=0)
    assert caught.value.step == 0
    np.testing.assert_array_equal(caught.value.trajectory, [[1.0, 1.0]])


def test_a_divergence_can_be_pickled_and_keeps_its_path_alone():
    with pytest.raises(DivergenceError) as caught:
        gradient_descent(bowl, 1.0, 1e200, 100_000)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (str(copied), copied.step) == (str(caught.value), caught.value.step)
    np.testing.assert_array_equal(copied.trajectory, [1.0, -1e200])
    assert caught.value.trajectory.base is None, "the empty rest must not be kept"


# --- bad arguments ------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gradient": 3}, TypeError, "gradient must be a function, not 3"),
        ({"gradient": lambda x: x[:1]}, ValueError, r"start's shape \(2,\), not \(1,\)"),
        ({"gradient": lambda x: x.sum()}, ValueError, r"start's shape \(2,\), not \(\)"),
        ({"gradient": lambda x: None}, TypeError, "gradient at start must hold real .* object"),
        ({"gradient": lambda x: [x, [x]]}, TypeError, "gradient at start must be .* not a ragged"),
        ({"gradient": lambda x: x * 1j}, TypeError, "gradient at start must hold real .* complex"),
        ({"gradient": lambda x: x / 0}, ValueError, "gradient at start must be finite"),
        ({"gradient": lambda x: x * nan}, ValueError, "gradient at start must be finite"),
        ({"start": [nan, 1.0]}, ValueError, "start must be finite, but holds"),
        ({"start": [1, [2, 3]]}, TypeError, r"start must be an array, not a ragged list: \[1"),
        ({"start": -inf}, ValueError, "start must be finite, but holds"),
        ({"start": "here"}, TypeError, "start must hold real numbers .*, not <U4"),
        ({"start": [True, False]}, TypeError, "start must hold real numbers .*, not bool"),
        (
            {"learning_rate": 0},
            ValueError,
            "learning_rate must be a finite number, more than 0, not 0$",
        ),
        (
            {"learning_rate": -0.1},
            ValueError,
            "learning_rate must be a finite number, more than 0, not -0.1",
        ),
        ({"learning_rate": inf}, ValueError, "learning_rate must be a finite .* not inf"),
        ({"learning_rate": nan}, ValueError, "learning_rate must be a finite .* not nan"),
        ({"learning_rate": "1"}, TypeError, "learning_rate must be a finite number, .*, not '1'"),
        ({"learning_rate": True}, TypeError, "learning_rate must be a finite number, .*, not True"),
        ({"learning_rate": lambda t: -t}, ValueError, r"learning_rate\(1\) .* 0 or more, not -1"),
        ({"learning_rate": lambda t: inf}, ValueError, r"learning_rate\(0\) must .*, not inf"),
        ({"learning_rate": lambda t: None}, TypeError, r"learning_rate\(0\) must .*, not None"),
        ({"steps": -1}, ValueError, "steps must be a whole number, 0 or more, not -1"),
        ({"steps": 2.5}, TypeError, "steps must be a whole number, 0 or more, not 2.5"),
        ({"steps": True}, TypeError, "steps must be a whole number, 0 or more, not True"),
        (
            {"weight_decay": -1},
            ValueError,
            "weight_decay must be a finite number, 0 or more, not -1",
        ),
        ({"weight_decay": nan}, ValueError, "weight_decay must be a finite number, .* not nan"),
        ({"weight_decay": inf}, ValueError, "weight_decay must be a finite number, .* not inf"),
        ({"weight_decay": None}, TypeError, "weight_decay must be a finite number, .* not None"),
    ],
)
def test_bad_arguments_are_named(optimize, change, error, message):
    good = {"gradient": bowl, "start": [1.0, 2.0], "learning_rate": 0.1, "steps": 3}
    assert optimize(**good).shape == (4, 2)
    with pytest.raises(error, match=message):
        optimize(**good | change)


@pytest.mark.parametrize(
    ("optimize", "name"),
    [(momentum, "beta"), (nesterov, "beta"), (rmsprop, "alpha")],
)
@pytest.mark.parametrize("bad", [-0.1, 1, 1.5, nan, inf])
def test_fractions_are_from_0_to_below_1(optimize, name, bad):
    with pytest.raises(
        ValueError, match=f"{name} must be a finite number, 0 or more and less than 1, not {bad}"
    ):
        optimize(bowl, 1.0, 0.1, 3, **{name: bad})
    with pytest.raises(TypeError, match=rf"{name} must be a finite .* not \[0.9\]"):
        optimize(bowl, 1.0, 0.1, 3, **{name: [0.9]})
    assert np.isfinite(optimize(bowl, 1.0, 0.1, 3, **{name: 0})).all()


@pytest.mark.parametrize("optimize", [rmsprop, adam, adamw])
@pytest.mark.parametrize("bad", [-1e-8, nan, inf])
def test_eps_is_not_negative(optimize, bad):
    with pytest.raises(ValueError, match=f"eps must be a finite number, 0 or more, not {bad}"):
        optimize(bowl, 1.0, 0.1, 3, eps=bad)
    assert np.isfinite(optimize(bowl, 1.0, 0.1, 3, eps=0)).all()


@pytest.mark.parametrize("optimize", [adam, adamw])
@pytest.mark.parametrize(
    ("betas", "error", "message"),
    [
        (0.9, TypeError, "betas must be a pair of numbers, not 0.9"),
        ((0.9,), TypeError, r"betas must be a pair of numbers, not \(0.9,\)"),
        ((0.9, 0.99, 0.999), TypeError, "betas must be a pair of numbers"),
        (("0.9", 0.999), TypeError, r"betas\[0\] must be a finite number, .* not '0.9'"),
        ((1.0, 0.999), ValueError, r"betas\[0\] must be a finite number, .* not 1.0"),
        ((0.9, 1.0), ValueError, r"betas\[1\] must be a finite number, .* not 1.0"),
        ([0.9, -0.1], ValueError, r"betas\[1\] must be a finite number, .* not -0.1"),
    ],
)
def test_betas_are_two_fractions(optimize, betas, error, message):
    with pytest.raises(error, match=message):
        optimize(bowl, 1.0, 0.1, 3, betas=betas)
    pair = optimize(bowl, 1.0, 0.1, 3, betas=[0.5, 0.9])
    np.testing.assert_array_equal(pair, optimize(bowl, 1.0, 0.1, 3, betas=(0.5, 0.9)))


# --- clipping -----------------------------------------------------------------------------------

SHAPES = [(4,), (2, 3), (), (0,), (1, 1, 5)]


def gradients(scale):
    rng = np.random.default_rng(3)
    return [scale * rng.normal(size=shape) for shape in SHAPES]


def clipped_in_torch(clip, arrays, limit):
    parameters = [torch.zeros(a.shape, dtype=torch.float64) for a in arrays]
    for p, a in zip(parameters, arrays, strict=True):
        p.grad = torch.tensor(a)
    clip(parameters, limit)
    return [p.grad.numpy() for p in parameters]


@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e-2, 1.0, 1e3, 1e100])
@pytest.mark.parametrize("limit", [1e-6, 0.5, 4, 1e6])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (clip_by_norm, torch.nn.utils.clip_grad_norm_),
        (clip_by_value, torch.nn.utils.clip_grad_value_),
    ],
)
def test_clipping_equals_pytorchs(ours, theirs, scale, limit):
    given = gradients(scale)
    result = ours(given, limit)
    expected = clipped_in_torch(theirs, given, limit)
    assert len(result) == len(expected) == len(SHAPES)
    for a, b, before, untouched in zip(result, expected, given, gradients(scale), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=0)
        assert np.shape(a) == before.shape
        assert not np.shares_memory(a, before)
        np.testing.assert_array_equal(before, untouched)


def test_one_array_is_clipped_as_a_list_of_one():
    g = np.array([[30.0, -40.0]])
    for clip in (clip_by_norm, clip_by_value):
        alone, among = clip(g, 5.0), clip([g], 5.0)
        assert isinstance(alone, np.ndarray)
        assert isinstance(among, list)
        assert isinstance(clip((g,), 5.0), tuple)
        np.testing.assert_array_equal(alone, among[0])
        assert clip([], 5.0) == []


def test_the_norm_is_joint_and_the_value_is_not():
    # The norm of both is 50: one factor for all keeps the direction, a limit on each turns it.
    by_norm = clip_by_norm(([0.0, 30.0], 40.0), 5)
    np.testing.assert_allclose(by_norm[0], [0.0, 3.0], rtol=3e-8)
    np.testing.assert_allclose(by_norm[1], 4.0, rtol=3e-8)
    assert 5 - 1e-6 < math.hypot(*by_norm[0], by_norm[1]) < 5  # the 10⁻⁶ keeps it just below
    by_value = clip_by_value(([0.0, 30.0], -40.0), 5)
    np.testing.assert_array_equal(by_value[0], [0.0, 5.0])
    assert by_value[1] == -5.0


@strict()
def test_the_norm_of_huge_gradients_does_not_overflow():
    # PyTorch's squares overflow there: its norm is inf, its factor 0 and the gradient lost.
    huge = np.array([3e200, -4e200])
    np.testing.assert_allclose(clip_by_norm(huge, 1.0), [0.6, -0.8], rtol=1e-15)
    np.testing.assert_array_equal(
        clipped_in_torch(torch.nn.utils.clip_grad_norm_, [huge], 1.0)[0], [0.0, 0.0]
    )
    with pytest.raises(ValueError, match="the norm of gradients must be a finite number, not inf"):
        clip_by_norm([1.7e308, 1.7e308], 1.0)
    np.testing.assert_array_equal(clip_by_norm([2.0, 0.0], np.float64(1e308)), [2.0, 0.0])


def test_clipping_goes_around_the_gradient():
    def cliff(x):
        return np.array([1.0, 1e9]) * x

    path = gradient_descent(lambda x: clip_by_norm(cliff(x), 1.0), [1.0, 1.0], 0.1, 50)
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() <= 0.1
    with pytest.raises(DivergenceError):
        gradient_descent(cliff, [1.0, 1.0], 0.1, 50)


@pytest.mark.parametrize(("clip", "name"), [(clip_by_norm, "max_norm"), (clip_by_value, "limit")])
def test_bad_arguments_of_clipping_are_named(clip, name):
    for bad in (0, -1.0, nan, inf):
        with pytest.raises(
            ValueError, match=f"{name} must be a finite number, more than 0, not {bad}"
        ):
            clip([1.0], bad)
    for bad in ("1", None, True, [1.0]):
        with pytest.raises(TypeError, match=f"{name} must be a finite number, more than 0"):
            clip([1.0], bad)
    for lost in (nan, inf, -inf):
        with pytest.raises(ValueError, match="gradients must be finite, but holds"):
            clip(np.array([1.0, lost]), 1.0)
        with pytest.raises(ValueError, match=r"gradients\[1\] must be finite, but holds"):
            clip((1.0, lost), 1.0)
    for bad in ({"w": 1.0}, None, "1", np.array([1j]), (x for x in [1.0])):
        with pytest.raises(TypeError, match=r"gradients must hold real numbers \(float or integ"):
            clip(bad, 1.0)


# --- the schedule -------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (7, 0), (100, 0), (100, 2), (100, 30)])
def test_the_schedule_equals_pytorchs(steps, warmup):
    lr = torch.optim.lr_scheduler
    optimizer = SGD([torch.zeros(())], lr=0.3)
    scheduler = cosine = lr.CosineAnnealingLR(optimizer, T_max=steps - warmup)
    if warmup:
        optimizer = SGD([torch.zeros(())], lr=0.3)
        line = lr.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        cosine = lr.CosineAnnealingLR(optimizer, T_max=steps - warmup)
        scheduler = lr.SequentialLR(optimizer, [line, cosine], milestones=[warmup])
    rate = warmup_cosine(0.3, steps, warmup=warmup)
    for step in range(steps + 1):
        assert rate(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-10, abs=1e-15), step
        optimizer.step()
        scheduler.step()


def test_the_schedule_by_hand():
    rate = warmup_cosine(0.8, steps=12, warmup=4)
    assert [rate(t) for t in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8], rel=1e-15)
    assert rate(8) == pytest.approx(0.4, rel=1e-15)  # half of the cosine gone, half of the peak
    assert [rate(t) for t in (12, 13, 1000)] == [0, 0, 0]
    assert all(rate(t) > rate(t + 1) > 0 for t in range(4, 11))
    all_line = warmup_cosine(1.0, steps=2, warmup=2)
    assert [all_line(t) for t in range(4)] == [0.5, 1.0, 0.0, 0.0]
    assert warmup_cosine(1.0, steps=0)(0) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 10), ValueError, "peak must be a finite number, more than 0, not 0"),
        ((nan, 10), ValueError, "peak must be a finite number, more than 0, not nan"),
        (("1", 10), TypeError, "peak must be a finite number, more than 0, not '1'"),
        ((1.0, -1), ValueError, "steps must be a whole number, 0 or more, not -1"),
        ((1.0, 2.5), TypeError, "steps must be a whole number, 0 or more, not 2.5"),
        ((1.0, "9"), TypeError, "steps must be a whole number, 0 or more, not '9'"),
        ((1.0, 10, -1), ValueError, "warmup must be a whole number, 0 or more, not -1"),
        ((1.0, 10, 0.1), TypeError, "warmup must be a whole number, 0 or more, not 0.1"),
        ((1.0, 10, 11), ValueError, "warmup must be at most steps, 10, not 11"),
    ],
)
def test_bad_arguments_of_the_schedule_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        warmup_cosine(*arguments)


def test_the_schedule_takes_whole_steps():
    rate = warmup_cosine(1.0, 10)
    for bad, error in ((-1, ValueError), (0.5, TypeError)):
        with pytest.raises(error, match=f"step must be a whole number, 0 or more, not {bad}"):
            rate(bad)
    assert rate(np.int64(5)) == pytest.approx(0.5)


# --- the module ---------------------------------------------------------------------------------


def test_all_names_what_is_public():
    defined = {
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__ and not name.startswith("_")
    }
    assert set(module.__all__) == defined
    assert len(module.__all__) == len(defined) == 10


def test_examples_in_the_docstrings():
    assert doctest.testmod(module) == (0, 4)
