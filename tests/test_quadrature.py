"""`companion.quadrature` against SciPy's integrals, closed forms and theorems."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special

from companion.activations import ACTIVATIONS, SELU_ALPHA, SELU_LAMBDA, Activation, relu, tanh
from companion.quadrature import Moments, gaussian_mean, gaussian_pair_mean

inf, nan = math.inf, math.nan

every_activation = pytest.mark.parametrize("f", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())

CORRELATIONS = [-1.0, -1 + 1e-9, -0.7, 0.0, 1e-3, 0.3, 0.95, 1 - 1e-6, 1 - 1e-9, 1 - 1e-15, 1.0]
VARIANCES = [1e-6, 0.01, 1.0, 12.6, 100.0]


def by_scipy(f, q, kinks):
    """E f(u) by double exponential quadrature on pieces, which must be sure of its digits."""
    ends = np.array([-inf, *sorted({-8.0, -2.0, 0.0, 2.0, 8.0, *kinks}), inf])
    low, high = np.array([*pairwise(ends)]).T
    found = integrate.tanhsinh(
        lambda u: f(u) * np.exp(-(u**2) / (2 * q)) / math.sqrt(2 * math.pi * q),
        low,
        high,
        atol=1e-16,
        rtol=1e-14,
    )
    assert found.error.max() < 1e-13 * max(q, 1)
    return found.integral.sum()


# --- one variable -------------------------------------------------------------------------------


@pytest.mark.parametrize("q", VARIANCES)
@every_activation
def test_means_of_every_activation_equal_scipys(f, q):
    for g in (f, lambda u: f(u) ** 2, lambda u: f.derivative(u) ** 2):
        expected = by_scipy(g, q, f.kinks)
        assert gaussian_mean(g, q, f.kinks) == pytest.approx(expected, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("q", [1e-9, 0.5, 100.0, 1e6, 1e12])
def test_closed_forms(q):
    assert gaussian_mean(lambda u: 1.0, q) == 1.0
    for k, moment in ((2, 1), (4, 3), (6, 15), (8, 105)):
        assert gaussian_mean(lambda u, k=k: u**k, q) == pytest.approx(moment * q ** (k / 2), 1e-12)
    assert gaussian_mean(lambda u: relu(u) ** 2, q) == pytest.approx(q / 2, rel=1e-14)
    assert gaussian_mean(relu, q) == pytest.approx(math.sqrt(q / (2 * math.pi)), rel=1e-14)
    inside = gaussian_mean(ACTIVATIONS["hardtanh"].derivative, q, kinks=(-1, 1))
    assert inside == pytest.approx(math.erf(1 / math.sqrt(2 * q)), rel=1e-14)
    bell = gaussian_mean(lambda u: np.exp(-(u**2) / 2), q)
    assert bell == pytest.approx(1 / math.sqrt(1 + q), rel=1e-13)
    tails = gaussian_mean(lambda u: 1 / (1 + u**2), q)  # which bends near 0 and on every scale
    exact = math.sqrt(math.pi / (2 * q)) * special.erfcx(1 / math.sqrt(2 * q))
    assert tails == pytest.approx(exact, rel=1e-12)


def test_a_jump_is_met_exactly_where_it_is_named_and_only_there():
    def step(u):
        return u > 0.3

    exact = special.ndtr(-0.3)
    assert gaussian_mean(step, kinks=[0.3]) == pytest.approx(exact, rel=1e-15)
    assert abs(gaussian_mean(step) - exact) > 1e-3


def test_variances_of_any_shape():
    q = np.array([[0.0, 0.5, 1.0], [2.0, 30.0, 400.0]])
    means = gaussian_mean(lambda u: (u + 1) ** 2, q)
    np.testing.assert_allclose(means, q + 1, rtol=1e-14)
    assert isinstance(gaussian_mean(tanh, 1), float)
    assert gaussian_mean(tanh, []).shape == (0,)
    assert gaussian_mean(np.cos, 0) == 1.0


@pytest.mark.parametrize("q", [-1e-9, nan, inf, [1.0, -1.0]])
def test_impossible_variances_are_refused(q):
    with pytest.raises(ValueError, match="q must"):
        gaussian_mean(tanh, q)
    with pytest.raises(ValueError, match="q must"):
        gaussian_pair_mean(tanh, tanh, q, 0.5)
    of_relu = Moments("relu").product
    for mean in (Moments("tanh").slope_square, Moments("tanh").growth, lambda q: of_relu(q, 0.5)):
        with pytest.raises(ValueError, match="q must"):
            mean(q)


def test_a_function_is_one():
    for bad in (None, 3, "tanh"):
        with pytest.raises(TypeError, match=f"f must be a function, not {bad!r}"):
            gaussian_mean(bad)
        with pytest.raises(TypeError, match=f"g must be a function, not {bad!r}"):
            gaussian_pair_mean(tanh, bad, 1.0, 0.5)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.0015), (0, 0.5), (0.2, 0.4), (2, 6), (500, 1500), (500, inf)]
)
@pytest.mark.parametrize(("depth", "straight"), [(0.5, False), (1.5e-12, False), (0.5e-12, True)])
@pytest.mark.parametrize("side", [-1, 1])
def test_what_is_dented_anywhere_is_not_homogeneous(low, high, depth, straight, side):
    """By more than a relative 1e-12."""

    def f(z):
        return z * (1 + depth * ((low < side * z) & (side * z < high)))

    dented = Activation("dented", "", f, "", lambda z: z * 0 + 1, "", (-inf, inf), 1.0, "", None)
    assert Moments(dented).slopes == ((1.0, 1.0) if straight else None)
    assert Moments("leaky_relu", negative_slope=0.3).slopes == (1.0, 0.3)


def test_impossible_kinks_are_refused():
    for bad in (None, "x", [1j]):
        with pytest.raises(TypeError, match="kinks must "):
            gaussian_mean(tanh, 1.0, bad)
    with pytest.raises(ValueError, match="kinks must be finite"):
        gaussian_mean(tanh, 1.0, kinks=[0.0, nan])


# --- two variables ------------------------------------------------------------------------------


def arc_cosine(c):
    """Cho and Saul 2009: 2 E relu relu / q, and 2 E relu' relu' for the kernel of degree 0."""
    angle = np.arccos(c)
    root = np.sqrt((1 - c) * (1 + c))
    return (root + c * (np.pi - angle)) / np.pi, (np.pi - angle) / np.pi


@pytest.mark.parametrize("q", VARIANCES)
def test_pair_means_of_relu_are_the_arc_cosine_kernels(q):
    c = np.array(CORRELATIONS)
    first, zeroth = arc_cosine(c)
    np.testing.assert_allclose(gaussian_pair_mean(relu, relu, q, c) / q, first / 2, atol=1e-15)
    slopes = gaussian_pair_mean(relu.derivative, relu.derivative, q, c)
    np.testing.assert_allclose(slopes, zeroth / 2, atol=1e-15)


def rectangle(h, c):
    """P(|u1| < h, |u2| < h) for variances 1, by Owen's T."""

    def below(c):
        tangent = np.sqrt((1 - c) / (1 + c))
        return special.ndtr(h) - 2 * special.owens_t(h, tangent)  # P(u1 < h, u2 < h)

    outside = 1 - special.ndtr(h)
    both_high = 1 - 2 * special.ndtr(h) + below(c)
    high_and_low = 1 - 2 * special.ndtr(h) + below(-c)
    return 1 - 4 * outside + 2 * both_high + 2 * high_and_low


