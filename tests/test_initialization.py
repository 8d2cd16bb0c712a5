"""`companion.initialization` against torch.nn.init, exactly and in distribution, and theory."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import nn

from companion.activations import ACTIVATIONS, relu, tanh
from companion.initialization import (
    STDS,
    fans,
    gain,
    he_normal,
    he_std,
    he_uniform,
    lecun_normal,
    lecun_std,
    lecun_uniform,
    lsuv,
    orthogonal,
    pytorch_default,
    pytorch_std,
    randomized_asymmetric,
    variance_gain,
    xavier_normal,
    xavier_std,
    xavier_uniform,
)
from companion.initialization.draws import normal, uniform
from companion.initialization.matrices import RAI_SIGMA
from companion.quadrature import Moments, gaussian_mean
from companion.vanishing_gradients import gradient_factor, mean_field

inf, nan = math.inf, math.nan
init = torch.nn.init


def rng(seed=0):
    return np.random.default_rng(seed)


class TorchDraws(np.random.Generator):
    """A generator whose uniform and normal numbers are PyTorch's, from its seed 0."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))
        self.source = torch.Generator().manual_seed(0)

    def random(self, size, dtype=np.float64):
        """Draw uniform numbers."""
        return torch.rand(size, generator=self.source, dtype=torch.float64).numpy()

    def standard_normal(self, size, dtype=np.float64):
        """Draw normal numbers."""
        return torch.randn(size, generator=self.source, dtype=torch.float64).numpy()


SHAPES = [(30, 50), (50, 30), (12, 12), (8, 6, 3, 3), (4, 10, 5)]
RULES = [
    (xavier_uniform, {}, init.xavier_uniform_, {}),
    (xavier_uniform, {"gain": 5 / 3}, init.xavier_uniform_, {"gain": 5 / 3}),
    (xavier_normal, {}, init.xavier_normal_, {}),
    (xavier_normal, {"gain": 0.75}, init.xavier_normal_, {"gain": 0.75}),
    (he_uniform, {}, init.kaiming_uniform_, {}),
    (he_uniform, {"mode": "fan_out"}, init.kaiming_uniform_, {"mode": "fan_out"}),
    (he_normal, {}, init.kaiming_normal_, {}),
    (he_normal, {"mode": "fan_out"}, init.kaiming_normal_, {"mode": "fan_out"}),
    (he_normal, {"negative_slope": 0.25}, init.kaiming_normal_, {"a": 0.25}),
    (he_normal, {"negative_slope": -3.0}, init.kaiming_normal_, {"a": -3.0}),
    (lecun_uniform, {}, init.kaiming_uniform_, {"nonlinearity": "linear"}),
    (lecun_normal, {}, init.kaiming_normal_, {"nonlinearity": "linear"}),
    (lecun_normal, {"gain": 5 / 3}, init.kaiming_normal_, {"nonlinearity": "tanh"}),
    (orthogonal, {}, init.orthogonal_, {}),
    (orthogonal, {"gain": 2.0}, init.orthogonal_, {"gain": 2.0}),
]
every_rule = pytest.mark.parametrize(("rule", "options", "make", "torch_options"), RULES)
EVERY = [xavier_uniform, xavier_normal, he_uniform, he_normal, lecun_uniform, lecun_normal,
         orthogonal, pytorch_default, randomized_asymmetric]  # fmt: skip
every_function = pytest.mark.parametrize("rule", EVERY, ids=lambda f: f.__name__)


