"""`companion.activations` against PyTorch, mpmath, finite differences and published constants."""

import copy
import doctest
import itertools
import math
import pickle
import re
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate, optimize

import companion.activations
from companion.activations import (
    ACTIVATIONS,
    SELU_ALPHA,
    SELU_LAMBDA,
    activation,
    elu,
    gelu,
    gelu_tanh,
    identity,
    leaky_relu,
    lecun_tanh,
    mish,
    prelu,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)

inf, nan = math.inf, math.nan
LARGEST, SMALLEST = sys.float_info.max, 5e-324

every_activation = pytest.mark.parametrize("f", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
every_twin = pytest.mark.parametrize(
    "f", [f for f in ACTIVATIONS.values() if f.twin_name], ids=lambda f: f.name
)


def strict():
    """Turn every floating-point fault into an exception; underflow to 0 is none."""
    return np.errstate(over="raise", invalid="raise", divide="raise")


def _wide(n=4000, low=-323, high=308):
    """Numbers of every size a float64 can have, of both signs."""
    rng = np.random.default_rng(20)
    return np.sign(rng.normal(size=n)) * 10.0 ** rng.uniform(low, high, n)


GRID = np.linspace(-40, 40, 80001)


@pytest.fixture(autouse=True, scope="module")
def _denormals():
    """Compute with denormals, whatever an earlier test told PyTorch to do with them."""
    flushed = np.float64(SMALLEST) * 1.0 == 0.0
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(bool(flushed))


# --- PyTorch ------------------------------------------------------------------------------------


def _in_torch(f, z, **parameters):
    """Value and autograd derivative of the PyTorch twin, in the dtype of z."""
    t = torch.tensor(z, requires_grad=True)
    y = f.twin()(t, **parameters)
    (slope,) = torch.autograd.grad(y.sum(), t)
    return y.detach().numpy(), slope.numpy()


@every_twin
@pytest.mark.parametrize("where", ["grid", "wide", "kinks"])
def test_value_and_derivative_equal_pytorch(f, where):
    z = {"grid": GRID, "wide": _wide(), "kinks": np.array(f.kinks or (0.0,))}[where]
    value, slope = _in_torch(f, z)
    # Far out something inside PyTorch may overflow: z² in gelu_tanh, from 1.34e154 on.
    # `test_limits` holds ours to the exact value there.
    kept = (np.abs(z) < 1e150) | (np.isfinite(value) & np.isfinite(slope))
    np.testing.assert_allclose(f(z)[kept], value[kept], rtol=1e-14, atol=2e-15)
    np.testing.assert_allclose(f.derivative(z)[kept], slope[kept], rtol=0, atol=2e-14)


@pytest.mark.parametrize(
    ("f", "parameters"),
    [(leaky_relu, {"negative_slope": a}) for a in (-0.5, 0.0, 0.2, 1.0, 1.5)]
    + [(prelu, {"slope": a}) for a in (-0.5, 0.0, 0.1, 1.0, 1.5)]
    + [(elu, {"alpha": a}) for a in (1e-4, 0.5, 3.0)],
)
def test_parameters_reach_both_twins(f, parameters):
    z = np.concatenate([GRID, _wide(), [0.0, -0.0]])
    value, slope = _in_torch(f, z, **parameters)
    np.testing.assert_allclose(f(z, **parameters), value, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(f.derivative(z, **parameters), slope, rtol=1e-15, atol=1e-15)


def test_prelu_takes_one_slope_per_channel():
    z = np.random.default_rng(0).normal(size=(5, 3, 4))
    slope = np.array([-0.5, 0.1, 2.0]).reshape(3, 1)
    value, gradient = _in_torch(prelu, z, slope=slope)
    np.testing.assert_array_equal(prelu(z, slope=slope), value)
    np.testing.assert_array_equal(prelu.derivative(z, slope=slope), gradient)


def test_prelu_twin_keeps_type_and_passes_gradients_to_the_slope():
    slope = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    y = prelu.twin()(torch.tensor([-2.0, 5.0], dtype=torch.float64), slope=slope)
    y.sum().backward()
    assert slope.grad.item() == -2.0
    assert prelu.twin()(torch.tensor(-1.0), slope=0.1).dtype == torch.float32
    # not by way of float32, in which 0.1 is another number
    assert prelu.twin()(torch.tensor(-1.0, dtype=torch.float64), slope=0.1).item() == -0.1


def test_softplus_twin_is_exact_where_pytorchs_default_is_not():
    z = np.append(np.linspace(15, 45, 30001), 20 + 1e-9)
    default = torch.nn.functional.softplus(torch.tensor(z)).numpy()
    assert np.max(np.abs(default - softplus(z))) == pytest.approx(math.exp(-20), rel=1e-5)
    np.testing.assert_allclose(_in_torch(softplus, z)[0], softplus(z), rtol=4e-16)


def test_what_has_no_twin_says_so():
    with pytest.raises(ValueError, match="lecun_tanh has no twin"):
        lecun_tanh.twin()


@every_twin
def test_twin_name_is_the_function_that_twin_calls(f):
    target = torch
    for part in f.twin_name.split(".")[1:]:
        target = getattr(target, part)
    t = torch.linspace(-3, 3, 7, dtype=torch.float64)
    if f is identity:
        expected = target()(t)
    elif f is prelu:
        expected = target(t, torch.tensor([0.25], dtype=torch.float64))
    else:
        expected = target(t, **f.twin_options, **f.parameters)
    assert torch.equal(f.twin()(t), expected)


# --- the definitions, in fifty digits -----------------------------------------------------------


def _logistic(x):
    return 1 / (1 + mp.exp(-x))


def _softplus(x):
    return mp.log1p(mp.exp(x))


DEFINITIONS = {
    "sigmoid": _logistic,
    "tanh": mp.tanh,
    "lecun_tanh": lambda x: mp.mpf("1.7159") * mp.tanh(2 * x / 3),
    "gelu": lambda x: x * mp.ncdf(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)))
    ),
    "silu": lambda x: x * _logistic(x),
    "softplus": _softplus,
    "mish": lambda x: x * mp.tanh(_softplus(x)),
}
# Both tails, the largest of the wide ones and the smallest numbers there are:
POINTS = [*np.linspace(-39, 39, 53), *_wide(60, -323, 2.8), SMALLEST, -SMALLEST, 0.0]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_value_and_derivative_equal_the_definition_in_fifty_digits(name):
    f = ACTIVATIONS[name]
    with mp.workdps(50):
        for z in POINTS:
            value = DEFINITIONS[name](mp.mpf(z))
            slope = mp.diff(DEFINITIONS[name], mp.mpf(z))
            assert abs(float(f(z)) - value) <= 4e-16 * max(1, abs(value)), z
            assert abs(float(f.derivative(z)) - slope) <= 2e-15, z


