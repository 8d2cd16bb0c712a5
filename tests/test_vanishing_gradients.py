"""`companion.vanishing_gradients` against published values, SciPy, autograd and wide nets."""

import inspect
import math
from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import integrate, optimize
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss, mse_loss, normalize
from torch.nn.utils import parametrizations

from companion.activations import ACTIVATIONS, Activation, gelu, relu
from companion.quadrature import Moments
from companion.vanishing_gradients import (
    FixedPointError,
    GradientFactor,
    MeanField,
    SignalProfile,
    correlation_map,
    critical_sigma_w,
    gradient_factor,
    length_map,
    mean_field,
    signal_profile,
)

inf, nan = math.inf, math.nan
ROOT_3 = math.sqrt(3)

# --- theory: published values --------------------------------------------------------------------

# Poole et al. 2016, figures 1 and 2: tanh, sigma_b = 0.3. At sigma_w = 4 a Gauss-Hermite rule of a
# hundred nodes is not enough; it gives 12.626 for q. `test_tanh_equals_scipy` has other quadrature.
POOLE = {
    1.3: (0.607047, 0.939807, 1.0, 1.3377, 16.1082),
    2.5: (4.079124, 1.585225, 0.122104, 0.6883, 5.1089),
    4.0: (12.604149, 2.367261, 0.029696, 0.4903, 3.6394),
}


@pytest.mark.parametrize("sigma_w", POOLE)
def test_points_of_poole_and_depth_scales_of_schoenholz(sigma_w):  # V1, V4
    q, chi, c, xi_q, xi_c = POOLE[sigma_w]
    found = mean_field("tanh", sigma_w, sigma_b=0.3)
    assert (found.q, found.chi, found.c) == pytest.approx((q, chi, c), abs=1e-6)
    assert (found.xi_q, found.xi_c) == pytest.approx((xi_q, xi_c), abs=6e-5)
    assert found.xi_grad == pytest.approx(-1 / math.log(chi), rel=1e-4)
    assert found.phase == ("ordered" if sigma_w == 1.3 else "chaotic")


def _mean(f, q):
    """E f(u) by adaptive quadrature."""
    ends = [side * end for side in (-1, 1) for end in (40, 3, 0.3, 0)]
    pieces = [
        integrate.quad(lambda z: f(math.sqrt(q) * z) * math.exp(-z * z / 2), *pair, epsabs=1e-13)[0]
        for pair in pairwise(sorted({*ends}))
    ]
    return sum(pieces) / math.sqrt(2 * math.pi)


def _pair_mean(f, q, c):
    def inner(u):
        s = math.sqrt(1 - c**2) * math.sqrt(q)
        return _mean(lambda v: f(c * u + s / math.sqrt(q) * v), q)

    return _mean(lambda u: f(u) * inner(u), q)


@pytest.mark.parametrize("sigma_w", POOLE)
def test_tanh_equals_scipy(sigma_w):
    def slope(u):
        return 1 - math.tanh(u) ** 2

    square, found = sigma_w**2, mean_field("tanh", sigma_w, sigma_b=0.3)
    q = optimize.brentq(
        lambda q: square * _mean(lambda u: math.tanh(u) ** 2, q) + 0.09 - q, 0.1, 20, xtol=1e-11
    )
    assert found.q == pytest.approx(q, rel=1e-9)
    assert found.chi == pytest.approx(square * _mean(lambda u: slope(u) ** 2, q), rel=1e-9)
    bend = _mean(lambda u: -2 * math.tanh(u) ** 2 * slope(u), q)  # E f'' f, Schoenholz et al. 2017
    assert found.xi_q == pytest.approx(-1 / math.log(found.chi + square * bend), rel=1e-8)
    if found.c < 1:
        c_next = (square * _pair_mean(math.tanh, q, found.c) + 0.09) / q
        assert found.c == pytest.approx(c_next, abs=1e-9)
        of_c = square * _pair_mean(slope, q, found.c)
        assert found.xi_c == pytest.approx(-1 / math.log(of_c), rel=1e-8)


def test_critical_points():  # V2, V3
    for variance, expected, q in ((0.05, 1.760955, 0.570048), (2.01e-5, 1.049996, 0.025919)):
        sigma_w = critical_sigma_w("tanh", math.sqrt(variance))
        assert sigma_w**2 == pytest.approx(expected, abs=6e-7)
        found = mean_field("tanh", sigma_w, math.sqrt(variance))
        assert found.q == pytest.approx(q, abs=6e-7)
        assert found.chi == pytest.approx(1, abs=1e-12)
        assert (found.phase, found.c, found.xi_grad) == ("critical", 1, inf)
        assert round(found.xi_c, 3) == inf > found.xi_q > 0
    assert critical_sigma_w("tanh") == 1
    assert critical_sigma_w("tanh", 0.2) == pytest.approx(1.304146, abs=6e-7)
    assert critical_sigma_w("elu", 0.2) == pytest.approx(1.229251, abs=6e-7)


def test_critical_points_of_homogeneous_activations():
    assert critical_sigma_w("relu") == pytest.approx(math.sqrt(2), rel=1e-15)
    assert critical_sigma_w("relu", sigma_b=7.0) == critical_sigma_w("relu")
    assert critical_sigma_w("identity") == 1
    for a in (0.01, 0.2, math.sqrt(5)):
        he = math.sqrt(2 / (1 + a**2))
        assert critical_sigma_w("leaky_relu", negative_slope=a) == pytest.approx(he, rel=1e-14)
        assert critical_sigma_w("prelu", slope=a) == pytest.approx(he, rel=1e-14)


