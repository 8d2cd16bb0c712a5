"""Resets and pruning: the right weights, the same function, an optimizer that knows; or nothing."""

import copy
import dataclasses
import functools
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.prune import l1_unstructured

from companion import revival
from companion.detection import census
from companion.experiments import Elementwise, mlp, residual_mlp
from companion.initialization import he_normal
from companion.revival import (
    Centre,
    centre_inputs,
    prune,
    redraw,
    revive,
    revive_every,
    shift_bias,
    swap_activation,
    unit_groups,
)
from companion.revival.graph import Graph
from companion.revival.probing import ROUNDING, Probe, far


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- models -----------------------------------------------------------------------------------


class Functional(nn.Module):
    """A CNN whose activations, pooling and flattening are functions."""

    def __init__(self, flatten):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 3)
        self.fc1, self.fc2 = nn.Linear(4 * 4, 6), nn.Linear(6, 3)
        self.flatten = flatten

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = self.flatten(torch.relu_(self.conv2(h)))
        return self.fc2(F.dropout(self.fc1(h).relu(), training=self.training))


class Averaged(nn.Module):
    """Global averages by `mean`, and two heads."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5)
        self.head, self.value = nn.Linear(5, 3), nn.Linear(5, 1)

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x))).mean((-2, -1))
        return torch.cat([self.head(h), self.value(h)], 1)


class Tokens(nn.Module):
    """A transformer's MLP block on sequences, read at all tokens at once."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 7), nn.Linear(7, 4)
        self.gate = nn.Linear(4, 6)
        self.out = nn.Linear(6 * 5, 2)

    def forward(self, x):
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.out(F.relu(self.gate(x)).flatten(1))


def small_mlp():
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7, bias=False), nn.ReLU(inplace=True),
        nn.Dropout(0.3), nn.Linear(7, 3),
    )  # fmt: skip


def norm_mlp():
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 7),
        nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def norm_behind():
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3)
    )


def cnn():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, padding=1),
        nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(6 * 4, 7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def pooled_first():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(45),
        nn.Linear(45, 3),
    )  # fmt: skip


def series():
    return nn.Sequential(
        nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Conv1d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(2),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


IMAGES, ROWS, LINES, SEQUENCES = (2, 8, 8), (6,), (2, 12), (5, 4)
MODELS = {
    "mlp": (small_mlp, ROWS),
    "mlp, norm": (norm_mlp, ROWS),
    "mlp, norm behind": (norm_behind, ROWS),
    "mlp of the laboratory": (lambda: mlp(6, 3, rng(), widths=(8, 7)).float(), ROWS),
    "mlp of the laboratory, norm": (
        lambda: mlp(6, 3, rng(), widths=(8, 7), batch_norm=True).float(), ROWS
    ),
    "cnn": (cnn, IMAGES),
    "pooled first": (pooled_first, IMAGES),
    "one-dimensional cnn": (series, LINES),
    "global average": (Averaged, IMAGES),
    "tokens": (Tokens, SEQUENCES),
    "flatten(x, 1)": (lambda: Functional(lambda x: torch.flatten(x, 1)), IMAGES),
    "x.flatten(1)": (lambda: Functional(lambda x: x.flatten(1)), IMAGES),
    "x.view(x.size(0), -1)": (lambda: Functional(lambda x: x.view(x.size(0), -1)), IMAGES),
    "x.reshape(x.shape[0], -1)": (lambda: Functional(lambda x: x.reshape(x.shape[0], -1)), IMAGES),
    "x.reshape((x.size()[0], -1))": (
        lambda: Functional(lambda x: x.reshape((x.size()[0], -1))), IMAGES
    ),
}  # fmt: skip


def build(name, seed=0):
    """Make a model without dead units, in evaluation mode, and inputs for it."""
    return copy.deepcopy(living(name, seed))


@functools.cache
def living(name, first):
    """Try seeds until no unit is dead."""
    make, shape = MODELS[name]
    for seed in range(first, 99):
        torch.manual_seed(seed)
        model, x = make(), torch.randn(100, *shape)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.5, 0.5)
                    module.momentum = 0.5
            for _ in range(8):
                model(x)
        report = census(model.eval(), x)
        if not any(layer.dead.any() for layer in report):
            return model, x
    raise AssertionError(f"{name}: units are born dead")


def kill(model, report, units):
    """Make the same units of every group dead, by the bias that decides."""
    with torch.no_grad():
        for group in unit_groups(model, report):
            if group.problem:
                continue
            module = group.before[-1].module if group.before else group.module
            if module.bias is None:
                module.weight[units] = -module.weight[units].abs() * 50  # behind a ReLU
            else:
                module.bias[units] = -1e3
    return model


def dying(name, units=(1, 3)):
    """Make a model with these units dead in each layer, and no others; its inputs; its census."""
    model, x = copy.deepcopy(dead(name, units))
    return model, x, census(model, x)


@functools.cache
def dead(name, units):
    """Try seeds until only these are dead."""
    for seed in range(0, 60, 3):
        model, x = build(name, seed)
        kill(model, census(model, x), list(units))
        report = census(model, x)
        if all(np.flatnonzero(layer.dead).tolist() == list(units) for layer in report):
            return model, x
    raise AssertionError(f"{name}: others die with units {units}")


def everything(model, optimizer=None):
    """Copy all numbers that a reset could change, and the attributes and modes."""
    found = {name: t.clone() for name, t in model.state_dict().items()}
    for i, p in enumerate(model.parameters()):
        found[f"gradient {i}"] = torch.zeros(()) if p.grad is None else p.grad.clone()
        for key, value in (optimizer.state.get(p, {}) if optimizer else {}).items():
            found[f"{key} {i}"] = torch.as_tensor(value).clone()
    found["modes"] = torch.tensor([module.training for module in model.modules()])
    found["hooks"] = torch.tensor([len(m._forward_pre_hooks) for m in model.modules()])
    found["attributes"] = torch.tensor([len(vars(module)) for module in model.modules()])
    return found


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[key], b[key]) for key in a)


def trained(model, x, optimizer=torch.optim.Adam, steps=3, **options):
    """Take some steps in training mode, so that the optimizer has a state."""
    made = optimizer(model.parameters(), **({"lr": 1e-3} | options))
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for _ in range(steps):
        made.zero_grad()
        model(x).square().mean().backward()
        made.step()
    for module, mode in modes:
        module.training = mode
    return made


# ---- who feeds whom ---------------------------------------------------------------------------


def test_groups_print_as_a_table():
    model, x = build("cnn")
    groups = unit_groups(model, census(model, x))
    assert str(groups).splitlines() == [
        "activation  units  made by  batch norm  read by",
        "1           5      0                    3 (1 each)",
        "5           6      3        4           8 (4 each)",
        "9           7      8                    10 (1 each)",
    ]
    assert (len(groups), groups["5"].producer, groups["5"].norms[0].name) == (3, "3", "4")
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2), nn.ReLU())
    x = torch.randn(9, 6)
    assert str(unit_groups(model, census(model, x))).splitlines() == [
        "activation  units  made by  batch norm  read by",
        "1           4      0                    cannot be touched: 2 (LayerNorm) mixes them, or "
        "keeps their number",
        "4           2      3                    cannot be touched: the model puts them out",
    ]
    with pytest.raises(KeyError):
        groups["7"]