# --- torch.nn.init -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@every_rule
def test_the_same_draws_give_pytorchs_weights(shape, rule, options, make, torch_options):
    ours = rule(shape, TorchDraws(), **options)
    theirs = torch.empty(shape, dtype=torch.float64)
    make(theirs, generator=torch.Generator().manual_seed(0), **torch_options)
    assert ours.shape == shape
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-13 * abs(ours).max())


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (lambda **how: nn.Linear(50, 30, **how), {}),
        (lambda **how: nn.Conv2d(6, 8, 3, groups=2, **how), {"groups": 2}),
        (
            lambda **how: nn.ConvTranspose2d(6, 8, 3, groups=2, **how),
            {"groups": 2, "transposed": True},
        ),
    ],
    ids=["linear", "conv", "transposed"],
)
def test_the_default_is_pytorchs(make, how):  # V13
    torch.manual_seed(0)  # nn.Linear draws from the global generator
    layer = make(dtype=torch.float64)
    weight, bias = pytorch_default(tuple(layer.weight.shape), TorchDraws(), **how)
    np.testing.assert_allclose(weight, layer.weight.detach().numpy(), atol=1e-15)
    np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@every_rule
def test_our_own_draws_have_pytorchs_distribution(rule, options, make, torch_options, dtype):
    shape = (120, 250)
    ours = rule(shape, rng(1), dtype=dtype, **options)
    theirs = torch.empty(shape, dtype=torch.float64)
    make(theirs, generator=torch.Generator().manual_seed(1), **torch_options)
    assert ours.dtype == dtype
    assert stats.ks_2samp(ours.ravel(), theirs.numpy().ravel()).pvalue > 1e-3
    if rule is not orthogonal:  # there the entries are not independent
        z = (ours / theirs.numpy().std()).ravel()
        assert abs(z.mean()) < 4 / math.sqrt(z.size)
        assert z.var() == pytest.approx(1, abs=5 * math.sqrt(2 / z.size) * 1.5)


@pytest.mark.parametrize("rule", EVERY, ids=lambda f: f.__name__)
def test_a_seed_is_a_generator_and_none_is_a_fresh_one(rule):
    def drawn(given):
        return np.concatenate([np.ravel(part) for part in rule((3, 4), given)])

    np.testing.assert_array_equal(drawn(5), drawn(rng(5)))
    assert (drawn(None) != drawn(None)).any()


# --- how large -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(10, 64), (256, 64, 3, 3), (5, 7, 11), (2, 3, 4, 5, 6)])
def test_fans_are_pytorchs(shape):
    assert fans(shape) == init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert fans(np.array(shape)) == fans(list(shape)) == fans(torch.empty(shape).shape)


LAYERS = {
    "linear": (lambda: nn.Linear(6, 8, bias=False), 1, False),
    "conv": (lambda: nn.Conv2d(6, 8, 3, padding=1, bias=False), 1, False),
    "grouped": (lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False), 2, False),
    "depthwise": (lambda: nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), 64, False),
    "multiplied": (lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False), 6, False),
    "long": (lambda: nn.Conv1d(6, 8, 5, padding=2, bias=False), 1, False),
    "transposed": (lambda: nn.ConvTranspose2d(6, 8, 3, padding=1, bias=False), 1, True),
    "transposed in groups": (
        lambda: nn.ConvTranspose2d(6, 8, (3, 5), padding=(1, 2), groups=2, bias=False), 2, True,
    ),
    "transposed depthwise": (
        lambda: nn.ConvTranspose1d(8, 8, 3, padding=1, groups=8, bias=False), 8, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "groups", "transposed"), LAYERS.values(), ids=LAYERS)
def test_fans_count_the_connections_of_pytorchs_layers(make, groups, transposed):
    """With weights of 1 an output counts what leads into it, and one input where it leads to."""
    layer = make()
    init.ones_(layer.weight)
    n_in = getattr(layer, "in_channels", None) or layer.in_features
    kernel = getattr(layer, "kernel_size", ())
    x = torch.zeros(1, n_in, *[9] * len(kernel))
    middle = (0, 0, *[4] * len(kernel))
    into = layer(x + 1)[middle]
    x[middle] = 1
    expected = int(into), int(layer(x).sum())
    shape = tuple(layer.weight.shape)
    assert fans(shape, groups=groups, transposed=transposed) == expected
    if groups == 64:
        assert expected == (9, 9)
    n_in, n_out = expected
    for rule, draw, std, options in (
        (xavier_normal, normal, xavier_std(n_in, n_out), {}),
        (xavier_uniform, uniform, xavier_std(n_in, n_out), {}),
        (he_normal, normal, he_std(n_in), {}),
        (he_uniform, uniform, he_std(n_out), {"mode": "fan_out"}),
        (lecun_normal, normal, lecun_std(n_in), {}),
        (lecun_uniform, uniform, lecun_std(n_in), {}),
    ):
        drawn = rule(shape, 3, groups=groups, transposed=transposed, **options)
        np.testing.assert_array_equal(drawn, draw(shape, 3, std, np.float64))