@pytest.mark.parametrize("name", ["sigmoid", "silu", "softplus", "gelu", "gelu_tanh", "mish"])
def test_small_values_on_the_left_keep_their_digits(name):
    # PyTorch's GELU is 0 from -8.37 on and its tanh form from -7.15 on; ours are not.
    # The exponent of gelu_tanh reaches -440, and half an ulp of that is 3e-14 of the value.
    f = ACTIVATIONS[name]
    farthest = {"gelu": 37, "gelu_tanh": 18}.get(name, 700)
    with mp.workdps(250):
        for z in np.linspace(-farthest, -2, 41):
            value = float(DEFINITIONS[name](mp.mpf(z)))
            slope = float(mp.diff(DEFINITIONS[name], mp.mpf(z)))
            assert float(f(z)) == pytest.approx(value, rel=2e-13, abs=0), z
            assert float(f.derivative(z)) == pytest.approx(slope, rel=2e-13, abs=0), z


# --- limits -------------------------------------------------------------------------------------

LIMITS = {  # f(-∞), f(∞), f'(-∞), f'(∞)
    "identity": (-inf, inf, 1, 1),
    "sigmoid": (0, 1, 0, 0),
    "tanh": (-1, 1, 0, 0),
    "lecun_tanh": (-1.7159, 1.7159, 0, 0),
    "softsign": (-1, 1, 0, 0),
    "hardtanh": (-1, 1, 0, 0),
    "relu": (0, inf, 0, 1),
    "leaky_relu": (-inf, inf, 0.01, 1),
    "prelu": (-inf, inf, 0.25, 1),
    "elu": (-1, inf, 0, 1),
    "selu": (-SELU_LAMBDA * SELU_ALPHA, inf, 0, SELU_LAMBDA),
    "gelu": (0, inf, 0, 1),
    "gelu_tanh": (0, inf, 0, 1),
    "silu": (0, inf, 0, 1),
    "softplus": (0, inf, 0, 1),
    "mish": (0, inf, 0, 1),
}