def test_tanh_with_gain_five_thirds():  # A3, A4
    found = mean_field("tanh", 5 / 3)
    assert found.q == pytest.approx(1.178480, abs=6e-7)
    assert found.chi == pytest.approx(1.209831, abs=6e-7)
    assert math.sqrt(found.q) / (5 / 3) == pytest.approx(0.651347, abs=6e-7)
    assert gradient_factor("tanh", 5 / 3).product == pytest.approx(1.0999, abs=6e-5)


def test_selu_normalizes_signals_but_not_gradients():  # A10
    found = mean_field("selu", 1.0)
    assert found.q == pytest.approx(1, abs=1e-12)
    assert found.chi == pytest.approx(1.071575, abs=6e-7)
    assert gradient_factor("selu", 1.0).product == pytest.approx(1.0352, abs=6e-5)


def test_gradient_factors():  # V9, V13, I5
    xavier = gradient_factor("sigmoid", 1.0)
    assert mean_field("sigmoid", 1.0).q == pytest.approx(0.26469, abs=6e-6)
    assert mean_field("sigmoid", 1.0).chi == pytest.approx(0.055721, abs=6e-7)
    assert xavier.product == pytest.approx(0.23605, abs=6e-6)
    assert xavier == GradientFactor(1.0, xavier.derivative, xavier.derivative)
    assert gradient_factor("sigmoid", 1 / ROOT_3).product == pytest.approx(0.14145, abs=6e-6)
    assert gradient_factor("relu", 1).product == pytest.approx(0.707107, abs=6e-7)
    default = gradient_factor("relu", 1 / ROOT_3)
    assert default == pytest.approx((0.577350, 0.707107, 0.408248), abs=6e-7)
    assert gradient_factor("relu", 3.0, sigma_b=1.0).product == pytest.approx(3 / math.sqrt(2))
    steep = gradient_factor("leaky_relu", 1.0, negative_slope=1.0)
    assert steep.product == pytest.approx(1, rel=1e-14)


def test_correlations_through_relu():  # V10
    c, seen = 0.0, []
    for _ in range(10):
        c = correlation_map("relu", c)
        seen.append(c)
    expected = [1 / math.pi, 0.493731, 0.604826, 0.680954, 0.735946]
    assert seen[:5] == pytest.approx(expected, abs=6e-7)
    assert seen[9] == pytest.approx(0.871536, abs=6e-7)
    for _ in range(990):
        c = correlation_map("relu", c)
    assert (1 - c) * 1000**2 == pytest.approx(43.13, abs=0.006)
    grid = np.append(np.linspace(-1, 1, 101), 1 - 1e-9).reshape(2, 51)
    cho_saul = (np.sqrt((1 - grid) * (1 + grid)) + grid * (np.pi - np.arccos(grid))) / np.pi
    np.testing.assert_allclose(correlation_map("relu", grid), cho_saul, atol=2e-16)


# --- theory: what has to hold --------------------------------------------------------------------

POINTS = [("tanh", 0.7, 0.4), ("tanh", 3.0, 0.1), ("sigmoid", 2.0, 0.5), ("hardtanh", 2.0, 0.2)]
POINTS += [("elu", 1.1, 0.3), ("selu", 1.3, 0.0), ("softsign", 3.0, 0.3), ("gelu", 1.3, 0.7)]
POINTS += [("relu", 1.2, 0.6), ("softplus", 1.0, 0.1), ("silu", 0.5, 1.0), ("mish", 1.0, 1.0)]
every_point = pytest.mark.parametrize(("name", "sigma_w", "sigma_b"), POINTS)


@every_point
def test_a_fixed_point_is_one_and_depth_scales_are_those_of_the_maps(name, sigma_w, sigma_b):
    found = mean_field(name, sigma_w, sigma_b)
    h = 1e-5 * found.q
    below, at, above = length_map(name, found.q + h * np.array([-1, 0, 1]), sigma_w, sigma_b)
    assert at == pytest.approx(found.q, rel=1e-13)
    slope = (above - below) / (2 * h)
    assert math.exp(-1 / found.xi_q) == pytest.approx(slope, abs=1e-7)
    settings = {"sigma_w": sigma_w, "sigma_b": sigma_b}
    assert correlation_map(name, 1.0, **settings) == pytest.approx(1, abs=1e-14)
    if found.c == 1:
        assert found.chi < 1
        before = 1 - 1e-5 * np.array([2.0, 1.0])
        low, high = correlation_map(name, before, **settings)
        assert (high - low) / 1e-5 == pytest.approx(found.chi, rel=0.01)
        assert found.xi_c == found.xi_grad
    else:
        assert found.chi > 1
        step = 1e-4 * np.array([-1, 0, 1])
        low, c, high = correlation_map(name, found.c + step, **settings)
        assert c == pytest.approx(found.c, abs=1e-13)
        assert math.exp(-1 / found.xi_c) == pytest.approx((high - low) / 2e-4, abs=1e-6)
        assert 0 < found.xi_c < inf


@every_point
def test_signals_settle_where_the_theory_says(name, sigma_w, sigma_b):
    q = 1.0
    for _ in range(400):
        q = float(length_map(name, q, sigma_w, sigma_b))
    assert mean_field(name, sigma_w, sigma_b).q == pytest.approx(q, rel=1e-9)


def test_a_fixed_point_without_signal():
    for name, sigma_w in (("tanh", 0.9), ("hardtanh", 0.9), ("gelu", 1.2), ("relu", 1.0)):
        found = mean_field(name, sigma_w)
        limit = (ACTIVATIONS[name].derivative([-1e-9, 1e-9]) ** 2).mean()
        assert (found.q, found.c, found.phase) == (0, 1, "ordered")
        assert found.chi == pytest.approx(sigma_w**2 * limit, rel=1e-8)
        scale = -1 / math.log(found.chi)
        assert (found.xi_q, found.xi_c, found.xi_grad) == pytest.approx([scale] * 3, rel=1e-12)
    assert mean_field("tanh", 1.0).q == mean_field("hardtanh", 1.0).q == 0
    assert mean_field("tanh", 1.0).phase == "critical"
    assert mean_field("tanh", 2.0, q=0.0).q == 0  # without a signal it stays silent
    assert mean_field("tanh", 2.0, q=0.0).chi == pytest.approx(4)
    assert mean_field("sigmoid", 1.0, q=0.0).q == pytest.approx(mean_field("sigmoid", 1.0).q)


