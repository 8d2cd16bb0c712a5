"""Born dead: formulas against enumeration and simulation, simulation against PyTorch."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from companion.born_dead import BornDead, born_dead_bounds, born_dead_probability

GRID = np.linspace(-(3**0.5), 3**0.5, 64)


def rng(seed=0):
    return np.random.default_rng(seed)


def agree(born, expected, also=0.0):
    """Within four standard errors, `also` being that of what is expected."""
    return abs(born.probability - expected) < 4 * math.hypot(born.standard_error, also)


# ---- formulas -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "expected"), [(2, 0.92492), (3, 0.69934), (4, 0.44058), (5, 0.24854), (10, 0.00875)]
)
def test_one_point_by_signs(width, expected):
    born = born_dead_probability([width] * 9, inputs=[0.7])
    assert float(born) == pytest.approx(1 - (1 - 2.0**-width) ** 9, rel=1e-14)
    assert float(born) == pytest.approx(expected, abs=5e-6)
    assert born == born_dead_probability([width] * 9, 3, inputs=[[1, 0, -2]], bias=True)


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ([2, 2], 5 / 32), ([3, 3], 11 / 256), ([3, 2], 0.109375), ([2, 4], 0.033203125),
        ([5, 2], 0.07421875), ([1, 3], 1 / 8), ([7], 0.0), ([1, 2, 3], 1 - 3 / 4 * 7 / 8),
    ],
)  # fmt: skip
def test_one_input_without_biases(widths, expected):
    born = born_dead_probability(widths)
    assert born == BornDead(expected, 0.0, expected, expected, "exact")
    assert agree(born_dead_probability(widths, simulate=40_000, rng=rng()), expected)


@pytest.mark.parametrize(
    ("n", "d", "expected"),
    [(1, 1, 1 / 4), (2, 1, 3 / 16), (2, 2, 1 / 8), (3, 2, 5 / 64), (4, 3, 9 / 256), (2, 5, 1 / 8)],
)
def test_second_layer_unit_of_brownlowe(n, d, expected):
    assert float(born_dead_probability([n, 1], d, bias=True)) == expected


def silent_exactly(W, b, w, c):
    """Whether w·relu(Wx + b) + c is never positive for real x: look at all kinks, and far out."""
    kinks = -b / W
    far = 1 + abs(kinks).max(axis=1, keepdims=True)
    x = np.concatenate([kinks, far, -far], axis=1)
    h = np.maximum(W[:, None] * x[:, :, None] + b[:, None], 0)
    y = np.einsum("mxn,mn->mx", h, w) + c[:, None]
    outward = np.einsum("msn,mn->ms", np.maximum(W[:, None] * np.array([[1.0], [-1.0]]), 0), w)
    return (y <= 0).all(axis=1) & (outward <= 0).all(axis=1)


@pytest.mark.parametrize("n", [1, 2])
def test_brownlowe_against_the_piecewise_linear_function(n):
    draws, r = 100_000, rng(n)
    W, b, w = (r.normal(size=(draws, n)) for _ in range(3))
    measured = silent_exactly(W, b, w, r.normal(size=draws)).mean()
    expected = float(born_dead_probability([n, 1], 1, bias=True))
    assert abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize(("n", "d", "second", "bias"), [(2, 3, 1, False), (2, 2, 2, False)])
def test_fewer_units_than_inputs(n, d, second, bias):
    expected = 2.0 ** -(n * second)
    assert float(born_dead_probability([n, second], d, bias=bias)) == expected
    assert agree(born_dead_probability([n, second], d, simulate=20_000, rng=rng()), expected)


@pytest.mark.parametrize("width", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("hidden", [2, 9, 19])
def test_bounds_of_lu(width, hidden):
    a, both = 1 - 2.0**-width, 1 - 2.0 ** (1 - width) - (width - 1) * 4.0**-width
    c = (1 - 2.0 ** (1 - width)) * (1 - 2.0**-width) / (1 + (width - 1) * 2.0**-width)
    published = 1 - a ** (hidden - 1) + c * (both ** (hidden - 1) - a ** (hidden - 1))
    lower, upper = born_dead_bounds([width] * hidden)
    assert lower == pytest.approx(published, rel=1e-9)
    if hidden == 2:
        assert lower == upper == float(born_dead_probability([width] * 2))
    else:
        assert upper == pytest.approx(1 - a**hidden, rel=1e-12)
        born = born_dead_probability([width] * hidden, simulate=20_000, rng=rng(width))
        slack = 4 * born.standard_error
        assert born.lower - slack < born.probability < born.upper + slack


def test_width_for_one_percent():
    assert math.log2(10 / 0.01) < 10
    assert born_dead_bounds([10] * 10)[1] < 0.01 < born_dead_bounds([9] * 10)[1]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [[2, 3, 2], [4, 2, 1, 3]])
def test_bounds_hold_in_space(widths, bias):
    lower, upper = born_dead_bounds(widths, 2, bias=bias)
    points = 5 * rng().normal(size=(400, 2))
    born = born_dead_probability(widths, 2, bias=bias, inputs=points, simulate=8000, rng=rng())
    assert 0 < lower < born.probability < upper < 1


# ---- simulation -----------------------------------------------------------------------------


def torch_share(widths, x, nets, bias):
    """What a loop over nn.Sequential finds."""
    torch.manual_seed(0)
    x = torch.tensor(x, dtype=torch.float64)
    dead = 0
    with torch.no_grad():
        for _ in range(nets):
            h, silent = x, False
            for n_in, n in itertools.pairwise([x.shape[1], *widths]):
                layer = nn.Linear(n_in, n, dtype=torch.float64)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.normal_(layer.bias, std=(2 / n_in) ** 0.5 if bias else 0.0)
                h = layer(h).relu()
                silent |= not (h > 0).any()
            dead += silent
    return dead / nets


@pytest.mark.parametrize(
    ("widths", "d_in", "bias"), [([2] * 6, 1, False), ([3] * 8, 2, False), ([2, 3, 2], 1, True)]
)
def test_simulation_agrees_with_pytorch(widths, d_in, bias):
    x = GRID[:, None] if d_in == 1 else rng().normal(size=(40, d_in))
    share = torch_share(widths, x, 1000, bias)
    born = born_dead_probability(widths, d_in, bias=bias, inputs=x, simulate=10_000, rng=rng(1))
    assert agree(born, share, also=math.sqrt(share * (1 - share) / 1000))


@pytest.mark.parametrize("widths", [[2] * 9, [5] * 9, [6, 2, 5, 3]])
def test_two_points_stand_for_the_line(widths):
    line = born_dead_probability(widths, simulate=10_000, rng=rng())
    grid = born_dead_probability(widths, inputs=GRID, simulate=10_000, rng=rng(1))
    assert agree(line, grid.probability, also=grid.standard_error)
    two = born_dead_probability(widths, inputs=[-1e300, 1e300], simulate=10_000, rng=rng())
    assert two == line


@pytest.mark.parametrize(
    ("width", "hidden", "he", "asymmetric"),
    [(2, 9, 0.8835, 0.2355), (3, 9, 0.5786, 0.0665), (5, 9, 0.1301, 0.0034), (4, 19, 0.627, 0.063)],
)
def test_randomized_asymmetric_saves_most(width, hidden, he, asymmetric):
    for init, expected in (("he", he), ("randomized_asymmetric", asymmetric)):
        born = born_dead_probability(
            [width] * hidden, init=init, inputs=GRID, simulate=10_000, rng=rng(hidden)
        )
        assert agree(born, expected, also=math.sqrt(expected / 10_000))


def test_every_point_counts():
    inputs = np.r_[np.full(50, 1.0), -1.0, np.full(49, 1.0)]  # one point of its own kind
    assert born_dead_probability([1], inputs=inputs, simulate=4000, rng=rng()).probability == 0


def test_depth_neither_overflows_nor_underflows():
    for widths, dead in (([40] * 200, 0), ([3] * 400, 1)):
        found = born_dead_probability(widths, 2, inputs=np.eye(2), simulate=20, rng=rng())
        assert found.probability == dead


def test_with_biases_it_matters_how_far_out_the_points_lie():
    near = dict(inputs=[-1e-9, 1e-9], bias=True, simulate=10_000, rng=rng())
    assert agree(born_dead_probability([2, 2], **near), 1 - (3 / 4) ** 2)  # as at one point
    far = born_dead_probability([2, 2], **near | {"inputs": [-1e9, 1e9]})
    assert agree(far, 1 / 16)  # two rays, and on one that is lost the biases alone
    asymmetric = born_dead_probability([2, 2], init="randomized_asymmetric", **near)
    assert (asymmetric.lower, asymmetric.upper) == (0, 1)


@pytest.mark.parametrize("nets", [1, 2, 1000])
def test_the_standard_error_counts_one_dead_and_one_living_net_more(nets):
    born = born_dead_probability([2, 2, 2], simulate=nets, rng=rng())
    dead = round(born.probability * nets)
    outcomes = np.r_[np.ones(dead + 1), np.zeros(nets - dead + 1)]
    assert born.standard_error == pytest.approx(outcomes.std() / math.sqrt(nets + 2))


def test_many_directions_stand_for_space():
    born = born_dead_probability([3, 2, 2], 2, simulate=20_000, rng=rng())
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    fine = born_dead_probability([3, 2, 2], 2, inputs=circle, simulate=20_000, rng=rng(1))
    assert agree(born, fine.probability, also=fine.standard_error)


@pytest.mark.parametrize("inputs", [None, GRID])
def test_the_generator_decides(inputs):
    arguments = dict(widths=[3, 3, 3], inputs=inputs, bias=inputs is not None, simulate=500)
    first = born_dead_probability(**arguments, rng=rng(3))
    assert first == born_dead_probability(**arguments, rng=rng(3))
    assert first != born_dead_probability(**arguments, rng=rng(4))


def test_batches_are_joined():
    many = np.ones((1000, 1)) * np.linspace(-1, 1, 1000)[:, None]  # 500 nets of two at a time
    born = born_dead_probability([2, 2], inputs=many, simulate=1201, rng=rng())
    assert agree(born, 5 / 32)
    dead = born.probability * 1201
    assert dead == pytest.approx(round(dead), abs=1e-9)


def test_a_seed_is_a_generator_and_none_is_a_fresh_one():
    def drawn(given):
        return born_dead_probability([3, 3, 3], simulate=1000, rng=given)

    assert drawn(3) == drawn(rng(3))
    assert len({drawn(None).probability for _ in range(4)}) > 1


def test_no_dead_net_among_few_is_no_certainty():
    born = born_dead_probability([20] * 3, simulate=100, rng=rng())
    assert born.probability < 1e-6
    assert 0.005 < born.standard_error < 0.02


def test_result_is_a_frozen_number():
    born = born_dead_probability([3, 3, 3], simulate=100, rng=rng())
    assert float(born) == born.probability
    assert born.method == "simulation"
    assert "bounds 0.1036" in str(born)
    assert "exact" in str(born_dead_probability([2, 2]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        born.probability = 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (dict(widths=[]), ValueError, "widths"),
        (dict(widths=3), TypeError, "widths"),
        (dict(widths="23"), TypeError, "widths"),
        (dict(widths=[2, 0]), ValueError, r"widths\[1\] must be a whole number, 1 or more, not 0"),
        (dict(widths=[2.0]), TypeError, r"widths\[0\] must be a whole number"),
        (dict(d_in=0), ValueError, "d_in"),
        (dict(init="xavier"), ValueError, "init must be 'he' or 'randomized_asymmetric'"),
        (dict(), ValueError, "only bounds, 0.1036"),
        (dict(init="randomized_asymmetric"), ValueError, "simulate must say"),
        (dict(simulate=0, rng=rng()), ValueError, "simulate"),
        (dict(simulate=1e4, rng=rng()), TypeError, "simulate"),
        (dict(simulate=10, rng=3.0), TypeError, "rng must be a numpy.random.Generator"),
        (dict(simulate=10, rng=rng(), bias=True), ValueError, "inputs must be given"),
        (dict(inputs=[[1.0, 2.0]]), ValueError, r"inputs must have shape \(n_points, 1\)"),
        (dict(inputs=[]), ValueError, "inputs must have shape"),
        (dict(inputs=[np.nan]), ValueError, "inputs must be finite"),
        (dict(inputs=[0.0]), ValueError, "other than 0"),
    ],
)
def test_bad_input_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        born_dead_probability(**({"widths": [3, 3, 3]} | arguments))
