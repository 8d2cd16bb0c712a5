"""The laboratory: data, and many seeds trained at once."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from companion.devices import generator
from companion.experiments import (
    Data,
    Elementwise,
    PReLU,
    Residual,
    SpectralLinear,
    cnn,
    digits,
    gaussian_noise,
    mlp,
    residual_mlp,
    train,
    xor,
)
from companion.experiments.ensemble import few_threads
from companion.initialization import STDS

DIGITS = digits()


def test_digits_are_split_once_and_centred_with_one_scale():
    raw, centred = digits("raw"), digits()
    assert raw.x_train.shape == (1297, 64)
    assert raw.x_test.shape == (500, 64)
    assert raw.x_train.min() == 0
    assert raw.x_train.max() == 1
    assert abs(centred.x_train.mean(axis=0)).max() < 1e-12
    assert (centred.x_train**2).mean() == pytest.approx(1)
    spread = raw.x_train.std(axis=0)
    shown = spread > 0
    scales = centred.x_train.std(axis=0)[shown] / spread[shown]
    assert np.ptp(scales) < 1e-12
    np.testing.assert_allclose(
        digits("uncentred").x_train[:, shown], raw.x_train[:, shown] * scales
    )
    assert set(raw.y_test) == set(range(10))
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(1797)  # the book's figures stand on this split
    np.testing.assert_array_equal(raw.x_train, images[order[:1297]] / 16)
    np.testing.assert_array_equal(raw.y_test, labels[order[1297:]])


def test_label_noise_changes_training_labels_only():
    clean, noisy = digits(), digits(label_noise=0.4)
    changed = (clean.y_train != noisy.y_train).mean()
    assert changed == pytest.approx(0.4 * 0.9, abs=0.04)
    assert np.array_equal(clean.y_test, noisy.y_test)
    assert set(noisy.y_train) == set(range(10))
    assert [layer.out_channels for layer in cnn(64, 10) if isinstance(layer, nn.Conv2d)] == [16, 32]
    assert len(digits(n_train=100).x_train) == 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"form": "white"}, "form must be"),
        ({"n_train": 0}, "n_train must be"),
        ({"n_train": 1298}, "n_train must be"),
        ({"label_noise": 1.5}, "label_noise must be"),
    ],
)
def test_bad_data_arguments_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        digits(**arguments)


SHORT = {"widths": (16, 8), "steps": 12, "every": 4, "batch_size": 32}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adam"},
        {"batch_norm": True},
        {"dropout": 0.5},
        {"spectral_norm": True},
        {"layer_norm": True, "dropout": 0.2, "l1": 0.01, "frozen": ["bias"]},
    ],
    ids=str,
)
def test_one_seed_alone_is_that_seed_among_many(options):
    among = train(digits(), seeds=range(4), **SHORT, **options)
    alone = train(digits(), seeds=[2], **SHORT, **options)
    for name in ("accuracy", "loss", "living"):
        many, one = getattr(among, name)[:, 2], getattr(alone, name)[:, 0]
        np.testing.assert_allclose(many, one, rtol=1e-10, atol=0)
    assert among.steps.tolist() == [0, 4, 8, 12]


@pytest.mark.parametrize(
    ("optimizer", "make"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)]
)
def test_training_is_that_of_a_plain_module(optimizer, make):
    data = digits(n_train=64)
    curves = train(
        data, widths=(8,), activation="tanh", init="xavier", optimizer=optimizer,
        learning_rate=0.05, steps=10, batch_size=64, every=1, seeds=[3],
    )  # fmt: skip
    rng = generator(3)
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10)).double()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            std = STDS["xavier"](layer.in_features, layer.out_features)
            draw = rng.normal(0, std, (layer.in_features, layer.out_features))
            layer.weight.copy_(torch.tensor(draw).T)
            layer.bias.zero_()
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    steps = make(model.parameters(), lr=0.05)
    losses = []
    for _ in range(11):
        loss = nn.functional.cross_entropy(model(x), y)
        losses.append(loss.item())
        steps.zero_grad()
        loss.backward()
        steps.step()
    np.testing.assert_allclose(curves.loss[:, 0], losses, rtol=1e-9)


def test_batch_norm_is_torch_s_in_training_mode():
    data = digits(n_train=64)
    curves = train(data, widths=(8,), batch_norm=True, steps=0, every=1, seeds=[3, 4])
    rng = generator(3)
    first, second = (
        torch.tensor(rng.normal(0, STDS["he"](*fans), fans)) for fans in ((64, 8), (8, 10))
    )
    hidden = nn.BatchNorm1d(8).double()(torch.tensor(data.x_train) @ first).relu()
    loss = nn.functional.cross_entropy(hidden @ second, torch.tensor(data.y_train))
    assert curves.loss[0, 0] == pytest.approx(loss.item(), rel=1e-9)


def test_living_counts_units_with_a_slope_somewhere():
    data = digits("raw")
    dead = data._replace(x_train=-data.x_train * 0)
    assert train(dead, steps=0, seeds=[0], **{"widths": (8,)}).living[0, 0] == 0
    assert train(data, steps=0, seeds=[0], activation="tanh", widths=(8,)).living[0, 0] == 1


def test_batches_go_through_the_data_without_replacement():
    from companion.experiments.ensemble import batches_of

    batches = batches_of([generator(0), generator(1)], 10, 4)
    for _ in range(3):
        epoch = np.concatenate([next(batches), next(batches)], axis=1)
        assert all(len(set(row)) == 8 for row in epoch)
    assert not np.array_equal(epoch[0], epoch[1])


def test_xor_is_exclusive_or():
    data = xor()
    assert [tuple(x) for x in data.x_train] == [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    assert data.y_train.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"init": "zeros"}, ValueError, "init must be 'he', 'lecun', 'pytorch' or 'xavier', not"),
        ({"optimizer": "lion"}, ValueError, "optimizer must be 'sgd', "),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number, 1 or more, not 0"),
        ({"activation": "rleu"}, ValueError, "relu"),
        ({"steps": -1}, ValueError, "steps must"),
        ({"every": 0}, ValueError, "every must"),
        ({"seeds": []}, ValueError, "seeds must"),
        ({"widths": (8, 0)}, ValueError, "widths must"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must"),
        (
            {"learning_rate": [0.1, -1.0]},
            ValueError,
            "learning_rate must be a finite number, more than 0",
        ),
        ({"learning_rate": []}, ValueError, "learning_rate must hold one"),
        ({"weight_decay": -1}, ValueError, "weight_decay must"),
        ({"clip_norm": 0}, ValueError, "clip_norm must"),
        ({"init": -1.0}, ValueError, "init must be a finite number, more than 0"),
        ({"bias_std": -1.0}, ValueError, "bias_std must"),
        ({"bias": float("nan")}, ValueError, "bias must be a finite number"),
        ({"init": lambda shape, rng: np.ones(shape[::-1])}, ValueError, r"init must.*(64, 2)"),
        (
            {"init": lambda shape, rng: np.full(shape, np.nan)},
            ValueError,
            "what init returns must be finite",
        ),
        ({"batch_norm": True, "layer_norm": True}, ValueError, "layer_norm must"),
        ({"dropout": 1.0}, ValueError, "dropout must"),
        ({"dropout": -0.1}, ValueError, "dropout must"),
        ({"dropout": float("nan")}, ValueError, "dropout must"),
        ({"l1": -1.0}, ValueError, "l1 must"),
        ({"l1": float("nan")}, ValueError, "l1 must"),
        ({"penalized": "biases"}, ValueError, "penalized must be 'weights', 'all' or None"),
        ({"frozen": ["gain"]}, ValueError, "frozen must name parameters among .* not 'gain'"),
        ({"frozen": ["eight"]}, ValueError, "frozen must name"),
        ({"frozen": ["weight", "bias"]}, ValueError, "frozen must leave"),
        ({"model": lambda *_: nn.Identity()}, ValueError, "model must have parameters"),
        ({"depth": 3}, TypeError, "depth"),
    ],
)
def test_bad_training_arguments_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        train(xor(), **arguments)


def test_nan_data_are_refused():
    data = xor()
    with pytest.raises(ValueError, match="x_train must be finite"):
        train(data._replace(x_train=data.x_train * np.nan))


def test_net_that_has_overflowed_has_no_other_number():
    rates = [0.1, 1e200]
    curves = train(digits(), learning_rate=rates, steps=5, every=5, seeds=range(2), widths=(8, 8))
    assert curves.overflowed.tolist() == [[[False, False]] * 2, [[False, False], [True, True]]]
    for name in ("accuracy", "loss", "living", "gradient_norm"):
        values = getattr(curves, name)[-1]
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1]).all()
    assert not curves.alive[-1, 1].any()
    single = train(digits(), learning_rate=1e200, steps=5, every=5, seeds=range(2), widths=(8, 8))
    assert single.overflowed.tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("name", ["0.weight", "4.bias"])
def test_one_parameter_that_is_not_finite_is_overflow(name):
    options = dict(steps=0, seeds=range(2), widths=(8, 8))
    state = train(digits(), **options).end
    state[name][1].flat[0] = np.inf
    assert train(digits(), start=state, **options).overflowed.tolist() == [[False, True]]


def test_output_past_the_largest_float_is_overflow():
    options = dict(steps=0, seeds=range(2), widths=(8,), activation="identity")
    state = train(digits(), **options).end
    state["0.weight"][0] *= 1e200
    state["2.weight"][0] *= 1e200
    curves = train(digits(), start=state, **options)
    assert curves.overflowed.tolist() == [[True, False]]
    assert np.isfinite(curves.end["2.weight"]).all()


def test_nets_under_several_rates_are_those_of_single_runs():
    options = dict(SHORT, seeds=range(2), optimizer="adam")
    both = train(digits(), learning_rate=[0.01, 0.03], **options)
    assert both.accuracy.shape == (4, 2, 2)
    assert both.end["0.weight"].shape == (2, 2, 16, 64)
    for number, rate in enumerate([0.01, 0.03]):
        single = train(digits(), learning_rate=rate, **options)
        for name in ("accuracy", "loss", "living", "gradient_norm"):
            np.testing.assert_allclose(
                getattr(both, name)[:, number], getattr(single, name), rtol=1e-9
            )
        np.testing.assert_array_equal(both.start["0.weight"][number], single.start["0.weight"])
        np.testing.assert_allclose(both.end["0.weight"][number], single.end["0.weight"], rtol=1e-7)
    assert abs(both.end["0.weight"][0] - both.end["0.weight"][1]).max() > 0.01


def plain_run(seed, make, steps, clip=None, rate=None):
    """Train one net the plain way, full batch; return losses, gradient norms and the net."""
    data = digits(n_train=64)
    net = mlp(64, 10, generator(seed), widths=(8,), activation="tanh", init="xavier")
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    optimizer = make(net.parameters())
    losses, norms = [], []
    for step in range(steps):
        loss = nn.functional.cross_entropy(net(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        limit = clip or float("inf")
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), limit).item())
        if rate:
            optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
    return losses, norms, net


def test_real_targets_are_fitted_by_the_mean_squared_error():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    data = Data(x, y, x, y)
    how = dict(widths=(4,), learning_rate=0.3, steps=4, every=1, batch_size=30, seeds=[3])
    curves = train(data, **how)
    net = mlp(5, 3, generator(3), widths=(4,))
    optimizer, losses = torch.optim.SGD(net.parameters(), 0.3), []
    for _ in range(5):
        loss = nn.functional.mse_loss(net(torch.tensor(x)), torch.tensor(y))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(curves.loss[:, 0], losses, rtol=1e-9)


PLAIN = dict(widths=(8,), activation="tanh", init="xavier", batch_size=64, every=1, seeds=[3, 4])


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        ("momentum", lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.02)),
        ("nesterov", lambda p: torch.optim.SGD(p, 0.05, 0.9, 0, 0.02, nesterov=True)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, 0.05, weight_decay=0.02)),
        ("adamw", lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.02)),
    ],
)
def test_optimizers_and_weight_decay_are_torch_s(optimizer, make):
    curves = train(
        digits(n_train=64), optimizer=optimizer, learning_rate=0.05, weight_decay=0.02, steps=12,
        **PLAIN,
    )  # fmt: skip
    losses, norms, net = plain_run(3, make, 12)
    np.testing.assert_allclose(curves.loss[:-1, 0], losses, rtol=1e-8)
    np.testing.assert_allclose(curves.gradient_norm[1:, 0], norms, rtol=1e-7)
    assert np.isnan(curves.gradient_norm[0]).all()
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(curves.end[name][0], parameter.detach(), rtol=1e-6, atol=1e-12)


def test_clipping_cuts_each_replica_by_its_own_norm():
    curves = train(digits(n_train=64), learning_rate=0.5, clip_norm=0.3, steps=12, **PLAIN)
    for place, seed in enumerate((3, 4)):
        losses, norms, _ = plain_run(seed, lambda p: torch.optim.SGD(p, 0.5), 12, clip=0.3)
        np.testing.assert_allclose(curves.loss[:-1, place], losses, rtol=1e-8)
        np.testing.assert_allclose(curves.gradient_norm[1:, place], norms, rtol=1e-7)
        assert max(norms) > 0.3


def test_rate_may_follow_a_schedule():
    def rate(step):
        return 0.5 / (1 + step)

    curves = train(digits(n_train=64), learning_rate=rate, steps=12, **PLAIN)
    losses, _, _ = plain_run(3, lambda p: torch.optim.SGD(p, 1.0), 12, rate=rate)
    np.testing.assert_allclose(curves.loss[:-1, 0], losses, rtol=1e-8)


def test_largest_gradient_since_the_last_look_is_kept():
    every, rare = (
        train(digits(n_train=64), steps=6, **{**PLAIN, "every": n}).gradient_norm for n in (1, 3)
    )
    np.testing.assert_allclose(rare[1], every[1:4].max(axis=0), rtol=1e-9)
    np.testing.assert_allclose(rare[2], every[4:7].max(axis=0), rtol=1e-9)


@pytest.mark.parametrize("shape", [(40,), (40, 2)])
def test_real_targets_are_fitted_by_squared_error(shape):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=shape)
    curves = train(Data(x, y, x, y), widths=(), init=1e-9, steps=400, batch_size=40, seeds=[0])
    assert curves.loss[0, 0] == pytest.approx((y**2).mean(), rel=1e-6)
    design = np.column_stack([x, np.ones(40)])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert curves.loss[-1, 0] == pytest.approx((residual**2).mean(), rel=1e-6)
    assert np.isnan(curves.accuracy).all()
    assert np.isnan(curves.living).all()


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}, {"scale": 0.5}], ids=str)
def test_residual_net_adds_its_branches(options):
    net = residual_mlp(5, 3, generator(0), width=4, blocks=2, activation="tanh", **options)
    x = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = net[0](x)
    for block in net[1:3]:
        h = h + options.get("scale", 1.0) * block.branch(h)
    torch.testing.assert_close(net(x), net[3](h))
    kinds = [type(layer).__name__ for layer in net[1].branch]
    middle = ["BatchNorm1d"] if "batch_norm" in options else []
    assert kinds == [*middle, "Elementwise", "Linear"]
    curves = train(digits(), residual_mlp, width=8, blocks=2, steps=5, seeds=range(2), **options)
    assert curves.loss.shape == (2, 2)


def test_a_residual_net_has_ten_blocks_of_64_units_that_add_the_whole_branch():
    net = residual_mlp(5, 3, generator(0))
    assert [block.branch[1].weight.shape for block in net[1:-1]] == [(64, 64)] * 10
    assert {block.scale for block in net[1:-1]} == {1}
    assert not any(layer.bias.any() for layer in net.modules() if isinstance(layer, nn.Linear))
    assert Residual(nn.ReLU())(torch.ones(1)).item() == 2


def test_layers_can_be_read():
    assert "(1): Elementwise(gelu)" in str(mlp(3, 2, generator(0), widths=(4,), activation="gelu"))


def test_pytorch_s_own_rule_is_that_of_nn_linear():
    net = mlp(300, 10, generator(0), widths=(400,), init="pytorch")
    reference = nn.Linear(300, 400)
    for own, other in ((net[0].weight, reference.weight), (net[0].bias, reference.bias)):
        assert own.abs().max() <= 1 / math.sqrt(300) + 1e-12
        assert own.abs().max() > 0.98 / math.sqrt(300)
        assert own.std().item() == pytest.approx(other.std().item(), rel=0.1)


def test_init_may_be_a_number_and_biases_may_be_drawn():
    net = mlp(300, 10, generator(0), widths=(400,), init=1.5, bias_std=0.3)
    assert net[0].weight.std().item() == pytest.approx(1.5 / math.sqrt(300), rel=0.02)
    assert net[0].bias.std().item() == pytest.approx(0.3, rel=0.15)


def test_noise_is_the_same_for_a_seed_and_has_all_labels():
    data = gaussian_noise(200, 5, 4, seed=1)
    assert data.x_train.shape == (200, 5)
    assert set(data.y_test) == {0, 1, 2, 3}
    assert set(gaussian_noise(500, 1).y_train) == set(range(10))
    assert np.array_equal(data.x_train, gaussian_noise(200, 5, 4, seed=1).x_train)
    assert not np.array_equal(data.x_train, data.x_test)
    with pytest.raises(ValueError, match="n_features must be a whole number"):
        gaussian_noise(5, 0)


def test_nothing_is_printed_where_bars_are_off(capsys, monkeypatch):
    train(xor(), widths=(2,), steps=3, seeds=[0])
    assert capsys.readouterr().err == ""


def test_threads_are_those_the_environment_names(monkeypatch):
    before = torch.get_num_threads()
    for told, taken in (("2", 2), ("", 1), ("0", 1), ("many", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        with few_threads():
            assert torch.get_num_threads() == taken
            assert torch.tensor([1e-310], dtype=torch.float64).mul(1.0) == 0
        assert torch.tensor([1e-310], dtype=torch.float64).mul(1.0) > 0
    assert torch.get_num_threads() == before


def test_weights_may_come_from_a_callable():
    def init(shape, rng):
        return rng.normal(size=shape) * np.arange(1, shape[0] + 1)[:, None]

    net = mlp(5, 3, generator(1), widths=(4,), init=init, bias=0.5, activation="tanh")
    rng = generator(1)
    for layer, shape, bias in ((net[0], (4, 5), 0.5), (net[2], (3, 4), 0.0)):
        assert np.array_equal(layer.weight.detach(), init(shape, rng))
        assert (layer.bias == bias).all()


@pytest.mark.parametrize("init", ["he", "pytorch", 1.0])
def test_biases_may_start_anywhere_in_hidden_layers(init):
    plain, moved, drawn = (
        mlp(5, 3, generator(0), widths=(4000, 2), init=init, **options)
        for options in ({}, {"bias": -2.0}, {"bias": -2.0, "bias_std": 0.5})
    )
    assert (moved[0].bias == -2).all()
    assert (moved[2].bias == -2).all()
    assert torch.equal(moved[4].bias == 0, plain[4].bias == 0)
    assert torch.equal(moved[0].weight, plain[0].weight)
    assert drawn[0].bias.mean().item() == pytest.approx(-2, abs=4 * 0.5 / 4000**0.5)
    assert drawn[0].bias.std().item() == pytest.approx(0.5, rel=0.05)
    assert not drawn[4].bias.mean() < -1.5
    residual = residual_mlp(5, 3, generator(0), width=4, blocks=1, init=init, bias=-2.0)
    assert (residual[0].bias == -2).all()
    assert (residual[1].branch[1].bias == -2).all()
    assert not (residual[2].bias == -2).any()


def test_layer_norm_is_torch_s_and_keeps_the_bias():
    net = mlp(5, 3, generator(0), widths=(4,), layer_norm=True, bias=0.3)
    x = torch.tensor(generator(1).normal(size=(6, 5)))
    z = x @ net[0].weight.T + 0.3
    h = nn.functional.layer_norm(z, (4,)).relu()
    torch.testing.assert_close(net(x), h @ net[3].weight.T)
    assert type(residual_mlp(5, 3, generator(0), layer_norm=True)[1].branch[0]) is nn.LayerNorm


def test_dropout_scales_what_it_keeps_and_is_off_until_drawn():
    net = mlp(5, 3, generator(0), widths=(400,), dropout=0.2)
    dropout, h = net[2], torch.ones(600, 400, dtype=torch.float64)
    assert str(dropout) == "Dropout(p=0.2)"
    assert torch.equal(dropout(h), h)
    dropout.draw(600, generator(0))
    kept = dropout(h)
    assert set(kept.unique().tolist()) == {0.0, 1.25}
    assert (kept == 0).double().mean().item() == pytest.approx(0.2, abs=4 * (0.16 / 240_000) ** 0.5)
    assert torch.equal(net.eval()[2](h), h)
    assert torch.equal(mlp(5, 3, generator(0), widths=(400,))[0].weight, net[0].weight)


@pytest.mark.parametrize("rates", [0.05, [0.05, 0.1]], ids=str)
def test_dropout_is_that_of_a_plain_loop_and_off_in_every_look(rates):
    data = digits(n_train=64)
    curves = train(data, dropout=0.5, learning_rate=rates, steps=6, **PLAIN)
    losses = curves.loss[:, :, 0] if isinstance(rates, list) else curves.loss[:, None, 0]
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    for place, rate in enumerate(rates if isinstance(rates, list) else [rates]):
        rng = generator(3)
        net = mlp(64, 10, rng, widths=(8,), activation="tanh", init="xavier", dropout=0.5)
        masks, plain = rng.spawn(1)[0], []
        optimizer = torch.optim.SGD(net.parameters(), rate)
        for _ in range(7):
            plain.append(nn.functional.cross_entropy(net.eval()(x), y).item())
            order = torch.tensor(rng.permutation(64))
            net.train()[2].draw(64, masks)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[order]), y[order]).backward()
            optimizer.step()
        np.testing.assert_allclose(losses[:, place], plain, rtol=1e-9)


def test_masks_leave_the_batches_as_they_are():
    plain, dropped = (
        train(
            digits(n_train=64), widths=(8,), dropout=p, steps=6, every=6, batch_size=16, seeds=[0]
        )
        for p in (0.0, 1e-12)
    )
    np.testing.assert_allclose(plain.end["0.weight"], dropped.end["0.weight"], rtol=1e-9)


def test_spectral_norm_is_torch_s():
    data = digits(n_train=64)
    curves = train(data, spectral_norm=True, learning_rate=0.5, steps=8, **PLAIN)
    net = mlp(64, 10, generator(3), spectral_norm=True, **{
        name: PLAIN[name] for name in ("widths", "activation", "init")
    })  # fmt: skip
    plain = mlp(64, 10, generator(3), widths=(8,), activation="tanh", init="xavier")
    for own, layer in ((net[0], plain[0]), (net[2], plain[2])):
        assert torch.equal(own.weight, layer.weight)
        nn.utils.parametrizations.spectral_norm(layer)
        layer.parametrizations.weight[0]._u.copy_(own.u)
        layer.parametrizations.weight[0]._v.copy_(own.v)
        assert (own.u @ own.weight @ own.v).item() == pytest.approx(
            torch.linalg.matrix_norm(own.weight, 2).item(), rel=0.05
        )
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    optimizer = torch.optim.SGD(plain.parameters(), 0.5)
    for _ in range(8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain.train()(x), y).backward()
        optimizer.step()
    for name in (0, 2):
        ours, theirs = curves.end[f"{name}.weight"][0], plain[name].parametrizations.weight
        np.testing.assert_allclose(ours, theirs.original.detach(), rtol=1e-9)
    assert curves.loss[-1, 0] == pytest.approx(
        nn.functional.cross_entropy(plain(x), y).item(), rel=1e-9
    )
    once, again = (SpectralLinear(9, 9, dtype=torch.float64) for _ in range(2))
    again.load_state_dict(once.state_dict())
    once.start(0)
    again.start(0, n_iterations=14)
    assert not torch.equal(once.u, again.u)
    again.iterate()
    assert torch.equal(once.u, again.u)


def test_l1_pulls_every_weight_by_the_same_and_no_bias():
    data = digits(n_train=64)
    curves = train(data, l1=0.02, learning_rate=0.1, steps=5, **PLAIN)
    net = mlp(64, 10, generator(3), widths=(8,), activation="tanh", init="xavier")
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    for step in range(5):
        loss = nn.functional.cross_entropy(net(x), y)
        assert curves.loss[step, 0] == pytest.approx(loss.item(), rel=1e-9)
        net.zero_grad()
        loss.backward()
        with torch.no_grad():
            for layer in (net[0], net[2]):
                layer.weight -= 0.1 * (layer.weight.grad + 0.02 * layer.weight.sign())
                layer.bias -= 0.1 * layer.bias.grad
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(curves.end[name][0], parameter.detach(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("penalized", ["weights", "all"])
@pytest.mark.parametrize(
    ("optimizer", "make"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_penalties_cover_what_they_are_told(optimizer, make, penalized):
    data, options = digits(n_train=64), dict(PLAIN, optimizer=optimizer, penalized=penalized)
    curves = train(data, l1=0.02, weight_decay=0.5, learning_rate=[0.02, 0.05], steps=5, **options)
    net = mlp(64, 10, generator(3), widths=(8,), activation="tanh", init="xavier")
    weights, biases = ([p for p in net.parameters() if p.ndim == n] for n in (2, 1))
    priced = weights if penalized == "weights" else [*weights, *biases]
    free = [] if penalized == "all" else [{"params": biases, "weight_decay": 0}]
    descend = make([{"params": priced}, *free], lr=0.05, weight_decay=0.5)
    for _ in range(5):
        descend.zero_grad()
        outputs = net(torch.tensor(data.x_train))
        loss = nn.functional.cross_entropy(outputs, torch.tensor(data.y_train))
        (loss + 0.02 * sum(p.abs().sum() for p in priced)).backward()
        descend.step()
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(
            curves.end[name][1, 0], parameter.detach(), rtol=1e-7, atol=1e-10
        )


@pytest.mark.parametrize(
    ("options", "same"), [({"l1": 0.01}, "weights"), ({"weight_decay": 0.1}, "all")]
)
def test_by_default_l1_spares_biases_and_decay_does_not(options, same):
    other = {"weights": "all", "all": "weights"}[same]
    ends = [
        train(digits(n_train=64), steps=5, **PLAIN, **options, penalized=penalized).end
        for penalized in (None, same, other)
    ]
    assert all(np.array_equal(p, ends[1][name]) for name, p in ends[0].items())
    assert not all(np.array_equal(p, ends[2][name]) for name, p in ends[0].items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parameters_stay_and_the_others_learn(optimizer):
    options = dict(
        SHORT, optimizer=optimizer, weight_decay=0.1, l1=0.01, seeds=[0, 1], init="pytorch"
    )
    curves = train(digits(), frozen=["bias", "2.weight"], learning_rate=[0.1, 0.2], **options)
    still = {name for name, p in curves.start.items() if np.array_equal(p, curves.end[name])}
    assert still == {"0.bias", "2.bias", "4.bias", "2.weight"}
    assert (curves.gradient_norm[-1] > 0).all()


def test_a_residual_net_takes_the_norms_too():
    for options in ({"spectral_norm": True}, {"layer_norm": True}):
        options |= {"width": 8, "blocks": 2, "steps": 5, "seeds": range(2)}
        assert train(digits(), residual_mlp, **options).loss[-1].max() < 3


# ---- going on from an earlier run, and taking a net out ---------------------------------------


def test_two_runs_in_a_row_are_one_run():
    """With plain descent on the whole set, nothing but the parameters is carried over."""
    whole = {"widths": (8,), "batch_size": 10_000, "every": 5, "seeds": range(3)}
    once = train(DIGITS, steps=10, **whole)
    first = train(DIGITS, steps=5, **whole)
    for start in (first, first.end):
        second = train(DIGITS, steps=5, start=start, **whole)
        np.testing.assert_allclose(second.loss[-1], once.loss[-1], rtol=1e-10)
        np.testing.assert_array_equal(second.start["0.weight"], first.end["0.weight"])
    rates = train(DIGITS, steps=5, start=first, learning_rate=[0.1, 0.2], **whole)
    np.testing.assert_allclose(rates.loss[-1, 0], once.loss[-1], rtol=1e-10)


def test_start_that_does_not_fit_is_refused():
    first = train(DIGITS, widths=(8,), steps=1, seeds=range(2))
    for change in ({"widths": (9,)}, {"widths": (8,), "seeds": range(3)}):
        with pytest.raises(ValueError, match="start must hold parameters of shapes"):
            train(DIGITS, steps=1, start=first, **{"seeds": range(2)} | change)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_net_taken_out_is_the_one_that_was_looked_at(batch_norm):
    curves = train(
        DIGITS, widths=(8, 6), batch_norm=batch_norm, learning_rate=[0.1, 0.5], steps=20,
        seeds=range(3), optimizer="adam",
    )  # fmt: skip
    x, y = torch.from_numpy(DIGITS.x_test), torch.from_numpy(DIGITS.y_test)
    for place in np.ndindex(2, 3):
        net = curves.net(*place)
        assert not net.training
        right = (net(x).argmax(1) == y).double().mean().item()
        assert right == pytest.approx(curves.accuracy[(-1, *place)], abs=1e-12)
    assert net is not curves.net(1, 2)
    with pytest.raises(TypeError, match="net takes 2 places"):
        curves.net(0)


def test_living_units_are_listed_layer_by_layer():
    data = DIGITS._replace(x_train=np.abs(DIGITS.x_train) + 1)
    curves = train(data, widths=(8, 6), bias=-1.0, steps=3, every=1, seeds=range(4))
    assert curves.layers == (8, 6)
    assert curves.alive.shape == (4, 4, 14)
    np.testing.assert_array_equal(curves.alive.mean(-1), curves.living)
    W, b = curves.end["0.weight"][2], curves.end["0.bias"][2]
    np.testing.assert_array_equal(
        ((data.x_train @ W.T + b) > 0).any(axis=0), curves.alive[-1, 2, :8]
    )


def test_learned_slope_learns_and_given_slope_stays():
    slope = partial(Elementwise, "leaky_relu", negative_slope=0.2)
    curves = train(DIGITS, widths=(8,), activation=PReLU, steps=20, seeds=range(2))
    assert (curves.start["1.slope"] == 0.25).all()
    assert (curves.end["1.slope"] != 0.25).all()
    burst = train(DIGITS, widths=(8,), activation=PReLU, learning_rate=1e9, steps=9, seeds=[0])
    assert burst.overflowed[-1, 0]
    leaky = train(DIGITS, widths=(8,), activation=slope, steps=0, seeds=[0]).net(0)
    z = torch.tensor([[-1.0, 2.0]], dtype=torch.float64)
    assert leaky[1](z).tolist() == [[-0.2, 2.0]]
    assert leaky[1].derivative(z.numpy()).tolist() == [[0.2, 1.0]]
    assert "negative_slope=0.2" in repr(leaky)
    with pytest.raises(TypeError, match="leaky_relu has keywords"):
        Elementwise("leaky_relu", slope=0.2)


# ---- convolutional nets -------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["max", "average", None])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_cnn_is_a_plain_module_s(batch_norm, pool):
    """The same net, written with PyTorch's own layers, trains alike."""
    data = digits(n_train=64)
    options = dict(channels=(4, 6), batch_norm=batch_norm, pool=pool)
    curves = train(data, cnn, batch_size=64, every=1, steps=4, seeds=[3, 4], **options)
    assert curves.layers == (4, 6)
    built = cnn(64, 10, generator(4), **options)
    layers = [nn.ReLU() if isinstance(layer, Elementwise) else layer for layer in built]
    net = nn.Sequential(*layers).train()
    x, y = torch.tensor(data.x_train), torch.tensor(data.y_train)
    descend = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(5):
        loss = nn.functional.cross_entropy(net(x), y)
        assert curves.loss[step, 1] == pytest.approx(loss.item(), rel=1e-9)
        descend.zero_grad()
        loss.backward()
        descend.step()