def test_at_criticality_every_variance_of_relu_is_a_fixed_point():
    for q in (1.0, 0.3, 50.0):
        found = mean_field("relu", math.sqrt(2), q=q)
        assert (found.q, found.c, found.phase) == (q, 1, "critical")
        assert found.chi == pytest.approx(1, abs=1e-15)
        assert found.xi_q == found.xi_c == found.xi_grad == inf


def test_small_signals_are_found():
    # q' = w² (q - 2 q² + O(q³)), so that q is half of w² - 1 to first order.
    assert mean_field("tanh", math.sqrt(1 + 1e-6)).q == pytest.approx(5e-7, rel=1e-5)
    assert mean_field("tanh", 0.5, sigma_b=1e-8, q=1e-3).q * 1e16 == pytest.approx(1 / 0.75, 1e-12)
    assert mean_field("tanh", 0.5, sigma_b=1e-9, q=1e4).q * 1e18 == pytest.approx(1 / 0.75, 1e-12)
    assert mean_field("relu", 1.0, sigma_b=1e-3).q == pytest.approx(2e-6, rel=1e-12)
    for sigma_w in (1e-3, 1e-9, 1e-200):
        assert mean_field("tanh", sigma_w, sigma_b=0.5).q == pytest.approx(0.25, rel=1e-5)
    assert mean_field("tanh", 1e-200).xi_grad == 0  # no layer lets anything pass


@pytest.mark.parametrize(("name", "sigma_b"), [("tanh", 0.3), ("hardtanh", 0.3), ("selu", 0.2)])
def test_close_to_the_critical_line_the_scales_meet(name, sigma_b):
    sigma_w = critical_sigma_w(name, sigma_b)
    ordered = mean_field(name, sigma_w * (1 - 1e-4), sigma_b)
    chaotic = mean_field(name, sigma_w * (1 + 1e-4), sigma_b)
    assert (ordered.phase, chaotic.phase) == ("ordered", "chaotic")
    assert ordered.xi_grad == pytest.approx(-chaotic.xi_grad, rel=1e-3)
    assert 0.9 < ordered.c - 1e-3 < chaotic.c < ordered.c == 1
    assert ordered.xi_c / 2.5 < chaotic.xi_c < 2.5 * ordered.xi_c
    closer = mean_field(name, sigma_w * (1 + 1e-8), sigma_b)  # no float64 tells c from 1
    assert (closer.phase, closer.c, closer.xi_c) == ("chaotic", 1, inf)


def test_the_start_decides_between_two_fixed_points():
    # SiLU with little bias: a small signal settles, a large one leaves for good.
    assert mean_field("silu", 1.6, sigma_b=0.2, q=0.1).q < 0.5
    with pytest.raises(FixedPointError, match=r"silu has no .* from q = 5 the variance grows"):
        mean_field("silu", 1.6, sigma_b=0.2, q=5.0)


def test_correlations_at_a_given_or_vanishing_variance():
    c = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(correlation_map("tanh", c), c, atol=1e-15)  # critical: q = 0
    at_one = correlation_map("tanh", c, sigma_w=1.7, sigma_b=0.1, q=1.0)
    moments = Moments("tanh")
    exact = (2.89 * moments.product(1.0, c) + 0.01) / (2.89 * moments.square(1.0) + 0.01)
    np.testing.assert_allclose(at_one, exact, rtol=1e-14)
    np.testing.assert_allclose(
        correlation_map("leaky_relu", c, negative_slope=0.0), correlation_map("relu", c), atol=2e-16
    )
    assert isinstance(correlation_map("elu", 0.5), float)
    everywhere = correlation_map("selu", np.linspace(-1, 1, 21), sigma_w=1.0)
    assert abs(everywhere).max() == 1 == everywhere[-1]


def test_length_map_of_relu():
    assert length_map("relu", 3.0, 2.0) == pytest.approx(6.0)  # without biases
    assert (
        critical_sigma_w("tanh") == critical_sigma_w("tanh", 0.0) != critical_sigma_w("tanh", 1.0)
    )
    np.testing.assert_allclose(length_map("relu", [[0.0, 1.0]], 2.0, 0.5), [[0.25, 2.25]])


def test_an_activation_of_ones_own():
    twice = Activation(
        "twice", "2z", lambda z: 2 * z, "2z", lambda z: 0 * z + 2, "2", (-inf, inf), 2.0, "", None
    )
    assert critical_sigma_w(twice) == 0.5
    assert mean_field(twice, 0.25, 1.0).q == pytest.approx(4 / 3)
    assert mean_field(gelu, 1.2) == mean_field("gelu", 1.2)


def test_mean_field_prints_as_a_table():
    assert str(mean_field("tanh", 5 / 3)).splitlines() == [
        "tanh, sigma_w = 1.66667, sigma_b = 0: chaotic",
        "q    = 1.17848   xi_q    = 1.1878 layers",
        "c    = 0         xi_c    = 12.118 layers",
        "chi  = 1.20983   xi_grad = -5.2499 layers",
    ]
    assert list(inspect.signature(MeanField).parameters)[:5] == ["q", "chi", "c", "xi_q", "xi_c"]