@pytest.mark.parametrize("name", MODELS)
def test_readers_are_those_that_a_perturbation_finds(name):
    """With a unit's columns at zero the output does not depend on it, and on no fewer columns."""
    model, x = build(name)
    model, x = model.double(), x.double()
    report = census(model, x)
    x = x[:4]
    for group in unit_groups(model, report):
        assert not group.problem
        for unit in range(group.n_units):
            module = group.module
            state = copy.deepcopy(model.state_dict())

            def change(unit=unit, module=module, group=group):  # how much the output moves
                source = group.before[-1].module if group.before else module

                def perturb(_, args, output, unit=unit):
                    output = output.clone()
                    axis = -1 if isinstance(module, nn.Linear) else 1
                    part = output.select(axis, unit)
                    part.copy_(part.abs() + torch.rand_like(part) + 0.5)
                    return output

                before = model(x)
                handle = source.register_forward_hook(perturb)
                after = model(x)
                handle.remove()
                return (after - before).abs().max().item()

            assert change() > 1e-9
            places = [reader.places[[unit]] for reader in group.readers]
            for reader, columns in zip(group.readers, places, strict=True):
                reader.module.weight.data[:, columns.ravel()] = 0
            assert change() == 0
            model.load_state_dict(state)
            for left in range(len(places)):  # all columns but one reader's, or one column
                for keep in places[left].ravel()[:: max(1, places[left].size // 2)]:
                    for reader, columns in zip(group.readers, places, strict=True):
                        kept = reader.module.weight[:, keep].clone()
                        reader.module.weight.data[:, columns.ravel()] = 0
                        if reader is group.readers[left]:
                            reader.module.weight.data[:, keep] = kept.detach()
                    assert change() > 1e-12
                    model.load_state_dict(state)


def test_columns_of_a_linear_layer_behind_a_convolution_are_in_pytorchs_order():
    model, x = build("cnn")
    reader = unit_groups(model, census(model, x))["5"].readers[0]
    expected = torch.arange(6).repeat_interleave(4)  # which channel each column reads
    for unit in range(6):
        found = reader.places[unit]
        assert found.tolist() == torch.nonzero(expected == unit).ravel().tolist()


# ---- the same function ------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_reset_of_dead_units_changes_no_output(name):
    model, x, report = dying(name)
    before = model(x)
    model.train()
    torch.manual_seed(1)
    before_train = copy.deepcopy(model)(x)
    model.eval()
    revival_ = revive(model, report, rng=rng(), skip=())
    assert revival_.n_units == 2 * len(report) == sum(int(layer.dead.sum()) for layer in report)
    assert (model(x) - before).abs().max() <= 2e-6 * before.abs().max()
    if "norm behind" not in name and name != "pooled first":
        assert torch.equal(model(x), before)
        torch.manual_seed(1)
        assert torch.allclose(copy.deepcopy(model).train()(x), before_train, rtol=1e-5, atol=1e-6)
    after = census(model, x)
    assert sum(int(layer.dead.sum()) for layer in after) < revival_.n_units / 2


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_sample_alone_is_an_example_of_convolutions(depthwise):
    middle = {"groups": 5} if depthwise else {}
    model = nn.Sequential(
        nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Conv1d(5, 5, 3, **middle), nn.ReLU(), nn.Conv1d(5, 5, 3)
    )
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([1.0, -100, 1, -100, 1])
        model[2].bias[:] = torch.tensor([1.0, 1, -100, 1, 1])
    x = torch.randn(30, 2, 12)
    report, before = census(model, x), model(x)
    smaller = prune(model, report, example=x[0])
    done = revive(model, report, rng=rng(), example=x[0])
    assert smaller.left == done.left == {}
    assert [u.tolist() for u in done.units.values()] == [[1, 3], [2]]
    for after in (smaller(x), model(x)):
        assert torch.allclose(after, before, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_record_tells_every_place_and_no_other(name):
    model, x, report = dying(name)
    optimizer = trained(model, x, steps=2)
    report = census(model, x)
    before = copy.deepcopy(model.state_dict())
    states = {n: copy.deepcopy(optimizer.state[p]) for n, p in model.named_parameters()}
    done = revive(model, report, rng=rng(), optimizer=optimizer)
    touched = {key: torch.zeros_like(t, dtype=torch.bool) for key, t in before.items()}
    reset = {(n, key): torch.zeros_like(p, dtype=torch.bool)
             for n, p in model.named_parameters() for key in ("exp_avg", "exp_avg_sq")}  # fmt: skip
    for item in done.touched:
        index = torch.from_numpy(item.index)
        touched[item.tensor].index_fill_(item.axis, index, True)
        for key in item.state:
            reset[item.tensor, key].index_fill_(item.axis, index, True)
    for key, value in model.state_dict().items():
        assert torch.equal(value[~touched[key]], before[key][~touched[key]]), key
    for n, p in model.named_parameters():
        assert optimizer.state[p]["step"] == 2
        for key in ("exp_avg", "exp_avg_sq"):
            now, then, places = optimizer.state[p][key], states[n][key], reset[n, key]
            assert torch.equal(now[~places], then[~places])
            assert key != "exp_avg" or not now[places].any()
            assert "constants" in str(done) or torch.equal(places, touched[n])


def test_what_a_reset_writes():
    model, _x, report = dying("cnn", units=(1, 4))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = copy.deepcopy(model.state_dict())
    done = revive(model, report, rng=rng())
    after = model.state_dict()
    assert {name: units.tolist() for name, units in done.units.items()} == {
        key: [1, 4] for key in ("1", "5", "9")
    }
    columns = {"3.weight": [1, 4], "8.weight": [4, 5, 6, 7, 16, 17, 18, 19], "10.weight": [1, 4]}
    for name, places in columns.items():
        assert not after[name][:, places].any()
        assert not model.get_parameter(name).grad[:, places].any()
    for name in ("0.weight", "3.weight", "8.weight"):
        rows = after[name][[1, 4]].flatten(1)
        rows = rows[:, rows.any(0)]  # without the columns of zeros
        assert (rows != before[name][[1, 4]].flatten(1)[:, : rows.shape[1]]).all()
        living = before[name][[0, 2, 3]]
        assert 0.5 < rows.std() / living.std() < 1.6
        assert torch.equal(after[name][[0, 2, 3]][:, 0], before[name][[0, 2, 3]][:, 0])
    for name, value in {"bias": 0, "weight": 1, "running_mean": 0, "running_var": 1}.items():
        assert (after[f"4.{name}"][[1, 4]] == value).all()
    for name in ("0.bias", "3.bias", "8.bias"):
        assert not after[name][[1, 4]].any()
    assert torch.equal(after["10.bias"], before["10.bias"])  # no constant came from it


def test_a_dry_run_tells_the_same_and_writes_nothing():
    model, x, report = dying("cnn")
    optimizer = trained(model, x)
    report = census(model, x)
    numbers, generator = everything(model, optimizer), rng()
    plan = revive(model, report, rng=generator, optimizer=optimizer, dry_run=True)
    assert same(everything(model, optimizer), numbers)
    assert generator.normal() == rng().normal()
    done = revive(model, report, rng=rng(), optimizer=optimizer)
    assert plan.dry_run
    assert not done.dry_run
    assert str(plan).splitlines()[1:] == str(done).splitlines()[1:]
    assert str(plan).startswith("6 units would be reset\nlayer  tensor")
    assert str(revive(model, report, rng=rng(), skip=["1", "5", "9"])) == "0 units reset"


@pytest.mark.parametrize(
    ("units", "printed"),
    [
        ([7], "7"),
        ([0, 1, 2, 7], "0-2, 7"),
        ([0, 2, 3, 5, 7, 9, 11, 12], "0, 2-3, 5, 7, 9, 11-12"),
        ([0, 2, 3, 5, 7, 9, 12, 14, 15], "0, 2-3, 5, 7, ..., 14-15"),
    ],
)
def test_places_are_printed_in_short(units, printed):
    model, report = wide(0)
    plan = revive(model, report, rng=rng(), units={"1": units}, dry_run=True)
    assert f"rows {printed}  " in str(plan)
    assert f"columns {printed}  " in str(plan)
    n = len(units)
    assert str(plan).startswith(f"{n} unit{'s' * (n > 1)} would be reset\n")


def test_fresh_units_learn():
    model, x, report = dying("mlp")
    revive(model, report, rng=rng())
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        moved.append(
            (model[0].weight.grad[[1, 3]].abs().max(), model[5].weight.grad[:, [1, 3]].abs().max())
        )
        optimizer.step()
    assert moved[0][0] == 0 < moved[0][1]  # outgoing weights first, then incoming ones
    assert moved[1][0] > 0
    assert (model[0].weight[[1, 3]] != start["0.weight"][[1, 3]]).any()


def test_a_reset_between_forward_and_backward_is_noticed_by_autograd():
    model, x, report = dying("mlp")
    loss = model(x).sum()
    revive(model, report, rng=rng())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- constants that dead units put out --------------------------------------------------------


@pytest.mark.parametrize("act", ["sigmoid", "tanh", "hardtanh", "relu6", "gelu"])
@pytest.mark.parametrize("task", ["revive", "prune"])
def test_constants_go_into_the_next_bias(act, task):
    make = {"hardtanh": nn.Hardtanh, "relu6": nn.ReLU6, "gelu": nn.GELU}
    layers = [make[act]() if act in make else Elementwise(act) for _ in range(2)]
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), layers[0], nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"),
        layers[1], nn.AvgPool2d(2), nn.Flatten(), nn.Linear(45, 3),
    ).double()  # fmt: skip
    x = torch.randn(50, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias[1], model[0].bias[2] = 100, -100
        model[2].weight[:, 1], model[2].weight[:, 2] = 0.01, 0.02  # which leaves the others alive
        model[2].bias[4] = 100
    report = census(model, x)
    dead = [layer.dead.tolist() for layer in report]
    above = act != "gelu"
    assert dead == [[False, above, True, False], [False] * 4 + [above]]
    before = model(x)
    if task == "prune":
        smaller = prune(model, report)
        assert (smaller(x) - before).abs().max() < 1e-6
        assert smaller[2].weight.shape == (5 - above, 3 - above, 3, 3)
    else:
        done = revive(model, report, rng=rng())
        assert (model(x) - before).abs().max() < 1e-6
        folded = [item.tensor for item in done.touched if item.now == "plus constants"]
        assert folded == (["2.bias", "6.bias"] if act != "gelu" else [])


def test_behind_a_batch_norm_a_dead_unit_is_a_constant():
    model, x, report = dying("mlp, norm behind")
    before, bias = model(x), model[3].bias.clone()
    smaller = prune(model, report)
    assert torch.allclose(smaller(x), before, atol=1e-5)
    assert smaller[2].num_features == 6
    assert not torch.allclose(smaller[3].bias, bias[[0, 2, 4, 5, 6]])
    model[3].bias = None
    report = census(model, x)
    before = model(x)
    numbers = everything(model)
    left = revive(model, report, rng=rng(), skip=["4"]).left
    assert left == {"1": "2 of 2 units: they put out constants, and 3 has no bias for them"}
    with pytest.raises(ValueError, match=r"'1'.*3 has no bias for them. Nothing was changed"):
        revive(model, report, rng=rng(), layers=["1"])
    assert same(everything(model), numbers)
    assert torch.allclose(prune(model, report)(x), before, atol=1e-5)  # which makes a bias


def padded(kind, **options):
    """Make a net whose one dead unit is a constant that a convolution reads; and its inputs."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), kind(4, 4, **options),
        nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(144, 3), nn.Tanh(), nn.Linear(3, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([9.0, 9.0, -100.0, 9.0])
        model[2].bias[2], model[6].bias[1] = 0.5, -100
        model[3].weight[0, 2] = model[3].weight[2, 0] = 0  # one output does not read it
    return model, torch.randn(9, 2, 8, 8)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
        (nn.Conv2d, {"kernel_size": (1, 3), "padding": (0, 1)}),
        (nn.Conv2d, {"kernel_size": (1, 3), "padding": "same"}),
        (nn.ConvTranspose2d, {"kernel_size": 1}),
    ],
)
def test_constants_that_padding_breaks_are_left(kind, options):
    """One dead unit out of reach; the other layer's is treated."""
    model, x = padded(kind, **options)
    report, numbers, before = census(model, x), everything(model), model(x)
    says = "1 of 1 units: they put out constants, and 3 pads with zeros"
    smaller = prune(model, report)
    assert smaller.left == {"1": says}
    assert (smaller[0].out_channels, smaller[6].out_features) == (4, 2)
    assert torch.allclose(smaller(x), before, atol=1e-6)
    for task in (revive, prune):
        with pytest.raises(ValueError, match=f"'1': {says}. Nothing was changed"):
            task(model, report, layers=["1"])
    assert same(everything(model), numbers)
    done = revive(model, report, rng=rng())
    assert list(done.units) == ["7"]
    assert f"left '1': {says}" in str(done).splitlines()
    assert torch.allclose(model(x), before, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 1, "padding": "same"},
        {"kernel_size": 3, "padding": "valid"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)
def test_constants_are_folded_where_nothing_is_padded_with_zeros(options):
    model, x = padded(nn.Conv2d, **options)
    report, before = census(model, x), model(x)
    smaller = prune(model, report)
    assert smaller.left == {}
    assert smaller[0].out_channels == 3
    revive(model, report, rng=rng())
    for after in (smaller(x), model(x)):
        assert torch.allclose(after, before, atol=1e-6)


def test_a_gradient_that_waits_stays_where_a_constant_is_added():
    """What stood there goes on; of the fresh weights it would be a gradient of the old ones."""
    model, _, report = dying("mlp, norm behind")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    done = revive(model, report, rng=rng(), skip=["4"])
    assert "plus constants" in str(done)
    assert model[3].bias.grad.all()
    assert model[0].weight.grad.any(1).tolist() == [i not in (1, 3) for i in range(8)]


def test_a_constant_that_differs_from_place_to_place_is_folded_where_each_has_a_column():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.AvgPool2d(3, 1, 1), nn.Flatten(),
        nn.Linear(144, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].bias[2], model[2].bias[2] = -100, 0.5
    x = torch.randn(9, 2, 8, 8)
    report, before = census(model, x), model(x)
    assert torch.allclose(prune(model, report)(x), before, atol=1e-6)
    revive(model, report, rng=rng())
    assert torch.allclose(model(x), before, atol=1e-6)


def test_a_flat_unit_that_jumps_stays():
    """A hard tanh at -1 and 1 has no derivative, but what it tells counts."""
    model = nn.Sequential(nn.Linear(1, 3), nn.Hardtanh(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1e6], [1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    x = torch.linspace(-1, 1, 100)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False, True]
    for example in (x, x[:1]):  # on one sample alone, it does not jump
        plan = revive(model, report, rng=rng(), dry_run=True, example=example)
        assert plan.units["1"].tolist() == [2]
    assert torch.allclose(prune(model, report)(x), model(x), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flat_unit_whose_output_still_varies_stays(dtype):
    """Softsign is dead from 999 on, where it has not yet arrived at 1: it tells one more digit."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Softsign(), nn.Linear(2, 2)).to(dtype)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3e3], [1.0]]))
        model[0].bias.copy_(torch.tensor([3e3, 0.0]))
        model[2].weight[0, 0] = 0  # it is enough that one output hears of it
    x = torch.linspace(0, 1, 100, dtype=dtype)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False]
    assert revive(model, report, rng=rng(), dry_run=True).units == {}
    smaller = prune(model, report)
    assert smaller[0].out_features == 2
    assert smaller.left == {"1": "1 of 1 units: what 2 reads there varies"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [nn.SELU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU])
def test_saturated_units_are_constant_in_either_precision(kind, dtype):
    model = nn.Sequential(nn.Linear(8, 9), kind(), nn.Linear(9, 2)).to(dtype)
    nn.init.constant_(model[0].bias[:5], -90.0)
    x = torch.randn(400, 8, dtype=dtype)
    report, before = census(model, x), model(x)
    assert report["1"].dead.sum() == 5
    smaller = prune(model, report)
    assert smaller[0].out_features == 4
    assert revive(model, report, rng=rng()).units["1"].tolist() == [0, 1, 2, 3, 4]
    for after in (smaller(x), model(x)):
        assert (after - before).abs().max() <= 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_treated(dtype):
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 6, 3), nn.GELU(),
        nn.Flatten(), nn.Linear(96, 7), nn.SELU(), nn.Linear(7, 3),
    ).to(dtype).eval()  # fmt: skip
    with torch.no_grad():
        for layer, dead in ((1, 4), (3, 2), (6, 5)):
            model[layer].bias[:dead] = -60
    x = torch.randn(50, 2, 8, 8).to(dtype)
    report, before = census(model, x), model(x)
    smaller = prune(model, report)
    assert [layer.n_values for layer in census(smaller, x)] == [50 * 36, 50 * 16, 50]
    assert [len(layer) for layer in census(smaller, x)] == [4, 4, 2]
    assert [len(units) for units in revive(model, report).units.values()] == [4, 2, 5]
    for after in (smaller(x), model(x)):
        assert (after - before).abs().max() <= 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-9, 1e-3])
@pytest.mark.parametrize("alone", [True, False])
def test_small_outputs_that_tell_something_are_never_folded(scale, alone):
    """A dead SiLU puts out little, but a large weight may read it."""
    model = nn.Sequential(nn.Linear(1, 2), nn.SiLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0], [0.0 if alone else 1.0]]))
        model[0].bias.copy_(torch.tensor([-25.0, 0.0 if alone else 1.0]))
        model[2].weight.copy_(torch.tensor([[1e6 * scale, 1.0]]))
    x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    report, before = census(model, x), model(x)
    assert report["1"].dead[0]
    smaller = prune(model, report)
    assert smaller[0].out_features == 2
    assert torch.equal(smaller(x), before)


@pytest.mark.parametrize(("part", "folds"), [(0.0, False), (7e-16, False), (1e-15, True)])
def test_what_is_below_rounding_needs_no_bias(part, folds):
    """A constant counts if it is more than the last digits of the reader's own sum."""
    model = nn.Sequential(
        nn.Linear(1, 2), nn.Threshold(0.0, part), nn.Linear(2, 1, bias=False)
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([-9.0, 0.0]))
        model[2].weight.fill_(1.0)
    x = torch.linspace(0.5, 1.5, 9, dtype=torch.float64)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False]
    done = revive(model, report, rng=rng(), dry_run=True, example=x)
    assert ("has no bias" in str(done.left)) == folds
    assert done.n_units == (not folds)
    made = prune(model, report, example=x)[2].bias
    assert (made is not None) == folds
    assert not folds or made.item() == part


@pytest.mark.parametrize("value", [1e-3, *np.geomspace(1e3, 1e6, 12)])  # their squares are rounded
def test_a_constant_is_one_whatever_its_size(value):
    model = nn.Sequential(nn.Linear(1, 2), nn.Threshold(0.0, value), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([-50.0, 50.0]))
    x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    smaller = prune(model, census(model, x))
    assert smaller[0].out_features == 1
    assert torch.allclose(smaller(x), model(x), rtol=1e-9)


def test_a_weak_unit_that_lives_is_not_pruned():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1e-3], [1.0]]))
        model[0].bias.zero_()
    report = census(model, torch.linspace(0, 1, 100)[:, None])
    assert report["1"].score[0] < 0.01
    assert prune(model, report)[0].out_features == 2