@pytest.mark.parametrize("q", VARIANCES)
def test_pair_means_of_a_jumping_slope_are_probabilities(q):
    slope = ACTIVATIONS["hardtanh"].derivative
    c = np.array(CORRELATIONS[1:-2])
    found = gaussian_pair_mean(slope, slope, q, c, kinks=(-1, 1))
    np.testing.assert_allclose(found, rectangle(1 / math.sqrt(q), c), atol=3e-15)


@pytest.mark.parametrize("q", VARIANCES)
def test_pair_means_of_smooth_functions_have_their_closed_forms(q):
    c = np.array(CORRELATIONS)
    found = gaussian_pair_mean(special.erf, special.erf, q, c)
    exact = 2 / np.pi * np.arcsin(2 * q * c / (1 + 2 * q))
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-16)
    found = gaussian_pair_mean(lambda u: u**2, lambda u: u**4, q, c)
    np.testing.assert_allclose(found, q**3 * (3 + 12 * c**2), rtol=1e-13)


def slope_of_selu(u):
    return SELU_LAMBDA if u > 0 else SELU_LAMBDA * SELU_ALPHA * math.exp(u)


def mean_slope_of_selu(mean, std):
    """E selu'(u) for u of that mean and standard deviation."""
    left = math.exp(mean + std**2 / 2) * special.ndtr(-mean / std - std)
    return SELU_LAMBDA * (special.ndtr(mean / std) + SELU_ALPHA * left)


