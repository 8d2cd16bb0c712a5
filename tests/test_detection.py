"""Every count against brute force: all pre-activations kept, derivatives by autograd or NumPy."""

import copy
import io
import json
import math
import os
import pickle
import subprocess
import sys
import types
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from companion.__main__ import main
from companion.activations import ACTIVATIONS
from companion.detection import LayerReport, UnitReport, census, watch
from companion.detection.callbacks import lightning_callback, trainer_callback
from companion.detection.diagnosis import BOUNDED
from companion.detection.flow import Flow
from companion.detection.rules import FUNCTIONS
from companion.detection.tally import Tally
from companion.experiments import Elementwise
from companion.figures import COLOURS

SUMS = ("active", "steep", "upper", "total", "size", "low", "high")
FLAGS = ("dead", "always_on", "saturated", "nan")


def hooks(model):
    return sum(
        len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks)
        for part in model.modules()
    )


def inputs(n=300, width=5, seed=0, **options):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), **options)


def spread(n_units=25, width=5, dtype=torch.float64):
    """A layer whose units range from always far below zero to always far above."""
    layer = nn.Linear(width, n_units, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(inputs(n_units, width, 1) / 4)
        layer.bias.copy_(torch.linspace(-25, 25, n_units))
    return layer


def same(one, two):
    """Two reports, or two layers but for their names."""
    if isinstance(one, UnitReport):
        return len(one) == len(two) and all(same(*pair) for pair in zip(one, two, strict=True))
    sums = all(
        np.allclose(getattr(one, s), getattr(two, s), rtol=1e-6, equal_nan=True) for s in SUMS
    )
    return sums and (one.n_seen, one.n_values) == (two.n_seen, two.n_values)


# --- every activation ----------------------------------------------------------------------------

PIECEWISE = [
    (nn.ReLU(), [0]),
    (nn.ReLU6(), [0, 6]),
    (nn.Hardtanh(-0.5, 2.0), [-0.5, 2]),
    (nn.Hardsigmoid(), [-3, 3]),
    (nn.LeakyReLU(0.01), [0]),
    (nn.LeakyReLU(0.2), [0]),
    (nn.LeakyReLU(0.0), [0]),
    (nn.LeakyReLU(-0.5), [0]),
    (nn.PReLU(init=0.25), [0]),
    (nn.PReLU(init=0.0), [0]),
    (nn.PReLU(25, init=0.005), [0]),
    (nn.RReLU().eval(), [0]),
    (nn.Threshold(0.1, 20.0), [0.1]),
    (nn.Hardshrink(), [-0.5, 0.5]),
    (nn.Softshrink(0.3), [-0.3, 0.3]),
    (Elementwise("relu"), [0]),
    (Elementwise("leaky_relu"), [0]),
    (Elementwise("prelu"), [0]),
    (Elementwise("hardtanh"), [-1, 1]),
    (Elementwise("identity"), []),
]
SMOOTH = [
    nn.ELU(0.5), nn.SELU(), nn.CELU(2.0), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(),
    nn.Softplus(2.0, 30.0), nn.Sigmoid(), nn.Tanh(), nn.Hardswish(), nn.Softsign(),
    nn.LogSigmoid(), nn.Tanhshrink(),
    Elementwise("sigmoid"), Elementwise("mish"),
]  # fmt: skip


def check(layer, z, h, slope, kinks):
    """Compare a layer's report with pre-activations, outputs and derivatives, (n, units) each."""
    slope, h = np.abs(slope), np.asarray(h)
    zero = 0 if kinks is not None else 1e-6
    dead = (slope <= zero).all(0)
    saturated = (slope <= 0.01).all(0) & ~dead
    pieces = np.searchsorted(np.array(kinks or []), np.asarray(z))
    one_piece = (pieces == pieces[0]).all(0) & (kinks is not None)
    assert layer.n_values == len(h)
    np.testing.assert_array_equal(layer.dead, dead)
    np.testing.assert_array_equal(layer.saturated, saturated)
    np.testing.assert_array_equal(layer.always_on, one_piece & ~dead & ~saturated)
    np.testing.assert_allclose(layer.p_active, (slope > zero).mean(0))
    np.testing.assert_allclose(layer.mean, h.mean(0), atol=1e-12)
    np.testing.assert_allclose(layer.mean_abs, np.abs(h).mean(0), atol=1e-12)
    seen = ~np.isnan(layer.low)
    assert (seen | ~dead).all()
    np.testing.assert_allclose(layer.low[seen], h.min(0)[seen], atol=1e-12)
    np.testing.assert_allclose(layer.high[seen], h.max(0)[seen], atol=1e-12)
    assert layer.constant[dead & (h.min(0) == h.max(0))].all()
    assert (np.ptp(h, 0)[layer.constant] < 1e-12).all()
    np.testing.assert_allclose(layer.score, layer.mean_abs / np.abs(h).mean())
    assert not layer.nan.any()


def slopes(function, z):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(function(z.clone()).sum(), z)[0].numpy()


BOOK = [name for name, f in ACTIVATIONS.items() if f.twin_name]


def name_of(case):
    return str(case[0] if isinstance(case, tuple) else case).replace(" ", "")


CASES = [(*case, False) for case in PIECEWISE] + [(module, None, False) for module in SMOOTH]
CASES += [
    (module, kinks, True)
    for module, kinks, _ in CASES
    if hasattr(module, "inplace") and getattr(module, "negative_slope", 0) >= 0
]


@pytest.mark.parametrize(("module", "kinks", "inplace"), CASES, ids=name_of)
def test_an_activation_is_counted_as_brute_force_counts_it(module, kinks, inplace):
    module = copy.deepcopy(module).double()
    x, layer = inputs(dtype=torch.float64), spread()
    with torch.no_grad():
        z = layer(x)
        h = module(z)
    expected = slopes(module, z)
    if inplace:
        module.inplace = True
    report = census(nn.Sequential(layer, module), x, batch_size=77)
    check(report[0], z, h, expected, kinks)
    with watch(nn.Sequential(layer, module), mode="train") as watched:  # with gradients
        if not isinstance(module, nn.RReLU):  # random in training mode
            module.train()
            nn.Sequential(layer, module)(x)
            watched.model(x).sum().backward()
            check(watched.report()[0], z, h, expected, kinks)


@pytest.mark.parametrize("name", BOOK)
def test_the_books_activations_are_counted_by_their_own_derivative(name):
    f, x, layer = ACTIVATIONS[name], inputs(dtype=torch.float64), spread()
    z = layer(x).detach().numpy()
    straight = len(np.unique(f.derivative(np.linspace(-9, 9, 1000)))) <= 3
    report = census(nn.Sequential(layer, Elementwise(name)), x)
    assert report[0].activation == name
    check(report[0], z, f(z), f.derivative(z), list(f.kinks) if straight else None)


def test_what_levels_off_on_both_sides_can_be_saturated():
    assert {name for name, f in ACTIVATIONS.items() if np.isfinite(f.range).all()} <= BOUNDED


def test_every_kind_of_unit_occurs_in_these_tests():
    report = census(nn.Sequential(spread(), nn.ReLU(), spread(25, 25), nn.SELU()), inputs())
    relu = report[0]
    assert relu.dead.any()
    assert relu.always_on.any()
    assert (~(relu.dead | relu.always_on)).any()
    flat = census(nn.Sequential(spread(), nn.Sigmoid()), inputs(dtype=torch.float64))[0]
    assert flat.dead.any()
    assert flat.saturated.any()


FUNCTIONAL = [
    (functional.relu, nn.ReLU()),
    (torch.relu, nn.ReLU()),
    (torch.Tensor.relu, nn.ReLU()),
    (functional.relu_, nn.ReLU()),
    (torch.relu_, nn.ReLU()),
    (torch.Tensor.relu_, nn.ReLU()),
    (lambda z: functional.relu(z, True), nn.ReLU()),
    (lambda z: functional.relu(input=z, inplace=True), nn.ReLU()),
    (functional.relu6, nn.ReLU6()),
    (lambda z: functional.hardtanh(z, -0.5, max_val=2.0), nn.Hardtanh(-0.5, 2.0)),
    (functional.hardtanh_, nn.Hardtanh()),
    (functional.hardsigmoid, nn.Hardsigmoid()),
    (functional.leaky_relu, nn.LeakyReLU()),
    (lambda z: functional.leaky_relu(z, 0.2, True), nn.LeakyReLU(0.2)),
    (functional.leaky_relu_, nn.LeakyReLU()),
    (lambda z: functional.leaky_relu_(z, negative_slope=0.2), nn.LeakyReLU(0.2)),
    (lambda z: functional.prelu(z, torch.full((25,), 0.005, dtype=z.dtype)), nn.PReLU(25, 0.005)),
    (lambda z: torch.prelu(z, torch.tensor([0.1], dtype=z.dtype)), nn.PReLU(1, 0.1)),
    (functional.rrelu, nn.RReLU()),
    (torch.rrelu, nn.RReLU()),
    (lambda z: functional.threshold(z, 0.1, 20.0), nn.Threshold(0.1, 20.0)),
    (lambda z: functional.threshold_(z, 0.1, 20.0), nn.Threshold(0.1, 20.0)),
    (functional.hardshrink, nn.Hardshrink()),
    (torch.hardshrink, nn.Hardshrink()),
    (functional.softshrink, nn.Softshrink()),
    (lambda z: functional.softshrink(z, 0.3), nn.Softshrink(0.3)),
    (lambda z: functional.elu(z, 0.5, True), nn.ELU(0.5)),
    (lambda z: functional.elu_(z, alpha=0.5), nn.ELU(0.5)),
    (functional.elu_, nn.ELU()),
    (torch.celu, nn.CELU()),
    (functional.selu, nn.SELU()),
    (torch.selu_, nn.SELU()),
    (lambda z: functional.celu(z, 2.0), nn.CELU(2.0)),
    (functional.gelu, nn.GELU()),
    (lambda z: functional.gelu(z, approximate="tanh"), nn.GELU("tanh")),
    (functional.silu, nn.SiLU()),
    (lambda z: functional.silu(z, inplace=True), nn.SiLU()),
    (lambda z: functional.mish(z, True), nn.Mish()),
    (functional.softplus, nn.Softplus()),
    (lambda z: functional.hardswish(z, inplace=True), nn.Hardswish()),
    (functional.softsign, nn.Softsign()),
    (functional.logsigmoid, nn.LogSigmoid()),
    (functional.tanhshrink, nn.Tanhshrink()),
    (functional.sigmoid, nn.Sigmoid()),
    (torch.sigmoid, nn.Sigmoid()),
    (torch.special.expit, nn.Sigmoid()),
    (torch.Tensor.sigmoid_, nn.Sigmoid()),
    (functional.tanh, nn.Tanh()),
    (torch.tanh, nn.Tanh()),
    (torch.Tensor.tanh_, nn.Tanh()),
    (lambda z: z.clamp(-0.5, 2.0), nn.Hardtanh(-0.5, 2.0)),
    (lambda z: torch.clamp(z, min=0), nn.ReLU()),
    (lambda z: z.clip_(0), nn.ReLU()),
    (lambda z: torch.clamp_min(z, 0), nn.ReLU()),
]


class Calls(nn.Module):
    """A layer, and after it a function."""

    def __init__(self, function, layer):
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(("function", "module"), FUNCTIONAL, ids=lambda case: type(case).__name__)
def test_a_function_is_counted_like_the_module(function, module):
    x, layer = inputs(dtype=torch.float64), spread()
    expected = census(nn.Sequential(layer, module.double()), x)
    found = census(Calls(function, layer), x)
    assert len(found) == 1
    assert same(found, expected)
    assert found[0].activation in (expected[0].activation, "clamp")
    assert found[0].name == f"{found[0].activation}()"
    assert found[0].made_by == "layer"


def test_every_function_of_the_table_is_tested():
    x, layer = inputs(9, dtype=torch.float64), spread()
    kinds = {census(Calls(f, layer), x)[0].activation for f, _ in FUNCTIONAL}
    assert kinds == FUNCTIONS.keys()


class Own(nn.Module):
    """x times its sigmoid, as a user would write it: with a module inside, and in place."""

    def __init__(self):
        super().__init__()
        self.sigmoid = nn.Sigmoid()

    def forward(self, z):
        return z.mul_(self.sigmoid(z))


class Sum(nn.Module):
    def forward(self, z):
        return z.sum(1)


class ShiftedReLU(nn.ReLU):
    def forward(self, z):
        return super().forward(z - 1)


def test_activations_of_a_users_own():
    x, layer = inputs(dtype=torch.float64), spread()
    expected = census(nn.Sequential(layer, nn.SiLU()), x)
    found = census(nn.Sequential(layer, Own()), x, activations=(Own,))
    assert same(found, expected)
    assert found.names == ["1"]
    assert found[0].activation == "own"
    assert same(census(nn.Sequential(layer, Own()), x), expected)
    shifted = census(nn.Sequential(layer, ShiftedReLU()), x)[0]
    z = layer(x).detach().numpy()
    np.testing.assert_array_equal(shifted.dead, (z <= 1).all(0))
    with pytest.raises(ValueError, match=r"'1' was not counted: made \(300,\) of \(300, 25\)"):
        census(nn.Sequential(layer, Sum()), x, activations=(Sum,))
    for wrong in (Own, [Own], (Own(),), ("relu",)):
        with pytest.raises(TypeError, match="activations must be a tuple"):
            watch(nn.Sequential(layer, Own()), activations=wrong)


# --- where the units are -------------------------------------------------------------------------


class Last(nn.Module):
    """Channels to the last axis, and a layer there: a block of ConvNeXt."""

    def __init__(self, second):
        super().__init__()
        self.conv, self.second, self.act = nn.Conv2d(3, 6, 3), second, nn.ReLU()

    def forward(self, x):
        return self.act(self.second(self.conv(x).permute(0, 2, 3, 1)))


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act = nn.Linear(5, 1), nn.ReLU()

    def forward(self, x):
        return self.act(self.layer(x).squeeze(-1))


AXES = [
    (nn.Sequential(nn.Linear(5, 7), nn.ReLU()), (8, 5), 7, 8, 8),
    (nn.Sequential(nn.Linear(5, 7), nn.ReLU()), (8, 4, 5), 7, 8, 32),
    (nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.ReLU()), (8, 2, 3, 5), 7, 8, 48),
    (nn.Sequential(nn.Conv1d(5, 7, 3), nn.ReLU()), (8, 5, 9), 7, 8, 56),
    (nn.Sequential(nn.Conv1d(5, 7, 3), nn.BatchNorm1d(7), nn.ReLU()), (8, 5, 9), 7, 8, 56),
    (nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU()), (8, 3, 6, 6), 7, 8, 128),
    (nn.Sequential(nn.Conv2d(3, 7, 3), nn.GroupNorm(1, 7), nn.ReLU()), (8, 3, 6, 6), 7, 8, 128),
    (nn.Sequential(nn.Conv3d(3, 7, 3), nn.ReLU()), (8, 3, 5, 5, 5), 7, 8, 216),
    (nn.Sequential(nn.ConvTranspose2d(3, 7, 3), nn.ReLU()), (8, 3, 4, 4), 7, 8, 288),
    (nn.Sequential(nn.Conv2d(3, 7, 3), nn.ReLU()), (3, 6, 6), 7, 1, 16),
    (nn.Sequential(nn.Linear(5, 7), nn.ReLU()), (5,), 7, 1, 1),
    (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.ReLU()), (8, 3, 4, 4), 4, 8, 32),
    (Last(nn.LayerNorm(6)), (8, 3, 6, 6), 6, 8, 128),
    (Last(nn.Linear(6, 9)), (8, 3, 6, 6), 9, 8, 128),
    (Last(nn.Identity()), (8, 3, 6, 6), 6, 8, 128),
    (Squeezed(), (8, 5), 1, 8, 8),
    (nn.Sequential(nn.ReLU()), (8, 3, 6, 6), 3, 8, 288),
    (nn.Sequential(nn.ReLU()), (8, 6, 3), 3, 8, 48),
    (nn.Sequential(nn.ReLU()), (8,), 1, 8, 8),
]