# ---- which units, and which weights -----------------------------------------------------------


def test_tau_takes_dormant_units_too():
    model, x, report = dying("mlp")
    scores = {layer.name: layer.score for layer in report}
    for tau in (0.0, 0.1, 0.6, 1.2):
        plan = revive(model, report, rng=rng(), tau=tau, dry_run=True)
        for name, score in scores.items():
            assert plan.units[name].tolist() == np.flatnonzero(score <= tau).tolist()
    assert revive(model, report, rng=rng(), tau=1.2, dry_run=True).n_units > 6
    (name, score), *_ = scores.items()
    tau = float(np.sort(score)[-2])  # a score itself
    plan = revive(model, report, rng=rng(), tau=tau, dry_run=True)
    assert len(plan.units[name]) == (score <= tau).sum() > (score < tau).sum()
    before = model(x)
    revive(model, report, rng=rng(), tau=0.6)
    assert not torch.allclose(model(x), before, rtol=1e-3)


def test_units_layers_and_skip_choose():
    model, _, report = dying("cnn")
    names = [layer.name for layer in report]

    def plan(**options):
        return revive(model, report, rng=rng(), dry_run=True, **options).units

    assert list(plan(layers=["5"])) == ["5"]
    assert list(plan(skip=["5"])) == ["1", "9"]
    chosen = plan(units={"9": [4, 2, 2]})
    assert {name: units.tolist() for name, units in chosen.items()} == {"9": [2, 4]}
    for options in ({"layers": ["0"]}, {"skip": ["0"]}, {"units": {"0": [1]}}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be among"):
            plan(**options)
    for options in ({"layers": "5"}, {"skip": "5"}, {"units": "5"}, {"layers": 5}):
        with pytest.raises(TypeError, match=f"{next(iter(options))} must be a list of names, not"):
            plan(**options)
    with pytest.raises(ValueError, match="from 0 to 6 in '9'"):
        plan(units={"9": [7]})
    with pytest.raises(TypeError, match="units must hold lists of whole numbers"):
        plan(units={"9": [0.5]})
    assert names == ["1", "5", "9"]


def wide(dead):
    model = nn.Sequential(nn.Linear(300, 80), nn.ReLU(), nn.Linear(80, 2)).double()
    with torch.no_grad():
        model[0].weight *= 5
        model[0].bias[:dead] = -1e4
    x = torch.randn(20, 300, dtype=torch.float64)
    return model, census(model, x)


@pytest.mark.parametrize(
    ("incoming", "std"),
    [
        (None, 5 / math.sqrt(900)),  # PyTorch's default times 5: that of the living
        ("pytorch", 1 / math.sqrt(900)),
        ("he", math.sqrt(2 / 300)),
        ("lecun", math.sqrt(1 / 300)),
        ("xavier", math.sqrt(2 / 380)),
        (he_normal, math.sqrt(2 / 300)),
    ],
)
def test_incoming_weights_have_the_asked_size(incoming, std):
    model, report = wide(40)
    revive(model, report, rng=rng(), incoming=incoming)
    rows = model[0].weight[:40].detach()
    assert rows.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * rows.numel()))
    assert abs(rows.mean()) < 4 * std / math.sqrt(rows.numel())
    bounded = bool(rows.abs().max() <= 1 / math.sqrt(300))
    assert bounded == (incoming == "pytorch")


def test_a_layer_without_living_units_is_drawn_as_pytorch_does():
    model, report = wide(80)
    revive(model, report, rng=rng())
    rows = model[0].weight.detach()
    assert rows.abs().max() <= 1 / math.sqrt(300) < 1.01 * rows.abs().max()
    before = rows.clone()
    model, report = wide(80)
    revive(model, report, rng=rng())
    assert torch.equal(model[0].weight, before)  # the generator alone decides


def test_dead_units_that_are_not_chosen_say_nothing_of_the_living():
    model, report = wide(60)
    adam = trained(model, torch.randn(9, 300, dtype=torch.float64), steps=1)
    with torch.no_grad():
        model[0].weight[:60] = 0
    for state in adam.state.values():
        state["exp_avg_sq"].fill_(1.0)
    adam.state[model[0].weight]["exp_avg_sq"][:60] = 0
    revive(model, report, rng=rng(), optimizer=adam, units={"1": range(10)})
    assert (adam.state[model[0].weight]["exp_avg_sq"][:10] == 1).all()
    fresh, living = (model[0].weight[rows].std().item() for rows in (slice(10), slice(60, None)))
    assert fresh == pytest.approx(living, rel=0.05)


def test_running_statistics_are_those_of_a_batch():
    model, x, report = dying("cnn")
    before = model(x)
    done = revive(model, report, rng=rng(), batch=x)
    assert torch.equal(model(x), before)
    z = model[:4](x)[:, [1, 3]].transpose(0, 1).flatten(1)
    assert torch.allclose(model[4].running_mean[[1, 3]], z.mean(1), rtol=1e-4)
    assert torch.allclose(model[4].running_var[[1, 3]], z.var(1), rtol=1e-4)
    after = census(model, x)["5"].p_active[[1, 3]]
    assert ((after > 0.1) & (after < 0.9)).all()
    told = {item.tensor: item.now for item in done.touched if item.tensor.startswith("4.")}
    assert told == {
        "4.weight": "one", "4.bias": "zero", "4.running_mean": "of the batch",
        "4.running_var": "of the batch",
    }  # fmt: skip
    assert not model[4]._forward_pre_hooks


# ---- the optimizer's state --------------------------------------------------------------------


def constant_gradient(rule, steps, past=5000, n=8):
    """Let Adam have seen a gradient of ones; reset two of n units; return the steps by the rate."""
    model = nn.Sequential(nn.Linear(3, n), nn.ReLU(), nn.Linear(n, 2)).double()
    with torch.no_grad():
        model[0].bias.fill_(100)
        model[0].bias[:2] = -100
    report = census(model, torch.randn(50, 3, dtype=torch.float64))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, eps=0)

    def step():
        start = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        adam.step()
        return [(a - b).detach() / 1e-3 for a, b in zip(start, model.parameters(), strict=True)]

    step()
    for state in adam.state.values():
        state["step"].fill_(past)
        state["exp_avg"].fill_(1 - 0.9**past)
        state["exp_avg_sq"].fill_(1 - 0.999**past)
    torch.testing.assert_close(step()[0], torch.ones(n, 3, dtype=torch.float64))
    revive(model, report, optimizer=adam, rng=rng(), state=rule)
    fresh, others = [], []
    for weight, bias, out, _ in (step() for _ in range(steps)):
        moved = torch.cat([weight[:2].ravel(), bias[:2], out[:, :2].ravel()])
        stayed = torch.cat([weight[2:].ravel(), bias[2:], out[:, 2:].ravel()])
        assert moved.std() < 1e-9
        assert stayed.std() < 1e-9
        fresh.append(moved.mean().item())
        others.append(stayed.mean().item())
    return np.array(fresh), np.array(others)


def jump(t, past=5001):
    """Write out (1 - β₁ᵗ) / √(1 - β₂ᵗ) for moments of zero under a count that goes on."""
    return (1 - 0.9**t) / np.sqrt(1 - 0.999**t) * np.sqrt(1 - 0.999 ** (past + t))


T = np.arange(1, 1001)


def test_zeroed_moments_make_fresh_weights_jump():
    fresh, others = constant_gradient("zero", 1000)
    np.testing.assert_allclose(fresh, jump(T), rtol=1e-9)
    assert fresh[0] == pytest.approx(3.15, abs=0.01)
    assert fresh.argmax() + 1 == 12
    assert fresh.max() == pytest.approx(6.55, abs=0.01)
    assert fresh[-1] == pytest.approx(1.26, abs=0.01)
    np.testing.assert_allclose(others, 1, rtol=1e-9)


def test_a_zeroed_step_slows_the_survivors():
    fresh, others = constant_gradient("zero_step", 1000)
    np.testing.assert_allclose(fresh, 1, rtol=1e-9)
    np.testing.assert_allclose(others, 1 / jump(T), rtol=1e-9)
    assert others[0] == pytest.approx(0.32, abs=0.005)
    assert others.argmin() + 1 == 12
    assert others.min() == pytest.approx(0.153, abs=0.001)
    assert others[-1] == pytest.approx(0.80, abs=0.005)


def test_a_seeded_state_starts_gently_and_slows_nobody():
    fresh, others = constant_gradient("seed", 100)
    np.testing.assert_allclose(fresh, 1 - 0.9 ** T[:100], rtol=1e-9)
    assert fresh[[0, 9, 21]] == pytest.approx([0.10, 0.65, 0.90], abs=0.005)
    assert fresh.max() < 1
    np.testing.assert_allclose(others, 1, rtol=1e-9)


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True, "foreach": False}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "fused": (torch.optim.AdamW, {"fused": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "rmsprop, all": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
}


@pytest.mark.parametrize("rule", ["seed", "zero", "zero_step"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_state_is_reset_by_parameter_whatever_its_group(kind, rule):
    """Layers without biases, groups in another order, and biases' moments too."""
    make, options = OPTIMIZERS[kind]
    model, x, _ = dying("mlp, norm")
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 1], "lr": 1e-4},
        {"params": [p for p in model.parameters() if p.ndim > 1][::-1]},
    ]
    optimizer = trained(model, x, lambda _, **o: make(groups, **o), steps=4, **options)
    report = census(model, x)
    dead = {layer.name: np.flatnonzero(layer.dead) for layer in report}
    before = {p: copy.deepcopy(dict(optimizer.state[p])) for p in model.parameters()}
    revive(model, report, rng=rng(), optimizer=optimizer, state=rule)
    places = {
        "0.weight": (0, "2"), "1.weight": (0, "2"), "1.bias": (0, "2"), "3.weight": (0, "5"),
        "3.bias": (0, "5"), "4.weight": (0, "5"), "4.bias": (0, "5"), "6.weight": (1, "5"),
    }  # fmt: skip
    for name, p in model.named_parameters():
        state, old = optimizer.state[p], before[p]
        assert state.keys() == old.keys()
        for key, value in state.items():
            if key == "step":
                assert value == (0 if rule == "zero_step" and name in places else 4)
                continue
            if value is None:
                continue
            if name not in places:
                assert torch.equal(value, old[key])
                continue
            axis, layer = places[name]
            index = torch.from_numpy(dead[layer])
            keep = torch.ones(value.shape[axis], dtype=torch.bool)
            keep[index] = False
            living = old[key].transpose(0, axis)[keep]
            new = value.transpose(0, axis)
            if name == "3.weight":  # whose columns of the layer before are reset as well
                others = torch.ones(8, dtype=torch.bool)
                others[torch.from_numpy(dead["2"])] = False
                living, new = living[:, others], new[:, others]
            assert torch.equal(new[keep], living)
            if rule == "seed" and key in ("exp_avg_sq", "max_exp_avg_sq", "square_avg"):
                assert torch.equal(new[index], living.median(0).values.expand_as(new[index]))
                assert (new[index] > 0).any()
            else:
                assert not new[index].any()