def test_cnn_has_weights_of_the_rule_and_keeps_the_image():
    net = cnn(64, 10, generator(0), channels=(32, 64), bias=-0.5, kernel_size=5, pool=None)
    first, second, output = (net[place] for place in (1, 3, 6))
    assert net[:-2](torch.zeros(2, 64, dtype=torch.float64)).shape == (2, 64, 8, 8)
    for layer, fan_in in ((first, 25), (second, 800), (output, 4096)):
        values = layer.weight.detach().numpy()
        assert values.std() == pytest.approx(
            math.sqrt(2 / fan_in), rel=4 / math.sqrt(2 * values.size)
        )
    assert (first.bias == -0.5).all()
    assert (output.bias == 0).all()
    uniform = cnn(64, 10, generator(0), init="pytorch")[1]
    assert 0.3 < uniform.weight.abs().max() <= 1 / 3
    assert 0.2 < uniform.bias.abs().max() <= 1 / 3
    given = cnn(16, 2, generator(0), init=lambda shape, rng: np.full(shape, 0.5))
    assert all((p == 0.5).all() for name, p in given.named_parameters() if "weight" in name)
    assert isinstance(cnn(64, 10, generator(0), activation=PReLU)[2], PReLU)


@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "replicate"])
def test_cnn_pads_as_it_is_told_under_many_seeds(padding_mode):
    options = dict(channels=(2, 3), padding_mode=padding_mode, steps=3, learning_rate=[0.1, 0.2])
    among = train(DIGITS, cnn, seeds=range(3), **options)
    alone = train(DIGITS, cnn, seeds=[2], **options)
    np.testing.assert_allclose(among.loss[:, :, 2], alone.loss[:, :, 0], rtol=1e-10)
    assert among.net(0, 0)[1].padding_mode == padding_mode