@pytest.mark.parametrize(("net", "shape", "n_units", "n_seen", "n_values"), AXES)
def test_units_are_on_the_axis_of_what_ran_last(net, shape, n_units, n_seen, n_values):
    with watch(net) as watched:
        net(torch.randn(shape))
    layer = watched.report()[0]
    assert (len(layer), layer.n_seen, layer.n_values) == (n_units, n_seen, n_values)


def test_the_axis_can_be_chosen():
    x = torch.randn(8, 3, 6, 5)
    assert len(census(nn.Sequential(nn.ReLU()), x, axis=-1)[0]) == 5
    net = nn.Sequential(nn.ReLU(), nn.Tanh())
    assert [len(layer) for layer in census(net, x, axis={"1": 2})] == [3, 6]
    for axis in (-5, 4):
        with pytest.raises(ValueError, match=f"axis must be one of a tensor of 4, not {axis}"):
            census(net, x, axis=axis)
    with pytest.raises(ValueError, match="axis must name layers of \\['0', '1'\\], not '2'"):
        census(net, x, axis={"2": 1})
    for axis in ("1", {"1": "2"}, 1.0):
        with pytest.raises(TypeError, match="axis"):
            census(net, x, axis=axis)
    for axis in (-10, {"1": -10}):
        with pytest.raises(ValueError, match="-9 or more"):
            watch(net, axis=axis)
    watch(net, axis={"1": -9})


def test_a_layer_whose_units_change_in_number_is_left_out_and_named():
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Sigmoid())
    with watch(net) as watched:
        watched.model(torch.randn(8, 3, 6, 6))
        watched.model(torch.randn(8, 4, 3, 9))
        watched.model(torch.randn(8, 3, 6, 6))
    report = watched.report()
    assert report.names == ["2"]
    assert report.notes == ("'0' was not counted: had 3 units and now has 4",)
    assert not hooks(net)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n", [3, 200])  # 200: more than one part
def test_a_channel_is_dead_if_it_is_silent_everywhere(n, memory_format):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()).to(memory_format=memory_format)
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([-1e6, -8.5, 0.0, 100.0]))
    x = torch.zeros(n, 1, 20, 30)
    x[:, :, 3:6, 7:10] = 1  # the second channel answers in the middle of this patch only
    layer = census(net, x.to(memory_format=memory_format))[0]
    assert layer.dead.tolist() == [True, False, False, False]
    assert layer.always_on.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(layer.active, [0, n, n * 25, n * 600])
    h = torch.relu(net[0](x)).detach().double()
    np.testing.assert_allclose(layer.mean, h.mean((0, 2, 3)), rtol=1e-6)


def test_prelu_has_a_slope_per_channel():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.PReLU(3))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.0, 0.005, 0.5]))
        net[0].weight.zero_()
        net[0].bias.fill_(-1.0)
    layer = census(net, torch.randn(4, 1, 3, 3))[0]
    assert (layer.dead.tolist(), layer.saturated.tolist()) == ([1, 0, 0], [0, 1, 0])
    assert layer.always_on.tolist() == [0, 0, 1]


# --- any model -----------------------------------------------------------------------------------


class Reused(nn.Module):
    """One ReLU module for three calls, functions between them, and residual sums in place."""

    def __init__(self, inplace=False):
        super().__init__()
        self.first, self.second, self.third = spread(8), spread(8, 8), spread(4, 8)
        self.relu = nn.ReLU(inplace)
        self.inner = Calls(torch.tanh, nn.Linear(4, 4, dtype=torch.float64))
        self.seen = []

    def forward(self, x):
        x = self.relu(self.first(x))
        self.seen = [x.detach().clone()]
        y = self.relu(self.second(x))
        self.seen.append(y.detach().clone())
        y += x  # in place, and after the count
        y = self.relu(self.third(y))
        self.seen.append(y.detach().clone())
        return self.inner(functional.gelu(functional.gelu(y)))


@pytest.mark.parametrize("inplace", [False, True])
def test_each_call_of_a_module_is_a_layer_and_work_in_place_fools_nobody(inplace):
    net, x = Reused(inplace), inputs(dtype=torch.float64)
    report = census(net, x)
    functions = ["gelu()", "gelu() (2)", "inner.tanh()"]
    assert report.names == ["relu", "relu (2)", "relu (3)", *functions]
    assert [len(layer) for layer in report] == [8, 8, 4, 4, 4, 4]
    assert [layer.made_by for layer in report] == [
        "first",
        "second",
        "third",
        "third",
        "third",
        "inner.layer",
    ]
    net(x)
    for layer, h in zip(report.layers[:3], net.seen, strict=True):
        np.testing.assert_array_equal(layer.active, (h > 0).sum(0))
        np.testing.assert_allclose(layer.mean, h.mean(0), atol=1e-12)


def test_batch_norm_between_and_dropout_after():
    torch.manual_seed(0)
    parts = [nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.9), nn.Linear(9, 3)]
    net, x = nn.Sequential(*parts), inputs()
    with torch.no_grad():
        net[1].bias[:2] = -50.0
    with watch(net) as watched:
        net(x)
    assert watched.report()[0].dead.tolist() == [True, True] + [False] * 7
    z = nn.functional.batch_norm(net[0](x), None, None, net[1].weight, net[1].bias, training=True)
    np.testing.assert_array_equal(watched.report()[0].active, (z > 0).sum(0))
    net[1].running_mean.fill_(100.0)  # what evaluation mode goes by
    assert census(net, x)[0].dead.all()
    assert census(net, x, mode="train")[0].dead.sum() == 2
    assert census(net, x, mode=None)[0].dead.sum() == 2


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.relu = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.conv2(self.relu(self.bn1(self.conv1(x))))
        out += x
        return self.relu(out)


def test_a_residual_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), Residual(), Residual())
    with torch.no_grad():
        net[1].bn1.bias[4] = -50.0
    report = census(net, torch.randn(9, 3, 8, 8))
    assert report.names == ["1.relu", "1.relu (2)", "2.relu", "2.relu (2)"]
    assert np.flatnonzero(report["1.relu"].dead).tolist() == [4]
    assert not report["1.relu (2)"].dead.any()
    assert {layer.n_values for layer in report} == {9 * 36}


@pytest.mark.parametrize("activation", ["relu", "gelu", nn.GELU()])
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_block(activation, training):
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True)
    with torch.no_grad():
        net.linear1.bias[3] = -50.0
    x = torch.randn(4, 7, 8)
    with watch(net.train(training)) as watched, torch.no_grad():
        net(x)
    for report in (watched.report(), census(net, x)):
        assert report.names == ["activation" if callable(activation) else f"{activation}()"]
        assert np.flatnonzero(report[0].dead).tolist() == [3]
        assert (len(report[0]), report[0].n_seen, report[0].n_values) == (16, 4, 28)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_branch_that_is_not_always_taken():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.ReLU(), nn.ReLU()

        def forward(self, x):
            return self.a(x) if x[0, 0] > 0 else self.b(x)

    batches = [inputs(9) + shift for shift in (-99, 99, -99)]
    report = census(Sometimes(), batches)
    assert {layer.name: layer.n_seen for layer in report} == {"a": 9, "b": 18}
    assert census(Sometimes(), batches[1:2]).names == ["a"]


# --- models that nobody here wrote ----------------------------------------------------------------