@pytest.mark.parametrize("rule", ["seed", "zero"])
def test_the_state_of_columns_goes_with_their_units(rule):
    model, x, _ = dying("cnn")
    optimizer = trained(model, x, steps=2)
    report = census(model, x)
    old = optimizer.state[model[8].weight]["exp_avg_sq"].clone()
    revive(model, report, rng=rng(), optimizer=optimizer, state=rule, layers=["5"])
    new = optimizer.state[model[8].weight]["exp_avg_sq"]
    dead = report["5"].dead
    for unit in range(6):
        columns = slice(4 * unit, 4 * unit + 4)
        if not dead[unit]:
            assert torch.equal(new[:, columns], old[:, columns])
        elif rule == "zero":
            assert not new[:, columns].any()
        else:
            living = old.unflatten(1, (6, 4))[:, ~dead].median(1).values
            assert torch.equal(new[:, columns], living)


def test_where_no_unit_lives_the_tensor_starts_as_a_new_one():
    model, x = build("mlp")
    kill(model, census(model, x), list(range(8 - 1)))
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    optimizer = trained(model, x, steps=3)
    report = census(model, x)
    assert report["1"].dead.all()
    revive(model, report, rng=rng(), optimizer=optimizer, layers=["1"])
    for p in (model[0].weight, model[0].bias, model[2].weight):
        state = optimizer.state[p]
        assert (state["step"], state["exp_avg"].any(), state["exp_avg_sq"].any()) == (0, 0, 0)
    assert optimizer.state[model[5].weight]["step"] == 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: torch.optim.Adam(nn.Linear(2, 2).parameters()), "holds none of them"),
        (lambda m: torch.optim.Adam([m[0].weight, m[0].bias, m[5].weight]), "not hold 2.weight$"),
        (lambda m: torch.optim.Adagrad(m.parameters()), "Adagrad keeps 'sum' for 0.weight"),
        (lambda m: torch.optim.Adadelta(m.parameters()), "Adadelta keeps 'acc_delta'"),
        (lambda m: torch.optim.NAdam(m.parameters()), "NAdam keeps 'mu_product'"),
    ],
)
def test_optimizers_that_are_not_understood_are_refused(make, says):
    model, x, report = dying("mlp")
    optimizer = trained(model, x, lambda _, **options: make(model))
    numbers = everything(model, optimizer)
    with pytest.raises(ValueError, match=says):
        revive(model, report, rng=rng(), optimizer=optimizer)
    assert same(everything(model, optimizer), numbers)
    with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer"):
        revive(model, report, rng=rng(), optimizer=model.parameters())


# ---- what is refused --------------------------------------------------------------------------


class Net(nn.Module):
    """Calls a function on named layers."""

    def __init__(self, call, **layers):
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.call(self, x)


def linear(n=4, m=4):
    return nn.Linear(n, m)


def tied():
    net = nn.Sequential(linear(), nn.ReLU(), linear(), nn.ReLU(), linear())
    net[4].weight = net[2].weight
    return net


def parametrized(how, at):
    net = nn.Sequential(linear(), nn.ReLU(), linear())
    how(net[at])
    return net


REFUSED = {
    "residual stream": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)) + x), a=linear(), b=linear()),
        r"'relu\(\)': its output goes into add with what the model's input makes \(a residual",
    ),
    "in-place residual": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)).add_(x)), a=linear(), b=linear()),
        "its output goes into add with what the model's input makes",
    ),
    "the laboratory's residual net": (
        lambda: residual_mlp(4, 2, rng(), width=4, blocks=2).float(),
        "takes what several layers make .*: 0 and 1.branch.1",
    ),
    "the output itself": (
        lambda: nn.Sequential(linear(), nn.ReLU()), "the model puts them out"
    ),
    "tied weights": (tied, r"'1': the weight of 2 \(Linear\) is tied"),
    "a weight read by a function": (
        lambda: Net(lambda n, x: F.linear(n.b(F.relu(n.a(x))), n.a.weight), a=linear(), b=linear()),
        "the function would change|does not run without them|varies",
    ),
    "spectral norm": (
        lambda: parametrized(parametrizations.spectral_norm, 0), "0 .* is parametrized"
    ),
    "weight norm": (lambda: parametrized(parametrizations.weight_norm, 2), "2 .* is parametrized"),
    "masked weights": (
        lambda: parametrized(lambda m: l1_unstructured(m, "weight", 3), 2),
        "2 .* is parametrized",
    ),
    "the laboratory's spectral norm": (
        lambda: mlp(4, 2, rng(), widths=(4, 4), spectral_norm=True).float(),
        "the function would change|varies",
    ),
    "a layer called twice": (
        lambda: Net(lambda n, x: n.b(F.relu(n.b(F.relu(n.a(x))))), a=linear(), b=linear()),
        r"b \(Linear\) is called 2 times",
    ),
    "groups": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Conv1d(4, 4, 1, groups=2)
        ),
        "convolution with groups",
    ),
    "depthwise, two of each": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Conv1d(4, 8, 1, groups=4)
        ),
        "convolution with groups",
    ),
    "depthwise, transposed": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1), nn.ReLU(),
            nn.ConvTranspose1d(4, 4, 1, groups=4), nn.Conv1d(4, 4, 1),
        ),
        "convolution with groups",
    ),
    "layer norm": (
        lambda: nn.Sequential(linear(), nn.LayerNorm(4), nn.ReLU(), linear()),
        r"1 \(LayerNorm\) mixes them, or keeps their number",
    ),
    "layer norm behind": (
        lambda: nn.Sequential(linear(), nn.ReLU(), nn.LayerNorm(4), linear()),
        r"2 \(LayerNorm\) mixes",
    ),
    "a pre-activation that is used twice": (
        lambda: Net(lambda n, x: n.b(F.relu(z := n.a(x))) + z, a=linear(), b=linear()),
        "the model puts them out",
    ),
    "no layer before": (lambda: nn.Sequential(nn.ReLU(), linear()), "the model's input"),
    "a mean over units": (
        lambda: Net(
            lambda n, x: n.b((h := F.relu(n.a(x))) - h.mean(1, True)), a=linear(), b=linear()
        ),
        "with what|something else reads",
    ),
    "a softmax over units": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)).softmax(1)), a=linear(), b=linear()),
        "something else reads its output too",
    ),
    "a part of what a layer makes": (
        lambda: Net(
            lambda n, x: n.b((h := n.a(x).chunk(2, -1))[0] * F.relu(h[1])),
            a=linear(4, 8), b=linear(),
        ),
        "a makes 8 outputs, of which it takes a part",
    ),
    "units that nothing reads": (
        lambda: Net(lambda n, x: (F.relu(n.a(x)), n.b(x))[1], a=linear(), b=linear()),
        "no layer reads them|cannot follow them",
    ),
    "a reader of a part": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x))[:, :2]), a=linear(), b=linear(2, 4)),
        "b reads some of them only",
    ),
    "another order": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)).flip(1)), a=linear(), b=linear()),
        "something else reads its output too, or in a way that is not known",
    ),
    "a scale of its own": (
        lambda: Net(
            lambda n, x: n.b(F.relu(n.a(x)) * n.scale),
            a=linear(), b=linear(), scale=nn.Parameter(torch.ones(4)),
        ),
        "a parameter of the model has an entry for each",
    ),
    "group norm": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1), nn.ReLU(), nn.GroupNorm(2, 4),
            nn.Conv1d(4, 4, 1),
        ),
        r"3 \(GroupNorm\) mixes them",
    ),
    "an output without a gradient": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x))).argmax(1), a=linear(), b=linear()),
        "torch_pruning cannot follow the model|no layer reads them|cannot follow them",
    ),
    "a layer that autograd does not see": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x).detach())), a=linear(), b=linear()),
        "torch_pruning cannot follow them",
    ),
    "a second reader that only trains": (
        lambda: Net(
            lambda n, x: (n.b(h := F.relu(n.a(x))), h.sum(1) if n.training else x),
            a=linear(), b=linear(),
        ),
        "something else reads its output too",
    ),
}  # fmt: skip


def second_dead(report):
    """Make a report in which the second unit of each layer is dead."""

    def without(array):
        return np.where(np.arange(len(array)) == 1, 0, array)

    sums = ("active", "steep", "upper", "total", "size", "low", "high")
    layers = (
        dataclasses.replace(layer, **{name: without(getattr(layer, name)) for name in sums})
        for layer in report
    )
    return dataclasses.replace(report, layers=tuple(layers))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("task", ["revive", "prune"])
def test_what_cannot_be_done_safely_is_refused_by_name(name, task):
    make, says = REFUSED[name]
    model = make().eval()
    x = torch.randn(20, 4)
    report = census(model, x)
    units = {layer.name: [1] for layer in report}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    numbers, printed = everything(model, optimizer), str(report)
    explicit = {
        "revive": lambda: revive(model, report, units=units, optimizer=optimizer),
        "prune": lambda: prune(model, second_dead(report), layers=report.names),
    }
    with pytest.raises(ValueError, match=says) as refused:
        explicit[task]()
    assert "Nothing was changed" in str(refused.value)
    before = model(x)
    if task == "revive":
        done = revive(model, second_dead(report), optimizer=optimizer)
        assert done.units == {}
    else:
        done = prune(model, second_dead(report))
        assert [p.shape for p in done.parameters()] == [p.shape for p in model.parameters()]
    assert list(done.left) == report.names[: len(done.left)]
    assert re.search(says, "; ".join(f"{name!r}: {why}" for name, why in done.left.items()))
    assert torch.equal(torch.as_tensor(model(x)[0]), torch.as_tensor(before[0]))
    assert same(everything(model, optimizer), numbers)
    assert str(report) == printed
    assert revive(model, report, rng=rng(), units=units, skip=report.names).n_units == 0