def test_standard_deviations():  # I1, I5
    for fan_in, fan_out in ((64, 64), (100, 28), (1, 9)):
        assert xavier_std(fan_in, fan_out) ** 2 == pytest.approx(2 / (fan_in + fan_out), rel=1e-15)
        assert lecun_std(fan_in) ** 2 == pytest.approx(1 / fan_in, rel=1e-15)
        assert he_std(fan_in) ** 2 == pytest.approx(2 / fan_in, rel=1e-15)
        assert pytorch_std(fan_in) ** 2 * 3 * fan_in == pytest.approx(1, rel=1e-15)
    assert he_std(7, negative_slope=1.0) == pytest.approx(lecun_std(7), rel=1e-15)
    assert he_std(7, negative_slope=-1e300) == pytest.approx(math.sqrt(2 / 7) * 1e-300)
    assert xavier_std(3, 5, gain=0) == 0


def test_the_table_has_every_rule_by_name():
    expected = {"he": he_std(3), "lecun": lecun_std(3), "pytorch": pytorch_std(3),
                "xavier": xavier_std(3, 5)}  # fmt: skip
    assert {name: std(3, 5) for name, std in STDS.items()} == expected


def test_bounds_of_the_uniform_distributions():  # I1
    for weights, bound in (
        (xavier_uniform((40, 60), rng()), math.sqrt(6 / 100)),
        (he_uniform((40, 60), rng()), math.sqrt(6 / 60)),
        (lecun_uniform((40, 60), rng()), math.sqrt(3 / 60)),
        (pytorch_default((40, 60), rng())[0], math.sqrt(1 / 60)),
    ):
        assert 0.99 * bound < abs(weights).max() <= bound


def test_stds_of_vgg_b_and_the_gradient_that_a_hundredth_loses():  # I6
    filters = [64, 128, 256, 512]
    stds = [he_std(9 * n) for n in filters]
    assert [round(std, 3) for std in stds] == [0.059, 0.042, 0.029, 0.021]
    rounded = math.prod([5.9, 4.2**2, 2.9**2, 2.1**4])
    assert rounded == pytest.approx(1.7e4, rel=0.02)
    exact = math.prod((std / 0.01) ** k for std, k in zip(stds, (1, 2, 2, 4), strict=True))
    assert exact == pytest.approx(1.7e4, rel=0.02)


# --- gains ---------------------------------------------------------------------------------------

CLOSED = {
    "identity": 1.0,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "prelu": math.sqrt(2 / (1 + 0.25**2)),
    "selu": 1.0,
}


@pytest.mark.parametrize(("name", "expected"), CLOSED.items())
def test_gains_in_closed_form(name, expected):  # A2, A7
    assert gain(name) == pytest.approx(expected, rel=1e-13)