def test_a_channel_lives_where_one_position_does():
    def corner(shape, rng):
        kernel = np.full(shape, -1.0)  # the inputs are not negative: dead, but for one channel
        kernel[0] = 0
        kernel.reshape(len(kernel), -1)[0, 0] = 1
        return kernel

    data = digits("raw")
    lit = np.zeros_like(data.x_train)
    lit[5, 9] = 1.0  # one pixel of one image
    options = dict(channels=(3,), init=corner, steps=0, seeds=[0])
    assert train(data._replace(x_train=lit), cnn, **options).alive[0, 0].tolist() == [
        True, False, False
    ]  # fmt: skip
    assert not train(data._replace(x_train=0 * lit), cnn, **options).alive.any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n_in": 60}, "n_in must be the square"),
        ({"n_in": -4}, "n_in must be a whole number"),
        ({"channels": (4, 0)}, "channels must be a whole number, 1 or more, not 0"),
        ({"channels": (4,) * 4}, "channels must be fewer where pool is 'max'"),
        ({"kernel_size": 2}, "kernel_size must be odd"),
        ({"kernel_size": -1}, "kernel_size must be a whole number"),
        ({"pool": "min"}, "pool must be 'max', 'average' or None"),
        ({"padding_mode": "ones"}, "padding_mode"),
        ({"bias": math.inf}, "bias must be a finite number"),
        ({"init": "zeros"}, "init must be 'he', 'lecun', 'pytorch' or 'xavier', not"),
        ({"init": lambda shape, rng: np.ones(shape[:2])}, r"init must.*\(16, 1, 3, 3\)"),
        ({"activation": "rleu"}, "relu"),
    ],
)
def test_bad_convolutional_nets_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        cnn(**{"n_in": 64, "n_out": 10, "rng": generator(0)} | arguments)