class Forward(nn.Module):
    """Modules by name, and what to do with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def swish(z):
    return z * torch.sigmoid(z)


def gelu_by_hand(z):
    return 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def hard_swish_in_place(z):
    return z * functional.relu6(z + 3, inplace=True) / 6


def elu_by_hand(z):
    return torch.where(z > 0, z, torch.exp(z) - 1)


def softplus_by_hand(z):
    return torch.log(1 + torch.exp(z))


COMPOSED = [
    (swish, functional.silu),
    (lambda z: torch.sigmoid(z).mul_(z), functional.silu),
    (lambda z: z.mul_(z.sigmoid()), functional.silu),
    (lambda z: z / (1 + torch.exp(-z)), functional.silu),
    (lambda z: z * torch.sigmoid(1.702 * z), lambda z: z * torch.sigmoid(1.702 * z)),
    (gelu_by_hand, lambda z: functional.gelu(z, approximate="tanh")),
    (lambda z: z * 0.5 * (1.0 + torch.erf(z / 2**0.5)), functional.gelu),
    (hard_swish_in_place, functional.hardswish),
    (lambda z: z * nn.ReLU6(inplace=True)(z + 3) / 6, functional.hardswish),
    (lambda z: z * functional.relu6(z + 3).div_(6), functional.hardswish),
    (lambda z: z.mul_(functional.relu6((z * 2).div_(2).add_(3)).div_(6)), functional.hardswish),
    (lambda z: z * torch.tanh(functional.softplus(z)), functional.mish),
    (lambda z: z * functional.softplus(z).tanh(), functional.mish),
    (elu_by_hand, functional.elu),
    (softplus_by_hand, functional.softplus),
    (lambda z: 1 / (1 + torch.exp(-z)), torch.sigmoid),
    (lambda z: z * (z > 0), torch.relu),
    (lambda z: torch.where(z > 0, z, 0.0), torch.relu),
    (lambda z: torch.where(z > 0, z, torch.zeros_like(z)), torch.relu),
    (lambda z: (z + z.abs()) / 2, lambda z: (z + z.abs()) / 2),
    (lambda z: (torch.sigmoid(z), torch.ones(3).add_(1))[0] * z, functional.silu),
]


@pytest.mark.parametrize(("by_hand", "function"), COMPOSED)
@pytest.mark.parametrize("as_module", [False, True])
def test_an_activation_written_by_hand_is_judged_as_a_whole(by_hand, function, as_module):
    x, layer = inputs(dtype=torch.float64), spread()
    z = layer(x).detach()
    slope = np.abs(slopes(function, z))
    if as_module:
        net = nn.Sequential(layer, Forward(lambda self, z: by_hand(z)), nn.Linear(25, 2).double())
    else:
        net = Forward(
            lambda self, x: self.b(by_hand(self.a(x))), a=layer, b=nn.Linear(25, 2).double()
        )
    report = census(net, x, batch_size=77)
    assert report.names == ["1" if as_module else "composed()"]
    np.testing.assert_array_equal(report[0].active, (slope > 1e-6).sum(0))
    np.testing.assert_array_equal(report[0].dead, (slope <= 1e-6).all(0))
    np.testing.assert_array_equal(report[0].saturated, (slope <= 0.01).all(0) & ~report[0].dead)
    np.testing.assert_allclose(report[0].mean, by_hand(z.clone()).mean(0))
    assert report[0].made_by == ("0" if as_module else "a")
    assert report[0].dead.sum() + report[0].saturated.sum() > 0


@pytest.mark.parametrize("function", [functional.relu, functional.gelu, swish])
def test_a_module_that_is_an_activation_and_nothing_else_gives_its_name(function):
    """Whatever is done with its output, and on every pass."""
    net = Forward(
        lambda s, x: s.act(s.a(x)).square(), a=spread(), act=Forward(lambda s, z: function(z))
    )
    x = inputs(dtype=torch.float64)
    report = census(net, x, batch_size=77)
    assert report.names == ["act"]
    np.testing.assert_array_equal(
        report[0].active, (np.abs(slopes(function, net.a(x))) > 1e-6).sum(0)
    )


@pytest.mark.parametrize("act", [nn.ELU(), nn.ELU(inplace=True), nn.ReLU6(inplace=True)], ids=str)
def test_a_module_may_be_a_part_of_an_activation(act):
    def forward(self, x):
        z = self.a(x)
        return z * self.act(z + 1)

    net, x = Forward(forward, a=spread(), act=act), inputs(dtype=torch.float64)
    report = census(net, x)
    slope = np.abs(slopes(lambda z: z * act(z + 1), net.a(x)))
    assert report.names == ["composed()"]
    np.testing.assert_array_equal(report[0].active, (slope > 1e-6).sum(0))


def test_what_is_about_to_be_overwritten_is_judged_before():
    """Two activations of one tensor, of which the second overwrites it; and a tensor beside it."""

    def forward(self, x):
        z = self.a(x)
        h = functional.gelu(z)
        self.count = z.new_zeros(3).add_(1)
        return h * 2 + z.mul_(z.sigmoid())

    x, layer = inputs(dtype=torch.float64), spread()
    report = census(Forward(forward, a=layer), x)
    assert report.names == ["gelu()", "composed()"]
    for found, function in zip(report, (functional.gelu, functional.silu), strict=True):
        slope = np.abs(slopes(function, layer(x)))
        np.testing.assert_array_equal(found.active, (slope > 1e-6).sum(0))


def test_a_step_has_no_slope_anywhere():
    class Step(nn.Module):
        def forward(self, z):
            return (z > 0).double()

    layer = census(
        nn.Sequential(spread(), Step()), inputs(dtype=torch.float64), activations=(Step,)
    )
    assert layer[0].dead.all()
    assert 0 < layer[0].constant.sum() < 25


def test_what_is_no_activation_is_none():
    """Gates are; norms, scales, softmax, masks, distances and residual sums are not."""

    def forward(self, x):
        h = self.a(x)
        h = (h - h.mean(-1, keepdim=True)) / (h.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        weights = torch.exp(h - h.amax(-1, keepdim=True))
        h = h + h * weights / weights.sum(-1, keepdim=True) + h.softmax(-1) + torch.exp(0.5 * h)
        self.share = (h > 0).double().mean()
        norm = x.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        gate = torch.sigmoid(self.b(x))
        return functional.silu(self.a(x / norm)) * gate * h

    net = Forward(forward, a=nn.Linear(5, 7), b=nn.Linear(5, 7))
    report = census(net, inputs())
    assert sorted(report.names) == ["sigmoid()", "silu()"]
    assert {layer.name: layer.made_by for layer in report} == {"sigmoid()": "b", "silu()": "a"}


def test_what_is_scaled_in_place_is_judged_by_what_it_was():
    """A hard sigmoid by hand is the ReLU6 in it, at the numbers before they are divided."""
    x, layer = inputs(dtype=torch.float64), spread()
    report = census(Calls(lambda z: functional.relu6(z + 3).div_(6), layer), x)
    z = layer(x).detach() + 3
    assert report.names == ["relu6()"]
    np.testing.assert_array_equal(report[0].active, ((z > 0) & (z < 6)).sum(0))
    np.testing.assert_allclose(report[0].mean, functional.relu6(z).mean(0))


def test_an_output_that_goes_two_ways_is_counted_once():
    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(h * 2) + self.b(h * 3) + self.b(h)

    net = Forward(forward, a=nn.Linear(5, 7), b=nn.Linear(7, 7))
    report = census(net, torch.randn(30, 5))
    assert (report.names, report[0].n_seen, report[0].n_values) == (["relu()"], 30, 30)


def test_one_after_another_is_two():
    net = nn.Sequential(spread(), nn.ReLU(), nn.Tanh())
    report = census(net, inputs(dtype=torch.float64))
    z = torch.relu(net[0](inputs(dtype=torch.float64)))
    assert report.names == ["1", "2"]
    np.testing.assert_array_equal(report["1"].active, (z > 0).sum(0))
    np.testing.assert_array_equal(report["2"].dead, (1 - torch.tanh(z) ** 2 <= 1e-6).all(0))


@pytest.mark.parametrize("function", [
    lambda z: z.clamp(min=0), lambda z: z.clamp_(0), lambda z: torch.clip(z, min=0.0),
    lambda z: torch.maximum(z, torch.zeros_like(z)), lambda z: torch.max(z, z.new_zeros(1)),
    lambda z: torch.clamp_min(z, 0), lambda z: z.clamp(min=torch.zeros(1)),
    lambda z: z.clamp(0, 1e9), lambda z: torch.maximum(torch.zeros_like(z), z),
    lambda z: z.clamp(min=torch.zeros_like(z)), lambda z: -torch.clamp_max(-z, 0),
    lambda z: -torch.clamp_max(-z, max=0),
])  # fmt: skip
def test_a_clamp_behind_a_layer_is_an_activation(function):
    x, layer = inputs(dtype=torch.float64), spread()
    report = census(Calls(function, layer), x, batch_size=77)  # the last of them is shorter
    assert (report.names, report[0].activation) == (["clamp()"], "clamp")
    np.testing.assert_array_equal(report[0].active, (layer(x) > 0).sum(0))
    np.testing.assert_array_equal(report[0].dead, (layer(x) <= 0).all(0))
    assert report[0].constant.sum() == report[0].dead.sum() > 0


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


def silenced(layer, n_dead=5):
    """Let the first units of a layer never fire."""
    with torch.no_grad():
        layer.bias.fill_(9.0)[:n_dead] = -1e3
    return layer


LINEAR, CONV = (lambda: silenced(nn.Linear(8, 16))), (lambda: silenced(nn.Conv2d(3, 16, 3)))
WHERE = {
    "transposed behind a linear layer": (
        lambda: Forward(lambda s, x: s.a(x).transpose(1, 2).relu(), a=LINEAR()), (10, 6, 8), 60),
    "swapped by its letters": (
        lambda: Forward(lambda s, x: torch.relu(s.a(x).mT), a=LINEAR()), (10, 6, 8), 60),
    "permuted behind a convolution": (
        lambda: Forward(lambda s, x: s.a(x).permute(0, 2, 3, 1).relu(), a=CONV()), (10, 3, 6, 6),
        160),
    "a norm over channels": (
        lambda: nn.Sequential(CONV(), LayerNorm2d(16, elementwise_affine=False), nn.ReLU()),
        (10, 3, 6, 6), 160),
    "moved to the front": (
        lambda: Forward(lambda s, x: s.a(x).movedim(1, 0).relu(), a=CONV()), (10, 3, 6, 6), 160),
    "positions in one axis": (
        lambda: Forward(lambda s, x: s.a(x).flatten(2).transpose(1, 2).relu(), a=CONV()),
        (10, 3, 6, 6), 160),
    "samples and positions in one axis": (
        lambda: Forward(lambda s, x: s.a(x).reshape(-1, 16).relu(), a=LINEAR()), (10, 6, 8), 60),
    "cut in two and put together": (
        lambda: Forward(lambda s, x: torch.cat(s.a(x).chunk(2, 1), 1).relu(), a=CONV()),
        (10, 3, 6, 6), 160),
    "a weight by hand": (
        lambda: Forward(lambda s, x: (x @ s.w.T + s.b).relu(), w=nn.Parameter(torch.randn(16, 8)),
                        b=nn.Parameter(torch.tensor([-1e3] * 5 + [0.0] * 11))), (10, 8), 10),
    "a weight by hand, from the left": (
        lambda: Forward(lambda s, x: (s.w @ x.T + s.b[:, None]).relu(),
                        w=nn.Parameter(torch.randn(16, 8)),
                        b=nn.Parameter(torch.tensor([-1e3] * 5 + [0.0] * 11))), (10, 8), 10),
    "addmm": (
        lambda: Forward(lambda s, x: torch.addmm(s.b, x.view(-1, 8), s.w).view(10, 6, 16).relu(),
                        w=nn.Parameter(torch.randn(8, 16)),
                        b=nn.Parameter(torch.tensor([-1e3] * 5 + [0.0] * 11))), (10, 6, 8), 60),
    "einsum": (
        lambda: Forward(lambda s, x: (torch.einsum("btd,hd->bht", x, s.w) + s.b[:, None]).relu(),
                        w=nn.Parameter(torch.randn(16, 8)),
                        b=nn.Parameter(torch.tensor([-1e3] * 5 + [0.0] * 11))), (10, 6, 8), 60),
    "pooled over positions": (
        lambda: Forward(lambda s, x: s.a(x).mean((2, 3)).relu(), a=CONV()), (10, 3, 6, 6), 10),
    "one dimension of positions": (
        lambda: nn.Sequential(silenced(nn.Conv1d(3, 16, 3)), nn.Dropout(), nn.ReLU()), (10, 3, 8),
        60),
    "the length of what is at its positions": (
        lambda: Forward(lambda s, x: (s.a(x).clamp(min=0).norm(2, dim=(2, 3)) - 1e-9).relu(),
                        a=CONV()), (10, 3, 6, 6), 10),
    "summed over an axis of positions": (
        lambda: Forward(lambda s, x: s.a(x).sum(3).relu(), a=CONV()), (10, 3, 6, 6), 40),
    "summed over an axis by its other name": (
        lambda: Forward(lambda s, x: s.a(x).sum(axis=-1).relu(), a=CONV()), (10, 3, 6, 6), 40),
    "a mean over the samples": (
        lambda: Forward(lambda s, x: s.a(x).mean(dim=0).relu(), a=CONV()), (10, 3, 6, 6), 16),
    "less their sum": (
        lambda: Forward(lambda s, x: (s.a(x) - 1e-9 * s.a(x).sum()).relu(), a=CONV()),
        (10, 3, 6, 6), 160),
    "in two axes, which are turned and turned back": (
        lambda: Forward(lambda s, x: s.a(x).unflatten(1, (4, 4)).mT.mT.relu(), a=LINEAR()),
        (10, 8), 10),
    "samples and positions in one axis, turned": (
        lambda: Forward(lambda s, x: s.a(x).reshape(-1, 16).T.relu(), a=LINEAR()), (10, 6, 8), 60),
    "einsum with the weight of a layer": (
        lambda: Forward(lambda s, x: (torch.einsum("btd,hd->bth", x, s.a.weight) + s.a.bias).relu(),
                        a=LINEAR()), (10, 6, 8), 60),
    "named one by one": (
        lambda: Forward(lambda s, x: s.a(x)[:, torch.arange(16)].relu(), a=CONV()), (10, 3, 6, 6),
        160),
    "with the samples moved before": (
        lambda: Forward(lambda s, x: s.a(x.transpose(0, 1)).relu(), a=LINEAR()), (10, 6, 8), 60),
    "a diagonal": (
        lambda: Forward(lambda s, x: s.a(x).diagonal(0, 2, 3).relu(), a=CONV()), (10, 3, 6, 6), 40),
    "stacked": (
        lambda: Forward(lambda s, x: torch.stack([s.a(x), s.a(2 * x)], 1).relu(), a=LINEAR()),
        (10, 8), 20),
    "transposed convolution": (
        lambda: nn.Sequential(silenced(nn.ConvTranspose2d(3, 16, 3)), nn.ReLU()), (10, 3, 4, 4),
        360),
}  # fmt: skip


BY_NO_LAYER = {
    "cut in two and put together", "a weight by hand", "a weight by hand, from the left", "addmm",
    "einsum", "less their sum", "in two axes, which are turned and turned back",
}  # fmt: skip
IN_NO_AXIS = {
    "samples and positions in one axis", "samples and positions in one axis, turned", "addmm",
    "a mean over the samples",
}  # fmt: skip
"""Where samples have no axis of their own, so that they are all looked at."""


@pytest.mark.parametrize("where", WHERE)
def test_units_are_where_the_layer_made_them(where):
    make, shape, n_values = WHERE[where]
    torch.manual_seed(0)
    layer = census(make(), torch.randn(shape)).layers[-1]
    assert (len(layer), layer.n_seen, layer.n_values) == (16, 10, n_values)
    assert np.flatnonzero(layer.dead).tolist() == [0, 1, 2, 3, 4]
    assert (layer.made_by == "") == (where in BY_NO_LAYER)
    if where != "addmm":  # which knows no other number of samples
        batches = torch.randn(shape).split([3, 7])
        again = census(make(), batches).layers[-1]
        n = n_values if where != "a mean over the samples" else 2 * n_values
        assert (again.n_seen, again.n_values) == (10, n)
    with watch(make(), samples=4) as watched:
        watched.model(torch.randn(shape))
    first = watched.report().layers[-1]
    n_seen = 10 if where in IN_NO_AXIS else 4
    assert (first.n_seen, first.n_values) == (n_seen, n_values * n_seen / 10)


def test_half_of_the_units_are_not_those_that_the_layer_made():
    net = Forward(lambda s, x: s.a(x).chunk(2, 1)[1].relu(), a=LINEAR())
    layer = census(net, torch.randn(10, 8))[0]
    assert (len(layer), layer.n_seen, layer.made_by) == (8, 10, "")


def test_one_sample_of_a_batch_is_one():
    net = Forward(lambda s, x: s.a(x)[3].relu(), a=CONV())
    layer = census(net, torch.randn(10, 3, 6, 6))[0]
    assert (len(layer), layer.n_seen, layer.n_values, layer.made_by) == (16, 1, 16, "a")


@pytest.mark.parametrize("form", ["bmm", "einsum", "matmul"])
def test_units_of_experts_are_their_own(form):
    """Four experts of 64 units in one weight are 256 units."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 8, 64))
    bias = torch.zeros(4, 1, 64)
    bias[1, 0, :3] = -1e3  # three units of the second expert
    run = {
        "bmm": lambda s, x: torch.relu(torch.bmm(x, s.w) + bias),
        "matmul": lambda s, x: torch.relu(x @ s.w + bias),
        "einsum": lambda s, x: torch.relu(torch.einsum("etd,edh->eth", x, s.w) + bias),
    }[form]
    layer = census(Forward(run, w=weight), torch.randn(4, 30, 8))[0]
    assert (len(layer), layer.n_values) == (256, 30)
    assert np.flatnonzero(layer.dead).tolist() == [64, 65, 66]