@every_activation
@strict()
def test_limits(f):
    assert f.name in LIMITS, f"LIMITS in this file lacks the four limits of {f.name}"
    low, high, slope_low, slope_high = LIMITS[f.name]
    for z, value, slope in ((-inf, low, slope_low), (inf, high, slope_high)):
        for repeat in (1, 33):  # scalar and vector instructions take different paths
            np.testing.assert_array_equal(f(np.full(repeat, z)), value)
            np.testing.assert_array_equal(f.derivative(np.full(repeat, z)), slope)
        # The largest number is as good as infinite, for all that stays finite.
        for far in (1e155, 1e200, LARGEST):
            far = math.copysign(far, z)
            assert f.derivative(far) == slope or f.name == "softsign"
            if math.isfinite(value):
                assert f(far) == value
            elif f is selu:
                assert f(far) == (inf if far == LARGEST else SELU_LAMBDA * far)
            else:
                assert f(far) == abs(slope) * far


def test_where_pytorch_has_nan_at_infinity_ours_has_the_limit():
    ends = np.array([-inf, inf])
    twins = [f for f in ACTIVATIONS.values() if f.twin_name]
    lost = {f.name for f in twins if np.isnan(_in_torch(f, ends)[1]).any()}
    assert lost >= {"softsign", "gelu", "gelu_tanh", "silu", "mish"}
    for f in twins:
        assert not np.isnan(f.derivative(ends)).any()


def test_softsign_falls_like_a_power():
    z = np.array([-1e150, -1e3, 1e3, 1e150])
    exact = [1e-300, 1 / 1001**2, 1 / 1001**2, 1e-300]
    np.testing.assert_allclose(softsign.derivative(z), exact, rtol=1e-15)
    assert softsign.derivative(LARGEST) == 0


@strict()
def test_slopes_beyond_one_and_of_zero_reach_the_limits_too():
    assert leaky_relu(-LARGEST, negative_slope=2.0) == -inf
    assert leaky_relu(-LARGEST, negative_slope=-2.0) == inf
    assert leaky_relu(-inf, negative_slope=0.0) == 0
    assert math.isnan(leaky_relu(nan, negative_slope=0.0))
    np.testing.assert_array_equal(prelu([-1.0, 1.0], slope=1.5), [-1.5, 1.0])  # max(az, z): -1, 1.5


# --- finite differences -------------------------------------------------------------------------


def _assert_slope(f, slope, z, h=1e-4):
    """Compare a derivative with the five-point central difference, whose error is O(h⁴)."""
    measured = (8 * (f(z + h) - f(z - h)) - (f(z + 2 * h) - f(z - 2 * h))) / (12 * h)
    np.testing.assert_allclose(slope(z), measured, rtol=1e-8, atol=1e-10)


def _away_from_kinks(f):
    z = np.linspace(-6, 6, 1203)
    return z[np.all([np.abs(z - kink) > 1e-3 for kink in (*f.kinks, 0.0)], axis=0)]


@every_activation
def test_derivative_equals_finite_differences(f):
    _assert_slope(f, f.derivative, _away_from_kinks(f))


@pytest.mark.parametrize("factor", [1.0005, 0.9995])
@every_activation
def test_the_finite_difference_check_notices_an_error_of_half_a_thousandth(f, factor):
    for z in (_away_from_kinks(f), np.array([0.5])):  # all wrong; wrong at a single point
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            _assert_slope(f, lambda x: factor * f.derivative(x), z)


def test_the_finite_difference_check_notices_the_popular_wrong_derivative():
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _assert_slope(sigmoid, lambda x: x * (1 - x), np.array([0.3, 2.0]))


# --- any number at all --------------------------------------------------------------------------

any_arrays = hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=9), elements=st.floats())
moderate = st.floats(-1e6, 1e6)
properties = settings(deadline=None, derandomize=True, max_examples=150)