def by_scipy_twice(f, mean_of_g, q, c):
    """E f(u1) g(u2), the inner mean in closed form and the outer one by adaptive quadrature."""
    std = math.sqrt(q * (1 - c) * (1 + c))

    def integrand(u):
        return f(u) * mean_of_g(c * u, std) * math.exp(-(u**2) / (2 * q))

    steps = [step for step in (9 * std, 2 * std, 1.0) if step < 9 * math.sqrt(q)]
    ends = sorted({-9 * math.sqrt(q), *(-s for s in steps), 0.0, *steps, 9 * math.sqrt(q)})
    pieces = [integrate.quad(integrand, *ends, epsabs=1e-13)[0] for ends in pairwise(ends)]
    return sum(pieces) / math.sqrt(2 * math.pi * q)


@pytest.mark.parametrize("q", [0.01, 1.0, 12.6])
@pytest.mark.parametrize("c", [-0.7, 0.3, 0.95, 1 - 1e-6, 1 - 1e-9])
def test_pair_means_of_a_slope_with_a_jump_and_a_bend_equal_scipys(q, c):
    slope = ACTIVATIONS["selu"].derivative
    expected = by_scipy_twice(slope_of_selu, mean_slope_of_selu, q, c)
    assert gaussian_pair_mean(slope, slope, q, c) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("c", [-0.4, 1 - 1e-5])
@pytest.mark.parametrize(
    ("name", "slope"),
    [("tanh", lambda u: 1 - math.tanh(u) ** 2), ("softsign", lambda u: (1 + abs(u)) ** -2)],
)
def test_pair_means_equal_scipys_double_integral(name, slope, c):
    def mean_slope(mean, std):
        ends = (-8, *{max(-8.0, min(8.0, -mean / std))}, 8)
        bell = [
            integrate.quad(lambda z: slope(mean + std * z) * math.exp(-z * z / 2), *pair)[0]
            for pair in pairwise(ends)
        ]
        return sum(bell) / math.sqrt(2 * math.pi)

    f = ACTIVATIONS[name].derivative
    expected = by_scipy_twice(slope, mean_slope, 1.0, c)
    assert gaussian_pair_mean(f, f, 1.0, c) == pytest.approx(expected, abs=1e-10)


@every_activation
def test_prices_theorem(f):
    """d/dc E f(u1) f(u2) = q E f'(u1) f'(u2), whatever f."""
    h, q, c = 1e-3, 2.0, np.array([-0.6, 0.3, 0.9])
    shifts = np.array([-2, -1, 1, 2])[:, None] * h
    left2, left, right, right2 = gaussian_pair_mean(f, f, q, c + shifts, f.kinks)
    measured = (8 * (right - left) - (right2 - left2)) / (12 * h)
    slopes = gaussian_pair_mean(f.derivative, f.derivative, q, c, f.kinks)
    np.testing.assert_allclose(measured, q * slopes, atol=1e-8)


@pytest.mark.parametrize("q", [0.0, 1e-6, 1.0, 100.0])
@every_activation
def test_at_the_ends_and_in_the_middle_one_variable_is_enough(f, q):
    same, none, opposite = gaussian_pair_mean(f, f, q, [1, 0, -1], f.kinks)
    scale = gaussian_mean(lambda u: f(u) ** 2, q, f.kinks) * 1e-14 + 1e-300
    assert same == pytest.approx(gaussian_mean(lambda u: f(u) ** 2, q, f.kinks), abs=scale)
    assert none == pytest.approx(gaussian_mean(f, q, f.kinks) ** 2, abs=scale)
    both = (*f.kinks, *(-kink for kink in f.kinks))
    assert opposite == pytest.approx(gaussian_mean(lambda u: f(u) * f(-u), q, both), abs=scale)


@pytest.mark.parametrize("c", [-1.0, -1 + 1e-12, 0.0, 0.6, 1 - 1e-12, 1.0])
def test_a_single_jump_is_met_at_every_correlation(c):
    def step(u):
        return u > 0.3

    density = math.exp(-(0.3**2) / 2) / math.sqrt(2 * math.pi)
    found = gaussian_pair_mean(lambda u: u, step, 1.0, c, kinks=[0.3])
    assert found == pytest.approx(c * density, abs=1e-14)