class Remembers(nn.Module):
    """Keeps what it sees, also with its graph; draws; makes tensors; changes buffers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.seen, self.log = linear(), linear(), None, []
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, x, *rest):
        if x.ndim != 2 or not len(x):
            raise ValueError("x must have two axes")
        self.count += 1
        if self.training:
            self.mean += 0.1 * x.mean(0)
        self.seen = F.relu(self.a(x - self.mean + torch.zeros(4)))
        self.log.append(self.seen)
        return {"y": self.b(self.seen * torch.rand(4)), "n": len(x), "more": [np.random.rand()]}  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("task", ["unit_groups", "prune", "revive", "dry run"])
def test_looking_changes_nothing(task, training, fails):
    model, x = Remembers().train(training), torch.randn(9, 4)
    with torch.no_grad():
        model.a.bias[1] = -100
    model(x)
    report = census(model, x)
    model.log.append(model(x)["y"])  # which PyTorch does not copy
    attributes, log = dict(vars(model)), list(model.log)
    buffers = {name: t.clone() for name, t in model.named_buffers()}
    numbers, random = everything(model), torch.get_rng_state()
    other = np.random.get_state()[1].copy()  # noqa: NPY002
    tasks = {
        "unit_groups": lambda **o: unit_groups(model, report, **o),
        "prune": lambda **o: prune(model, report, **o),
        "revive": lambda **o: revive(model, report, **({"rng": 0} | o)),
        "dry run": lambda **o: revive(model, report, dry_run=True, **o),
    }
    if fails:
        with pytest.raises(ValueError, match="two axes"):
            tasks[task](example=torch.zeros(4))
    else:
        tasks[task]()
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == other).all()  # noqa: NPY002
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[key] is attributes[key] for key in attributes)
    assert all(a is b for a, b in zip(model.log, log, strict=True))
    assert all(torch.equal(t, buffers[name]) for name, t in model.named_buffers())
    assert task == "revive" or same(everything(model), numbers)


class WithDefaults(nn.Module):
    """Adds a residual unless told otherwise, and has a second head while it trains."""

    def __init__(self, plain, extra):
        super().__init__()
        self.a, self.b, self.head = linear(), linear(), linear() if extra else None
        self.plain = plain

    def forward(self, x, skip=None, *, scale=2.0, name="x"):
        h = F.relu(self.a(x))
        y = self.b(h if self.plain or skip is not None else h + x)
        return (y, self.head(h)) if self.head and self.training else y


@pytest.mark.parametrize(
    ("plain", "extra", "problem"),
    [
        (True, False, ""),
        (False, False, "its output goes into add"),
        (True, True, "something else reads its output too"),
    ],
)
def test_defaults_and_training_mode_are_part_of_the_model(plain, extra, problem):
    model, x = WithDefaults(plain, extra), torch.randn(9, 4)
    report = census(model, x)
    group = unit_groups(model, report)["relu()"]
    assert group.problem.startswith(problem)
    assert bool(group.problem) == bool(problem)


@pytest.mark.parametrize(
    ("example", "call", "problem"),
    [
        (torch.randn(5, 4), None, "its output goes into add"),
        ((torch.randn(5, 4),), None, "its output goes into add"),
        ((torch.randn(5, 4), True), None, ""),
        ({"x": torch.randn(5, 4), "skip": 1}, None, ""),
        ([torch.randn(5, 4)], lambda model, batch: model(batch[0], skip=0), ""),
        (None, None, "its output goes into add"),
    ],
)
def test_an_example_comes_in_many_forms(example, call, problem):
    model = WithDefaults(False, False)
    with torch.no_grad():
        model.a.bias[2] = -100
    report = census(model, torch.randn(9, 4))
    options = {"example": example, "call": call}
    assert unit_groups(model, report, **options)["relu()"].problem.startswith(problem)
    done = revive(model, report, dry_run=True, **options)
    assert bool(done.left) == bool(problem) != bool(done.units)
    assert bool(prune(model, report, **options).left) == bool(problem)


class Wrapped(nn.Module):
    """An activation as transformers has them: a module that calls one."""

    def forward(self, z):
        return F.relu(z)


@pytest.mark.parametrize("own", [(), (Wrapped,)])
def test_a_module_that_calls_an_activation_is_known_by_either_name(own):
    model, x = nn.Sequential(linear(), Wrapped(), linear()), torch.randn(20, 4)
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([9, -100, 9, 9])
    report = census(model, x, activations=own)
    assert report[0].activation == ("wrapped" if own else "relu")
    assert prune(model, report)[0].out_features == 3
    assert revive(model, report).units[report[0].name].tolist() == [1]


def test_a_model_that_torch_pruning_cannot_follow_is_left_whole(monkeypatch):
    def fails(graph):
        raise KeyError("node")

    model, _, report = dying("mlp")
    monkeypatch.setattr("torch_pruning.dependency.shape_infer.init_shape_information", fails)
    problem = "torch_pruning cannot follow the model (KeyError('node'))"
    assert prune(model, report).left == dict.fromkeys(report.names, problem)
    assert revive(model, report).left == dict.fromkeys(report.names, problem)


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        (lambda n: n.count * torch.ones(n.a.out_features), True),
        (lambda n: torch.tensor(n.a.out_features), True),
        (lambda n: n.count + 0, False),
    ],
)
def test_outputs_of_another_shape_or_number_are_another_function(more, changes):
    """Also where a parameter is no float, whose last digit is not moved."""
    model = Net(
        lambda n, x: (n.b(F.relu(n.a(x))), more(n)),
        a=linear(), b=linear(), count=nn.Parameter(torch.tensor(3), requires_grad=False),
    )  # fmt: skip
    with torch.no_grad():
        model.a.bias[1] = -100
    report = census(model, torch.randn(9, 4))
    left = {"relu()": "the function would change"} if changes else {}
    assert prune(model, report).left == left
    assert revive(model, report).n_units == report[0].dead.sum()


def test_places_that_a_norm_does_not_have_are_refused(monkeypatch):
    """As where torch_pruning loses its way through channels that are shuffled."""
    model, _, report = dying("mlp, norm behind")
    assert len(unit_groups(model, report)["1"].after) == 1
    members = Graph.members

    def lost(self, producer):
        for name, reads, places in members(self, producer):
            yield name, reads, places + 1

    monkeypatch.setattr(Graph, "members", lost)
    problem = unit_groups(model, report)["1"].problem
    assert problem == "2 has entries for them in a way that is not known"


class Excites(nn.Module):
    """Units are multiplied with gates that are made of all of them (squeezed), or of the input."""

    def __init__(self, squeezes):
        super().__init__()
        self.squeezes, self.x = squeezes, linear(4, 3)
        self.a, self.norm, self.squeeze = linear(4, 6), nn.BatchNorm1d(6), linear(6, 3)
        self.excite, self.b = linear(3, 6), linear(6, 3)

    def forward(self, x):
        h = torch.relu(self.norm(self.a(x)))
        few = self.squeeze(h) if self.squeezes else self.x(x)
        return self.b(h * F.hardsigmoid(self.excite(F.silu(few))))


class Star(nn.Module):
    """An activation with parameters, behind which 0 is 0.5."""

    def __init__(self):
        super().__init__()
        self.relu, self.bias = nn.ReLU(), nn.Parameter(torch.full((1,), 0.5))

    def forward(self, z):
        return self.relu(z) ** 2 + self.bias


def test_constants_of_an_activation_with_parameters_go_into_the_next_bias():
    model, x = nn.Sequential(linear(), Star(), linear()), torch.randn(20, 4)
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([9, -100, 9, 9])
    report, before = census(model, x), model(x).detach()
    assert report.names == ["1.relu"]
    smaller = prune(model, report)
    assert (smaller[0].out_features, smaller.left) == (3, {})
    assert revive(model, report).units["1.relu"].tolist() == [1]
    for net in (smaller, model):
        torch.testing.assert_close(net(x), before)


@pytest.mark.parametrize("squeezes", [True, False])
def test_what_stands_still_on_the_example_alone_is_no_constant(squeezes):
    """Gates are open at 1, so dead; what they let through is 0 on the example, and then moves."""
    model, x = Excites(squeezes).eval(), torch.randn(40, 4)
    with torch.no_grad():
        x[:2, 0], x[2:, 0] = -1, 1  # units 0 and 1 are dead on the example only
        model.a.weight[:2], model.a.bias[:2] = torch.tensor([3.0, 0, 0, 0]), 0
        model.a.bias[2] = -100
        model.excite.bias[:] = torch.tensor([100, -100, 100, 0, 0, 0])
        if not squeezes:  # gate 3 is shut on the example, and open elsewhere
            model.x.weight[0], model.x.bias[0] = torch.tensor([100.0, 0, 0, 0]), 0
            model.excite.weight[3], model.excite.bias[3] = torch.tensor([10.0, 0, 0]), -500
    report = census(model, x)
    gate = report["hardsigmoid()"]
    assert gate.dead.tolist()[:4] == [True] * 3 + [not squeezes]
    assert report["relu()"].dead.tolist()[:3] == [False, False, True]
    before = model(x).detach()
    smaller = prune(model, report)
    done = revive(model, report, rng=rng())
    for net, left in ((model, done.left), (smaller, smaller.left)):
        torch.testing.assert_close(net(x), before)
        assert "hardsigmoid()" in left
    assert done.units["hardsigmoid()"].tolist() == ([2] if squeezes else [1, 2])


def test_a_factor_that_jumps_is_not_zero_throughout():
    """Gate 0 is open for ever, and what it lets through is 0 on the example, but then 1."""
    model = Net(
        lambda n, x: n.b(F.hardsigmoid(n.a(x)) * F.hardtanh(n.c(x), 0.0, 1.0)),
        a=linear(), b=linear(), c=linear(),
    )  # fmt: skip
    x = torch.randn(40, 4)
    with torch.no_grad():
        x[:2, 0], x[2:, 0] = -1, 1
        model.a.bias[0] = 100
        model.c.weight[0], model.c.bias[0] = torch.tensor([1e3, 0, 0, 0]), 0
    report, before = census(model, x), model(x).detach()
    assert report["hardsigmoid()"].dead[0]
    assert report["hardtanh()"].dead[0]
    done = revive(model, report, rng=rng(), example=x[:2])
    assert done.left.keys() == {"hardsigmoid()", "hardtanh()"}
    torch.testing.assert_close(model(x), before)


def test_an_activation_that_the_example_does_not_reach_is_left():
    model = Net(lambda n, x: n.b(F.relu(n.a(x)) if len(x) > 3 else n.a(x)), a=linear(), b=linear())
    with torch.no_grad():
        model.a.bias[1] = -100
    report, one = census(model, torch.randn(9, 4)), torch.randn(2, 4)
    assert prune(model, report, example=one).left.keys() == {"relu()"}
    assert revive(model, report, example=one).units == {}
    group = unit_groups(model, report, example=one)["relu()"]
    assert (group.producer, group.problem) == ("a", "")
    unknown = dataclasses.replace(report[0], made_by="")
    group = unit_groups(model, dataclasses.replace(report, layers=(unknown,)), example=one)[
        "relu()"
    ]
    assert group.problem == "it was not called on the example"


@pytest.mark.parametrize("filler", [math.nan, -math.inf])
@pytest.mark.parametrize("mixes", [False, True])
def test_outputs_that_are_not_finite_hide_nothing(filler, mixes):
    """As where a model masks logits."""

    def masked(net, x):
        h = F.relu(net.a(x))
        h = h - h.mean(1, keepdim=True) if mixes else h
        return net.b(h).masked_fill(torch.eye(4, dtype=torch.bool)[0], filler)

    model, x = Net(masked, a=linear(), b=linear()), torch.randn(9, 4)
    with torch.no_grad():
        model.a.bias[1] = -100
    report, before = census(model, x), model(x)
    smaller = prune(model, report)
    assert bool(smaller.left) == mixes
    assert smaller.a.out_features == 4 - (not mixes) * report[0].dead.sum()
    assert torch.allclose(smaller(x), before, atol=1e-6, equal_nan=True)


def test_one_sample_is_an_example_too():
    """A batch norm does not train on it, and that it may not hides nothing."""
    model, x, report = dying("mlp, norm")
    before = model(x)
    assert prune(model, report, example=x[:1]).left == {}
    assert revive(model, report, example=x[:1]).n_units == 4
    assert torch.equal(model(x), before)


def test_an_example_is_needed():
    model, _, report = dying("mlp")
    report = dataclasses.replace(report, example=None)
    for task in (unit_groups, revive, prune):
        with pytest.raises(ValueError, match="example must be given"):
            task(model, report)
        with pytest.raises(TypeError, match="call must be callable"):
            task(model, report, example=torch.zeros(3, 6), call="model")


def test_frozen_layers_are_refused():
    model, _, report = dying("mlp")
    model[2].weight.requires_grad_(False)
    numbers = everything(model)
    done = revive(model, report, rng=rng(), dry_run=True)
    assert (done.units, sorted(done.left)) == ({}, ["1", "3"])
    with pytest.raises(ValueError, match=r"frozen parameters.*: 2\.weight\. Nothing"):
        revive(model, report, rng=rng(), layers=["1"])
    assert same(everything(model), numbers)
    model[2].weight.requires_grad_(True)
    model[5].requires_grad_(False)
    assert list(revive(model, report, rng=rng(), skip=["3"]).units) == ["1"]


@pytest.mark.parametrize(("buried", "warned"), [((0, 2), 1), ((0,), 0), ((0, 4), 0), ((), 0)])
def test_two_whole_layers_in_a_row_are_a_deadlock(buried, warned):
    model, x = mlp(6, 3, rng(), widths=(5, 5, 5)), torch.from_numpy(rng(1).normal(size=(50, 6)))
    for layer in (0, 2, 4):
        nn.init.constant_(model[layer].bias, -100.0 if layer in buried else 0.1)
    report = census(model, [x])
    units = {name: [*range(5)] for name, n in (("1", 0), ("3", 2), ("5", 4)) if n in buried}
    record = revive(model, report, rng=rng(), units=units)
    assert len(record.warnings) == str(record).count("warning: ") == warned
    most = {name: places[:4] for name, places in units.items()}  # all but one
    assert revive(model, report, rng=rng(), units=most, dry_run=True).warnings == ()
    before = [model[layer].weight.detach().clone() for layer in (0, 2, 4)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(x), torch.zeros(50, dtype=torch.long)).backward()
        optimizer.step()
    after = [model[layer].weight for layer in (0, 2, 4)]
    moved = [not torch.equal(*pair) for pair in zip(before, after, strict=True)]
    assert moved == [not warned] * 3
    if warned:
        assert "'1' and of '3'" in record.warnings[0]
        assert "2.weight" in record.warnings[0]


def test_nan_units_are_refused():
    model, x = build("mlp")
    with torch.no_grad():
        model[0].weight[2] = math.nan
    report, numbers = census(model, x), model.state_dict()
    bias = model[0].bias.clone()
    with pytest.raises(ValueError, match="'1': 1 units gave NaN or infinity"):
        revive(model, report, rng=rng(), layers=["1"])
    assert revive(model, report, rng=rng()).left["1"] == "1 units gave NaN or infinity"
    assert torch.equal(bias, numbers["0.bias"])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: nn.Sequential(linear(6, 8), nn.ReLU()), "has no '3'"),
        (lambda: nn.Sequential(*[nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(),
                                 nn.Linear(7, 3)]), "8 units in '1', but '0' makes 9"),
        (lambda: nn.Sequential(*[nn.Linear(6, 8), nn.ELU(), nn.Linear(8, 7), nn.ReLU(),
                                 nn.Linear(7, 3)]), "'1' is elu, not relu"),
        (lambda: nn.Sequential(*[nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.ReLU()]), "linear"),
    ],
)  # fmt: skip
def test_a_report_of_another_model_is_refused(other, says):
    _, _, report = dying("mlp")
    model = other()
    numbers = everything(model)
    for task in (lambda: revive(model, report, rng=rng()), lambda: prune(model, report)):
        with pytest.raises(ValueError, match=f"report is not of this model.*{says}"):
            task()
    assert same(everything(model), numbers)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"tau": -0.1}, ValueError, "tau must be a finite number, 0 or more, not -0.1"),
        ({"tau": math.nan}, ValueError, "tau must be a finite number"),
        ({"tau": "0"}, TypeError, "tau must be a finite number"),
        ({"rng": "0"}, TypeError, "rng must be a numpy.random.Generator"),
        ({"dry_run": "no"}, TypeError, "dry_run must be True or False, not 'no'"),
        ({"incoming": lambda shape, rng: np.ones(shape) * 1j}, ValueError, "complex128"),
        ({"state": "none"}, ValueError, "state must be 'seed'"),
        ({"incoming": "best"}, ValueError, "incoming must be 'he'"),
        ({"incoming": lambda shape, rng: np.zeros(3)}, ValueError, r"weights of shape \(8, 6\)"),
        ({"incoming": lambda shape, rng: np.full(shape, np.nan)}, ValueError, "finite weights"),
        ({"batch": torch.zeros(3, 99)}, Exception, "shape"),
    ],
)
def test_bad_arguments_change_nothing(options, kind, says):
    model, x, _ = dying("mlp, norm")
    optimizer = trained(model, x)
    report = census(model, x)
    if "incoming" not in options or callable(options["incoming"]):
        model.train()
    numbers = everything(model, optimizer)
    with pytest.raises(kind, match=says):
        revive(model, report, **({"rng": rng(), "optimizer": optimizer} | options))
    assert same(everything(model, optimizer), numbers)


def test_model_and_report_must_be_such():
    model, _, report = dying("mlp")
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module"):
        revive("net", report, rng=rng())
    with pytest.raises(TypeError, match="report must be a UnitReport"):
        revive(model, {"1": [0]}, rng=rng())


class Compiled(nn.Module):
    """As `torch.compile` wraps a model."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