def test_published_gains():  # A5, A6, A7; the issue's are from a hundred thousand samples
    assert gain("tanh") == pytest.approx(1.592537, abs=6e-7)
    assert gain("sigmoid") == pytest.approx(1.8462, abs=6e-5)
    assert gain("prelu", slope=0.25) == pytest.approx(1.371989, abs=6e-7)
    issue = {"sigmoid": 4.8091, "tanh": 1.5976, "relu": 1.7068, "selu": 1.0003, "elu": 1.2695}
    exact = {"sigmoid": 4.801313, "tanh": 1.592537, "relu": math.sqrt(2 * math.pi / (math.pi - 1)),
             "selu": 1.0, "elu": 1.270843}  # fmt: skip
    for name in issue:
        assert variance_gain(name) == pytest.approx(exact[name], abs=6e-7)
        assert variance_gain(name) == pytest.approx(issue[name], rel=5e-3)
    leaky = variance_gain("leaky_relu", negative_slope=0.2)
    assert leaky == pytest.approx(1.546460, abs=6e-7)
    assert leaky == pytest.approx(1.5421, rel=5e-3)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gains_of_samples(name):
    z = rng(3).normal(size=1_000_000)
    out = ACTIVATIONS[name](z)
    error = 4 * np.std(out**2) / np.mean(out**2) / 2 / 1000
    assert gain(name) * math.sqrt(np.mean(out**2)) == pytest.approx(1, abs=error)
    assert variance_gain(name) * out.std() == pytest.approx(1, abs=0.02)
    assert variance_gain(name) >= gain(name) * (1 - 1e-12)


def test_where_pytorchs_gains_agree_and_where_they_do_not():  # A2
    theirs = init.calculate_gain
    for name in ("relu", "leaky_relu"):
        assert theirs(name) == pytest.approx(gain(name), rel=1e-13)
    assert theirs("leaky_relu", 0.2) == pytest.approx(gain("leaky_relu", negative_slope=0.2))
    assert theirs("linear") == pytest.approx(gain("identity"), rel=1e-15) == 1
    assert theirs("tanh") == 5 / 3
    assert theirs("selu") == 3 / 4
    assert theirs("sigmoid") == 1
    assert theirs("tanh") / gain("tanh") == pytest.approx(1.0466, abs=1e-4)


def test_five_thirds_holds_the_signal_and_not_the_gradient():  # A3, A4
    theory = mean_field("tanh", 5 / 3)
    assert (theory.q, theory.chi) == pytest.approx((1.178480, 1.209831), abs=6e-7)
    generator, h = rng(4), rng(5).normal(size=(64, 1000))
    slopes, matrices = [], []
    for _ in range(15):
        matrices.append(xavier_normal((1000, 1000), generator, gain=5 / 3, dtype=np.float32))
        z = h @ matrices[-1].T
        h = tanh(z)
        slopes.append(1 - h**2)
    assert h.std() == pytest.approx(0.651347, abs=0.01)
    g = generator.normal(size=h.shape)
    sizes = []
    for w, slope in zip(matrices[::-1], slopes[::-1], strict=True):
        g = (g * slope) @ w
        sizes.append(np.mean(g**2))
    assert (sizes[9] / sizes[0]) ** (1 / 9) == pytest.approx(theory.chi, rel=0.02)


def test_three_quarters_do_not_normalize_selu():  # A11, PyTorch's pull request 50664
    selu, q, seen = Moments("selu"), 1.0, []
    for _ in range(41):
        z = 0.75**2 * q
        q = selu.square(z)
        seen.append(math.sqrt(q - gaussian_mean(selu.f, z) ** 2))
    published = [0.7968, 0.3127, 0.2404, 0.2062, 0.2056]
    assert seen[::10] == pytest.approx(published, rel=0.05)
    measured, h, generator = [], rng(15).normal(size=(64, 500)), rng(16)
    for _ in range(41):
        h = selu.f(h @ lecun_normal((500, 500), generator, gain=init.calculate_gain("selu")).T)
        measured.append(h.std())
    assert measured[::10] == pytest.approx(seen[::10], rel=0.1)
    h = rng(15).normal(size=(64, 500))
    for _ in range(41):
        h = selu.f(h @ lecun_normal((500, 500), generator, gain=gain("selu")).T)
    assert h.std() == pytest.approx(1, rel=0.1)


# --- signals and gradients -----------------------------------------------------------------------


def ratios(draw, f, width=300, depth=12):
    """Geometric mean of what a layer multiplies signal and gradient by."""
    generator = rng(6)
    h, layers = generator.normal(size=(32, width)), []
    before = np.mean(h**2)
    for _ in range(depth):
        w = draw((width, width), generator)
        z = h @ w.T
        layers.append((w, f.derivative(z)))
        h = f(z)
    g = top = generator.normal(size=h.shape)
    for w, slope in layers[::-1]:
        g = (g * slope) @ w
    forth, back = np.mean(h**2) / before, np.mean(g**2) / np.mean(top**2)
    return forth ** (0.5 / depth), back ** (0.5 / depth)