@pytest.mark.filterwarnings("error")
@properties
@given(any_arrays)
def test_every_number_has_a_value_in_range_and_a_slope_within_the_lipschitz_constant(z):
    before = z.copy()
    for f in ACTIVATIONS.values():
        with strict():
            value, slope = f(z), f.derivative(z)
        assert value.shape == slope.shape == z.shape, f
        assert value.dtype == slope.dtype == np.float64, f
        np.testing.assert_array_equal(np.isnan(value), np.isnan(z), f.name)
        np.testing.assert_array_equal(np.isnan(slope), np.isnan(z), f.name)
        known = ~np.isnan(z)
        low, high = f.range
        assert np.all(value[known] >= low - 1e-16), f  # minima are known to one rounding
        assert np.all(value[known] <= high), f
        assert np.all(np.abs(slope[known]) <= f.lipschitz * (1 + 4e-16)), f
    np.testing.assert_array_equal(z, before)


@properties
@given(moderate, moderate)
def test_no_two_points_are_steeper_than_the_lipschitz_constant(a, b):
    for f in ACTIVATIONS.values():
        rounding = 4e-16 * (abs(f(a)) + abs(f(b)) + 1e-300)
        assert abs(f(a) - f(b)) <= f.lipschitz * abs(a - b) + rounding, f


def _falls(f):
    """Tell if f leaves the interval between its limits, as GELU does: then it must turn round."""
    return f.range != (f(-inf), f(inf))


@properties
@given(moderate, moderate)
def test_what_stays_between_its_limits_never_falls(a, b):
    a, b = min(a, b), max(a, b)
    for f in ACTIVATIONS.values():
        if not _falls(f):
            assert f(b) - f(a) >= -4e-16 * abs(f(a)), f
            assert f.derivative(a) >= 0, f


@every_activation
def test_what_does_not_has_a_negative_slope_somewhere(f):
    assert (f.derivative(GRID).min() < -0.05) == _falls(f)


def test_four_activations_fall():
    assert all(_falls(f) for f in (gelu, gelu_tanh, silu, mish))


@every_activation
def test_lipschitz_constant_is_attained(f):
    beside = [np.nextafter(kink, side) for kink in f.kinks for side in (-inf, inf)]
    steepest = np.max(np.abs(f.derivative(np.concatenate([GRID, beside, [-inf, inf]]))))
    assert steepest == pytest.approx(f.lipschitz, rel=1e-6)
    assert steepest <= f.lipschitz * (1 + 4e-16)


@every_activation
def test_range_is_attained_or_approached(f):
    values = f(np.concatenate([GRID, [-inf, inf]]))
    assert values.min() == pytest.approx(f.range[0], abs=1e-7)
    assert values.max() == f.range[1]


@every_activation
def test_kinks_are_the_points_where_left_and_right_slopes_differ(f):
    # A jump stays when the step shrinks a million times; a bend does not.
    z = np.union1d(np.arange(-20, 21) / 2, f.kinks)
    jump = np.abs(f.derivative(z + 1e-9) - f.derivative(z - 1e-9)) > 1e-7
    assert tuple(z[jump]) == f.kinks


# --- the formulas shown to the reader -----------------------------------------------------------


def _evaluate(latex, f, z):
    r"""Compute what a formula in LaTeX says; there, `\,` is a product and [..] is 1 or 0."""
    for pattern, replacement in (
        (r"\\tanh\^2", "tanh2"),
        (r"e\^\{([^{}]*)\}", r"exp(\1)"),
        (r"\\mathbf\{1\}\[(.*?)\]", r"(1.0*(\1))"),
        (r"\\le ", "<= "),
        (r"\\ge ", ">= "),
        (r"\|z\|", "abs(z)"),
        (r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))"),
        (r"\\sqrt\{([^{}]*)\}", r"sqrt(\1)"),
        (r"\\lambda", "lambda_"),
        (r"\\,", "*"),
        (r"\^", "**"),
        (r"\\(?!quad)", ""),
    ):
        latex = re.sub(pattern, replacement, latex)
    formula, *definitions = latex.split(r",\quad ")
    names = {
        "z": z,
        "a": next(iter(f.parameters.values()), None),
        "alpha": f.parameters.get("alpha", SELU_ALPHA),
        "lambda_": SELU_LAMBDA,
        "pi": math.pi,
        "sqrt": math.sqrt,
        "exp": np.exp,
        "ln": np.log,
        "tanh": np.tanh,
        "tanh2": lambda x: np.tanh(x) ** 2,
        "max": np.maximum,
        "min": np.minimum,
        "abs": np.abs,
        "sigma": lambda x: 1 / (1 + np.exp(-x)),
        "Phi": np.vectorize(lambda x: (1 + math.erf(x / math.sqrt(2))) / 2),
        "varphi": lambda x: np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    }
    for name, *_, expression in (definition.split(" = ") for definition in definitions):
        names[name] = eval(expression, {}, names)
    return eval(formula, {}, names)