def test_variances_and_correlations_are_broadcast():
    found = gaussian_pair_mean(lambda u: u, lambda u: u, [[1.0], [4.0]], [-1.0, 0.0, 0.5])
    np.testing.assert_allclose(found, [[-1, 0, 0.5], [-4, 0, 2]], atol=1e-14)
    assert isinstance(gaussian_pair_mean(tanh, tanh, 1.0, 0.5), float)


@pytest.mark.parametrize("c", [1 + 1e-15, -2.0, nan, [0.0, inf]])
def test_impossible_correlations_are_refused(c):
    with pytest.raises(ValueError, match="c must "):
        gaussian_pair_mean(tanh, tanh, 1.0, c)
    for name in ("relu", "tanh"):
        with pytest.raises(ValueError, match="c must "):
            Moments(name).product(1.0, c)


# --- the moments of an activation ---------------------------------------------------------------


@pytest.mark.parametrize("q", [0.3, 5.0])
@every_activation
def test_moments_are_the_means_that_they_are_named_for(f, q):
    moments = Moments(f.name)
    assert moments.square(q) == pytest.approx(by_scipy(lambda u: f(u) ** 2, q, f.kinks), 1e-11)
    slope = by_scipy(lambda u: f.derivative(u) ** 2, q, f.kinks)
    assert moments.slope_square(q) == pytest.approx(slope, rel=1e-11)
    h = 1e-3 * q
    left2, left, right, right2 = moments.square(q + h * np.array([-2, -1, 1, 2]))
    growth = (8 * (right - left) - (right2 - left2)) / (12 * h)
    assert moments.growth(q) == pytest.approx(growth, rel=1e-9)
    product = gaussian_pair_mean(f, f, q, 0.6, f.kinks)
    assert moments.product(q, 0.6) == pytest.approx(product, rel=1e-13)
    slopes = gaussian_pair_mean(f.derivative, f.derivative, q, 0.6, f.kinks)
    assert moments.slope_product(q, 0.6) == slopes


@every_activation
def test_limits_of_the_moments_at_zero(f):
    limit = (f.derivative(-1e-12) ** 2 + f.derivative(1e-12) ** 2) / 2
    assert Moments(f).slope_square(0.0) == pytest.approx(limit, rel=1e-11)
    if f(0.0) == 0:
        assert Moments(f).growth(0.0) == pytest.approx(limit, rel=1e-11)
    assert Moments(f).square(0.0) == pytest.approx(f(0.0) ** 2, rel=1e-15)


def test_parameters_reach_the_moments():
    square = Moments("leaky_relu", negative_slope=0.2).square([1.0, 2.0])
    np.testing.assert_allclose(square, [0.52, 1.04], rtol=1e-14)
    assert Moments("elu", alpha=2.0).slope_square(0.0) == pytest.approx(2.5, rel=1e-14)


@pytest.mark.parametrize("down", [-0.5, 0.0, 0.2, 1.0])
def test_homogeneous_activations_have_a_closed_form_for_all_correlations(down):
    moments = Moments("prelu", slope=down)
    assert moments.slopes == (1.0, down)
    c = np.array(CORRELATIONS)
    expected = gaussian_pair_mean(moments.f, moments.f, 3.0, c)
    np.testing.assert_allclose(moments.product(3.0, c), expected, atol=3e-15)


def test_homogeneous_activations_are_recognized():
    straight = {name for name in ACTIVATIONS if Moments(name).slopes}
    assert straight == {"identity", "relu", "leaky_relu", "prelu"}


def test_an_activation_of_ones_own_has_moments():
    square = Activation(
        "square", "A square.", lambda z: z**2, "z^2", lambda z: 2 * z, "2z", (0, inf), inf, "", None
    )
    assert Moments(square).square(2.0) == pytest.approx(12)
    assert Moments(square).slope_square(2.0) == pytest.approx(8)


@pytest.mark.parametrize("function", [math.tanh, np.tanh, lambda z: z, int])
def test_a_function_without_a_derivative_is_refused_with_advice(function):
    with pytest.raises(TypeError, match=r"one of identity, .*, mish, .*derivative.*Activation"):
        Moments(function)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation": "Relu"}, ValueError, r"name must be 'identity', .* Did you mean 'relu'\?"),
        ({"activation": 3}, TypeError, "name must be 'identity', .*, not 3"),
        ({"activation": "relu", "slope": 1.0}, TypeError, r"relu has keywords \[\], not 'slope'"),
        ({"activation": "elu", "alpha": -1.0}, ValueError, "alpha must be finite and positive"),
    ],
)
def test_what_activation_refuses_is_refused_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        Moments(**arguments)
