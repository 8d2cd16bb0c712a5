"""Positions, borders and norms of convolutions, against PyTorch and dense matrices."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, pad

from companion.dead_channels import (
    active_share,
    convolution_norm,
    delta_orthogonal,
    padded_signal,
    padding_factor,
)
from companion.initialization import he_normal
from companion.regularization import spectral_norm


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def convolve(images, kernel, mode="constant"):
    border = kernel.shape[-1] // 2
    padded = pad(torch.as_tensor(images), (border,) * 4, mode=mode)
    return conv2d(padded, torch.as_tensor(kernel)).numpy()


def dense(kernel, side, mode):
    """Write a convolution as a matrix, one image of a single lit pixel per column."""
    channels = kernel.shape[1]
    lit = np.eye(channels * side**2).reshape(-1, channels, side, side)
    return convolve(lit, kernel, mode).reshape(len(lit), -1).T


def test_shares_count_images_at_each_position():
    z = draw(50, 3, 4, 5)
    z[:, 1] = -1.0
    z[1:, 2], z[0, 2] = -1.0, -1.0
    z[0, 2, 3, 4] = 1.0
    share = active_share(np.maximum(z, 0))
    assert share.shape == (3, 4, 5)
    for channel, row, column in np.ndindex(share.shape):
        expected = sum(image[channel, row, column] > 0 for image in z) / 50
        assert share[channel, row, column] == pytest.approx(expected, abs=1e-12)
    assert (share == 0).all(axis=(1, 2)).tolist() == [False, True, False]
    assert np.array_equal(active_share(z > 0), share)


@pytest.mark.parametrize(("side", "kernel_size"), [(8, 3), (5, 5), (2, 3), (1, 3), (6, 1)])
def test_signal_behind_a_border_of_zeros_is_what_nets_have(side, kernel_size):
    channels, nets, depth = 12, 400, 3
    rng = np.random.default_rng(1)
    shape = channels, channels, kernel_size, kernel_size
    squares = np.zeros((depth, nets, side, side))
    for net in range(nets):
        h = rng.choice([-1.0, 1.0], (1, channels, side, side))  # whose square is 1 everywhere
        for layer in range(depth):
            z = convolve(h, he_normal(shape, rng))
            squares[layer, net] = (z[0] ** 2).mean(axis=0)
            h = np.maximum(z, 0)
    error = squares.std(axis=1, ddof=1) / nets**0.5
    expected = 2 * padded_signal(side, depth, kernel_size)
    assert (abs(squares.mean(axis=1) - expected) < 4.5 * error).all()


@pytest.mark.parametrize("side", [1, 2, 8, 32])
def test_factor_is_the_closed_form_and_the_limit_of_the_signal(side):
    closed = ((1 + 2 * np.cos(np.pi / (side + 1))) / 3) ** 2
    assert padding_factor(side) == pytest.approx(closed, rel=1e-12)
    total = padded_signal(side, 200).sum(axis=(1, 2))
    if side <= 8:
        assert total[-1] == pytest.approx(closed * total[-2], rel=1e-9)
    assert padding_factor(side, 1) == 1


def test_published_means_on_eight_by_eight():
    expected = [1.681, 1.483, 1.328, 1.200, 1.091, 0.996, 0.912, 0.836, 0.768, 0.706]
    found = 2 * padded_signal(8, 10).mean(axis=(1, 2))
    np.testing.assert_allclose(found, expected, atol=6e-4)


@pytest.mark.parametrize("mode", ["constant", "circular"])
@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (6, 3, 5, 5)], ids=str)
def test_delta_orthogonal_keeps_every_norm(shape, mode):
    kernel = delta_orthogonal(shape, np.random.default_rng(0), gain=2.0)
    x = draw(5, shape[1], 6, 6)
    norms = (
        np.linalg.norm(images.reshape(5, -1), axis=1) for images in (convolve(x, kernel, mode), x)
    )
    np.testing.assert_allclose(next(norms), 2 * next(norms), rtol=1e-12)
    assert np.count_nonzero(kernel) == shape[0] * shape[1]


def test_delta_orthogonal_has_gain_one_and_draws_from_a_seed():
    kernel = delta_orthogonal((3, 3, 3, 3), 5)
    centre = kernel[:, :, 1, 1]
    np.testing.assert_allclose(centre @ centre.T, np.eye(3), rtol=0, atol=1e-12)
    assert np.array_equal(kernel, delta_orthogonal((3, 3, 3, 3), np.random.default_rng(5)))


@pytest.mark.parametrize("side", [3, 4, 7])
@pytest.mark.parametrize("shape", [(3, 3, 3, 3), (4, 2, 3, 3), (2, 5, 1, 3), (1, 1, 2, 2)], ids=str)
def test_convolution_norm_is_the_dense_matrix_s(shape, side):
    kernel = draw(*shape)
    images = np.eye(shape[1] * side**2).reshape(-1, shape[1], side, side)
    border = pad(torch.tensor(images), (0, shape[3] - 1, 0, shape[2] - 1), mode="circular")
    matrix = conv2d(border, torch.tensor(kernel)).flatten(1).numpy()
    assert convolution_norm(kernel, side) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_zeros_beyond_the_border_stretch_no_further(seed):
    kernel = draw(3, 3, 3, 3, seed=seed)
    norm = np.linalg.norm(dense(kernel, 5, "constant"), 2)
    assert norm <= convolution_norm(kernel, 7) * (1 + 1e-12)
    flat = spectral_norm(kernel, 500, u=np.ones(3)).sigma
    assert flat <= convolution_norm(kernel, 5) <= 3 * flat * (1 + 1e-9)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: active_share(np.zeros((3, 2))), ValueError, "slope must be of shape"),
        (lambda: active_share(np.zeros((0, 2, 3, 3))), ValueError, "slope must be of shape"),
        (lambda: active_share(np.full((1, 1, 1, 1), np.nan)), ValueError, "slope must be finite"),
        (lambda: active_share(np.full((1, 1, 1, 1), "a")), TypeError, "slope must hold real"),
        (lambda: padded_signal(0, 1), ValueError, "side must be a whole number, 1 or more, not 0"),
        (lambda: padded_signal(8, 0), ValueError, "depth must be a whole number, 1 or more, not 0"),
        (lambda: padded_signal(8, 1.5), TypeError, "depth must be a whole"),
        (lambda: padded_signal(8, 1, 2), ValueError, "kernel_size must be odd"),
        (lambda: padding_factor(True), TypeError, "side must be a whole"),
        (lambda: padding_factor(8, 4), ValueError, "kernel_size must be odd"),
        (lambda: delta_orthogonal((4, 4), RNG), ValueError, "shape must have four axes"),
        (lambda: delta_orthogonal(4, RNG), TypeError, "shape must be a sequence"),
        (lambda: active_share([[1.0], [1.0, 2.0]]), TypeError, "slope must be an array"),
        (lambda: delta_orthogonal((4, 4, 2, 3), RNG), ValueError, "must be odd"),
        (lambda: delta_orthogonal((4, 4, 3, 3), RNG, gain=-1), ValueError, "gain"),
        (lambda: delta_orthogonal((4, 4, 3, 3), "0"), TypeError, "rng"),
        (lambda: convolution_norm(np.ones((1, 1, 3, 3)), 2), ValueError, "side must be 3"),
        (lambda: convolution_norm(np.ones((1, 1, 1, 3)), 2), ValueError, "side must be 3"),
        (lambda: convolution_norm(np.ones((1, 1, 3, 1)), 2), ValueError, "side must be 3"),
        (lambda: convolution_norm(np.ones((3, 3)), 8), ValueError, "kernel must be of shape"),
        (lambda: convolution_norm(np.ones((1, 1, 3, 3)), 8.0), TypeError, "side must be a whole"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