@pytest.mark.skipif(not hasattr(functional, "grouped_mm"), reason="needs a newer PyTorch")
def test_units_of_experts_in_one_call_are_pooled_and_that_is_said():
    ends, weight = torch.tensor([8, 16], dtype=torch.int32), nn.Parameter(torch.randn(2, 32, 64))
    net = Forward(lambda s, x: functional.grouped_mm(x, s.w, offs=ends).relu(), w=weight)
    report = census(net, torch.randn(16, 32))
    assert (len(report[0]), report[0].n_values) == (64, 16)
    assert report.notes == ("'relu()' pools the units of several experts",)


@pytest.mark.parametrize("batch_first", [True, False])
def test_samples_are_where_layers_say(batch_first):
    torch.manual_seed(0)
    shape = (12, 5, 8) if batch_first else (5, 12, 8)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    recurrent = nn.RNN(8, 16, nonlinearity="relu", batch_first=batch_first)
    behind = Forward(lambda s, x: s.b(s.a(x)[0]).relu(), a=nn.LSTM(8, 9, batch_first=batch_first),
                     b=nn.Linear(9, 16))  # fmt: skip
    for net in (encoder, recurrent, behind):
        layer = census(net, [torch.randn(shape)])[0]
        assert (len(layer), layer.n_seen, layer.n_values) == (16, 12, 60)
    linear = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    layer = census(linear, [torch.randn(shape)], batch_first=batch_first)[0]
    assert (layer.n_seen, layer.n_values) == (12, 60)


def test_a_recurrent_net_counts_what_it_puts_out_and_names_the_rest():
    torch.manual_seed(0)
    net = nn.RNN(8, 6, 2, nonlinearity="relu", batch_first=True)
    x = torch.randn(30, 5, 8)
    with torch.no_grad():
        net.bias_ih_l1[2] = -1e3
    report = census(net, x)
    assert report.names == ["RNN"]
    np.testing.assert_array_equal(report[0].active, (net(x)[0] > 0).sum((0, 1)))
    np.testing.assert_array_equal(report[0].dead, (net(x)[0] == 0).all((0, 1)))
    assert report[0].dead[2]
    assert "of its 2 layers only the last counts" in report.notes[0]
    net = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.LSTM(8, 4))
    lstm, attention = census(net, x).notes
    assert "'1' (LSTM): its gates" in lstm
    assert attention == "'0.self_attn' (MultiheadAttention): attention's softmax has no units"
    net = nn.TransformerEncoder(net[0], 3, enable_nested_tensor=False)
    (attention,) = census(net, x).notes
    assert attention.startswith("'layers.0.self_attn' and 2 more (MultiheadAttention): ")
    assert census(nn.RNN(8, 6, nonlinearity="relu", batch_first=True), x).notes == ()


def test_of_attention_within_attention_the_inner_one_is_named():
    class SelfAttention(nn.Linear):
        pass

    class Attention(nn.Sequential):
        pass

    net = nn.Sequential(Attention(SelfAttention(5, 7), nn.Linear(7, 7)), nn.ReLU())
    (note,) = census(net, inputs()).notes
    assert note == "'0.0' (SelfAttention): attention's softmax has no units"


def test_padding_does_not_count():
    torch.manual_seed(0)
    tokens = torch.randint(1, 9, (6, 5))
    real = torch.arange(5) < torch.tensor([5, 4, 3, 2, 1, 0])[:, None]
    tokens[~real] = 0

    def forward(self, input_ids, attention_mask=None):
        return self.b(self.a(input_ids)).relu()

    net = Forward(forward, a=nn.Embedding(9, 4), b=nn.Linear(4, 7))
    h = net(tokens).detach()[real]
    batches = [{"input_ids": tokens, "attention_mask": real.long()}]
    for options in ({}, {"mask": "attention_mask"}, {"mask": lambda input_ids, **_: input_ids > 0}):
        layer = census(net, batches, **options)[0]
        assert (layer.n_seen, layer.n_values) == (5, 15)
        np.testing.assert_array_equal(layer.active, (h > 0).sum(0))
        np.testing.assert_allclose(layer.mean, h.mean(0), rtol=1e-5)
    layer = census(net, [{"input_ids": tokens}])[0]
    assert (layer.n_seen, layer.n_values) == (6, 30)
    encoder = nn.TransformerEncoderLayer(4, 2, 7, batch_first=True)
    with watch(encoder.eval()) as watched:
        encoder(torch.randn(6, 5, 4), src_key_padding_mask=~real)
    assert watched.report()[0].n_values == 15
    with watch(encoder) as watched:
        encoder(torch.randn(6, 5, 4), None, ~real)
    assert watched.report()[0].n_values == 15
    for mask in (None, real[:, None, None]):  # none of samples by positions
        with watch(net) as watched:
            net(tokens, attention_mask=mask)
        assert watched.report()[0].n_values == 30


def test_inputs_may_be_several_or_named():
    torch.manual_seed(0)
    two = Forward(lambda s, x, y: s.a(x + y).relu(), a=nn.Linear(5, 7))
    two.forward = lambda x, y: two.function(two, x, y)
    x, y = inputs(), inputs(seed=1)
    for loader in ([(x, y)], [{"x": x, "y": y}], [[x, y, torch.zeros(300)]]):
        np.testing.assert_array_equal(census(two, loader)[0].active, (two(x, y) > 0).sum(0))


def test_a_report_keeps_two_samples_of_what_the_model_was_called_with():
    x, y = inputs(), inputs(4)
    net = Forward(lambda s, x, *_, **__: x.relu())
    few, table = torch.ones(1), torch.eye(300).to_sparse()
    with watch(net) as watched:
        net(x, [x, (x, "text")], more={"x": x, "table": table})
        net(y)
    (first, (second, (third, text))), named = watched.report().example
    for part in (first, second, third, named["more"]["x"]):
        assert torch.equal(part, x[:2])
        assert part.data_ptr() != x.data_ptr()
    assert (text, named["more"]["table"].shape) == ("text", (300, 300))
    for other in (few, torch.tensor(1.0)):  # where the samples are is not clear
        with watch(net) as watched:
            net(x, other)
        assert [len(t) if t.ndim else 0 for t in watched.report().example[0]] in (
            [300, 1],
            [300, 0],
        )
    two = census(net, x) + census(net, y)
    assert torch.equal(two.example[0][0], x[:2])


def test_a_model_may_be_wrapped_but_not_spread_over_devices():
    net = perceptron()
    parallel = nn.DataParallel(net)
    expected = census(net, inputs())
    for device_ids in ([], [0]):
        parallel.device_ids = device_ids
        assert same(census(parallel, inputs()), expected)
    parallel.device_ids = [0, 1]
    with pytest.raises(ValueError, match="DataParallel of several devices"):
        watch(parallel)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "compiled", [torch.jit.script, lambda net: torch.jit.trace(net, torch.ones(1, 5))]
)
def test_what_torchscript_has_compiled_cannot_be_seen(compiled):
    part = compiled(nn.Tanh())
    report = census(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), part), inputs())
    assert report.names == ["1"]
    assert report.notes == ("'2' has been compiled by TorchScript and was not seen",)
    with pytest.raises(TypeError, match="model must not be TorchScript's"):
        census(part, inputs())


def test_what_puts_out_no_number_has_not_overflowed():
    net = Forward(lambda s, x: s.a(x).relu().argmax(1), a=nn.Linear(5, 7))
    with watch(net) as watched:
        net(inputs())
    assert not watched.report().overflowed


def test_in_threads_nothing_is_lost():
    from concurrent.futures import ThreadPoolExecutor

    net = nn.Sequential(perceptron(), Calls(torch.tanh, nn.Linear(2, 4)))
    x = inputs(64)
    expected = census(net, x)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: census(net, x), range(24)):
            assert same(found, expected)
    with watch(net) as watched, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: net(x), range(24)))
    assert watched.report().names == expected.names
    assert [layer.n_seen for layer in watched.report()] == [24 * 64] * 3
    assert same(census(net, x), expected)


def test_a_watch_never_raises_into_the_loop():
    class Odd(torch.Tensor):
        pass

    net = Calls(torch.relu, nn.Linear(5, 7))
    with watch(net, mask=lambda x: 1 / 0) as watched:
        net(inputs())
    with pytest.raises(ValueError, match="the model's inputs: ZeroDivisionError"):
        watched.report()
    with watch(net) as watched:
        torch.vmap(net)(inputs())
        net(inputs())
        net(inputs().as_subclass(Odd))
    assert watched.report()[0].n_seen >= 300
    assert "vmap" in watched.report().notes[0]
    batched = Forward(
        lambda s, x: torch.vmap(s.a)(x).relu(), a=nn.Sequential(nn.Linear(5, 7), nn.ReLU())
    )
    with watch(batched) as watched:
        batched(inputs())
    assert watched.report().names == ["relu()"]
    assert "vmap" in watched.report().notes[0]


def test_a_scale_of_the_batch_is_a_constant_of_the_activation():
    net = Forward(lambda s, x: swish_by(s.a(x)), a=nn.Linear(5, 7))

    def swish_by(z):
        return z * torch.sigmoid(z / z.abs().mean())

    assert census(net, inputs()).names == ["composed()"]


def test_a_flat_middle_is_no_point():
    """The derivative of z - tanh(z) is less than a millionth between -0.001 and 0.001."""
    x = torch.linspace(-9e-4, 9e-4, 50, dtype=torch.float64)[:, None]
    assert census(nn.Tanhshrink(), x)[0].dead.all()
    assert not census(nn.Tanhshrink(), 1.2 * x)[0].dead.any()


@pytest.mark.parametrize("n", [2, 3])
def test_a_few_samples_share_an_axis_with_units_too(n):
    net = Forward(lambda s, x: s.a(x).reshape(-1).relu(), a=nn.Linear(5, 7))
    with pytest.raises(ValueError, match="share an axis"):
        census(net, inputs(n))
    assert (len(census(net, inputs(1))[0]), census(net, inputs(1))[0].n_seen) == (7, 1)


def test_tokens_may_have_their_samples_second():
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 7), nn.ReLU())
    layer = census(net, [torch.randint(9, (5, 12))], batch_first=False)[0]
    assert (layer.n_seen, layer.n_values) == (12, 60)


@pytest.mark.parametrize(
    "function",
    [
        lambda z, k: functional.leaky_relu(z, k),
        lambda z, k: functional.threshold(z, k, 0.0),
        lambda z, k: z.clamp(min=k),
        lambda z, k: functional.elu(z, alpha=k),
        lambda z, k: functional.softplus(z, beta=20 * k),
    ],
)
def test_numbers_that_a_function_is_given_may_change_from_pass_to_pass(function):
    class Net(nn.Module):
        k = 0.0

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return function(self.layer(x), self.k)

    net = Net()
    check_changes(net, lambda k: setattr(net, "k", k), (0.9, 0.5, 0.1, 0.9, 0.0))


def check_changes(net, change, numbers):
    """Compare what is counted over passes between which a number changes, with passes alone."""
    z, expected = torch.linspace(-3, 3, 60).reshape(20, 3), []
    weight, bias, *_ = net.parameters()
    with torch.no_grad():
        weight.copy_(8 * torch.eye(3))
        bias.zero_()
    with watch(net) as watched:
        for number in numbers:
            change(number)
            z = z.to(next(net.parameters()))
            net(z)
            with watch(net) as once:
                net(z)
            expected.append(once.report()[0])
    found = watched.report()[0]
    for name in ("active", "steep", "upper"):
        summed = 2 * sum(getattr(layer, name) for layer in expected)
        np.testing.assert_array_equal(getattr(found, name), summed)
    mean = np.mean([layer.mean_abs for layer in expected], axis=0)
    np.testing.assert_allclose(found.mean_abs, mean, rtol=1e-6)
    ends = [(layer.low[found.dead], layer.high[found.dead]) for layer in expected]
    np.testing.assert_array_equal(found.low[found.dead], np.min([low for low, _ in ends], axis=0))
    np.testing.assert_array_equal(found.high[found.dead], np.max([end for _, end in ends], axis=0))


CHANGES = {
    "slope": (nn.LeakyReLU(), "negative_slope", (0.5, 0.0, 0.1, 0.0)),
    "learned slope": (nn.PReLU(), "weight", [nn.Parameter(torch.tensor([a])) for a in (0.5, 0.0)]),
    "lower bound": (nn.Hardtanh(), "min_val", (0.0, 0.0, -1.0, 0.2)),
    "upper bound": (nn.Hardtanh(0.0, 9.0), "max_val", (9.0, math.inf, 1.0)),
    "threshold": (nn.Threshold(0.0, 0.0), "threshold", (0.0, 2.0, 1.0)),
    "value": (nn.Threshold(99.0, 0.0), "value", (7.0, 3.0, 5.0)),
    "form": (nn.GELU(), "approximate", ("none", "tanh")),
    "depth": (nn.ELU(), "alpha", (1.0, 1e-6)),
    "the book's": (Elementwise("elu", alpha=1.0), "options", ({"alpha": 1.0}, {"alpha": 1e-6})),
}


@pytest.mark.parametrize(("module", "name", "numbers"), CHANGES.values(), ids=CHANGES)
def test_numbers_of_a_module_may_change_from_pass_to_pass(module, name, numbers):
    net = nn.Sequential(nn.Linear(3, 3), module)
    check_changes(net, lambda number: setattr(module, name, number), numbers)