# --- theory: what there is not ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sigma_w", "sigma_b", "message"),
    [
        ("relu", 2.0, 0.0, r"multiplies the variance by 2 and adds 0, .* sigma_w = 1.41421 with"),
        ("relu", math.sqrt(2), 0.1, "relu .* sigma_b = 0.1: .* by 1 and adds 0.01, without end"),
        (
            "identity",
            1.1,
            0.0,
            "identity has no fixed point at sigma_w = 1.1.* Choose sigma_w = 1 ",
        ),
        ("leaky_relu", 1.5, 0.0, "leaky_relu has no .* Choose sigma_w = 1.41414 with sigma_b = 0"),
        ("gelu", 3.0, 0.0, "from q = 1 the variance grows without end. Choose a smaller sigma_w"),
        ("softplus", 1.42, 0.0, "softplus has no fixed point at sigma_w = 1.42, sigma_b = 0: from"),
    ],
)
def test_a_variance_without_a_fixed_point_says_why_and_what_to_do(name, sigma_w, sigma_b, message):
    with pytest.raises(FixedPointError, match=message):
        mean_field(name, sigma_w, sigma_b)
    with pytest.raises(ValueError, match="no fixed point"):
        correlation_map(name, 0.5, sigma_w=sigma_w, sigma_b=sigma_b)


@pytest.mark.parametrize("sigma_b", [0.0, 1.0])
def test_softplus_is_never_critical(sigma_b):
    with pytest.raises(FixedPointError, match="has no fixed point with chi = 1, whatever sigma_w"):
        critical_sigma_w("softplus", sigma_b)
    q = np.geomspace(1e-3, 1e6, 50)  # the fixed point and its sigma_w; chi is below 1 at each
    moments = Moments("softplus")
    sigma_w2 = (q - sigma_b**2) / moments.square(q)
    assert (sigma_w2 * moments.slope_square(q)).max() < 1


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish"])
@pytest.mark.parametrize("sigma_b", [0.0, 0.2])
def test_without_much_bias_no_net_of_these_stays_critical(name, sigma_b):
    with pytest.raises(
        FixedPointError, match=r"has chi = 1 at sigma_w = [\d.]+ and q = .* moves away"
    ):
        critical_sigma_w(name, sigma_b)
    assert 1.3 < critical_sigma_w(name, 1.0) < 1.5
    assert mean_field(name, critical_sigma_w(name, 1.0), 1.0).phase == "critical"


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, nan, inf, 1e9])
def test_impossible_weights_are_refused(bad):
    for call in (
        lambda: mean_field("tanh", bad),
        lambda: length_map("tanh", 1.0, bad),
        lambda: correlation_map("tanh", 0.0, sigma_w=bad),
    ):
        with pytest.raises(
            ValueError, match="sigma_w must be a finite number, more than 0 and less than"
        ):
            call()
    with pytest.raises(ValueError, match="gain must be a finite number, more than 0 and less than"):
        gradient_factor("relu", bad)


@pytest.mark.parametrize("bad", [-1e-9, nan, inf])
def test_impossible_biases_and_variances_are_refused(bad):
    for call in (
        lambda: mean_field("tanh", 1.0, bad),
        lambda: critical_sigma_w("relu", bad),
        lambda: length_map("tanh", 1.0, 1.0, bad),
        lambda: correlation_map("tanh", 0.0, sigma_w=1.0, sigma_b=bad),
        lambda: gradient_factor("relu", 1.0, bad),
    ):
        with pytest.raises(
            ValueError, match="sigma_b must be a finite number, 0 or more and less than"
        ):
            call()
    for call in (
        lambda: mean_field("tanh", 1.0, q=bad),
        lambda: correlation_map("tanh", 0.0, q=bad),
        lambda: length_map("tanh", bad, 1.0),
    ):
        with pytest.raises(ValueError, match="q must be "):
            call()
    for name in ("tanh", "relu"):
        with pytest.raises(ValueError, match="c must "):
            correlation_map(name, [0.0, 1 + abs(bad)])


@pytest.mark.parametrize("bad", ["1", None, True, [1.0], 1j])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(TypeError, match="sigma_w must be a finite number, "):
        mean_field("tanh", bad)
    with pytest.raises(TypeError, match="sigma_b must be a finite number, "):
        critical_sigma_w("tanh", bad)


@pytest.mark.parametrize(
    "call", [mean_field, gradient_factor, lambda f, _: critical_sigma_w(f), length_map]
)
def test_an_activation_without_a_derivative_is_refused(call):
    arguments = (1.0, 1.0) if call is length_map else (1.0,)
    for unknown in (nn.ReLU(), torch.tanh, relu.twin()):
        with pytest.raises(TypeError, match=r"activation must be one of identity, .* derivative"):
            call(unknown, *arguments)
    with pytest.raises(ValueError, match=r"name must be 'identity', .*'tanh'\?"):
        call("Tanh", *arguments)


# --- signal profiles ----------------------------------------------------------------------------


def mlp(depth=4, width=12, activation=nn.Tanh, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    layers = [part for _ in range(depth) for part in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 3)).to(dtype)


def batch(n=7, width=12, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, width)), rng.integers(3, size=n)


class Net(nn.Module):
    """A net of functional activations in which one layer is called three times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(12, 8)
        self.again = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        for _ in range(3):
            x = x + torch.tanh(self.again(x))
        return self.last(x)


def cnn():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(6 * 9, 3),
    ).double()


def images(n=7):
    rng = np.random.default_rng(5)
    return rng.normal(size=(n, 1, 8, 8)), rng.integers(3, size=n)


def root_mean_square(t):
    return t.detach().double().square().mean().sqrt().item()


def by_hand(model, x, y, loss=cross_entropy):
    """Profile by autograd's `.grad`, and by the matrix of all cosines."""
    outputs, names, layers = [], [], []

    def keep(module, _, output):
        output.retain_grad()
        outputs.append(output)
        names.append(next(name for name, other in model.named_modules() if other is module))
        layers.append(module)

    weighted = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [m.register_forward_hook(keep) for m in weighted]
    loss(model(torch.as_tensor(x)), torch.as_tensor(y)).backward()
    for hook in hooks:
        hook.remove()
    cosines = []
    for output in outputs:
        unit = normalize(output.detach().flatten(1), dim=1)
        cosines.append((unit @ unit.T)[np.triu_indices(len(unit), 1)].mean().item())
    columns = (
        [root_mean_square(output) for output in outputs],
        [len(x) * root_mean_square(output.grad) for output in outputs],
        [root_mean_square(layer.weight.grad) for layer in layers],
        cosines,
    )
    model.zero_grad()
    return names, *columns