@pytest.mark.parametrize(
    ("draw", "f", "forward", "backward"),
    [
        (he_normal, relu, 1, 1),  # I5
        (he_uniform, relu, 1, 1),
        (xavier_normal, relu, 0.5**0.5, 0.5**0.5),
        (lambda *given: pytorch_default(*given)[0], relu, 6**-0.5, 6**-0.5),  # V13
        (
            lambda *given: pytorch_default(*given)[0],
            ACTIVATIONS["identity"],
            3**-0.5,
            3**-0.5,
        ),  # I3
        (orthogonal, ACTIVATIONS["identity"], 1, 1),
    ],
)
def test_factor_of_a_layer(draw, f, forward, backward):
    seen = ratios(draw, f)
    assert seen == pytest.approx((forward, backward), rel=0.04)
    if draw is orthogonal:
        assert seen == pytest.approx((1, 1), rel=1e-12)
    if forward == backward and f is relu:
        assert gradient_factor("relu", math.sqrt(2) * forward).product == pytest.approx(forward)


def test_default_biases_take_over():  # V13
    n, seen = 300, []
    for seed in range(20):
        generator = rng(seed)
        h = generator.normal(size=(8, n))
        for _ in range(6):
            w, b = pytorch_default((n, n), generator)
            z = h @ w.T + b
            h = relu(z)
        seen.append(n * np.mean(z**2))
    assert np.mean(seen) == pytest.approx(2 / 5, rel=0.05)


@pytest.mark.parametrize(
    ("draw", "low", "high"),
    [(xavier_uniform, 0.78, 0.85), (lambda *given: pytorch_default(*given)[0], 0.46, 0.50)],
    ids=["normalized", "standard"],
)
def test_mean_singular_values_of_glorot_and_bengio(draw, low, high):  # I2
    generator = rng(7)
    h = generator.normal(size=(1, 30))  # few inputs for the width: the layers stay near linear
    for n in (30, 500, 500):
        w = draw((500, n), generator)
        h = np.tanh(h @ w.T)
        jacobian = (1 - h.ravel()[:, None] ** 2) * w
        seen = np.linalg.svd(jacobian, compute_uv=False).mean()
        assert n == 30 or low < seen < high
    bare = np.linalg.svd(w, compute_uv=False).mean() / (w.std() * math.sqrt(500))
    assert bare == pytest.approx(8 / (3 * math.pi), rel=0.01)


# --- orthogonal, LSUV, randomized asymmetric -----------------------------------------------------