def test_a_learned_slope_may_be_moved_and_go_on():
    net = nn.Sequential(nn.Linear(3, 3), nn.PReLU())

    def change(dtype):
        net.to(dtype)
        with torch.no_grad():
            net[1].weight.fill_(0.5 if dtype == torch.float32 else 0.0)

    check_changes(net, change, (torch.float32, torch.float64))


@pytest.mark.parametrize("handled", [False, True])
def test_a_model_that_returns_nothing_is_followed_once(handled, monkeypatch):
    """It keeps its loss, say; and its pass may be a second try, while an error is handled."""
    followed, before = [], Flow._before
    monkeypatch.setattr(
        Flow, "_before", lambda self, *given: followed.append(given[1]) or before(self, *given)
    )
    layer = nn.Linear(5, 5)
    net = Forward(lambda s, x: setattr(s, "loss", torch.relu(s.layer(x)).mean()), layer=layer)
    with watch(net) as watched:
        for _ in range(9):
            try:
                raise MemoryError
            except MemoryError:
                if handled:
                    assert net(inputs(7)) is None
            if not handled:
                net(inputs(7))
    assert followed == ["linear", "relu", "mean"]
    assert watched.report()["relu()"].n_seen == 9 * 7


def test_a_model_whose_passes_differ_thrice_is_followed_on_every_pass():
    """What else the second, fourth and sixth pass call is not counted there, but from then on."""
    functions = {3: functional.relu, 4: functional.silu}
    net = Forward(lambda s, x: functions[len(x)](s.a(x)), a=nn.Linear(5, 5))
    with watch(net) as watched:
        for _ in range(5):
            net(inputs(3))
            net(inputs(4))
    assert watched.report()["relu()"].n_seen == 5 * 3
    assert watched.report()["silu()"].n_seen == (5 - 3) * 4
    assert "'silu()' was not counted when it was first called" in watched.report().notes


def test_a_batch_may_be_shorter_than_the_samples_asked_for():
    net = perceptron()
    with watch(net, samples=10) as watched:
        net(inputs(4))
        net(inputs(30))
    assert (watched.report()[0].n_seen, watched.report()[0].n_values) == (14, 14)


def test_batches_are_as_long_as_asked():
    lengths = []

    def forward(self, x):
        lengths.append(len(x))
        return x.relu()

    census(Forward(forward), inputs(10), batch_size=4)
    assert lengths == [4, 4, 2]
    census(Forward(forward), inputs(513))
    assert lengths[3:] == [512, 1]
    census(Forward(forward), [(inputs(7), torch.zeros(7))])  # of which a model takes one at least
    census(Forward(forward), inputs(3).flatten())
    assert lengths[5:] == [7, 15]


def test_a_parameter_that_is_not_used_may_overflow_too():
    net = perceptron()
    net.unused = nn.Parameter(torch.tensor(math.inf))
    assert census(net, inputs()).overflowed


def test_the_bound_goes_by_samples_and_not_by_positions():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    layer = census(net, torch.randn(50, 1, 6, 6))[0]
    assert (layer.n_values, layer.bound) == (800, 3 / 50)


@pytest.mark.parametrize("n", [3, 4, 5, 9])
def test_of_many_notes_the_first_are_shown(report, n):
    said = str(UnitReport(report.layers, tuple(f"note {i}" for i in range(n))))
    shown = n if n <= 4 else 3
    assert said.count("(note ") == shown
    assert (f"({n - 3} more notes)" in said) == (n > 4)


def test_single_precision_is_not_summed_past_what_it_counts(monkeypatch):
    """As on a GPU, where a layer is summed as a whole."""
    monkeypatch.setattr("companion.detection.tally.CHUNK", 2**40)
    n = 2**24 + 3
    with watch(nn.Sequential(nn.ReLU())) as watched, torch.no_grad():
        watched.model(torch.ones(n, 1))
    assert watched.report()[0].active[0] == watched.report()[0].total[0] == n


def test_a_slope_per_channel_is_part_of_the_activation():
    """x * sigmoid(v * x) with a parameter v of its own for each channel, and max(x, v)."""
    torch.manual_seed(0)
    v = nn.Parameter(torch.linspace(0.5, 50, 16)[:, None, None])
    conv, x = nn.Conv2d(3, 16, 3), torch.randn(40, 3, 6, 6)
    z = conv(x).detach()
    for run in (lambda z, v: z * torch.sigmoid(v * z), lambda z, v: torch.max(z, v / 50)):
        net = Forward(lambda s, x, run=run: run(s.conv(x), s.v), conv=conv, v=v)
        layer = census(net, x)[0]
        leaf = z.clone().requires_grad_()
        slope = torch.autograd.grad(run(leaf, v).sum(), leaf)[0].abs()
        np.testing.assert_array_equal(layer.active, (slope > 1e-6).sum((0, 2, 3)))
        assert len(layer) == 16


def test_what_was_overwritten_since_is_no_part_of_an_activation():
    def forward(self, x):
        z = self.a(x)
        self.y = z + 3
        z.zero_()
        return torch.relu(self.y) * torch.sigmoid(self.y)

    torch.manual_seed(0)
    net, x = Forward(forward, a=nn.Linear(5, 7)), 9 * inputs()
    with torch.no_grad():
        net(x)
    np.testing.assert_array_equal(census(net, x)[0].active, (net.y > 0).sum(0))
    assert 0 < (net.y > 0).double().mean() < 1


def test_what_no_layer_made_is_no_activation():
    """A gate of a parameter, a constant; and scores of attention have no units."""

    def forward(self, x):
        gate = torch.sigmoid(self.gate) + torch.sigmoid(torch.ones(16))
        q, k = self.q(x), self.q(x)
        scores = 9 * torch.tanh(q @ k.mT / 9)
        values = (self.q(x).mT @ scores.softmax(-1).mT).view(10, 16, 2, 3)
        return gate * self.q(x) + values.relu().sum()

    net = Forward(forward, q=nn.Linear(8, 16), gate=nn.Parameter(torch.zeros(16)))
    report = census(net, torch.randn(10, 6, 8))
    assert [(layer.name, len(layer)) for layer in report] == [("relu()", 16)]
    assert "'tanh()' was not counted: a product of two tensors has no units" in report.notes


def test_units_that_share_an_axis_with_samples_are_named():
    net = Forward(lambda s, x: s.a(x).reshape(-1).relu(), a=nn.Linear(5, 7))
    with watch(net) as watched:
        net(inputs())
    with pytest.raises(ValueError, match="its samples and its units share an axis"):
        watched.report()


def test_a_product_of_data_alone_has_no_units_that_are_known():
    net = Forward(
        lambda s, x: torch.einsum("btd,bsd->bts", s.a(x), s.a(x)).relu() + s.a(x).relu().sum(),
        a=nn.Linear(8, 16),
    )
    report = census(net, torch.randn(10, 6, 8))
    assert [len(layer) for layer in report] == [16]
    assert any("which of its axes are units is not known" in note for note in report.notes)


def test_the_first_batch_may_be_of_one_sample():
    net, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ReLU()), torch.randn(33, 1, 6, 6)
    layer = census(net, [x[:1], x[1:]])[0]
    assert (len(layer), layer.n_seen, layer.n_values) == (64, 33, 33)


def test_a_gated_linear_unit_has_its_gate():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 14), inputs()
    with torch.no_grad():
        layer.bias[9] = -50.0
    for net in (nn.Sequential(layer, nn.GLU()), Calls(functional.glu, layer)):
        (found,) = census(net, x)
        gate = torch.sigmoid(layer(x)[:, 7:])
        assert found.activation == "sigmoid"
        assert np.flatnonzero(found.dead).tolist() == [2]
        np.testing.assert_allclose(found.mean, gate.detach().mean(0), rtol=1e-5)


def test_batch_norm_behind_what_moves_axes_has_its_units_on_the_second():
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.bias[1] = -1e3
    net = Forward(
        lambda s, x: s.norm(s.a(x).unflatten(1, (4, 2, 2))).relu(), a=nn.Linear(5, 16), norm=norm
    )
    layer = census(net, inputs())[0]
    assert (len(layer), layer.n_values) == (4, 1200)
    assert np.flatnonzero(layer.dead).tolist() == [1]


def test_units_are_what_a_sum_leaves():
    net = Forward(lambda s, x: s.a(x).view(-1, 6, 4, 2).sum(-1).relu(), a=nn.Linear(5, 8))
    layer = census(net, torch.randn(30, 6, 5))[0]
    assert (len(layer), layer.n_seen, layer.n_values) == (4, 30, 180)


def test_values_may_be_fewer_than_samples():
    """As where a router sends some tokens to an expert."""
    net = Forward(
        lambda s, x: s.b(s.a(x)[:3].contiguous()).relu(), a=nn.Linear(5, 7), b=nn.Linear(7, 4)
    )
    layer = census(net, inputs(9))[0]
    assert (layer.n_seen, layer.n_values) == (3, 3)
    chosen = Forward(lambda s, x: s.a(x[x[:, 0] > 0]).relu(), a=nn.Linear(5, 7))
    layer = census(chosen, inputs())[0]
    assert layer.n_seen == layer.n_values == (inputs()[:, 0] > 0).sum()


def test_a_pass_that_differs_from_the_last_is_followed():
    """Which module runs, and which functions, may change with every pass."""

    def forward(self, x):
        h = (self.a if x[0, 0, 0] > 0 else self.b)(x)
        return h if len(x) > 5 else self.c(h.transpose(1, 2))

    torch.manual_seed(0)
    parts = {"a": nn.Conv1d(5, 7, 3), "b": nn.Conv1d(5, 7, 3), "c": nn.Linear(7, 7)}
    calls = {name: Calls(torch.relu, part) for name, part in parts.items()}
    net = Forward(forward, **calls)
    batches = [torch.randn(n, 5, 9) + shift for n in (4, 9, 4) for shift in (-9, 9, -9, 9, 9)]
    report = census(net, batches)
    seen = {"a": [], "b": [], "c": []}
    for x in batches:
        name = "a" if x[0, 0, 0] > 0 else "b"
        h = torch.relu(parts[name](x))
        seen[name].append(h.transpose(1, 2).reshape(-1, 7))
        if len(x) < 6:
            seen["c"].append(torch.relu(parts["c"](h.transpose(1, 2))).reshape(-1, 7))
    for name, kept in seen.items():
        layer = report[f"{name}.relu()"]
        np.testing.assert_array_equal(layer.active, (torch.cat(kept) > 0).sum(0))


def test_names_are_kept_apart():
    net = Forward(lambda s, x: getattr(s, "relu (2)")(s.relu(s.relu(x))), relu=nn.ReLU())
    net.add_module("relu (2)", nn.ReLU())
    assert census(net, inputs()).names == ["relu", "relu (3)", "relu (2)"]