@every_activation
def test_the_printed_formulas_say_what_the_code_does(f):
    beside = ([k - 1e-4, k, k + 1e-4] for k in {-1, 0, 1, *f.kinks})
    z = np.concatenate([np.linspace(-4, 4, 162), *beside])
    np.testing.assert_allclose(f(z), _evaluate(f.formula, f, z), rtol=1e-11, atol=1e-14)
    slope = _evaluate(f.derivative_formula, f, z)
    np.testing.assert_allclose(f.derivative(z), slope, rtol=1e-11, atol=1e-14)


# --- published constants ------------------------------------------------------------------------


def _mean(g, kinks=(0.0,)):
    """E g(z) for z ~ N(0, 1), by adaptive quadrature between the kinks."""
    edges = [-inf, *kinks, inf]
    return sum(
        integrate.quad(
            lambda z: g(z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi),
            *pair,
            epsabs=1e-13,
            epsrel=1e-13,
        )[0]
        for pair in itertools.pairwise(edges)
    )


MOMENTS = """
sigmoid    .5      .293379 .043379 .044836
tanh       0       .394294 .394294 .464403
relu       .398942 .5      .340845 .5
leaky.01   .394953 .500050 .344062 .500050
leaky.2    .319154 .52     .418141 .52
elu        .160521 .644945 .619179 .668102
selu       0       1       1       1.071575
gelu       .282095 .425221 .345644 .455851
silu       .206621 .355776 .313083 .379482
softplus   .806059 .921246 .271515 .293379
softsign   0       .183014 .183014 .227671
hardtanh   0       .516059 .516059 .682689
"""


@pytest.mark.parametrize("row", MOMENTS.split("\n")[1:-1], ids=lambda row: row.split()[0])
def test_moments_under_a_standard_normal_input(row):
    """The E-table of the research notes: E f, E f², Var f, E f'²; six digits were given."""
    name, *expected = row.split()
    f, parameters = ACTIVATIONS.get(name), {}
    if f is None:
        f, parameters = leaky_relu, {"negative_slope": float(name.removeprefix("leaky"))}
    kinks = f.kinks or (0.0,)
    mean = _mean(lambda z: f(z, **parameters), kinks)
    square = _mean(lambda z: f(z, **parameters) ** 2, kinks)
    slope = _mean(lambda z: f.derivative(z, **parameters) ** 2, kinks)
    measured = (mean, square, square - mean**2, slope)
    np.testing.assert_allclose(measured, [float(x) for x in expected], rtol=0, atol=5.1e-7)


def test_relu_mean_and_gain_of_elu():  # A14
    assert _mean(relu) == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-12)
    assert 1 / math.sqrt(_mean(lambda z: elu(z) ** 2)) == pytest.approx(1.245198, abs=5.1e-7)


def test_steepest_slopes_of_the_sigmoids():  # A1
    assert sigmoid.derivative(0.0) == sigmoid.lipschitz == 0.25
    assert tanh.derivative(0.0) == tanh.lipschitz == 1.0
    assert np.max(sigmoid.derivative(GRID)) == 0.25
    assert np.max(tanh.derivative(GRID)) == 1.0
    assert sigmoid.lipschitz**10 == pytest.approx(9.54e-7, abs=5e-10)


