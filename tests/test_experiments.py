"""The laboratory: data, and many seeds trained at once."""

import numpy as np
import pytest
import torch
from torch import nn

from companion.devices import generator
from companion.experiments import INITS, digits, train, xor


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


def test_label_noise_changes_training_labels_only():
    clean, noisy = digits(), digits(label_noise=0.4)
    changed = (clean.y_train != noisy.y_train).mean()
    assert changed == pytest.approx(0.4 * 0.9, abs=0.04)
    assert np.array_equal(clean.y_test, noisy.y_test)
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


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"batch_norm": True}], ids=str)
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
            std = INITS["xavier"](layer.in_features, layer.out_features)
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
        torch.tensor(rng.normal(0, INITS["he"](*fans), fans)) for fans in ((64, 8), (8, 10))
    )
    hidden = nn.BatchNorm1d(8).double()(torch.tensor(data.x_train) @ first).relu()
    loss = nn.functional.cross_entropy(hidden @ second, torch.tensor(data.y_train))
    assert curves.loss[0, 0] == pytest.approx(loss.item(), rel=1e-9)


def test_living_counts_units_with_a_slope_somewhere():
    data = digits("raw")
    dead = data._replace(x_train=-data.x_train * 0)
    assert train(dead, steps=0, seeds=[0], **{"widths": (8,)}).living[0, 0] == 0
    assert train(data, steps=0, seeds=[0], activation="tanh", widths=(8,)).living[0, 0] == 1


def test_batches_go_through_the_data_without_replacement(monkeypatch):
    from companion import experiments

    batches = experiments._batches([generator(0), generator(1)], 10, 4)
    for _ in range(3):
        epoch = np.concatenate([next(batches), next(batches)], axis=1)
        assert all(len(set(row)) == 8 for row in epoch)
    assert not np.array_equal(epoch[0], epoch[1])


def test_xor_is_exclusive_or():
    data = xor()
    assert [tuple(x) for x in data.x_train[data.y_train == 1]] == [(-1, 1), (1, -1)]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"init": "zeros"}, ValueError, "init must be one of"),
        ({"optimizer": "lion"}, ValueError, "optimizer must be one of"),
        ({"batch_size": 0}, ValueError, "batch_size must be positive"),
        ({"activation": "rleu"}, ValueError, "relu"),
        ({"steps": -1}, ValueError, "steps must"),
        ({"every": 0}, ValueError, "every must"),
        ({"seeds": []}, ValueError, "seeds must"),
        ({"widths": (8, 0)}, ValueError, "widths must"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must"),
    ],
)
def test_bad_training_arguments_are_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        train(xor(), **arguments)


def test_nan_data_are_refused():
    data = xor()
    with pytest.raises(ValueError, match="x_train must be finite"):
        train(data._replace(x_train=data.x_train * np.nan))


def test_net_that_has_overflowed_reads_nothing_and_has_no_living_unit():
    curves = train(digits(), learning_rate=1e200, steps=5, every=5, seeds=range(2), widths=(8, 8))
    assert np.isnan(curves.loss[-1]).all()
    assert (curves.accuracy[-1] == 0).all()
    assert (curves.living[-1] == 0).all()