class Wild(nn.Module):
    """Changes whatever it holds when it is run."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)
        self.register_buffer("m", torch.zeros(5))
        self.seen, self.count, self.table = [], 0, {"runs": [0]}
        self.state, self.array, self.last = torch.zeros(5), np.zeros(5), None

    def forward(self, x):
        h = functional.batch_norm(self.layer(x), self.m, torch.ones(5), training=True)
        self.seen.append(h)
        self.table["runs"].append(1)
        self.table["new"] = h
        self.count += 1
        self.state += h.detach().mean(0)
        self.array += 1
        self.last = h
        self.layer.weight.data.mul_(1.5)
        self.m = self.m + 1
        self.norm.train()
        self.fresh = torch.rand(1)
        self.layer.register_forward_hook(lambda *_: None)
        np.random.rand()  # noqa: NPY002
        if x.shape[0] == 2:
            raise RuntimeError("within")
        return torch.relu(self.norm(h))


def test_looking_leaves_a_wild_model_as_it_was():
    torch.manual_seed(0)
    net = Wild()
    state = {name: t.clone() for name, t in net.state_dict().items()}
    buffer, keys = net.m, {name: [*vars(part)] for name, part in net.named_modules()}
    random = torch.get_rng_state(), np.random.get_state()[2]  # noqa: NPY002
    for x in (inputs(9), inputs(2)):
        fails = pytest.raises(ValueError, match="within") if len(x) == 2 else nullcontext()
        with fails:
            census(net, x)
        assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())
        assert net.m is buffer
        assert {name: [*vars(part)] for name, part in net.named_modules()} == keys
        assert (net.seen, net.count, net.table, net.last) == ([], 0, {"runs": [0]}, None)
        assert not net.state.any()
        assert not net.array.any()
        assert not hooks(net)
        assert net.training
        assert net.norm.training
        assert torch.equal(torch.get_rng_state(), random[0])
        assert np.random.get_state()[2] == random[1]  # noqa: NPY002


# --- watching ------------------------------------------------------------------------------------


def perceptron(**options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8, **options), nn.ReLU(), nn.Linear(8, 6, **options),
                         nn.Tanh(), nn.Linear(6, 2, **options))  # fmt: skip


def train(net, steps=5, interrupt=None):
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(steps):
        if step == interrupt:
            raise RuntimeError("stop")
        optimizer.zero_grad()
        net(inputs(32, seed=step)).square().mean().backward()
        optimizer.step()


def test_training_is_as_if_nobody_watched():
    plain, seen = perceptron(), perceptron()
    train(plain)
    with watch(seen) as watched:
        train(seen)
    for p, q in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(p, q)
    assert watched.report()[0].n_seen == 5 * 32
    assert not hooks(seen)
    assert list(plain.state_dict()) == list(seen.state_dict())


def test_every_samples_and_mode():
    net, batches = perceptron(), [inputs(32, seed=step) for step in range(7)]
    some, few, all_of_them = watch(net, every=3), watch(net, samples=10), watch(net)
    in_eval, in_train = watch(net, mode="eval"), watch(net, mode="train", every=2)
    with some, few, all_of_them, in_eval, in_train:
        for step, batch in enumerate(batches):
            net.train(step < 4)(batch)
    eval_batches = batches[4:]
    expected = {
        some: torch.cat([batches[i] for i in (0, 3, 6)]),
        few: torch.cat([batch[:10] for batch in batches]),
        all_of_them: torch.cat(batches),
        in_eval: torch.cat(eval_batches),
        in_train: torch.cat([batches[0], batches[2]]),
    }
    for watched, x in expected.items():
        assert same(watched.report(), census(net, x))
    assert not hooks(net)


def test_no_hook_stays_behind():
    net = perceptron()
    watched = watch(net)
    with pytest.raises(RuntimeError, match="stop"), watched:
        train(net, interrupt=2)
    assert not hooks(net)
    assert watched.report()[0].n_seen == 64
    watched.attach()
    with pytest.raises(RuntimeError, match="attached already"), watched:
        pass
    train(net, 1)
    watched.detach()
    assert not hooks(net)
    assert watched.report()[0].n_seen == 96
    with watched:  # goes on adding
        train(net, 1)
    assert watched.report()[0].n_seen == 128
    watched.clear()
    with pytest.raises(ValueError, match="called no activation that is known"):
        watched.report()


class Raises(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.layer, self.relu, self.error = nn.Linear(5, 5), nn.ReLU(), error

    def forward(self, x):
        x = torch.relu(self.relu(self.layer(x)))
        if x.shape[0] == 1:
            raise self.error
        return torch.relu(x)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_within_the_model(error):
    net = Raises(error("within"))
    with watch(net) as watched:
        with pytest.raises(error, match="within"):
            net(inputs(1))
        net(inputs(7))
    assert not hooks(net)
    assert not torch.overrides._get_current_function_mode_stack()
    names = ["relu", "relu()", "relu() (2)"]
    assert watched.report().names == names
    assert [layer.n_seen for layer in watched.report()] == [8, 8, 7]
    with pytest.raises(error, match="within"):
        census(net, inputs(1))
    assert not hooks(net)
    assert net.training
    assert not torch.overrides._get_current_function_mode_stack()


def test_watches_can_be_nested_and_do_not_see_each_other():
    net, x = Reused(), inputs(dtype=torch.float64)
    alone = census(net, x)
    with watch(net) as outer:
        with watch(net) as inner, watch(net):
            net(x)
        inside = census(net, x)
    assert outer.report().names == inner.report().names == alone.names
    assert same(inner.report(), alone)
    assert same(inside, alone)
    assert same(outer.report(), alone + alone)
    assert not hooks(net)


def test_copies_are_not_watched():
    net = perceptron()
    with watch(net) as watched:
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        copies.append(torch.load(file, weights_only=False))
        net(inputs(4))
        for other in copies:
            assert torch.equal(other(inputs(4)), net(inputs(4)))
    assert watched.report()[0].n_seen == 4 * 4


def test_only_passes_of_the_whole_model_count():
    net = perceptron()
    with watch(net) as watched:
        net.forward(inputs())
        net[1](inputs())
    with pytest.raises(ValueError, match=r"Call the model itself, as in model\(x\)"):
        watched.report()
    with watch(net, mode="train") as watched:
        net.eval()(inputs())
    with pytest.raises(ValueError, match="no forward pass was seen in mode 'train'"):
        watched.report()
    with watch(nn.ReLU()) as watched:
        watched.model(input=inputs())
        watched.model(torch.zeros(0, 5))
    assert watched.report().names == ["ReLU"]
    assert watched.report()[0].n_seen == 300


def test_gradient_checkpointing():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = perceptron()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    net = Checkpointed()
    with watch(net) as watched:
        for _ in range(3):
            net(inputs()).sum().backward()
    assert watched.report().names == ["body.1", "body.3"]
    assert watched.report()[0].n_seen == 900


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.add(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_until_the_report(monkeypatch):
    """On a CPU, which waits for nobody, it asks for numbers on the way."""
    monkeypatch.setattr(Tally, "_some_dead", lambda *_: True)
    monkeypatch.setattr(Tally, "_ends", lambda *_: (-math.inf, math.inf))
    net = nn.Sequential(perceptron(), nn.PReLU(), nn.GELU(), nn.LeakyReLU(inplace=True))
    waits = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"}
    with watch(net) as watched, Recorder() as record:
        net(inputs()).sum().backward()
    assert "aten.gt.Scalar_out" in record.operations
    assert not waits & record.operations
    assert not any("_to_copy" in name for name in record.operations)
    with Recorder() as record:
        watched.report()
    assert record.operations


def test_memory_does_not_grow():
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Tanh())
    x = inputs(4)

    def held(watched):
        return sum(t.nbytes for _, tally in watched._tallies.values() for t in tally.sums.values())

    with watch(net) as watched, torch.no_grad():
        for _ in range(10):
            net(x)
        after_ten = held(watched)
        for _ in range(2000):
            net(x)
    assert held(watched) == after_ten < 1000
    assert watched.report()[0].n_seen == 4 * 2010


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_counts_are_exact_in_half_precision(dtype):
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Tanh())
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([-1.0] + [300.0] * 7))
    x = inputs(70_001)
    with watch(net) as watched, torch.no_grad():
        if dtype == torch.bfloat16:
            with torch.autocast("cpu", dtype):
                net(x)
        else:
            net.half()(x.half())
    layer = watched.report()[0]
    assert layer.active.tolist() == [0] + [70_001] * 7
    np.testing.assert_allclose(layer.mean[1:], 300, rtol=1e-2)


def test_counts_go_on_where_single_precision_stops():
    net, x = nn.Sequential(nn.ReLU()), torch.ones(2**14, 1, 33, 33).expand(-1, 1, -1, -1)
    with watch(net) as watched:
        net(x)
    layer = watched.report()[0]
    assert layer.active.tolist() == [2**14 * 33 * 33]
    assert layer.active[0] > 2**24
    assert layer.always_on.all()
    # One image of more pixels than that: an odd number, which single precision does not have.
    layer = census(net, torch.ones(1, 1, 4097, 4097))[0]
    assert layer.active.tolist() == layer.total.tolist() == [4097**2]
    assert layer.always_on.all()


@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
def test_without_gradients(inference):
    net = nn.Sequential(perceptron(), nn.GELU(), nn.SiLU(inplace=True))
    with watch(net) as watched:
        with inference():
            net(inputs())
        net(inputs())
    expected = census(net, inputs())
    assert same(watched.report(), expected + expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():  # pragma: no cover
    net, x = Reused(), inputs(dtype=torch.float64)
    expected = census(net, x)
    net.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_device = x.cuda()
        with watch(net) as watched:
            net(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert same(watched.report(), expected)
    assert same(census(net, x), expected)


# --- at a tie -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("end", [0.1, 0.3, 0.7])
def test_a_unit_at_an_end_is_flat_in_every_precision(dtype, end):
    """In float16 the number nearest to 0.1 is less than that, in bfloat16 more."""
    x = torch.tensor([[-5.0, 5.0, 0.02]] * 20, dtype=dtype)
    report = census(nn.Hardtanh(-end, end), x)[0]
    assert report.dead.tolist() == [True, True, False]
    at = torch.tensor([[end, -end, 5.0, 0.0]] * 20, dtype=dtype)  # to the bit
    for module in (nn.Threshold(end, 0.0), nn.Hardshrink(end), nn.Softshrink(end)):
        silent = (module(at) == 0).all(dim=0)  # which PyTorch decides at an end
        assert census(module, at)[0].dead.tolist() == silent.tolist()
        assert silent[2:].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "module", [nn.GELU(), nn.LeakyReLU(), nn.Threshold(0.1, 0.0), nn.ReLU(), nn.Hardshrink()]
)
def test_half_precision_counts_exactly(dtype, module):
    """A sum of 4,099 ones is no number of theirs."""
    x = torch.tensor([[1.0, -1.0, 0.0]] * 4099, dtype=dtype)
    report = census(module, x, batch_size=4099)[0]
    single = census(module, x.float())[0]
    for name in ("active", "steep", "upper"):
        assert getattr(report, name).tolist() == getattr(single, name).tolist()
    assert report.p_active[0] == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_slope_of_a_hundredth_is_saturated_in_every_precision(dtype):
    """Whether it is fixed or learned: 0.01 itself is at most 0.01."""
    x = torch.tensor([[-5.0, 5.0]] * 20, dtype=dtype)
    for module in (nn.LeakyReLU(0.01), nn.PReLU(init=0.01)):
        report = census(module.to(dtype), x)[0]
        assert report.saturated.tolist() == [True, False]
        assert not report.dead.any()


@pytest.fixture
def dynamo():
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    yield dynamo
    dynamo.reset()


# What torch.compile says about the interpreter alone: Python 3.13.0 has a fault that 3.13.1 mended,
# for which PyTorch looks at its guards in a slower way. Every other warning is an error here too.
slow_guards = pytest.mark.filterwarnings(
    "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning"
)


@slow_guards
@pytest.mark.parametrize("every", [1, 3])
def test_when_compiled_later_a_model_is_counted_alike(dynamo, every):
    net = nn.Sequential(
        perceptron(), nn.GELU(), nn.LeakyReLU(inplace=True), nn.Hardtanh(-0.01, 0.01)
    )
    batches = [inputs(n, seed=n) for n in (32, 32, 32, 16, 16, 16, 9, 9, 9)]
    compiled = torch.compile(net, backend="eager")
    with watch(net, every=every) as watched:  # before the first call
        for batch in batches:
            compiled(batch).sum().backward()
    expected = census(net, torch.cat(batches[::every]))
    assert same(watched.report(), expected)
    if every == 1:
        assert not dynamo.utils.counters["graph_break"]
    assert same(census(compiled, batches[0]), census(net, batches[0]))


@slow_guards
def test_when_compiled_before_hooks_are_not_silent(dynamo):
    net = perceptron()
    compiled = torch.compile(net, backend="eager")
    compiled(inputs())
    with watch(compiled) as watched:
        compiled(inputs())
    with pytest.raises(ValueError, match="watch first, then compile"):
        watched.report()


@slow_guards
def test_when_compiled_functions_are_not_seen(dynamo):
    net = nn.Sequential(nn.ReLU(), Calls(torch.tanh, nn.Linear(5, 5)))
    with watch(net) as watched:
        torch.compile(net, backend="eager")(inputs())
    assert watched.report().names == ["0"]
    assert "functions such as F.relu were not" in watched.report().notes[0]
    net[1] = torch.compile(net[1], backend="eager")
    with watch(net) as watched:
        net(inputs())
    assert watched.report().names[0] == "0"
    assert "functions such as F.relu were not" in watched.report().notes[0]


@slow_guards
def test_when_compiled_sequences_have_their_units_last(dynamo):
    net = nn.Sequential(nn.Linear(5, 7), nn.ReLU())
    with watch(net) as watched:
        torch.compile(net, backend="eager")(torch.randn(8, 4, 5))
    layer = watched.report()[0]
    assert (len(layer), layer.n_seen, layer.n_values) == (7, 8, 32)
    net = nn.Sequential(nn.Conv1d(5, 7, 3), nn.ReLU(), nn.AvgPool1d(3), nn.ReLU())
    with watch(net) as watched:
        torch.compile(net, backend="eager")(torch.randn(8, 5, 8))
    found = [(len(layer), layer.n_seen, layer.n_values) for layer in watched.report()]
    assert found == [(7, 8, 48), (7, 8, 16)]
    net = nn.Sequential(nn.Linear(5, 7), Own())
    with watch(net, activations=(Own,)) as watched:
        torch.compile(net, backend="eager")(inputs())
    assert watched.report().names == ["1"]
    assert same(watched.report(), census(net, inputs(), activations=(Own,)))


@slow_guards
def test_when_compiled_a_graph_may_be_whole(dynamo):
    net = perceptron()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    batches = [inputs(32, seed=n) for n in range(6)]
    with watch(net, every=2) as watched:
        for batch in batches:
            compiled(batch)
    assert same(watched.report(), census(net, torch.cat(batches[::2])))


RANKS = """
import sys
import torch
from torch import distributed, multiprocessing, nn
from companion.detection import census, watch

def run(rank, folder):
    meet = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU())
    x = torch.randn(40, 5)[rank * 25 : 25 + rank * 15]
    parallel = nn.parallel.DistributedDataParallel(net)
    with watch(parallel) as watched:
        parallel(x).sum().backward()
    watched.report().save(f"{folder}/rank{rank}.json")
    watched.report().all_reduce().save(f"{folder}/sum{rank}.json")
    other = census(nn.Sequential(nn.Linear(5, 7 + rank), nn.ReLU()), x)
    try:
        other.all_reduce()
    except ValueError as error:
        print(error, flush=True)
    distributed.destroy_process_group()

fork = multiprocessing.get_context("fork")  # before torch has started a thread
ranks = [fork.Process(target=run, args=(rank, sys.argv[1])) for rank in range(2)]
for rank in ranks:
    rank.start()
for rank in ranks:
    rank.join()
sys.exit(any(rank.exitcode for rank in ranks))
"""


def test_what_ranks_have_seen_is_added_up(tmp_path):
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", RANKS, tmp_path]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("must be of the same model") == 2
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU())
    expected = census(net, torch.randn(40, 5))
    one, two = (UnitReport.load(tmp_path / f"rank{rank}.json") for rank in range(2))
    assert (one[0].n_seen, two[0].n_seen) == (25, 15)
    assert same(one + two, expected)
    for rank in range(2):
        assert same(UnitReport.load(tmp_path / f"sum{rank}.json"), expected)


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        census(perceptron(), inputs()).all_reduce()


# --- census --------------------------------------------------------------------------------------


def snapshot(model):
    state = {name: t.clone() for name, t in model.state_dict().items()}
    return state, [part.training for part in model.modules()], hooks(model)


def unchanged(model, before):
    state, flags, n_hooks = before
    now, now_flags, now_hooks = snapshot(model)
    tensors = all(torch.equal(now[name], t) for name, t in state.items())
    return tensors and now_flags == flags and now_hooks == n_hooks


def mixed_model():
    """Some of its parts in training mode, some not; one hook that is not ours."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Tanh())
    net[1].eval()
    net[2].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize("mode", ["eval", "train", None])