def test_selu_constants_solve_the_moment_equations():  # A8
    with mp.workdps(50):
        root_half = mp.sqrt(mp.mpf(1) / 2)
        alpha = -mp.sqrt(2 / mp.pi) / (mp.exp(0.5) * mp.erfc(root_half) - 1)
        left = mp.quad(lambda z: (alpha * mp.expm1(z)) ** 2 * mp.npdf(z), [-20, -3, 0])
        scale = 1 / mp.sqrt(left + mp.mpf(1) / 2)
        assert float(alpha) == SELU_ALPHA
        assert float(scale) == SELU_LAMBDA
    assert _mean(selu) == pytest.approx(0, abs=1e-12)
    assert _mean(lambda z: selu(z) ** 2) == pytest.approx(1, abs=1e-12)


def test_selu_fixed_point_attracts():  # A9
    # The map (mean, variance) -> (mean, variance) at (0, 1), for weights of mean 0: only the
    # variance enters, and d/dv E g(√v z) = E z g'(√v z) / 2 at v = 1.
    of_mean = _mean(lambda z: z * selu.derivative(z)) / 2
    of_variance = _mean(lambda z: z * selu(z) * selu.derivative(z))
    assert of_mean == pytest.approx(0.088835, abs=5.1e-7)
    assert of_variance == pytest.approx(0.782648, abs=5.1e-7)
    assert math.hypot(of_mean, of_variance) == pytest.approx(0.787673, abs=5.1e-7)


def _minimum(f, bracket):
    z = optimize.brentq(f.derivative, *bracket, xtol=1e-14)
    return z, f(z)


def _steepest(f, bracket):
    found = optimize.minimize_scalar(lambda z: -f.derivative(z), bracket=bracket, tol=1e-10)
    return found.x, -found.fun


def test_gelu_constants():  # A12
    z, value = _minimum(gelu, (-2, 0))
    assert (z, value) == pytest.approx((-0.751792, -0.169971), abs=5.1e-7)
    assert value == pytest.approx(gelu.range[0], abs=1e-16)
    z, slope = _steepest(gelu, (1, 2))
    assert slope == pytest.approx(1.128904, abs=5.1e-7)
    assert z == pytest.approx(math.sqrt(2), abs=1e-6)
    assert gelu.derivative(math.sqrt(2)) == pytest.approx(gelu.lipschitz, rel=4e-16)


def test_errors_of_the_approximations_of_gelu():  # A12
    z = np.linspace(-8, 8, 1_600_001)
    by_tanh = np.abs(gelu_tanh(z) - gelu(z))
    assert by_tanh.max() == pytest.approx(4.73e-4, abs=5e-7)
    assert abs(z[by_tanh.argmax()]) == pytest.approx(2.70, abs=5e-3)
    by_sigmoid = np.abs(z * sigmoid(1.702 * z) - gelu(z))
    assert by_sigmoid.max() == pytest.approx(2.0335e-2, abs=5e-7)  # the notes: 2.034e-2
    assert abs(z[by_sigmoid.argmax()]) == pytest.approx(2.27, abs=5e-3)


def test_silu_constants():  # A13
    z, value = _minimum(silu, (-2, 0))
    assert (z, value) == pytest.approx((-1.278465, -0.278465), abs=5.1e-7)
    assert z == pytest.approx(value - 1, abs=1e-14)
    assert value == pytest.approx(silu.range[0], abs=1e-16)
    z, slope = _steepest(silu, (2, 3))
    assert slope == pytest.approx(1.099839, abs=5.1e-7)
    assert z == pytest.approx(2.39936, abs=5.1e-6)
    assert slope == pytest.approx(silu.lipschitz, rel=4e-16)


@pytest.mark.parametrize("f", [gelu_tanh, mish])
def test_minimum_and_steepest_slope_stated_without_a_closed_form(f):
    assert _minimum(f, (-2, 0))[1] == pytest.approx(f.range[0], abs=1e-16)
    assert _steepest(f, (1, 2))[1] == pytest.approx(f.lipschitz, rel=4e-16)