def test_wrapped_models_are_unwrapped():
    model, x, report = dying("mlp")
    before = model(x)
    assert revive(nn.DataParallel(model), report, rng=rng()).n_units == 4
    assert torch.equal(model(x), before)
    assert prune(Compiled(model), report)[0].out_features == 6


# ---- models as others build them --------------------------------------------------------------


class Conv1D(nn.Module):
    """The linear layer of GPT-2: its weight has inputs first."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) / 3)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Two heads over tokens, keys and values from one projection, as in GPT-2."""

    def __init__(self, d):
        super().__init__()
        self.qkv, self.out = Conv1D(3 * d, d), Conv1D(d, d)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).split(4, dim=2))
        k = torch.cat([torch.zeros(len(x), 2, 0, 2), k], dim=-2)  # an empty cache
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The MLP of a transformer: plain, gated (two layers), or with Conv1D."""

    def __init__(self, kind, d, act):
        super().__init__()
        make = (lambda i, o: Conv1D(o, i)) if kind == "gpt2" else nn.Linear
        self.up, self.down, self.act = make(d, 7), make(7, d), act()
        self.gate = nn.Linear(d, 7) if kind == "llama" else None

    def forward(self, x):
        if self.gate is None:
            return self.down(self.act(self.up(x)))
        return self.down(self.act(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """A transformer's block, norms before or behind, that returns a dict from keywords."""

    def __init__(self, kind, act=nn.ReLU):
        super().__init__()
        self.words, self.attention, self.mlp = nn.Embedding(9, 4), Attention(4), Mlp(kind, 4, act)
        self.norms, self.head = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)]), linear(4, 9)
        self.kind = kind

    def forward(self, input_ids=None, *, labels=None):
        x = self.words(input_ids)
        if self.kind == "bert":
            x = self.norms[0](x + self.attention(x))
            x = self.norms[1](x + self.mlp(x))
        else:
            x = x + self.attention(self.norms[0](x))
            x = x + self.mlp(self.norms[1](x))
        return {"hidden": x, "logits": self.head(x), "loss": None}


class ResidualBlock(nn.Module):
    """Of a ResNet: one activation module for both calls."""

    def __init__(self, n):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(n, 5, 3, padding=1), nn.Conv2d(5, n, 3, padding=1)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(5), nn.BatchNorm2d(n), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


def resnet():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), ResidualBlock(4), ResidualBlock(4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def inverted():
    """MobileNet's: widen, depthwise, narrow."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip


def transposed():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 6, 3, stride=2, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(6, 2, 3),
    )  # fmt: skip


class Branches(nn.Module):
    """Squeezed, excited and concatenated, as in Inception and EfficientNet."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 5, 3), nn.Conv2d(9, 3, 3)
        self.squeeze, self.excite = nn.Conv2d(5, 4, 1), nn.Conv2d(4, 5, 1)
        self.relu, self.head = nn.ReLU(), nn.Linear(3 * 16, 2)

    def forward(self, x):
        b = F.relu(self.b(x))
        b = b * self.excite(self.relu(self.squeeze(b.mean((2, 3), keepdim=True)))).sigmoid()
        h = torch.cat([torch.relu(self.a(x)), b], 1)
        return self.head(F.relu(self.c(h)).flatten(1))


TOKENS = torch.randint(0, 9, (6, 5), generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(20, 2, 8, 8, generator=torch.Generator().manual_seed(0))
STREAM = "its output goes into add"
SUMS = "the activation takes what several layers make"
OTHERS = {  # by activation, its maker and its readers; or why it is left
    "bert": (lambda: Block("bert"), TOKENS, {"mlp.act": ("mlp.up", ["mlp.down"])}),
    "gpt2": (lambda: Block("gpt2"), TOKENS, {"mlp.act": ("mlp.up", ["mlp.down"])}),
    "llama": (lambda: Block("llama"), TOKENS, {"mlp.act": ("mlp.gate", ["mlp.down"])}),
    "swiglu": (lambda: Block("llama", nn.SiLU), TOKENS, {"mlp.act": ("mlp.gate", ["mlp.down"])}),
    "resnet": (
        resnet, PICTURES,
        {
            "2": STREAM, "3.relu": ("3.conv1", ["3.conv2"]), "3.relu (2)": SUMS,
            "4.relu": ("4.conv1", ["4.conv2"]), "4.relu (2)": SUMS,
        },
    ),
    "depthwise": (inverted, PICTURES, {"2": ("0", ["6"]), "5": ("3", ["6"])}),
    "transposed": (transposed, PICTURES, {"1": ("0", ["2"]), "3": ("2", ["4"])}),
    "branches": (
        Branches, PICTURES,
        {
            "relu()": ("b", ["squeeze", "c"]), "relu": ("squeeze", ["excite"]),
            "sigmoid()": ("excite", ["squeeze", "c"]), "relu() (2)": ("a", ["c"]),
            "relu() (3)": ("c", ["head"]),
        },
    ),
}  # fmt: skip


def run(model, x):
    """Return all outputs, in one."""
    with torch.no_grad():
        y = model(input_ids=x) if isinstance(model, Block) else model(x)
    return torch.cat([y["hidden"].ravel(), y["logits"].ravel()]) if isinstance(y, dict) else y


def census_of(model, x):
    return census(model, [x], call=lambda model, x: run(model, x))


@pytest.mark.parametrize("name", OTHERS)
def test_models_of_others_are_treated_where_that_is_safe(name):
    make, x, expected = OTHERS[name]
    model = make().eval()
    groups = unit_groups(model, census_of(model, x))
    for group in groups:
        said = expected.get(group.name, "")
        if isinstance(said, str):
            assert group.problem.startswith(said)
        else:
            readers = sorted(reader.name for reader in group.readers)
            assert (group.producer, readers, group.problem) == (said[0], sorted(said[1]), "")
    assert {group.name for group in groups} >= expected.keys()
    with torch.no_grad():
        for group in groups:
            if group.module is not None:
                module = group.before[-1].module if group.before else group.module
                module.bias[[1, 2]] = -60.0
    report, before = census_of(model, x), run(model, x)
    numbers = everything(model)
    relu = [key for key, said in expected.items() if not isinstance(said, str)]
    smaller = prune(model, report)
    assert same(everything(model), numbers)
    after = run(smaller, x)
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    fresh = (x + 1) % 9 if x.dtype == torch.long else x.flip(0) * 0.5
    still = census_of(model, fresh)
    done = revive(model, report, rng=0)
    for key in relu:
        if key != "sigmoid()":  # an excitation of zero is near, but not at zero
            assert done.units[key].tolist() == np.flatnonzero(report[key].dead).tolist()
            assert {1, 2} <= set(done.units[key])
    left = {key for key in report.names if report[key].dead.any()} - done.units.keys()
    assert left == done.left.keys() == smaller.left.keys()
    assert (run(model, x) - before).abs().max() <= 1e-6 * before.abs().max()
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    if all((still[key].dead >= report[key].dead).all() for key in relu):
        model.load_state_dict({key: t for key, t in numbers.items() if key in model.state_dict()})
        assert torch.allclose(run(smaller, fresh), run(model, fresh), atol=1e-5)


def test_a_depthwise_chain_stands_and_falls_together():
    """Units that are dead before and behind the depthwise layer are folded once."""
    model = inverted().eval()
    with torch.no_grad():
        model[1].bias[[1, 2]], model[4].bias[[2, 3]] = -60.0, 60.0  # behind it, 6 forever
    report, before = census(model, PICTURES), model(PICTURES)
    smaller = prune(model, report)
    dead = report["2"].dead | report["5"].dead
    widths = {smaller[0].out_channels, smaller[3].in_channels, smaller[3].out_channels}
    assert widths | {smaller[3].groups, smaller[6].in_channels} == {6 - dead.sum()}
    assert torch.allclose(smaller(PICTURES), before, atol=1e-5)
    revive(model, report, rng=rng())
    assert torch.allclose(model(PICTURES), before, atol=1e-5)


class Divides(nn.Module):
    """Uses its width as a number."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = linear(4, 8), linear(8, 5), linear(5, 2)

    def forward(self, x):
        h = F.relu(self.a(x))
        return self.c(F.relu(self.b(h) / h.shape[-1] ** 0.5))


def test_a_width_that_is_used_as_a_number_is_left():
    model, x = Divides(), torch.randn(50, 4)
    with torch.no_grad():
        model.a.bias[:3], model.b.bias[1] = -100, -100
    report, before = census(model, x), model(x)
    smaller = prune(model, report)
    assert smaller.left == {"relu()": "the function would change"}
    assert (smaller.a.out_features, smaller.b.out_features) == (8, 5 - report[1].dead.sum())
    assert torch.allclose(smaller(x), before, atol=1e-6)
    revive(model, report, rng=rng())
    assert torch.equal(model(x), before)


def test_a_width_that_is_written_out_is_left_by_prune_and_not_by_revive():
    model, x, report = dying("x.flatten(1)")
    model.flatten = lambda x: x.view(-1, 16)
    before = model(x)
    smaller = prune(model, report)
    assert list(smaller.left) == ["relu() (2)"]
    assert "does not run without them (RuntimeError" in smaller.left["relu() (2)"]
    assert torch.allclose(smaller(x), before, atol=1e-5)
    assert revive(model, report, rng=rng()).n_units == 6
    assert torch.equal(model(x), before)


def test_a_mask_of_a_fixed_width_is_left_by_prune_and_not_by_revive():
    model, x = mlp(4, 3, rng(), widths=(5, 6), dropout=0.2), torch.randn(50, 4).double()
    with torch.no_grad():
        model[0].bias[:2] = -100
    report, before = census(model, x), model.eval()(x)
    smaller = prune(model, report)
    assert "does not run without them" in smaller.left["1"]
    assert torch.equal(smaller(x), before)
    assert revive(model, report, rng=rng()).units["1"].tolist() == [0, 1]


def test_constants_at_gamma_zero_are_folded():
    """A channel whose scale has gone to zero, as by slimming, is its shift for ever."""
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(48, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight[[0, 3]] = 0
        model[1].bias[0], model[1].bias[3] = -0.7, 0.7
    x = torch.randn(30, 2, 8, 8)
    report, before = census(model, x), model(x)
    assert report["2"].dead.tolist() == [True, False, False, False, False]
    assert torch.allclose(prune(model, report)(x), before, atol=1e-6)
    model[2] = nn.Hardtanh(-0.5, 0.5)  # where the other one is flat too
    report, before = census(model, x), model(x)
    assert report["2"].dead[[0, 3]].all()
    smaller = prune(model, report)
    assert smaller[3].bias is not None
    assert smaller[0].out_channels == 5 - report["2"].dead.sum()
    assert torch.allclose(smaller(x), before, atol=1e-6)


class Wrapper(torch.optim.Optimizer):
    """As accelerate wraps an optimizer: without its methods for hooks."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        self.optimizer.step(closure)


def test_a_wrapped_optimizer_is_unwrapped():
    model, x, report = dying("mlp")
    optimizer = trained(model, x)
    report = census(model, x)
    with revive_every(model, Wrapper(optimizer), x, every=1) as reviver:
        Wrapper(optimizer).step()
    assert reviver.revivals[0].n_units >= 4
    model, x, report = dying("mlp")
    done = revive(model, report, optimizer=Wrapper(trained(model, x)))
    assert any("exp_avg" in item.state for item in done.touched)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"rng": "0"}, TypeError, "rng must be"),
        ({"tau": -1}, ValueError, "tau must be"),
        ({"state": "none"}, ValueError, "state must be"),
        ({"incoming": "best"}, ValueError, "incoming must be"),
        ({"layers": "13"}, TypeError, "layers must be a list"),
        ({"skip": "13"}, TypeError, "skip must be a list"),
        ({"every": 0}, ValueError, "every must be"),
        ({"source": None}, TypeError, "source must be a loader or callable, not NoneType"),
        ({"source": "data"}, TypeError, "source must be a loader or callable, not str"),
        ({"model": linear()}, ValueError, "optimizer must hold the model's parameters"),
    ],
)
def test_what_revive_every_is_given_is_checked_at_once(options, kind, says):
    model, x, _ = dying("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(kind, match=says):
        revive_every(**({"model": model, "optimizer": optimizer, "source": x} | options))
    assert not optimizer._optimizer_step_post_hooks


def test_a_seed_or_nothing_may_stand_for_a_generator():
    results = []
    for seed in (3, 3, np.int64(3), np.random.default_rng(3), 4, None, None):
        model, _, report = dying("mlp")
        revive(model, report, rng=seed)
        results.append(model[0].weight.detach())
    assert all(torch.equal(results[0], other) for other in results[1:4])
    assert len({float(w.sum()) for w in results[3:]}) == 4


# ---- prune ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_pruned_model_is_the_same_function(name):
    model, x, report = dying(name, units=(0, 2, 3))
    numbers, before = everything(model), model(x)
    smaller = prune(model, report)
    assert same(everything(model), numbers)
    after = smaller(x)
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-5)
    assert int((after.argmax(1) != before.argmax(1)).sum()) == 0
    rest = census(smaller, x)
    assert [len(layer) for layer in rest] == [len(layer) - 3 for layer in report]
    assert not any(layer.dead.any() for layer in rest)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    trained(smaller.train(), x, steps=1)  # it is whole: it trains, in training mode too
    if isinstance(smaller, nn.Sequential):
        printed = str(smaller)
        for layer in smaller:
            if isinstance(layer, nn.Linear):
                assert f"in_features={layer.weight.shape[1]}, out" in printed