@pytest.mark.parametrize("shape", [(70, 70), (130, 40), (40, 130), (20, 6, 3, 3), (1, 5), (5, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_singular_values_of_orthogonal_weights_are_the_gain(shape, dtype):
    w = orthogonal(shape, rng(8), gain=1.5, dtype=dtype)
    s = np.linalg.svd(w.reshape(shape[0], -1), compute_uv=False)
    np.testing.assert_allclose(s, 1.5, rtol=0, atol=200 * np.finfo(dtype).eps)
    assert w.flags.c_contiguous
    assert w.dtype == dtype


class Alike(np.random.Generator):
    """A generator of matrices whose columns are nearly the same."""

    def standard_normal(self, size, dtype):
        """Draw one column, and add little to it in each."""
        return super().standard_normal((size[0], 1)) + 1e-7 * super().standard_normal(size)


def test_nearly_dependent_columns_become_orthonormal_all_the_same():
    w = orthogonal((100, 100), Alike(np.random.PCG64(0)))
    np.testing.assert_allclose(w.T @ w, np.eye(100), rtol=0, atol=1e-13)


def test_orthogonal_matrices_have_no_preferred_direction():
    found = np.array([orthogonal((3, 3), rng(seed)) for seed in range(2000)])
    assert abs(found.mean(axis=0)).max() < 4 / math.sqrt(3 * 2000)
    determinants = np.linalg.det(found)
    np.testing.assert_allclose(abs(determinants), 1, atol=1e-12)
    assert abs(determinants.mean()) < 4 / math.sqrt(2000)
    assert abs(np.trace(found, axis1=1, axis2=2).var() - 1) < 4 * math.sqrt(2 / 2000)  # Haar's


DATA = rng(9).normal(size=(500, 64))


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "gelu"])
def test_lsuv_makes_unit_variance_and_finds_the_gain(name):  # I10
    generator, width = rng(10), 200
    start = [orthogonal((width, n), generator) for n in (64, *[width] * 7)]
    kept = [w.copy() for w in start]
    done = lsuv(start, name, DATA, tolerance=1e-9)
    h, f = DATA, ACTIVATIONS[name]
    for w in done.weights:
        z = h @ w.T
        assert z.var() == pytest.approx(1, abs=1e-9)
        h = f(z)
    assert max(done.iterations) <= 2
    scale = [w.std() / v.std() for w, v in zip(done.weights, start, strict=True)]
    assert np.mean(scale[1:]) == pytest.approx(gain(name), rel=0.1)
    assert all((w == v).all() for w, v in zip(start, kept, strict=True))


@pytest.mark.parametrize("value", [0.1, 0.3, 1e6])
def test_what_does_not_vary_is_not_scaled_by_its_rounding(value):
    """0.1 times 7 summed in any order is 0.7 but for rounding, whose size is no scale."""
    x, same = np.full((50, 7), value), np.full((5, 7), 0.1)
    x[::2] *= 1 + 1e-15  # as another order of summation leaves it
    assert 0 < (x @ same.T).std() < 1e-12 * value
    with pytest.raises(ValueError, match="outputs have standard deviation"):
        lsuv([same], "relu", x)
    from companion.activations import Activation

    constant = Activation(
        "constant", "", lambda z: np.full(z.shape, value), "", lambda z: 0 * z, "",
        range=(value, value), lipschitz=0.0, source="", twin_name=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"mean variance is 0\.0"):
        variance_gain(constant)
    assert gain(constant) == pytest.approx(1 / value)


def test_lsuv_leaves_what_is_within_tolerance_and_stops():
    start = [orthogonal((64, 64), rng(11)) * 1.02]
    done = lsuv(start, "relu", DATA, tolerance=0.1)
    assert done.iterations == [0]
    assert (done.weights[0] == start[0]).all()
    assert done.weights[0] is not start[0]
    assert lsuv([10 * start[0]], "relu", DATA, max_iterations=0).iterations == [0]
    assert lsuv([10 * start[0]], "relu", DATA).iterations == [1]
    assert lsuv([], "relu", DATA) == ([], [])
    slope = lsuv(start * 2, "leaky_relu", DATA, negative_slope=1.0)
    np.testing.assert_array_equal(slope.weights[1], lsuv(start * 2, "identity", DATA).weights[1])


def test_sigma_of_randomized_asymmetric_solves_its_equation():  # D10
    def excess(s):
        return s**2 / 2 + 2 / 3 * math.sqrt(2 / math.pi) * s + 1 / 2 - 1

    assert pytest.approx(optimize.brentq(excess, 0, 1, xtol=1e-15), abs=1e-14) == RAI_SIGMA
    assert pytest.approx(0.6007473, abs=6e-8) == RAI_SIGMA


def test_randomized_asymmetric_weights():
    n, units = 30, 40_000
    weight, bias = randomized_asymmetric((units, n), rng(12))
    rows = np.column_stack([weight, bias])
    assert rows.mean() * (n + 1) == pytest.approx(2 / 3, abs=0.02)  # one Beta(2, 1) per row
    second = n / (n + 1) * RAI_SIGMA**2 / n + (1 / 2) / (n + 1)
    assert np.mean(rows**2) == pytest.approx(second, rel=0.01)
    largest = rows.max(axis=1)
    where = rows.argmax(axis=1)[largest > 0.6]  # five standard deviations of the normal ones
    counts = np.bincount(where, minlength=n + 1)
    assert stats.chisquare(counts).pvalue > 1e-3  # any entry, the bias among them
    assert (largest > 0.6).mean() == pytest.approx(1 - 0.6**2, abs=0.01)
    h = abs(rng(13).normal(size=(5, n)))
    out = np.mean(relu(h @ weight.T + bias) ** 2, axis=1)
    assert (out <= 1.02 * (np.mean(h**2, axis=1) * n + 1) / n).all()


def test_randomized_asymmetric_nets_are_born_dead_less_often():  # D11
    def constant(draw):
        h, generator = (
            np.linspace(-(3**0.5), 3**0.5, 64)[None, :, None].repeat(1500, axis=0),
            rng(14),
        )
        for n in (1, *[3] * 8):
            pairs = [draw((3, n), generator) for _ in range(1500)]
            w, b = (np.stack(part) for part in zip(*pairs, strict=True))
            h = relu(h @ w.mT + b[:, None])
        return (np.ptp(h, axis=1) == 0).all(axis=1).mean()

    assert constant(lambda *given: (he_normal(*given), np.zeros(3))) == pytest.approx(
        0.578, abs=0.05
    )
    assert constant(randomized_asymmetric) == pytest.approx(0.067, abs=0.03)


def test_convolutional_shapes_of_what_draws_biases():
    for rule in (pytorch_default, randomized_asymmetric):
        weight, bias = rule((8, 4, 3, 3), rng(), dtype=np.float32)
        assert weight.shape == (8, 4, 3, 3)
        assert bias.shape == (8,)
        assert weight.dtype == bias.dtype == np.float32


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ((5,), ValueError, r"shape must have two axes at least, .* not \(5,\)"),
        ((), ValueError, "two axes"),
        ((0, 5), ValueError, r"shape\[0\] must be a whole number, 1 or more, not 0"),
        ((5, -1), ValueError, r"shape\[1\] must be a whole number, 1 or more, not -1"),
        ((5, 5, 0), ValueError, r"shape\[2\] must be a whole number, 1 or more, not 0"),
        ((5, 2.0), TypeError, r"shape\[1\] must be a whole number, .*not 2.0"),
        ((5, True), TypeError, r"shape\[1\] must be a whole number, .*not True"),
        (5, TypeError, "shape must be a sequence of whole numbers, not 5"),
        ("55", TypeError, "shape must be a sequence"),
    ],
)
@every_function
def test_impossible_shapes_are_refused(rule, shape, error, message):
    with pytest.raises(error, match=message):
        rule(shape, rng())