def test_lecun_tanh_constants():  # A15
    assert lecun_tanh(1.0) == pytest.approx(0.9999973, abs=5.1e-8)
    assert lecun_tanh(-1.0) == -lecun_tanh(1.0)
    assert lecun_tanh.derivative(0.0) == pytest.approx(1.14393, abs=5.1e-6)
    h = 1e-4
    bend = optimize.minimize_scalar(
        lambda z: lecun_tanh.derivative(z + h) - lecun_tanh.derivative(z - h), bracket=(0.5, 1.5)
    )
    assert bend.x == pytest.approx(0.98772, abs=6e-6)
    assert _mean(lambda z: lecun_tanh(z) ** 2) == pytest.approx(0.750430, abs=5.1e-7)


def test_first_order_gains():  # A17
    def gain(f):
        return 1 / math.sqrt(f.derivative(0.0) ** 2 * (1 + f(0.0) ** 2))

    assert gain(tanh) == 1.0
    assert gain(sigmoid) == pytest.approx(math.sqrt(12.8), rel=1e-15)


# --- types and shapes ---------------------------------------------------------------------------


@every_activation
def test_float32_stays_float32_and_is_as_good(f):
    z = np.linspace(-8, 8, 1001, dtype=np.float32)
    for single, double in ((f(z), f(z.astype(float))), (f.derivative(z), f.derivative(1.0 * z))):
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=0, atol=2e-6)
    assert f(np.float32(0.5)).dtype == f.derivative(np.float32(0.5)).dtype == np.float32
    assert f(z.astype(">f4")).dtype == np.float32
    with strict():
        for far in (np.float32(3.4e38), np.float32(-3.4e38), np.float32(inf), np.float32(-inf)):
            assert not np.isnan(f(far))
            assert f.derivative(far) == np.float32(f.derivative(float(far)))


@pytest.mark.parametrize("parameters", [{"alpha": 0.3}, {"alpha": np.array([0.3])}])
def test_a_float64_parameter_does_not_widen_float32(parameters):
    z = np.array([-1.0], np.float32)
    assert elu(z, **parameters).dtype == elu.derivative(z, **parameters).dtype == np.float32


def test_float32_tanh_derivative_vanishes_altogether():
    # 1 - tanh² is 0 from 13 ln 2 = 9.01 on if tanh is rounded well; NumPy's may wait until 10.
    z = np.array([-9.0, 9.0, -10.0, 10.0, 50.0], np.float32)
    np.testing.assert_array_equal(tanh.derivative(z) == 0, [False, False, True, True, True])
    assert tanh.derivative(10.0) > 0


@every_activation
@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u1", "u8", "f2", ">f8"])
def test_other_real_types_become_float64(f, dtype):
    z = np.array([0, 1, 3], dtype)
    for function in (f, f.derivative):
        result = function(z)
        assert result.dtype == np.dtype(np.float64)
        np.testing.assert_array_equal(result, function([0.0, 1.0, 3.0]))


@every_activation
def test_scalars_sequences_and_arrays_of_any_shape(f):
    for function in (f, f.derivative):
        at_two = function(np.array([2.0]))[0]
        for scalar in (2, 2.0, np.float64(2), np.array(2.0)):
            assert isinstance(function(scalar), np.float64)
            assert function(scalar) == at_two
        assert function([]).shape == (0,)
        assert function([[2.0, 1.0], (2, 0)]).shape == (2, 2)
        z = np.linspace(-3, 3, 24).reshape(2, 3, 4)
        flat = function(z.ravel())
        np.testing.assert_allclose(function(z.T).T.ravel(), flat, rtol=1e-15, atol=1e-16)


@every_activation
def test_the_result_is_never_the_input(f):
    z = np.array([0.5, 2.0])
    z.flags.writeable = False
    f(z)[0] = f.derivative(z)[0] = 7.0
    assert z.tolist() == [0.5, 2.0]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z", "dtype"),
    [
        (1j, "complex128"),
        ([True, False], "bool"),
        ("1.0", "<U3"),
        (None, "object"),
        ([10**400], "object"),
        (np.array(["2020"], "M8[Y]"), "datetime64"),
    ],
)
def test_what_is_no_real_number_is_refused(z, dtype):
    for function in (relu, relu.derivative):
        with pytest.raises(TypeError, match=rf"z must hold real numbers .*got dtype {dtype}"):
            function(z)