@pytest.mark.parametrize(
    "options", [{"affine": False}, {"track_running_stats": False}, {"eps": 1e-3}]
)
def test_a_norm_tells_how_many_units_it_has_left(options):
    model = nn.Sequential(linear(), nn.ReLU(), nn.BatchNorm1d(4, **options), linear()).eval()
    with torch.no_grad():
        model[0].bias[:] = torch.tensor([9, -100, 9, 9])
    x = torch.randn(20, 4)
    smaller = prune(model, census(model, x))
    assert smaller[2].num_features == 3
    assert torch.allclose(smaller(x), model(x), atol=1e-5)


def test_one_unit_of_a_dead_layer_remains_and_those_always_on():
    model, x = build("mlp")
    with torch.no_grad():
        model[0].bias[:] = -1e3
        model[2].weight.abs_()
    model[2].bias = nn.Parameter(torch.full((7,), 5.0))
    report = census(model, x)
    assert report["3"].always_on.all()
    smaller = prune(model, report)
    assert (smaller[0].out_features, smaller[2].out_features) == (1, 7)
    assert torch.equal(smaller(x), model(x))


@pytest.mark.parametrize("n", [2, 4])
def test_numbers_that_an_activation_keeps_for_each_unit_go_too(n):
    model = nn.Sequential(linear(4, n), nn.PReLU(n), linear(n, 4))
    with torch.no_grad():
        model[1].weight[1], model[0].bias[1] = 0, -100
    x = torch.randn(20, 4)
    report = census(model, x)
    assert np.flatnonzero(report["1"].dead).tolist() == [1]
    before = model(x)
    smaller = prune(model, report)
    assert smaller[1].num_parameters == len(smaller[1].weight) == n - 1
    assert torch.allclose(smaller(x), before, atol=1e-6)
    revive(model, report, rng=rng())
    assert torch.equal(model(x), before)


# ---- while it trains --------------------------------------------------------------------------


def test_revive_every_resets_after_the_steps_it_should():
    model, x, _ = dying("mlp")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    seen = []

    def source():
        seen.append(reviver.steps)
        return census(model, x)

    with revive_every(model, optimizer, source, rng=rng(), every=3) as reviver:
        for _ in range(7):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert seen == [3, 6]
    assert reviver.revivals[0].n_units >= 4
    assert any("exp_avg" in item.state for item in reviver.revivals[0].touched)
    assert not optimizer._optimizer_step_post_hooks


def test_revive_every_ends_with_an_exception_or_when_told():
    model, x, _ = dying("mlp")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def fails():
        raise RuntimeError("no report")

    def step():
        model(x).sum().backward()
        optimizer.step()

    with pytest.raises(RuntimeError, match="no report"), revive_every(
        model, optimizer, fails, rng=rng(), every=1
    ) as reviver:  # fmt: skip
        step()
    assert not optimizer._optimizer_step_post_hooks
    assert reviver.revivals == []
    reviver = revive_every(model, optimizer, x, rng=rng(), every=2)
    for _ in range(2):
        step()
    reviver.remove()
    for _ in range(2):
        step()
    assert len(reviver.revivals) == 1
    for options, says in (({"every": 0}, "every must be"), ({"every": True}, "every must be")):
        with pytest.raises((ValueError, TypeError), match=says):
            revive_every(model, optimizer, x, **({"rng": rng()} | options))
    with pytest.raises(TypeError, match="optimizer must be"):
        revive_every(model, None, x, rng=rng())


# ---- other remedies ---------------------------------------------------------------------------


def test_swapped_activations_are_copies_everywhere():
    relu = nn.ReLU()
    model = nn.Sequential(linear(), relu, linear(), nn.Sequential(relu, linear()), nn.Tanh())
    with torch.no_grad():
        model[0].bias[:2] = -100
    x = torch.randn(30, 4)
    done = swap_activation(model, {"relu": nn.PReLU()}, x)
    assert model[1] is model[3][0] is not relu
    assert isinstance(model[4], nn.Tanh)
    assert done.before["1"].dead.sum() == 2 > done.after["1"].dead.sum()
    assert done.changed == ("1: relu -> PReLU(num_parameters=1)",)
    done = swap_activation(model, {"1": nn.ELU(), "4": nn.ReLU()}, x)
    assert isinstance(model[1], nn.ELU)
    assert isinstance(model[4], nn.ReLU)
    lab = mlp(4, 2, rng())
    swap_activation(lab, {"relu": nn.SiLU()}, x)
    assert [layer.activation for layer in census(lab, x)] == ["silu", "silu"]


def test_a_swap_that_fails_changes_nothing():
    model, x, _ = dying("mlp")
    layers = list(model)

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    for replacements, kind, says in (
        ({"relu": nn.ELU(), "0": nn.ELU()}, ValueError, "must name activations"),
        (nn.ELU(), TypeError, "replacements must be a dict"),
        ({"relu": nn.ELU(), "1": F.elu}, TypeError, "must hold modules"),
        ({"relu": Broken()}, ValueError, "broken"),
    ):
        with pytest.raises(kind, match=says):
            swap_activation(model, replacements, x)
        assert all(a is b for a, b in zip(model, layers, strict=True))
    functional, x = build("x.flatten(1)")
    with pytest.raises(ValueError, match=r"'relu\(\)' is no module"):
        swap_activation(functional, {"relu": nn.ELU()}, x)


@pytest.mark.parametrize("name", ["mlp, norm", "cnn", "tokens", "x.flatten(1)"])
def test_shifted_units_fire_as_often_as_asked(name):
    model, x, _ = dying(name)
    done = shift_bias(model, x, p_active=0.3)
    for old, new in zip(done.before, done.after, strict=True):
        assert new.p_active[old.dead] == pytest.approx(0.3, abs=2 / old.n_values + 1e-3)
    model, x, report = dying(name)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    done = shift_bias(model, x, layers=[report.names[0]], all_units=True)
    assert done.after.layers[0].p_active == pytest.approx(0.5, abs=5e-3)
    moved = [key for key, t in model.state_dict().items() if not torch.equal(t, before[key])]
    expected = {"mlp, norm": "1.bias", "cnn": "0.bias", "tokens": "up.bias"}
    assert moved == [expected.get(name, "conv1.bias")]


def tied_inputs(noise, seed=0):
    """Ten rows that repeat themselves 1, 4, 3 and 2 times, each number moved by a relative noise.

    Behind a weight of one, the sums are about 9, 5, 2 and -1: no two of them are close.
    """
    rows = torch.tensor([[3.0, 6.0], [2.1, 2.9], [0.3, 1.7], [-0.4, -0.6]], dtype=torch.float64)
    x = rows.repeat_interleave(torch.tensor([1, 4, 3, 2]), dim=0)
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], size=(10, 2)))
    return x * (1 + noise * signs)


@pytest.mark.parametrize(
    ("p_active", "n_active"),
    [
        (0.01, 1),
        (0.1, 1),
        (0.29, 1),
        (0.3, 5),
        (0.5, 5),
        (0.64, 5),
        (0.65, 8),
        (0.89, 8),
        (0.9, 10),
    ],
)
def test_what_is_tied_is_shifted_together(p_active, n_active):
    """As many fire as lie above a gap, the nearest to the share: rounding has no say."""
    seen = set()
    for seed in range(12):
        x = tied_inputs((0.0, 2e-16, 1e-12)[seed % 3], seed)
        net = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
        with torch.no_grad():
            net[0].weight.fill_(1.0)
            net[0].bias.fill_(-20.0)
        shift_bias(net, x, p_active=p_active)
        z = net[0](x).detach()[:, 0]
        seen.add(tuple((z > 0).tolist()))
        assert n_active == 10 or z.abs().min() > 0.5  # in the middle of a gap
    assert seen == {tuple(i < n_active for i in range(10))}


def test_a_tie_between_two_shares_goes_to_the_larger_and_all_equal_fire_at_all():
    net = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0], [0.0]]))
        net[0].bias.copy_(torch.tensor([-9.0, -9.0, 0.0]))
    x = torch.tensor([1.0, 0.0, 0.0, -1.0], dtype=torch.float64)[:, None]
    done = shift_bias(net, x, p_active=0.5)  # one of four, or three
    assert done.after["1"].p_active.tolist() == [0.75, 1.0, 1.0]