@pytest.mark.parametrize(
    "given", ["0", 0.0, np.random, np.random.RandomState(0), torch.Generator()]
)
@every_function
def test_what_is_no_generator_is_refused(rule, given):
    for dtype in (np.float64, np.float32):
        with pytest.raises(
            TypeError, match=r"rng must be a numpy.random.Generator, a seed or None"
        ):
            rule((3, 3), given, dtype=dtype)


@every_function
def test_other_dtypes_are_refused(rule):
    for dtype in (np.float16, np.int64, complex, "x", 3):
        with pytest.raises(TypeError, match="dtype must be float64 or float32, not"):
            rule((3, 3), rng(), dtype=dtype)


@pytest.mark.parametrize(
    "rule", [xavier_uniform, xavier_normal, lecun_uniform, lecun_normal, orthogonal]
)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (-1.0, ValueError, "gain must be a finite number, 0 or more, not -1.0"),
        (nan, ValueError, "gain must be a finite number, .*not nan"),
        (inf, ValueError, "gain must be a finite number, .*not inf"),
        ("tanh", TypeError, "gain must be a finite number, .*not 'tanh'"),
        (True, TypeError, "gain must be a finite number"),
    ],
)
def test_impossible_gains_are_refused(rule, given, error, message):
    with pytest.raises(error, match=message):
        rule((3, 3), rng(), gain=given)