def assert_columns(profile, expected, **tolerance):
    names, *columns = expected
    assert [name.partition(" ")[0] for name in profile.names] == list(names)
    found = (profile.rms, profile.gradient_rms, profile.weight_gradient_rms, profile.cosine)
    for column, values in zip(found, columns, strict=True):
        assert column.dtype == np.float64
        np.testing.assert_allclose(column, values, **tolerance)


@pytest.mark.parametrize("make", [mlp, lambda: Net().double()])
def test_profile_equals_autograd(make):
    x, y = batch()
    assert_columns(signal_profile(make(), x, y), by_hand(make(), x, y), rtol=1e-12)


def test_profile_of_a_regression_and_of_a_given_loss():
    x, _ = batch()
    y = np.random.default_rng(3).normal(size=(7, 3))
    assert_columns(signal_profile(mlp(), x, y), by_hand(mlp(), x, y, mse_loss), rtol=1e-12)
    found = signal_profile(mlp(), x, y, loss=l1_loss)
    assert_columns(found, by_hand(mlp(), x, y, l1_loss), rtol=1e-12)
    squeezed = nn.Sequential(mlp(), nn.Linear(3, 1).double(), nn.Flatten(0))
    assert signal_profile(squeezed, x, y[:, 0]).names[-1] == "1"


@pytest.mark.parametrize("training", [True, False])
def test_profile_of_a_convolutional_net_equals_autograd(training):
    x, y = images()
    plain = cnn().train(training)
    plain[2] = nn.ReLU()  # not in place, which `retain_grad` would not survive
    torch.manual_seed(9)
    expected = by_hand(plain, x, y)
    in_place = cnn().train(training)
    torch.manual_seed(9)
    assert_columns(signal_profile(in_place, x, y), expected, rtol=1e-12)


def test_an_activation_in_place_right_after_the_layer_changes_nothing():
    x, y = batch()
    in_place = mlp(activation=lambda: nn.ReLU(inplace=True))
    apart = signal_profile(mlp(activation=nn.ReLU), x, y)
    assert_columns(signal_profile(in_place, x, y), by_hand(mlp(activation=nn.ReLU), x, y))
    assert np.array_equal(signal_profile(in_place, x, y).gradient_rms, apart.gradient_rms)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_profile_in_the_models_own_precision(dtype):
    x, y = batch()
    tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 0.1, "atol": 0.01}
    assert_columns(signal_profile(mlp(dtype=dtype), x, y), by_hand(mlp(), x, y), **tolerance)


def test_gradients_are_each_examples_own_and_so_do_not_depend_on_the_number_of_examples():
    x, y = batch()
    model = mlp()
    profile = signal_profile(model, x, y)
    alone = [signal_profile(model, x[i : i + 1], y[i : i + 1]).gradient_rms for i in range(7)]
    np.testing.assert_allclose(profile.gradient_rms**2, np.square(alone).mean(axis=0), rtol=1e-12)
    twice = signal_profile(model, np.tile(x, (2, 1)), np.tile(y, 2))
    np.testing.assert_allclose(twice.gradient_rms, profile.gradient_rms, rtol=1e-12)
    np.testing.assert_allclose(twice.weight_gradient_rms, profile.weight_gradient_rms, rtol=1e-12)


def test_a_reused_layer_has_a_row_for_each_call():
    profile = signal_profile(Net(), *batch())
    assert profile.names.tolist() == ["first", "again", "again (2)", "again (3)", "last"]
    assert np.unique(profile.rms[1:4]).size == np.unique(profile.gradient_rms[1:4]).size == 3
    assert np.unique(profile.weight_gradient_rms[1:4]).size == 1  # through all calls together
    assert signal_profile(nn.Linear(12, 3), *batch()).names.tolist() == ["Linear"]


def test_frozen_weights_have_no_gradient_but_their_outputs_have():
    x, y = batch()
    free = signal_profile(mlp(), x, y)
    for frozen in ([0], [0, 2, 4], [4], [0, 2, 4, 6, 8]):
        model = mlp()
        for i in frozen:
            model[i].requires_grad_(False)
        found = signal_profile(model, x, y)
        np.testing.assert_allclose(found.gradient_rms, free.gradient_rms, rtol=1e-12)
        expected = np.where(np.isin([0, 2, 4, 6, 8], frozen), nan, free.weight_gradient_rms)
        np.testing.assert_allclose(found.weight_gradient_rms, expected, rtol=1e-12)
        model[0].bias.requires_grad_(True)
        np.testing.assert_allclose(signal_profile(model, x, y).gradient_rms, found.gradient_rms)
    in_place, apart = mlp(activation=lambda: nn.ReLU(inplace=True)), mlp(activation=nn.ReLU)
    for model in (in_place, apart):
        model[0].requires_grad_(False)
    found, expected = (signal_profile(model, x, y).gradient_rms for model in (in_place, apart))
    np.testing.assert_array_equal(found, expected)