def test_a_census_leaves_no_trace(mode):
    net = mixed_model()
    before, random = snapshot(net), torch.get_rng_state()
    loader = torch.utils.data.DataLoader(inputs(), batch_size=64, shuffle=True)
    report = census(net, loader, mode=mode)
    assert report[0].n_seen == 300
    assert unchanged(net, before)
    assert torch.equal(torch.get_rng_state(), random)


def batched(x):
    return [x[i : i + 64] for i in range(0, len(x), 64)]


LOADERS = {
    "tensor": lambda x: x,
    "array": lambda x: x.numpy(),
    "array of another precision": lambda x: x.numpy().astype(np.float64),
    "array that runs backwards": lambda x: x.numpy()[::-1],
    "list": batched,
    "generator": lambda x: iter(batched(x)),
    "arrays": lambda x: [batch.numpy() for batch in batched(x)],
    "pairs": lambda x: [(batch, torch.zeros(len(batch))) for batch in batched(x)],
    "lists": lambda x: [[batch, torch.zeros(len(batch))] for batch in batched(x)],
    "DataLoader": lambda x: torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, torch.zeros(len(x))), batch_size=70
    ),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_any_loader_gives_the_same_census(kind):
    net, x = perceptron(), inputs()
    with watch(net) as watched, torch.no_grad():
        net(x)
    assert same(census(net, LOADERS[kind](x)), watched.report())


def test_census_finds_the_one_sample_of_many_that_keeps_a_unit_alive():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([-1.0, -2.0]))
    x = torch.zeros(3000, 1)
    x[2345] = 1.5
    layer = census(net, x)["1"]
    assert layer.dead.tolist() == [False, True]
    assert layer.p_active.tolist() == [1 / 3000, 0]


def test_inputs_fit_the_model():
    double = perceptron(dtype=torch.float64)
    assert census(double, inputs(9))[0].n_seen == 9
    assert census(double, torch.randint(5, (9, 5)))[0].n_seen == 9
    words = nn.Sequential(nn.Embedding(7, 4), nn.ReLU())
    report = census(words, torch.randint(7, (9, 3)))
    assert (len(report[0]), report[0].n_values) == (4, 27)
    batches = [{"x": inputs(9), "mask": None}]
    assert census(double, batches, call=lambda net, b: net(b["x"].double()))[0].n_seen == 9
    assert census(nn.ReLU(), inputs(9))[0].n_seen == 9


BAD = [
    ([], {}, ValueError, "at least one batch"),
    (iter(()), {}, ValueError, "at least one batch"),
    (torch.zeros(0, 5), {}, ValueError, "at least one batch"),
    (torch.zeros(()), {}, ValueError, "not a single number"),
    (torch.tensor([[math.nan] * 5]), {}, ValueError, "NaN or infinity"),
    ([inputs(9), torch.full((9, 5), math.inf)], {}, ValueError, "NaN or infinity"),
    (3, {}, TypeError, "loader must be an array or give batches, not int"),
    ("words", {}, TypeError, "not str"),
    ([{"x": inputs(9)}], {}, ValueError, "loader must be what .*unexpected keyword"),
    ([["words"]], {}, TypeError, "call= tells how"),
    ([()], {}, TypeError, "not tuple"),
    (inputs(9), {"mode": "test"}, ValueError, "mode must be"),
    (inputs(9), {"batch_size": 0}, ValueError, "batch_size must be"),
    (inputs(9), {"batch_size": 2.5}, TypeError, "batch_size must be"),
    (inputs(9), {"call": "model"}, TypeError, "call must be callable"),
    (inputs(9), {"mask": 3}, TypeError, "mask must be a name or callable"),
    (inputs(9), {"batch_first": "no"}, TypeError, "batch_first must be True or False"),
    (inputs(9), {"progress": "yes"}, TypeError, "progress must be"),
    (inputs(9, 4), {}, ValueError, r"loader must be .* \(9, 4\) it .*cannot be multiplied"),
    (
        [(inputs(9, 4), torch.zeros(9))],
        {},
        ValueError,
        r"loader must be .* \(9, 4\) it .*cannot be multiplied",
    ),
    (inputs(9).to_sparse(), {}, ValueError, "loader must be dense"),
    (np.array([None, 1]), {}, TypeError, "loader must be an array of numbers"),
    (np.array(["a"]), {}, TypeError, "loader must be an array of numbers"),
]


def test_one_sample_on_the_steep_piece_is_always_on():
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([5.0, -5.0]))
    assert census(net, torch.zeros(1, 1))[0].always_on.tolist() == [True, False]


class WeightFirst(nn.Module):
    """A norm as Llama and T5 have it: its weight, of one axis, stands before what it multiplies."""

    def __init__(self, n, how):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(n)), how

    def forward(self, x):
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True))
        return self.how(self.weight, x)


@pytest.mark.parametrize(
    "how",
    [
        lambda w, x: w * x, lambda w, x: w + x, torch.mul, torch.maximum,
        lambda w, x: torch.where(w > 9, w, x), lambda w, x: torch.addcmul(w, x, x),
    ],
    ids=["*", "+", "mul", "maximum", "where", "addcmul"],
)  # fmt: skip
def test_a_weight_that_stands_first_does_not_hide_the_samples(how):
    torch.manual_seed(0)
    model = nn.Sequential(WeightFirst(6, how), nn.Linear(6, 9, bias=False), nn.ReLU())
    x = torch.randn(20, 7, 6)
    (part,) = census(model, [x[:13], x[13:]])
    assert (part.n_seen, part.n_values, len(part)) == (20, 140, 9)


def test_a_dict_is_a_batch_of_its_own():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 4)

        def forward(self, x, y):
            return self.layer(x + y).relu()

    torch.manual_seed(0)
    model, x = Named(), inputs(9)
    batch = {"x": x, "y": x}
    assert census(model, batch)[0].active.tolist() == census(model, [batch])[0].active.tolist()


@pytest.mark.parametrize(("loader", "options", "error", "message"), BAD)
def test_bad_input_is_named_and_changes_nothing(loader, options, error, message):
    net = mixed_model()
    before, random = snapshot(net), torch.get_rng_state()
    with pytest.raises(error, match=message):
        census(net, loader, **options)
    assert unchanged(net, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_without_activations():
    linear = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match=r"activations=\(TheirClass,\)"):
        census(linear, inputs())
    with watch(linear) as watched:
        linear(inputs())
    with pytest.raises(ValueError, match="called no activation that is known"):
        watched.report()
    assert not hooks(linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"every": 1.5}, "every must be"),
        ({"every": True}, "every must be"),
        ({"samples": 0}, "samples must be"),
        ({"samples": -1}, "samples must be"),
        ({"mode": "training"}, "mode must be"),
    ],
)
def test_bad_options_of_watch(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        watch(perceptron(), **options)


def test_what_is_no_model():
    for wrong in (None, "net", nn.ReLU, lambda x: x):
        with pytest.raises(TypeError, match="model must be"):
            watch(wrong)
        with pytest.raises(TypeError, match="model must be"):
            census(wrong, inputs())


def test_a_bar_is_shown_on_request(capsys):
    census(perceptron(), batched(inputs()))
    census(perceptron(), batched(inputs()), progress=False)
    assert capsys.readouterr().err == ""
    census(perceptron(), batched(inputs()), progress=True)
    assert "census: 100%" in capsys.readouterr().err


def test_nan_units_are_neither_dead_nor_alive():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.GELU())
    with torch.no_grad():
        net[0].weight[0] = math.nan
        net[0].weight[1], net[0].bias[1] = 0.0, math.inf
        net[0].bias[2] = -100.0
        net[2].weight.zero_()
    first, second = report = census(net, inputs())
    assert first.nan.tolist() == [True, True, False, False]
    assert first.dead.tolist() == [False, False, True, False]
    assert not (first.always_on | first.saturated)[:2].any()
    assert np.isnan(first.p_active[:2]).all()
    assert np.isnan(first.score[:2]).all()
    assert first.score[2:].tolist() == [0, 2]
    assert second.nan.all()
    assert "NaN" in str(report).splitlines()[2]
    once_more = report + report
    assert once_more[0].nan.tolist() == first.nan.tolist()


# --- reports -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report():
    return census(nn.Sequential(spread(), nn.ReLU(), spread(9, 25), nn.Sigmoid()),
                  inputs(dtype=torch.float64))  # fmt: skip


def test_a_report_is_a_table(report):
    head, first, second = str(report).splitlines()
    assert head.split()[:4] == ["layer", "activation", "units", "dead"]
    counts = [int(getattr(report[0], flag).sum()) for flag in FLAGS]
    assert first.split()[:7] == ["1", "relu", "25", *map(str, counts)]
    share = f"{100 * report[0].p_active.mean():.1f}"
    assert first.split()[7:] == [share, "%", "300", "0.01"]
    assert second.split()[:3] == ["3", "sigmoid", "9"]


def test_a_report_is_a_sequence_of_layers(report):
    assert len(report) == 2
    assert [layer.name for layer in report] == report.names == ["1", "3"]
    assert report["3"] is report[1] is report.layers[-1]
    for wrong, error in (("5", KeyError), (2, IndexError)):
        with pytest.raises(error):
            report[wrong]
    assert report[np.int64(-1)] is report[1]
    with pytest.raises(ValueError, match="read-only"):
        report[0].active[0] = 7


@pytest.mark.parametrize("n", [29, 30, 31])
def test_the_table_has_thirty_rows_at_most(report, n):
    """The first layer is the only one of its kind: up to there, layers stay in their order."""
    rest = replace(report[1], active=report[1].active * 0)
    layers = (report[0], *(replace(rest, name=f"{place}") for place in range(10, n + 9)))
    lines = str(UnitReport(layers)).splitlines()
    assert len(lines) == 1 + min(n, 30) + (n > 30)
    assert lines[1].startswith("10" if n > 30 else "1 ")
    assert (f"({n - 30} more; " in lines[-1]) == (n > 30)


def test_a_table_reads_as_it_is_printed():
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.copy_(torch.tensor([-9.0, -0.5, 0.5]))
    assert str(census(net, torch.linspace(0, 1, 1000)[:, None])) == (
        "layer  activation  units  dead  always on  saturated  NaN  active  samples   p <=\n"
        "1      relu            3     1          1          0    0  50.0 %    1,000  0.003"
    )


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_the_sum_of_reports_is_the_report_of_all(sizes):
    net, x = perceptron(dtype=torch.float64), inputs(sum(sizes), dtype=torch.float64)
    added = sum(census(net, batch) for batch in x.split(sizes))
    whole = census(net, x)
    assert same(added, whole)
    for name in ("active", "steep", "upper"):
        assert np.array_equal(getattr(added[0], name), getattr(whole[0], name))
    assert added[0].bound == min(1, 3 / sum(sizes))


def test_what_dead_units_put_out_in_both_of_two_reports():
    net, x = nn.Sequential(spread(), nn.Sigmoid()), inputs(dtype=torch.float64)
    one, two, whole = census(net, x[:99])[0], census(net, x[99:])[0], census(net, x)[0]
    dead = whole.dead
    assert (one.low[dead] != two.low[dead]).any()
    assert (one.high[dead] != two.high[dead]).any()
    np.testing.assert_array_equal((one + two).low[dead], whole.low[dead])
    np.testing.assert_array_equal((one + two).high[dead], whole.high[dead])


def test_reports_of_other_models_are_not_added(report):
    others = {
        "'3'": census(nn.Sequential(spread(), nn.ReLU()), inputs(dtype=torch.float64)),
        "'1' .relu, 25 units": census(nn.Sequential(spread(24), nn.ReLU(), spread(9, 24),
                                      nn.Sigmoid()), inputs(dtype=torch.float64)),
        "'3' .sigmoid": census(nn.Sequential(spread(), nn.ReLU(), spread(9, 25), nn.Tanh()),
                               inputs(dtype=torch.float64)),
    }  # fmt: skip
    for message, other in others.items():
        for one, two in ((report, other), (other, report)):
            with pytest.raises(ValueError, match="same model"):
                one + two
        with pytest.raises(ValueError, match=message):
            report + other
    for wrong in (1, None, report[0]):
        with pytest.raises(TypeError):
            report + wrong


def test_the_rule_of_three(report):
    assert report[0].bound == 0.01
    assert [census(nn.ReLU(), inputs(n))[0].bound for n in (1, 3, 4)] == [1, 1, 0.75]
    for n in (10, 300, 10_000):
        assert (1 - 3 / n) ** n <= 0.05 < (1 - 2.5 / n) ** n


def test_the_score_is_relative():
    weak = [nn.Sequential(nn.Linear(5, 8), nn.ReLU()) for _ in range(2)]
    weak[1].load_state_dict({k: v * 1e-6 for k, v in weak[0].state_dict().items()})
    one, two = (census(net, inputs())[0] for net in weak)
    np.testing.assert_allclose(one.score, two.score, rtol=1e-4)
    assert one.score.mean() == pytest.approx(1)
    silent = census(nn.Sequential(nn.Linear(5, 3), nn.Threshold(1e9, 0.0)), inputs())[0]
    assert silent.score.tolist() == [0, 0, 0]