@pytest.mark.parametrize(
    ("f", "parameters", "error", "message"),
    [
        (relu, {"slope": 1.0}, TypeError, r"relu has keywords \[\], not 'slope'"),
        (prelu, {"alpha": 1.0}, TypeError, r"prelu has keywords \['slope'\], not 'alpha'"),
        (elu, {"alpha": 0.0}, ValueError, "alpha must be finite and positive, got 0.0"),
        (elu, {"alpha": -1}, ValueError, "alpha must be finite and positive, got -1"),
        (elu, {"alpha": nan}, ValueError, "alpha must be finite and positive, got nan"),
        (elu, {"alpha": "1"}, TypeError, "alpha must be a real number .*, got '1'"),
        (elu, {"alpha": True}, TypeError, "alpha must be a real number .*, got True"),
        (leaky_relu, {"negative_slope": inf}, ValueError, "negative_slope must be finite, got inf"),
        (leaky_relu, {"negative_slope": None}, TypeError, "negative_slope must be a real number"),
        (prelu, {"slope": [0.1, nan]}, ValueError, r"slope must be finite, got \[0.1, nan\]"),
        (prelu, {"slope": [0.1] * 3}, ValueError, r"slope of shape \(3,\) must .* to \(2,\)"),
        (prelu, {"slope": [[0.1], [0.2]]}, ValueError, r"slope of shape \(2, 1\) must .* \(2,\)"),
    ],
)
def test_bad_parameters_are_named(f, parameters, error, message):
    for function in (f, f.derivative):
        with pytest.raises(error, match=message):
            function([-1.0, 1.0], **parameters)


@strict()
def test_a_parameter_too_large_for_float32_is_refused():
    with pytest.raises(ValueError, match="slope must be finite, got 1e\\+300"):
        prelu(np.float32(-1.0), slope=1e300)


# --- the registry -------------------------------------------------------------------------------


def test_the_registry_holds_every_instance_of_the_module_under_its_name():
    module = vars(companion.activations)
    found = {k: v for k, v in module.items() if isinstance(v, companion.activations.Activation)}
    assert found == dict(ACTIVATIONS)
    assert all(name == f.name for name, f in ACTIVATIONS.items())
    assert set(ACTIVATIONS) == set(LIMITS)
    assert set(companion.activations.__all__) == set(ACTIVATIONS) | {
        "ACTIVATIONS", "Activation", "SELU_ALPHA", "SELU_LAMBDA", "activation",
    }  # fmt: skip


def test_the_registry_and_its_entries_are_read_only():
    with pytest.raises(TypeError, match="does not support item assignment"):
        ACTIVATIONS["relu"] = tanh
    with pytest.raises(TypeError, match="does not support item assignment"):
        leaky_relu.parameters["negative_slope"] = 0.5
    with pytest.raises(TypeError, match="does not support item assignment"):
        softplus.twin_options["threshold"] = 20.0
    with pytest.raises(AttributeError, match="cannot assign to field"):
        relu.lipschitz = 2.0


def test_activation_finds_by_name_and_passes_instances_on():
    assert all(activation(name) is f for name, f in ACTIVATIONS.items())
    assert activation(mish) is mish


def test_activation_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match=r"name must be 'identity', .*not 'Relu'.*'relu'\?"):
        activation("Relu")
    *names, last = map(repr, ACTIVATIONS)
    with pytest.raises(ValueError, match=rf"^name must be {', '.join(names)} or {last}, not 'x'$"):
        activation("x")
    with pytest.raises(TypeError, match=r"name must be 'identity', .*, not 3"):
        activation(3)


@every_activation
def test_a_copy_is_the_instance_itself(f):
    assert pickle.loads(pickle.dumps(f)) is copy.deepcopy(f) is f
    assert repr(f) == f"<Activation {f.name}>"


@every_activation
def test_help_shows_the_entry(f):
    for part in (f.summary, f.formula, f.derivative_formula, f.source, *f.parameters):
        assert part in f.__doc__


def test_examples_in_the_docstrings():
    failed, attempted = doctest.testmod(companion.activations)
    assert (failed, attempted) == (0, 4)


def test_importing_the_module_loads_neither_pytorch_nor_scipy():
    code = (
        "import sys, companion.activations as m\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules\n"
        "m.relu(1.0); m.gelu(1.0); assert 'scipy' in sys.modules and 'torch' not in sys.modules\n"
        "m.relu.twin(); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