def test_units_that_are_tied_in_single_precision_are_so_on_every_processor():
    """Sums of 300 products, in another order: equal but for rounding."""
    torch.manual_seed(0)
    row, order = torch.randn(300), torch.randperm(300)
    weight = torch.randn(300)
    shares = set()
    for there in (torch.arange(300), order):
        net = nn.Sequential(nn.Linear(300, 1), nn.ReLU(), nn.Linear(1, 1))
        with torch.no_grad():
            net[0].weight.copy_(weight[there])
            net[0].bias.fill_(-500.0)
        x = torch.stack([row * (1 + 1e-7 * (k % 3 - 1)) for k in range(8)] + [row + 1, row - 1])
        shares.add(shift_bias(net, x[:, there]).after["1"].p_active.item())
    assert len(shares) == 1
    assert shares <= {0.1, 0.9}


@pytest.mark.parametrize("weight", [math.nan, 1e38])
def test_units_that_are_not_finite_on_a_sample_are_not_shifted(weight):
    model, x = build("mlp")
    with torch.no_grad():
        model[0].weight[1, 0], model[0].bias[:], x[0, 0] = weight, -100, 100
    bias = model[0].bias.clone()
    shift_bias(model, x, layers=["1"], all_units=True)
    assert (model[0].bias == bias).tolist() == [i == 1 for i in range(8)]


def test_a_shift_that_fails_changes_nothing():
    model, x = build("mlp")
    with torch.no_grad():
        model[0].bias[1] = -100
        model[2].weight[1] = -100
    numbers = everything(model)
    for options, says in (
        ({"layers": ["1", "3"]}, "'3': 2 has no bias"),  # after the first layer has been shifted
        ({"p_active": 1.0}, "p_active must be a finite number"),
        ({"layers": ["7"]}, "layers must be among '1', '3', not '7'"),
        ({"layers": "13"}, "layers must be a list of names, not '13'"),
        ({"p_active": "0.5"}, "p_active must be a finite number"),
    ):
        with pytest.raises((TypeError, ValueError), match=says):
            shift_bias(model, x, **options)
        assert same(everything(model), numbers)
    pooled, x = build("pooled first")
    with pytest.raises(ValueError, match="something stands between"):
        shift_bias(pooled, x, layers=census(pooled, x).names, all_units=True)
    assert not pooled[0]._forward_hooks


def test_what_cannot_be_shifted_is_left_and_named():
    model, x = build("mlp")
    with torch.no_grad():
        model[0].bias[1] = -100
        model[2].weight[1] = -100
    numbers = everything(model)
    done = shift_bias(model, x)
    assert done.left == {"3": "2 has no bias"}
    assert done.changed == ("1: 1 units shifted by 0.bias",)
    assert str(done).splitlines()[1] == "left '3': 2 has no bias"
    assert not done.after["1"].dead.any()
    assert not same(everything(model), numbers)


class Bare(nn.Module):
    """A layer of each kind that draws its parameters in a way of its own, or cannot."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.table = nn.Embedding(30, 8)
        self.up = nn.ConvTranspose2d(8, 6, 3, groups=2)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(40, 50))
        self.old = nn.utils.weight_norm(nn.Linear(8, 8))
        self.gpt = Conv1D(64, 100)
        self.token = nn.Parameter(torch.ones(8))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_every_parameter_is_drawn_anew_or_named():
    torch.manual_seed(0)
    model = Bare()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(3.0)
    torch.manual_seed(1)
    stayed = redraw(model)
    assert sorted(stayed) == ["old.bias", "old.weight_g", "old.weight_v", "token"]
    for name, p in model.named_parameters():
        assert (p == 3).all() == (name in stayed), name
    assert float(model.gpt.weight.detach().std()) == pytest.approx(math.sqrt(2 / 100), rel=0.03)
    assert float(model.up.weight.detach().std()) == pytest.approx(math.sqrt(2 / (4 * 9)), rel=0.1)
    original = model.spectral.parametrizations.weight.original
    assert float(original.detach().std()) == pytest.approx(math.sqrt(2 / 40), rel=0.05)
    once = [p.detach().clone() for p in model.parameters()]
    torch.manual_seed(1)
    redraw(model)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), once, strict=True))
    with pytest.raises(TypeError, match="model must be"):
        redraw("net")


def test_a_constant_feature_is_not_divided_by_its_rounding():
    """0.1 does not vary, but less its mean, which rounding moves, it is not 0."""
    x = torch.rand(1000, 3, dtype=torch.float64)
    x[:, 1], x[:, 2] = 0.1, 1e6 + 1e-5 * x[:, 0]  # the last varies, if little
    assert ((x[:, 1] - x[:, 1].mean()) ** 2).mean() > 0
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).double()
    for batches in ([x], x.split(7)):
        centre = centre_inputs(net, batches, scale=True).model[0]
        assert centre.scale[1] == 1
        assert centre(x)[:, 1].abs().max() < 1e-12
        deviations = centre(x)[:, [0, 2]].std(0, correction=0)
        assert deviations.tolist() == pytest.approx([1, 1], rel=1e-3)


@pytest.mark.parametrize(("spread", "now"), [(0.9e-12, "uniform"), (1.1e-12, "normal")])
def test_weights_are_equal_up_to_a_relative_1e_12(spread, now):
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        net[0].bias[:] = torch.tensor([-9.0, -9.0, 9.0, 9.0])
        net[0].weight[:2], net[0].weight[2:] = 0, torch.tensor([-1.0, 0.0, 1.0])
        living = 1 + net[0].weight[2:] * spread / net[0].weight[2:].std() * 6**0.5
        net[0].weight[2:] = living
    x = torch.rand(50, 3, dtype=torch.float64)
    assert revive(net, census(net, x), rng=rng()).touched[0].now.startswith(now)


def test_weights_that_are_equal_give_no_scale():
    """Their deviation is 0 but for rounding, and fresh weights of 1e-17 would be dead again."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        net[0].weight.fill_(0.1)
        net[0].bias[:4], net[0].bias[4:] = -9.0, 1.0
    assert net[0].weight[4:].std() > 0
    x = torch.rand(50, 3, dtype=torch.float64)
    done = revive(net, census(net, x), rng=rng())
    assert done.touched[0].now == "uniform, std 0.333"
    assert net[0].weight[:4].std() > 0.1


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
@pytest.mark.parametrize("high", [-0.5, 50.0])
def test_a_unit_that_something_else_reads_is_found_by_trying(unit, high):
    """Whatever it is, even or odd, and where no unit is ever silent."""
    model = Net(lambda n, x: n.b(h := F.relu(n.a(x))) / (1 + h[:, unit : unit + 1].detach()),
                a=linear(), b=linear())  # fmt: skip
    with torch.no_grad():
        model.a.bias.fill_(high)
    x = torch.randn(9, 4)
    group = unit_groups(model, census(model, x), example=x)["relu()"]
    assert "something else reads its output" in group.problem


@pytest.mark.parametrize(("digits", "found"), [(15.5, False), (16.5, True)])
def test_what_moves_sixteen_last_digits_is_no_rounding(digits, found):
    """Here something reads a dead unit so faintly; the unit is tried at 1.5 to 2.5."""
    model = Net(lambda n, x: n.b(h := F.relu(n.a(x))) + n.faint * h[:, 1:2].detach(),
                a=linear(), b=linear()).double()  # fmt: skip
    x = torch.randn(500, 4, dtype=torch.float64)
    with torch.no_grad():
        model.a.weight.zero_()
        model.a.bias.fill_(-1.0)
        model.b.bias.copy_(torch.tensor([0.5, -1.0, 0.0, 0.0]))  # the output: these numbers
    model.faint = digits / 2.5 * torch.finfo(torch.float64).eps
    report = census(model, x)
    group = unit_groups(model, report, example=x)["relu()"]
    assert ("something else reads its output" in group.problem) == found
    assert revive(model, report, rng=rng(), dry_run=True, example=x).left.keys() == (
        {"relu()"} if found else set()
    )


@pytest.mark.parametrize("n_example", [1, 50])
@pytest.mark.parametrize("gamma", [None, 0.0, 1.0])
def test_what_a_norm_makes_of_a_small_variation_is_counted(gamma, n_example):
    """It is divided by the root of the variance, as the living units are, and remains one.

    An example of one sample does not show it; the report, of all samples, does.
    """
    norm = nn.BatchNorm1d(2, affine=gamma is not None)
    model = nn.Sequential(nn.Linear(1, 2), nn.GELU(), norm, nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.05], [1.0]]))
        model[0].bias.copy_(torch.tensor([-5.6, 0.0]))
        model[2].running_var.fill_(1.0)
        model[3].weight.fill_(1.0)
        model[3].bias.fill_(1.0)
        if gamma is not None:
            norm.weight[0] = gamma
    model = model.double().eval()
    model[2].running_var.fill_(1e18)
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False]
    assert 1e-8 < report["1"].high[0] - report["1"].low[0] < 1e-7
    done = revive(model, report, rng=rng(), dry_run=True, example=x[:n_example])
    assert done.left == ({} if gamma == 0 else {"1": "1 of 1 units: what 3 reads there varies"})


def test_features_of_a_sequence_are_centred_each_at_its_place():
    """Of images the mean is one per channel; of what has three axes, one per number."""
    x = torch.randn(64, 4, 6) + torch.arange(24.0).view(4, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    centre = centre_inputs(model, x).model[0]
    assert centre.mean.shape == (4, 6)
    assert torch.allclose(centre(x).mean(0), torch.zeros(4, 6), atol=1e-5)


def test_fresh_weights_have_the_deviation_of_the_living():
    model, x = (
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(),
        torch.rand(50, 3),
    )
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([-99.0, -99.0, 9.0, 9.0]))
        model[0].weight[2:].copy_(torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))
    done = revive(model, census(model, x), rng=rng(), dry_run=True)
    assert done.touched[0].now == f"normal, std {torch.tensor([1.0, 2, 4, 0, 0, 0]).std():.3g}"
    with torch.no_grad():  # of one weight alone there is no deviation
        model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
        model[0].bias.copy_(torch.tensor([-99.0, 9.0]))
    done = revive(model, census(model, x[:, :1]), rng=rng(), dry_run=True)
    assert done.touched[0].now == "uniform, std 0.577"


@pytest.mark.parametrize("shape", [(6,), (2, 8, 8)])
def test_centred_inputs_have_mean_zero(shape):
    x = torch.randn(64, *shape, dtype=torch.float64) * 3 + 7
    n = math.prod(shape)
    model = nn.Sequential(nn.Flatten(), nn.Linear(n, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    done = centre_inputs(model, x.split(20), scale=True)
    centre = done.model[0]
    assert isinstance(centre, Centre)
    assert done.model[1] is model
    axes = (0,) if len(shape) == 1 else (0, 2, 3)
    y = centre(x)
    assert torch.allclose(y.mean(axes), torch.zeros(shape[0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(y.var(axes, correction=0), torch.ones(shape[0], dtype=torch.float64))
    assert str(done).startswith("0: the inputs' mean is subtracted, and their scale divided out\n")
    assert not model._forward_pre_hooks
    plain = centre_inputs(model, x).model[0]
    assert torch.allclose(plain(x).std(axes), x.std(axes))
    assert centre_inputs(model, torch.ones(3, *shape), scale=True).model[0].scale.eq(1).all()


def test_rounding_is_what_the_last_digits_of_the_weights_move():
    model, x, _ = dying("mlp")
    probe = Probe(model, census(model, x), x, None)
    (within,), (output,) = probe.tolerance(), probe.outputs(probe.copy())
    eps = torch.finfo(output.dtype).eps
    assert eps * output.abs().max() <= within / ROUNDING <= 20 * eps * output.abs().max()
    whole = torch.arange(3)
    assert far(whole, whole) == 0
    assert far(whole, whole + 1) == far(whole, whole[:2]) == math.inf
    assert far(torch.tensor([3.0, -8.0]), torch.tensor([3.0, -8.0])) == 8 * torch.finfo().eps
    assert far(torch.tensor([3.0, -8.0]), torch.tensor([3.5, -8.0])) == 0.5
    assert far(torch.zeros(0, 2), torch.zeros(0, 2)) == 0
    overflowed = torch.tensor([math.inf, 2**-9, math.nan])
    assert far(overflowed, overflowed) == 2**-9 * torch.finfo().eps


def test_every_public_name_is_documented():
    assert all(getattr(revival, name).__doc__ for name in revival.__all__)