def test_a_report_comes_back_from_its_file(report, tmp_path):
    path = tmp_path / "report.json"
    sums = [np.array([1, 1, 1])] * 3 + [np.array([1, math.nan, math.inf])] * 4
    nan = LayerReport("x", "relu", 3, 6, True, *sums)
    assert UnitReport((nan,)).overflowed  # by one unit of three
    for saved in (report, UnitReport((*report.layers, nan), ("not all was seen",))):
        saved.save(path)
        found = UnitReport.load(path)
        assert str(found) == str(saved)
        assert found.names == saved.names
        for one, two in zip(found, saved, strict=True):
            for flag in FLAGS:
                np.testing.assert_array_equal(getattr(one, flag), getattr(two, flag))
        assert same(found[0], saved[0])
    json.loads(path.read_text(), parse_constant=pytest.fail)  # standard JSON has no NaN


BROKEN = {
    "empty": lambda d: "",
    "no JSON": lambda d: "{",
    "a list": lambda d: "[]",
    "another format": lambda d: json.dumps(d | {"format": "x"}),
    "another version": lambda d: json.dumps(d | {"version": 1}),
    "no layers": lambda d: json.dumps({k: v for k, v in d.items() if k != "layers"}),
    "layers of words": lambda d: json.dumps(d | {"layers": ["relu"]}),
    "a sum missing": lambda d: json.dumps(d | {"layers": [{"name": "relu"}]}),
    "short sums": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {"total": [1.0]}]}),
    "words as sums": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {"total": ["a"] * 25}]}),
    "a count of words": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {"n_seen": "9"}]}),
    "a negative count": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {"n_seen": -9}]}),
    "a count above the values": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"active": [1e9] * 25}]}
    ),
    "a count that is no whole number": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"active": [0.5] * 25}]}
    ),
    "a count of less than nothing": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"upper": [-1] * 25}]}
    ),
    "a count that is a flag": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"steep": [True] * 25}]}
    ),
    "a count in words": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"steep": ["3"] * 25}]}
    ),
    "a count that is missing": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"steep": [None] * 25}]}
    ),
    "a number past all floats": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"total": [10**400] * 25}]}
    ),
    "no units": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {k: [] for k in (*SUMS,)}]}),
    "one more entry": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {"extra": 1}]}),
    "less values than samples": lambda d: json.dumps(
        d | {"layers": [d["layers"][0] | {"n_values": 1}]}
    ),
    "one name for two layers": lambda d: json.dumps(d | {"layers": d["layers"][:1] * 2}),
    "no layer": lambda d: json.dumps(d | {"layers": []}),
    "notes of numbers": lambda d: json.dumps(d | {"notes": [1]}),
    "lists without end": lambda d: "[" * 100_000,
    "a name of numbers": lambda d: json.dumps(d | {"layers": [d["layers"][0] | {"name": 9}]}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_bad_file_is_named(report, tmp_path, fault):
    path = tmp_path / "report.json"
    report.save(path)
    path.write_text(BROKEN[fault](json.loads(path.read_text())))
    with pytest.raises(ValueError, match=r"report\.json"):
        UnitReport.load(path)
    with pytest.raises(FileNotFoundError):
        UnitReport.load(tmp_path / "none.json")


def test_a_report_as_a_pandas_table(report, monkeypatch):
    pandas = pytest.importorskip("pandas")
    table = report.to_pandas()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == 25 + 9
    assert table.loc[("1", 3), "p_active"] == report["1"].p_active[3]
    assert table.groupby("layer")["dead"].sum().to_dict() == {
        layer.name: layer.dead.sum() for layer in report
    }
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        report.to_pandas()


def test_a_report_draws_itself(report):
    import matplotlib.pyplot as plt

    ax = report.plot()
    dead = next(line for line in ax.lines if line.get_color() == COLOURS["blue"])
    np.testing.assert_allclose(dead.get_ydata(), [100 * layer.dead.mean() for layer in report])
    drawn = {
        kind.replace("_", " ") for kind in FLAGS if any(getattr(y, kind).any() for y in report)
    }
    assert {text.get_text() for text in ax.texts} == drawn | {"dead"}
    assert "NaN" not in drawn
    assert dead.get_xdata().tolist() == [1, 2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("layer", "share of its units (%)")
    other = plt.figure().add_subplot()
    assert UnitReport(report.layers[:1]).plot(other) is other
    plt.close("all")
    with pytest.raises(ValueError, match="layers must be"):
        UnitReport(())


def test_what_is_no_report_is_refused(report):
    for layers, notes in ((None, ()), ("ab", ()), ([*report.layers], ()), (report.layers, "ab")):
        with pytest.raises(TypeError, match="must be a tuple of"):
            UnitReport(layers, notes)
    for key, error in (
        (99, IndexError),
        (2, IndexError),
        (-3, IndexError),
        (1.0, TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match="layer"):
            report[key]


def test_a_long_report_is_short_and_shows_the_worst():
    torch.manual_seed(0)
    parts = [part for _ in range(60) for part in (nn.Linear(4, 4), nn.ReLU())]
    with torch.no_grad():
        parts[100].bias.fill_(-1e3)
    report = census(nn.Sequential(*parts), inputs(50, 4))
    for text in (repr(report), str(report)):
        assert len(text.splitlines()) < 40
        n_dead = [int(line.split()[3]) for line in text.splitlines()[1:31]]
        assert n_dead == sorted(n_dead, reverse=True)
        assert n_dead[0] == 4 > n_dead[-1]
        assert "30 more" in text
    assert report._repr_html_().count("<tr>") == 31
    sick = report.dead_only()
    assert "101" in sick.names
    assert all(layer.dead.any() for layer in sick)
    assert len(sick) == sum(layer.dead.any() for layer in report)
    assert census(nn.Sequential(nn.Tanh()), inputs()).dead_only() is None


def test_a_report_as_flat_numbers(report):
    flat = report.to_dict()
    assert all(isinstance(value, float) for value in flat.values())
    n_units = sum(len(layer) for layer in report)
    assert flat["dead"] == sum(layer.dead.sum() for layer in report) / n_units
    for layer in report:
        assert flat[f"{layer.name}/saturated"] == layer.saturated.mean()
        assert flat[f"{layer.name}/active"] == layer.p_active.mean()


def test_the_history_of_a_watch():
    net, batches = perceptron(), [inputs(32, seed=n) for n in range(5)]
    with torch.no_grad(), watch(net, every=2, history=True) as watched:
        for n, batch in enumerate(batches):
            net[0].bias[:n] = -1e3
            net(batch)
    history = watched.history()
    assert history["pass"].tolist() == [0, 2, 4]
    z = [torch.stack([batch @ net[0].weight.T]) for batch in batches]
    assert len(z) == 5
    assert history["1"].tolist()[1:] == [2 / 8, 4 / 8]
    assert not watched.report()["1"].dead[:4].any()
    with pytest.raises(ValueError, match="history=True"):
        watch(net).history()


@pytest.mark.parametrize("change", [
    {"steep": [1.0]}, {"active": [-1.0, 0]}, {"active": [0.5, 0]}, {"active": [9.0, 0]},
    {"active": ["1", "2"]}, {"total": [True, False]}, {"active": [math.nan, 0]}, {"low": [[0, 0]]},
    {"n_seen": 0}, {"n_seen": 4}, {"n_values": 2.5}, {"name": 3}, {"piecewise": "no"},
    {"active": []},
])  # fmt: skip
def test_a_layer_that_cannot_be_is_refused(change):
    fine = {name: [0.0, 0.0] for name in SUMS} | {"name": "a", "activation": "relu", "n_seen": 3}
    fine |= {"n_values": 3, "piecewise": True}
    LayerReport(**fine)
    with pytest.raises((ValueError, TypeError), match=next(iter(change))):
        LayerReport(**(fine | change))


# --- at hand --------------------------------------------------------------------------------------


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins of Lightning and transformers, which are no dependencies of the book."""
    lightning = types.ModuleType("lightning.pytorch")
    lightning.Callback = type("Callback", (), {})
    transformers = types.ModuleType("transformers")
    transformers.TrainerCallback = type("TrainerCallback", (), {})
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", lightning)
    monkeypatch.setitem(sys.modules, "transformers", transformers)


class Lightning(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.logged = perceptron(), []

    def log_dict(self, flat):
        self.logged.append(flat)


def test_a_callback_of_lightning(libraries):
    callback, module = lightning_callback(model="net", every=2), Lightning()
    callback.on_exception(None, module, KeyboardInterrupt())  # before anything began
    callback.on_train_start(None, module)
    for _ in range(2):
        for seed in range(4):
            module.net(inputs(seed=seed))
        callback.on_train_epoch_end(None, module)
    assert [report[0].n_seen for report in callback.reports] == [600, 600]
    assert module.logged[0]["units/1/active"] == callback.reports[0]["1"].p_active.mean()
    with pytest.warns(UserWarning, match="no unit was counted") as warned:
        callback.on_train_epoch_end(None, module)
    assert warned[0].filename.endswith("callbacks.py")  # who warns
    assert module.logged[-1] == {}
    callback.on_exception(None, module, KeyboardInterrupt())
    callback.on_train_end(None, module)
    assert not hooks(module)


def test_a_callback_of_transformers(libraries):
    callback, net = trainer_callback(prefix=""), perceptron()
    state, logs = types.SimpleNamespace(log_history=[{"loss": 1.0}]), {"loss": 1.0}
    callback.on_train_begin(None, state, None, model=net)
    net.eval()(inputs())
    net.train()(inputs(100))
    callback.on_log(None, state, None, logs=logs)
    callback.on_train_end(None, state, None)
    assert callback.reports[0][0].n_seen == 100
    assert state.log_history[-1]["dead"] == 0
    assert state.log_history[-1]["1/active"] == callback.reports[0][0].p_active.mean()
    assert logs.keys() == {"loss", "dead", "always_on", "saturated", "nan"}
    assert not hooks(net)


@pytest.mark.parametrize("make", [lightning_callback, trainer_callback])
def test_a_callback_needs_its_library(make, monkeypatch):
    for name in ("lightning.pytorch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install"):
        make()


def test_a_census_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nnet = nn.Sequential(nn.Linear(5, 8), nn.ReLU())\n"
        "def make():\n    return net\n"
    )
    np.save("x.npy", inputs().numpy())
    np.savez("x.npz", x=inputs().numpy())
    for model, data in (("nets:net", "x.npy"), ("nets:make", "x.npz")):
        main(["census", model, "--data", data])
        assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["1", "relu", "8"]
    for wrong in (["census", "none:net", "--data", "x.npy"], ["census", "nets:net", "--data", "y"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "error: No module named 'none'" in capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "nets")


# ---- overflow -------------------------------------------------------------------------------


def _net_and_inputs():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(20, 4)


def test_finite_model_has_not_overflowed():
    report = census(*_net_and_inputs())
    assert not report.overflowed
    assert "overflowed" not in str(report)


@pytest.mark.parametrize(
    ("layer", "value", "n_nan"), [(0, math.nan, 1), (2, math.nan, 0), (2, math.inf, 0)]
)
def test_parameter_that_is_not_finite_is_overflow(layer, value, n_nan):
    net, x = _net_and_inputs()
    with torch.no_grad():
        net[layer].bias[0] = value
    report = census(net, x)
    assert report.overflowed
    assert report[0].nan.sum() == n_nan
    assert "overflowed" in str(report).splitlines()[-1]


def test_watch_sees_what_overflows_behind_the_last_activation():
    net = perceptron()
    with watch(net) as watched:
        net(inputs())
    assert not watched.report().overflowed
    with torch.no_grad():
        net[-1].bias[0] = math.inf
    with watched:
        net(inputs())
    assert watched.report().overflowed
    watched.clear()
    with torch.no_grad():
        net[-1].bias[0] = 0
    with watched:
        net(inputs())
    assert not watched.report().overflowed


@pytest.mark.parametrize(("n", "young"), [(0, True), (28, True), (29, False)])
def test_a_batch_norm_that_has_seen_little_is_named(n, young):
    """At a momentum of 0.1, 0.9 to the power of 28 is more than 5 %."""
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU())
    for _ in range(n):
        net(inputs())
    said = any("'1' has seen few batches" in note for note in census(net, inputs()).notes)
    assert said == young
    assert not any("few batches" in note for note in census(net, inputs(), mode="train").notes)
    both = nn.Sequential(net, nn.BatchNorm1d(8))  # of several, the youngest is named
    assert any("has seen few batches: 100 %" in note for note in census(both, inputs()).notes)
    both[1].momentum = net[1].momentum = None  # the mean over all batches forgets the start at once
    assert census(both, inputs()).notes == ()


def test_a_model_without_numbers_is_refused():
    half = perceptron()
    half[0].to("meta")
    for net in (nn.Sequential(half[2], nn.LazyLinear(3), nn.ReLU()), half):
        with pytest.raises(ValueError, match="model must have numbers"):
            census(net, inputs())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y, lambda y: (1, y), lambda y: {"logits": [y]}, lambda y: (torch.zeros(1), y),
        lambda y: y * 1j,
    ],
)  # fmt: skip
def test_output_past_the_largest_float_is_overflow(wrap):
    net, x = _net_and_inputs()

    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return wrap(self.net(x) * 1e38 * 1e38)

    report = census(Large(), x)
    assert report.overflowed
    assert not report[0].nan.any()


def test_large_numbers_whose_sum_overflows_are_finite():
    assert not census(nn.ReLU(), torch.full((1, 9), 3e38)).overflowed


def test_overflow_is_kept_by_sums_and_files(tmp_path):
    net, x = _net_and_inputs()
    fine = census(net, x)
    with torch.no_grad():
        net[2].bias[0] = math.inf
    lost = census(net, x)
    assert (fine + lost).overflowed
    assert (lost + fine).overflowed
    assert not (fine + fine).overflowed
    lost.save(tmp_path / "report.json")
    assert UnitReport.load(tmp_path / "report.json").overflowed