class Cut(nn.Module):
    """A net whose first two layers run without gradients, and which ignores one layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = mlp(depth=1, dtype=torch.float32)
        self.head = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        with torch.no_grad():
            x = self.body(x)
        self.unused(x)
        return self.head(x)


def test_where_no_gradient_arrives_it_is_zero():
    model = Cut()
    profile = signal_profile(model, *batch())
    assert profile.names.tolist() == ["body.0", "body.2", "unused", "head"]
    assert (profile.gradient_rms > 0).tolist() == [False, True, False, True]
    assert (profile.weight_gradient_rms > 0).tolist() == [False, False, False, True]
    assert (profile.rms > 0).all()


def test_embeddings_keep_whole_numbers_and_other_models_do_not():
    torch.manual_seed(0)
    tokens = np.array([[1, 2, 3], [4, 5, 0]])
    net = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(12, 3))
    for trained in (True, False):
        net[0].requires_grad_(trained)
        profile = signal_profile(net, tokens, np.array([0, 2], np.uint8))
        assert profile.rms[0] == pytest.approx(root_mean_square(net[0](torch.tensor(tokens))))
        assert (profile.gradient_rms > 0).all()
    whole = signal_profile(mlp(), np.arange(24).reshape(2, 12), [0, 1])
    assert whole.rms[0] == pytest.approx(
        root_mean_square(mlp()[0](torch.arange(24.0, dtype=torch.float64).reshape(2, 12)))
    )


def test_a_parametrized_weight_is_the_one_that_was_used():
    x, y = batch()
    model = mlp()
    parametrizations.spectral_norm(model[2])
    profile = signal_profile(model, x, y)
    assert profile.names.tolist() == ["0", "2", "4", "6", "8"]
    plain = mlp()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        plain[2].weight.copy_(model[2].weight)  # the next step of the power iteration, as above
    assert_columns(profile, by_hand(plain, x, y), rtol=1e-9)
    model.load_state_dict(state)


def test_layers_that_return_no_tensor_are_left_out_and_models_may_with_a_loss():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.last = Pair(12, 3), nn.Linear(3, 3)

        def forward(self, x):
            z, x = self.pair(x)
            return self.last(z), x

    def loss(output, y):
        return cross_entropy(output[0], y)

    assert signal_profile(Outer(), *batch(), loss=loss).names.tolist() == ["last"]
    with pytest.raises(TypeError, match="model must return a tensor, not tuple; or give a loss"):
        signal_profile(Outer(), *batch())


def test_a_compiled_model_is_looked_at_as_it_was_before():
    x, y = batch()
    compiled = nn.Module()  # `torch.compile` takes seconds to make one
    compiled._orig_mod = mlp()
    assert_columns(signal_profile(compiled, x, y), by_hand(mlp(), x, y), rtol=1e-12)


# --- signal profiles: numbers that are hard to hold ---------------------------------------------


def linear(scales, width=4):
    """A net of multiples of the identity."""
    layers = [nn.Linear(width, width, bias=False) for _ in scales]
    for layer, scale in zip(layers, scales, strict=True):
        nn.init.eye_(layer.weight).data.mul_(scale)
    return nn.Sequential(*layers)


def test_sizes_whose_squares_no_single_precision_holds():
    x, y = np.ones((2, 4)), np.array([0, 1])
    small = signal_profile(linear([1e-20, 1.0, 1e20]), x, y)
    np.testing.assert_allclose(small.rms, [1e-20, 1e-20, 1], rtol=1e-6)
    np.testing.assert_allclose(small.cosine, 1, rtol=1e-6)
    np.testing.assert_allclose(small.gradient_rms / small.gradient_rms[-1], [1e20, 1e20, 1], 1e-6)
    large = signal_profile(linear([1e25, 1e5, 1e-30]), x, y)
    np.testing.assert_allclose(large.rms, [1e25, 1e30, 1], rtol=1e-6)
    sizes = large.gradient_rms / large.gradient_rms[-1]
    np.testing.assert_allclose(sizes, [1e-25, 1e-30, 1], rtol=1e-6)


def test_a_net_that_overflows_is_no_error():
    profile = signal_profile(linear([1e30, 1e30, 1.0]), np.ones((2, 4)), [0, 1])
    assert profile.rms[0] == pytest.approx(1e30)
    assert not np.isfinite(profile.rms[1:]).any()
    assert np.isnan(profile.gradient_rms).all()
    assert "inf" in str(profile)
    assert "nan" in str(profile)


@pytest.mark.parametrize(
    ("x", "cosine"),
    [
        ([[1.0, 2.0, 0, 0], [3, 6, 0, 0]], 1),
        ([[1.0, 2.0, 0, 0], [-1, -2, 0, 0]], -1),
        ([[5.0, 0, 0, 0], [0, 1e-3, 0, 0], [0, 0, 1, 1]], 0),
        ([[1.0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], math.sqrt(0.5)),  # zeros are left out
        ([[1.0, 1, 0, 0], [0, 0, 0, 0]], nan),
        ([[1.0, 2.0, 0, 0]], nan),
    ],
)
def test_cosine(x, cosine):
    for net in (linear([2.0]), linear([2.0]).bfloat16()):
        profile = signal_profile(net, x, np.zeros(len(x), int))
        np.testing.assert_allclose(profile.cosine, [cosine], atol=1e-6)
        assert profile.rms == pytest.approx(2 * math.sqrt(np.square(x).mean()), rel=1e-6)


def test_cosine_is_for_outputs_along_whose_first_axis_the_examples_lie():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.transpose(0, 1)).mean(0)

    profile = signal_profile(Turned(), np.ones((2, 5, 4)), [0, 1])
    assert np.isnan(profile.cosine).all()
    assert (profile.gradient_rms > 0).all()


# --- signal profiles and theory -----------------------------------------------------------------


def gaussian_net(depth, width, gain, activation, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(width, width, bias=False) for _ in range(depth)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=gain / math.sqrt(width))
    return nn.Sequential(*[part for layer in layers for part in (layer, activation())][:-1])


def linear_loss(output, y):
    """A loss whose gradient, `y`, has nothing to do with the weights."""
    return (output * y).mean()


def test_a_wide_tanh_net_behaves_as_mean_field_theory_says():
    theory = mean_field("tanh", 5 / 3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 800)) * math.sqrt(Moments("tanh").square(theory.q))
    net = gaussian_net(10, 800, 5 / 3, nn.Tanh)
    profile = signal_profile(net, x, rng.normal(size=(16, 800)), loss=linear_loss)
    np.testing.assert_allclose(profile.rms**2, theory.q, rtol=0.06)
    per_layer = (profile.gradient_rms[0] / profile.gradient_rms[-1]) ** (1 / 9)
    assert per_layer == pytest.approx(gradient_factor("tanh", 5 / 3).product, rel=0.012)
    np.testing.assert_allclose(profile.cosine, 0, atol=0.03)


def test_wide_relu_nets_draw_inputs_together_as_the_correlation_map_says():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12, 1000))
    nets = [gaussian_net(6, 1000, math.sqrt(2), nn.ReLU, seed) for seed in range(4)]
    found = np.mean([signal_profile(net, x, y).cosine for net in nets], axis=0)
    expected = [0.0]
    for _ in range(5):
        expected.append(float(correlation_map("relu", expected[-1])))
    np.testing.assert_allclose(found, expected, atol=0.04)


# --- signal profiles leave no trace -------------------------------------------------------------


def state_of(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "buffers": [(id(m._buffers), [*m._buffers.items()]) for m in model.modules()],
        "gradients": [(p.grad, p.grad.clone()) for p in model.parameters()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "hooks": hooks,
        "random": torch.get_rng_state(),
    }


def assert_same(before, after):
    for name in ("flags", "modes", "hooks"):
        assert before[name] == after[name]
    assert torch.equal(before["random"], after["random"])
    assert before["tensors"].keys() == after["tensors"].keys()
    assert all(torch.equal(v, after["tensors"][k]) for k, v in before["tensors"].items())
    for (id_, items), (same_id, same) in zip(before["buffers"], after["buffers"], strict=True):
        assert id_ == same_id
        assert [name for name, _ in items] == [name for name, _ in same]
        assert all(a is b for (_, a), (_, b) in zip(items, same, strict=True))
    for (grad, values), (same, _) in zip(before["gradients"], after["gradients"], strict=True):
        assert grad is same
        assert torch.equal(values, same)


class Restless(nn.Module):
    """Every kind of thing that a model may change while it runs."""

    def __init__(self, fails):
        super().__init__()
        self.net, self.fails = cnn(), fails
        self.net[3].weight.requires_grad_(False)
        self.net[1].eval()
        self.net.append(nn.BatchNorm1d(3, dtype=torch.float64))
        self.register_buffer("absent", None)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        for p in self.parameters():
            p.grad = torch.randn_like(p)

    def forward(self, x):
        torch.relu_(x)  # the caller's data?
        self.seen += 1
        self.replaced = torch.randn(3)
        self.register_buffer("fresh", torch.ones(1))
        y = self.net(x)
        if self.fails:
            raise RuntimeError("on purpose")
        return y


@pytest.mark.parametrize("make", [
    lambda: nn.LSTM(5, 4, 2, batch_first=True), lambda: nn.GRU(5, 4, batch_first=True),
    lambda: nn.RNN(5, 4, batch_first=True),
])  # fmt: skip
def test_a_recurrent_layer_has_a_row(make):
    torch.manual_seed(0)

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.memory, self.out = make(), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.memory(x)[0][:, -1])

    net, x, y = Reads().double(), torch.randn(7, 6, 5).double(), torch.randint(3, (7,))
    profile = signal_profile(net, x, y)
    assert profile.names.tolist() == ["memory", "out"]
    states = net.memory(x)[0]
    states.retain_grad()
    nn.functional.cross_entropy(net.out(states[:, -1]), y).backward()
    np.testing.assert_allclose(profile.rms[0], states.detach().square().mean().sqrt())
    np.testing.assert_allclose(profile.gradient_rms[0], 7 * states.grad.square().mean().sqrt())
    grads = torch.cat([p.grad.flatten() for p in net.memory.parameters() if p.ndim == 2])
    np.testing.assert_allclose(profile.weight_gradient_rms[0], grads.square().mean().sqrt())


def test_attention_has_a_row():
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    profile = signal_profile(net, torch.randn(7, 5, 8), torch.randn(7, 5, 8))
    assert profile.names.tolist() == ["self_attn", "linear1", "linear2"]
    assert (profile.weight_gradient_rms > 0).all()


def test_the_model_its_gradients_and_the_random_state_are_untouched():
    x, y = images()
    given = torch.tensor(x, requires_grad=True)
    model = Restless(fails=False)
    before = state_of(model)
    signal_profile(model, given, y)
    assert_same(before, state_of(model))
    assert torch.equal(given, torch.tensor(x))
    assert given.grad is None
    signal_profile(model, x, y)
    assert np.array_equal(x, images()[0])
    model(torch.tensor(x))  # the model as such would change
    with pytest.raises(AssertionError):
        assert_same(before, state_of(model))


def test_they_are_untouched_also_after_an_exception():
    x, y = images()
    model = Restless(fails=True)
    before = state_of(model)
    with pytest.raises(ValueError, match=r"x must be what the model takes, .* on purpose"):
        signal_profile(model, x, y)
    assert_same(before, state_of(model))

    def loss(output, y):
        raise ZeroDivisionError

    model.fails = False
    with pytest.raises(ZeroDivisionError):
        signal_profile(model, x, y, loss=loss)
    assert_same(before, state_of(model))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(context):
    x, y = batch()
    expected = signal_profile(mlp(), x, y)
    model = mlp()
    with context():
        found = signal_profile(model, torch.tensor(x), torch.tensor(y))
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(found.gradient_rms, expected.gradient_rms)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_profile_and_promises_are_the_same():
    x, y = images()
    model = Restless(fails=False).eval()
    expected = signal_profile(model, x, y)
    found = signal_profile(model.cuda(), x, y)
    np.testing.assert_allclose(found.gradient_rms, expected.gradient_rms, rtol=1e-9)
    state = torch.cuda.get_rng_state()
    signal_profile(model.train(), torch.tensor(x).cuda(), torch.tensor(y).cuda())
    assert torch.equal(state, torch.cuda.get_rng_state())
    model.net(torch.tensor(x).cuda())  # the dropout as such would move it
    assert not torch.equal(state, torch.cuda.get_rng_state())


# --- signal profiles: what is refused -----------------------------------------------------------

X, Y = batch()
REFUSED = {
    "no module": (lambda: np.tanh, X, Y, TypeError, "model must be a torch.nn.Module, not "),
    "no parameters": (nn.Tanh, X, Y, ValueError, "model must have parameters"),
    "lazy": (lambda: nn.LazyLinear(3), X, Y, ValueError, "lazy ones must have been initialized"),
    "no layer": (lambda: nn.BatchNorm1d(12), X, Y, ValueError, "model must call a layer with a"),
    "lengths": (mlp, X, Y[:-1], ValueError, "y must have the length of x, 7, not 6"),
    "empty": (mlp, X[:0], Y[:0], ValueError, "x must hold one example at least"),
    "number": (mlp, X, 3, ValueError, "y must hold one example at least"),
    "NaN": (mlp, X * nan, Y, ValueError, "x must be finite, but holds NaN or infinity"),
    "infinity": (mlp, np.where(X > 1, inf, X), Y, ValueError, "x must be finite"),
    "minus infinity": (mlp, np.where(X > 1, -inf, X), Y, ValueError, "x must be finite"),
    "targets": (mlp, X, X[:, :3] * inf, ValueError, "y must be finite"),
    "text": (mlp, np.array([["a"]]), Y, TypeError, "x must be an array of numbers: "),
    "ragged": (mlp, X, [[1], [1, 2]], TypeError, "y must be an array of numbers: "),
    "complex": (mlp, X + 1j, Y, TypeError, "x must hold real numbers, not torch.complex128"),
    "bool": (mlp, X, Y > 0, TypeError, "y must hold real numbers, not torch.bool"),
    "negative": (mlp, X, Y - 1, ValueError, r"y must hold labels from 0 to 2.*but holds -1 to 1"),
    "large": (mlp, X, Y + 1, ValueError, r"shape \(7, 3\), but holds 1 to 3"),
    "axes": (mlp, X, np.eye(3, dtype=int)[Y], ValueError, r"y of shape \(7, 3\), labels of type"),
    "values": (mlp, X, X[:, 0], ValueError, r"y of shape \(7,\), values .* of shape \(7, 3\)"),
    "flat": (
        lambda: nn.Sequential(mlp(), nn.Linear(3, 1).double(), nn.Flatten(0)),
        *(X, Y, ValueError, r"y of shape \(7,\), labels .* output of shape \(7,\)"),
    ),
}


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case):
    model, x, y, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        signal_profile(model(), x, y)


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, y: cross_entropy(output, y, reduction="none"),
        lambda output, y: cross_entropy(output, y).item(),
        lambda output, y: torch.zeros(()),
    ],
)
def test_a_loss_is_one_number_that_depends_on_the_model(loss):
    with pytest.raises(ValueError, match="loss must be one number that depends on the model, not"):
        signal_profile(mlp(), X, Y, loss=loss)


# --- signal profiles: table and figure ----------------------------------------------------------


@pytest.fixture
def _figures():
    mpl.use("agg")
    yield
    plt.close("all")


def test_profile_prints_as_a_table():
    arrays = [np.array(column) for column in ([0.5, 1e-30], [2.0, 0.0], [nan, 3e4], [0.25, nan])]
    assert str(SignalProfile(np.array(["fc", "features.conv"]), *arrays)).splitlines() == [
        "layer               rms  gradient weight gradient  cosine",
        "fc                  0.5         2             nan   0.250",
        "features.conv     1e-30         0           3e+04     nan",
    ]


@pytest.mark.usefixtures("_figures")
def test_plot_draws_outputs_and_gradients_on_a_logarithmic_axis():
    profile = signal_profile(mlp(), X, Y)
    _, given = plt.subplots()
    ax = profile.plot(given)
    assert ax is given
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["output", "gradient"]
    for line, values in zip(ax.lines, (profile.rms, profile.gradient_rms), strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
        assert np.array_equal(line.get_ydata(), values)
    assert all(tick.is_integer() for tick in ax.get_xticks())


@pytest.mark.usefixtures("_figures")
@pytest.mark.parametrize(
    ("gradient", "drawn"), [([0.0, nan], ["output"]), ([inf, 1e-9], ["output", "gradient"])]
)
def test_plot_leaves_out_what_a_logarithmic_axis_cannot_show(gradient, drawn):
    ones = np.ones(2)
    ax = SignalProfile(np.array(["a", "b"]), ones, np.array(gradient), ones, ones).plot()
    assert [text.get_text() for text in ax.texts] == drawn
    assert ax.get_xlabel() == "layer"


@pytest.mark.usefixtures("_figures")
def test_plot_of_a_single_layer_and_of_none_that_can_be_drawn():
    ax = signal_profile(nn.Linear(12, 3), X, Y).plot()
    assert len(ax.texts) == len(ax.lines) == 2
    column = np.array([nan])
    assert not SignalProfile(np.array(["a"]), column, column, column, column).plot().lines