@pytest.mark.parametrize("rule", [he_uniform, he_normal])
def test_impossible_options_of_he_are_refused(rule):
    for slope in (nan, inf, -inf):
        with pytest.raises(
            ValueError, match=f"negative_slope must be a finite number, not {slope}"
        ):
            rule((3, 3), rng(), negative_slope=slope)
    with pytest.raises(TypeError, match=r"negative_slope must be a finite number, not '0\.2'"):
        rule((3, 3), rng(), negative_slope="0.2")
    with pytest.raises(ValueError, match="mode must be 'fan_in' or 'fan_out', not 'fan_avg'"):
        rule((3, 3), rng(), mode="fan_avg")


@pytest.mark.parametrize("std", [he_std, lecun_std, pytorch_std, lambda n: xavier_std(3, n)])
def test_impossible_fans_are_refused(std):
    for n in (0, -3):
        with pytest.raises(ValueError, match=f"must be a whole number, 1 or more, not {n}"):
            std(n)
    with pytest.raises(TypeError, match=r"must be a whole number, 1 or more, not 2.5"):
        std(2.5)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (3, ValueError, r"groups must divide the 8 channels of shape\[0\], not be 3"),
        (0, ValueError, "groups must be a whole number, 1 or more, not 0"),
        (1.0, TypeError, "groups must be a whole number"),
    ],
)
def test_impossible_groups_are_refused(groups, error, message):
    with pytest.raises(error, match=message):
        fans((8, 2, 3), groups=groups)


def test_gains_refuse_what_is_no_activation():
    for compute in (gain, variance_gain):
        with pytest.raises(ValueError, match=r"name must be .* Did you mean 'relu'"):
            compute("Relu")
        with pytest.raises(TypeError, match="derivative"):
            compute(np.tanh)
        with pytest.raises(ValueError, match="slope must be finite, got nan"):
            compute("prelu", slope=nan)


def test_an_activation_without_variance_has_no_gain():
    from companion.activations import Activation

    flat = Activation("flat", "A constant.", lambda z: 0 * z, "0", lambda z: 0 * z, "0", (0, 0), 0,
                      "", None)  # fmt: skip
    for compute, what in ((gain, "square"), (variance_gain, "variance")):
        with pytest.raises(ValueError, match=f"has no gain: its mean {what} is 0.0"):
            compute(flat)


WEIGHTS = [np.eye(64)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.where(DATA > 3, nan, DATA)}, ValueError, "x must be finite, but holds NaN"),
        (
            {"x": np.zeros((5, 64))},
            ValueError,
            r"weights\[0\]: its outputs have standard dev.*0\.0",
        ),
        ({"x": DATA[0]}, ValueError, r"x must be a matrix, not of shape \(64,\)"),
        ({"x": DATA[:, :5]}, ValueError, r"weights\[0\] must have 5 columns, not 64"),
        ({"weights": [np.full((64, 64), inf)]}, ValueError, r"weights\[0\] must be finite"),
        ({"weights": [np.eye(64), np.eye(3)]}, ValueError, r"weights\[1\] must have 64 columns"),
        ({"weights": np.eye(64)}, TypeError, "weights must be a list of arrays"),
        ({"weights": None}, TypeError, "weights must be a list of arrays"),
        ({"weights": [np.eye(64) > 0]}, TypeError, r"weights\[0\] must hold real numbers"),
        ({"activation": "rellu"}, ValueError, "Did you mean 'relu'"),
        ({"negative_slope": 0.1}, TypeError, "relu has keywords"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be a finite number, more than 0, not 0.0"),
        ({"tolerance": nan}, ValueError, "tolerance must be a finite number, more than 0, not nan"),
        ({"max_iterations": -1}, ValueError, "max_iterations must be a whole number, 0 or more"),
        ({"max_iterations": 1.5}, TypeError, "max_iterations must be a whole number, 0 or more"),
    ],
)
def test_what_lsuv_cannot_use_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        lsuv(**{"weights": WEIGHTS, "activation": "relu", "x": DATA} | change)
