"""Resets and pruning: the right weights, the same function, an optimizer that knows; or nothing."""

import copy
import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.prune import l1_unstructured

from companion import revival
from companion.detection import census
from companion.experiments import Dropout, Elementwise, mlp, residual_mlp
from companion.initialization import he_normal
from companion.revival import (
    Centre,
    centre_inputs,
    lower_rate,
    prune,
    revive,
    revive_every,
    shift_bias,
    swap_activation,
    unit_groups,
)


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
    "mlp of the laboratory": (lambda: mlp(6, 3, rng(), widths=(8, 7), dropout=0.2).float(), ROWS),
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
        report = census(model.eval(), x, functional=True)
        if not any(layer.dead.any() for layer in report):
            return model, x
    raise AssertionError(f"{name}: units are born dead")


def kill(model, report, units, batch=None):
    """Make the same units of every group dead, by the bias that decides."""
    with torch.no_grad():
        for group in unit_groups(model, report, batch=batch):
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
    return model, x, census(model, x, functional=True)


@functools.cache
def dead(name, units):
    """Try seeds until only these are dead."""
    for seed in range(0, 60, 3):
        model, x = build(name, seed)
        kill(model, census(model, x, functional=True), list(units))
        report = census(model, x, functional=True)
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
    with pytest.raises(KeyError):
        groups["7"]


@pytest.mark.parametrize("name", MODELS)
def test_readers_are_those_that_a_perturbation_finds(name):
    """With a unit's columns at zero the output does not depend on it, and on no fewer columns."""
    model, x = build(name)
    report = census(model, x, functional=True)
    model, x = model.double(), x[:4].double()
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
            places = [reader.places(np.array([unit]), group.n_units) for reader in group.readers]
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
        found = reader.places(np.array([unit]), 6).ravel()
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
    after = census(model, x, functional=True)
    assert sum(int(layer.dead.sum()) for layer in after) < revival_.n_units / 2


@pytest.mark.parametrize("name", MODELS)
def test_the_record_tells_every_place_and_no_other(name):
    model, x, report = dying(name)
    optimizer = trained(model, x, steps=2)
    report = census(model, x, functional=True)
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
        model[2].weight[:, 1:3] = 0.01  # the constants leave the others alive
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
    with pytest.raises(ValueError, match=r"'1'.*3 has no bias to take them over"):
        revive(model, report, rng=rng())
    assert same(everything(model), numbers)
    assert torch.allclose(prune(model, report)(x), before, atol=1e-5)  # which makes a bias


@pytest.mark.parametrize("between", [nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(3, 1, 1)])
def test_constants_that_padding_breaks_are_refused(between):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), between, nn.Flatten(), nn.Linear(144, 3)
    ).eval()
    with torch.no_grad():
        model[0].bias[2] = -100
        model[2].bias[2] = 0.5
    x = torch.randn(9, 2, 8, 8)
    report, numbers = census(model, x), everything(model)
    for task in (lambda: revive(model, report, rng=rng()), lambda: prune(model, report)):
        with pytest.raises(ValueError, match=r"'1'.*(pads with zeros|averages over padding)"):
            task()
    assert same(everything(model), numbers)
    assert revive(model, report, rng=rng(), skip=["1"]).n_units == 0


def test_a_flat_unit_that_jumps_stays():
    """A hard tanh at -1 and 1 has no derivative, but what it tells counts."""
    model = nn.Sequential(nn.Linear(1, 3), nn.Hardtanh(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1e6], [1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    x = torch.linspace(-1, 1, 100)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False, True]
    assert revive(model, report, rng=rng(), dry_run=True).units["1"].tolist() == [2]
    assert torch.allclose(prune(model, report)(x), model(x), atol=1e-6)


@pytest.mark.parametrize(("far", "constant"), [(3e3, False), (1e6, True)])
def test_a_flat_unit_whose_output_still_varies_stays(far, constant):
    """Softsign is dead from 999 on, where it has not yet arrived at 1: it tells one more digit."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Softsign(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[far], [1.0]]))
        model[0].bias.copy_(torch.tensor([far, 0.0]))
    x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False]
    chosen = revive(model, report, rng=rng(), dry_run=True).units.get("1", np.array([]))
    assert chosen.tolist() == ([0] if constant else [])
    smaller = prune(model, report)
    assert smaller[0].out_features == 2 - constant
    assert torch.allclose(smaller(x), model(x), atol=1e-6)


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


def test_outputs_that_vanish_beside_the_others_are_constant():
    model = nn.Sequential(nn.Linear(1, 2), nn.SiLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[5.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([-25.0, 1.0]))
    x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None]
    report = census(model, x)
    assert report["1"].dead.tolist() == [True, False]
    assert report["1"].rms[0] < 1e-6
    assert revive(model, report, rng=rng(), dry_run=True).units["1"].tolist() == [0]


def test_a_weak_unit_that_lives_is_not_pruned():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1e-3], [1.0]]))
        model[0].bias.zero_()
    report = census(model, torch.linspace(0, 1, 100)[:, None])
    assert report["1"].score[0] < 0.01
    assert prune(model, report)[0].out_features == 2


@pytest.mark.parametrize(("part", "counts"), [(0.9e-6, False), (1.1e-6, True)])
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_a_millionth_of_the_largest_output_needs_no_bias(part, counts, size):
    model = nn.Sequential(
        nn.Linear(1, 2), nn.Threshold(0.0, part * size), nn.Linear(2, 1, bias=False)
    ).double()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([-size, size]))
    report = census(model, torch.zeros(9, 1, dtype=torch.float64))
    assert report["1"].dead.tolist() == [True, False]
    if counts:
        with pytest.raises(ValueError, match="has no bias to take them over"):
            revive(model, report, rng=rng())
    else:
        assert revive(model, report, rng=rng()).n_units == 1


# ---- which units, and which weights -----------------------------------------------------------


def test_tau_takes_dormant_units_too():
    model, x, report = dying("mlp")
    scores = {layer.name: layer.score for layer in report}
    for tau in (0.0, 0.1, 0.6, 1.2):
        plan = revive(model, report, rng=rng(), tau=tau, dry_run=True)
        for name, score in scores.items():
            assert plan.units[name].tolist() == np.flatnonzero(score <= tau).tolist()
    assert revive(model, report, rng=rng(), tau=1.2, dry_run=True).n_units > 6
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
        with pytest.raises(ValueError, match=f"{next(iter(options))} must name"):
            plan(**options)
    with pytest.raises(TypeError, match="layers must be a list"):
        plan(layers="5")
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
    revive(model, report, rng=rng(), batch=x)
    assert torch.equal(model(x), before)
    z = model[:4](x)[:, [1, 3]].transpose(0, 1).flatten(1)
    assert torch.allclose(model[4].running_mean[[1, 3]], z.mean(1), rtol=1e-4)
    assert torch.allclose(model[4].running_var[[1, 3]], z.var(1), rtol=1e-4)
    after = census(model, x)["5"].p_active[[1, 3]]
    assert ((after > 0.1) & (after < 0.9)).all()
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
        (lambda m: torch.optim.Adam(nn.Linear(2, 2).parameters()), "does not hold 0.weight, 0.bi"),
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


def while_positive(net, x):
    return net.b(F.relu(net.a(x))) if x.sum() > -1e9 else x


class Opaque(nn.Module):
    """Its way depends on the numbers, so it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = linear(), nn.ReLU(), linear()

    def forward(self, x):
        return self.b(self.relu(self.a(x))) if x.sum() > -1e9 else x


REFUSED = {
    "residual stream": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)) + x), a=linear(), b=linear()),
        r"'relu\(\)': its output goes into a call of add \(a residual stream",
    ),
    "in-place residual": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)).add_(x)), a=linear(), b=linear()),
        "a call of add_",
    ),
    "the laboratory's residual net": (
        lambda: residual_mlp(4, 2, rng(), width=4, blocks=2).float(), "is read elsewhere too"
    ),
    "concatenation": (
        lambda: Net(lambda n, x: n.b(torch.cat([F.relu(n.a(x)), x], 1)), a=linear(), b=linear(8)),
        "a call of cat",
    ),
    "the output itself": (
        lambda: nn.Sequential(linear(), nn.ReLU()), "the model's output"
    ),
    "tied weights": (tied, r"'1': the weight of 2 \(Linear\) is tied"),
    "a weight read by a function": (
        lambda: Net(lambda n, x: F.linear(n.b(F.relu(n.a(x))), n.a.weight), a=linear(), b=linear()),
        r"the weight of a \(Linear\) is tied",
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
        r"0 \(SpectralLinear\) computes its weight in a way of its own",
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
    "a transposed convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 4, 1), nn.ReLU(), nn.ConvTranspose1d(4, 4, 1)
        ),
        "goes into 3 ",
    ),
    "layer norm": (
        lambda: nn.Sequential(linear(), nn.LayerNorm(4), nn.ReLU(), linear()),
        r"before it stands 1 \(LayerNorm\)",
    ),
    "layer norm behind": (
        lambda: nn.Sequential(linear(), nn.ReLU(), nn.LayerNorm(4), linear()), r"into 2 \(LayerN"
    ),
    "a gate": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)) * x), a=linear(), b=linear()), "call of mul"
    ),
    "a pre-activation that is used twice": (
        lambda: Net(lambda n, x: n.b(F.relu(z := n.a(x))) + z, a=linear(), b=linear()),
        r"what a \(Linear\) returns is read elsewhere too",
    ),
    "no layer before": (lambda: nn.Sequential(nn.ReLU(), linear()), "the model's input"),
    "a transposition": (
        lambda: Net(lambda n, x: n.b(F.relu(n.a(x)).T), a=linear(), b=linear(20)), "T|getattr"
    ),
    "a module that cannot be traced": (
        lambda: nn.Sequential(linear(), nn.ReLU(), linear(), Opaque()),
        r"'3.relu': it lies in 3, which torch.fx takes whole",
    ),
}  # fmt: skip


def second_dead(report):
    """Make a report in which the second unit of each layer is dead."""

    def without(array):
        return np.where(np.arange(len(array)) == 1, 0, array)

    sums = ("active", "steep", "upper", "total", "size", "square")
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
    report = census(model, x, functional=True)
    units = {layer.name: [1] for layer in report}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    numbers, printed = everything(model, optimizer), str(report)
    tasks = {
        "revive": lambda: revive(model, report, rng=rng(), units=units, optimizer=optimizer),
        "prune": lambda: prune(model, second_dead(report)),
    }
    with pytest.raises(ValueError, match=says) as refused:
        tasks[task]()
    assert "Nothing was changed" in str(refused.value)
    assert same(everything(model, optimizer), numbers)
    assert str(report) == printed
    everywhere = [layer.name for layer in report]
    assert revive(model, report, rng=rng(), units=units, skip=everywhere).n_units == 0


def test_what_is_beside_a_module_that_cannot_be_traced_can_be_reset():
    model = nn.Sequential(linear(), nn.ReLU(), linear(), Opaque()).eval()
    x = torch.randn(20, 4)
    with torch.no_grad():
        model[0].bias[2] = -100
    report = census(model, x)
    before = model(x)
    assert revive(model, report, rng=rng(), layers=["1"]).units["1"].tolist() == [2]
    assert torch.equal(model(x), before)


def test_a_whole_model_that_cannot_be_traced_is_refused():
    model = Net(while_positive, a=linear(), b=linear())
    report = census(model, torch.randn(9, 4), functional=True)
    with pytest.raises(ValueError, match=r"model cannot be traced by torch.fx"):
        revive(model, report, rng=rng())


def test_a_reshape_by_numbers_needs_a_batch():
    model, x, report = dying("x.flatten(1)")
    model.flatten = lambda x: x.view(-1, 16)
    with pytest.raises(ValueError, match=r"'relu\(\) \(2\)': a call of view reshapes: give batch="):
        revive(model, report, rng=rng())
    before = model(x)
    with pytest.raises(ValueError, match="the model reshapes them by numbers"):
        prune(model, report, batch=x)
    assert revive(model, report, rng=rng(), batch=x).n_units == 6
    assert torch.equal(model(x), before)
    model.flatten = lambda x: x.view(-1, 8)  # two rows from each image
    model.fc1 = nn.Linear(8, 6)
    report = census(model, x, functional=True)
    with pytest.raises(ValueError, match=r"'relu\(\) \(2\)': its output goes into a call of view"):
        revive(model, report, rng=rng(), batch=x, units={"relu() (2)": [1]})


class Remembers(nn.Module):
    """Keeps something at each call, multiplies by a constant, and draws."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.seen = linear(), linear(), None

    def forward(self, x):
        self.seen = F.relu(self.a(x))
        return self.b(self.seen * torch.rand(4))


def test_a_trace_leaves_nothing_behind():
    model = Remembers()
    report = census(model, torch.randn(9, 4), functional=True)
    attributes, random = dict(vars(model)), torch.get_rng_state()
    assert unit_groups(model, report)["relu()"].problem == "its output goes into a call of mul"
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[key] is attributes[key] for key in attributes)
    assert torch.equal(torch.get_rng_state(), random)


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
        (False, False, "its output goes into a call of add"),
        (True, True, "training mode takes another way through the model"),
    ],
)
@pytest.mark.parametrize("shapes", [True, False])
def test_defaults_and_training_mode_are_part_of_the_model(plain, extra, problem, shapes):
    model, x = WithDefaults(plain, extra), torch.randn(9, 4)
    report = census(model, x, functional=True)
    group = unit_groups(model, report, batch=x if shapes else None)["relu()"]
    assert group.problem.startswith(problem)
    assert bool(group.problem) == bool(problem)


def test_frozen_layers_are_refused():
    model, _, report = dying("mlp")
    model[2].weight.requires_grad_(False)
    numbers = everything(model)
    with pytest.raises(ValueError, match=r"frozen parameters.*: 2\.weight\. Nothing"):
        revive(model, report, rng=rng())
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
        revive(model, report, rng=rng())
    assert torch.equal(bias, numbers["0.bias"])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (lambda: nn.Sequential(linear(6, 8), nn.ReLU()), "calls no '3'"),
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
        ({"tau": -0.1}, ValueError, "tau must be finite and not negative, not -0.1"),
        ({"tau": math.nan}, ValueError, "tau must be finite"),
        ({"tau": "0"}, TypeError, "tau must be a real number"),
        ({"rng": 0}, TypeError, "rng must be a numpy.random.Generator"),
        ({"state": "none"}, ValueError, "state must be one of"),
        ({"incoming": "best"}, ValueError, "incoming must be callable or of"),
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
    rest = census(smaller, x, functional=True)
    assert [len(layer) for layer in rest] == [len(layer) - 3 for layer in report]
    assert not any(layer.dead.any() for layer in rest)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    trained(smaller.train(), x, steps=1)  # it is whole: it trains, in training mode too
    if isinstance(smaller, nn.Sequential):
        printed = str(smaller)
        for layer in smaller:
            if isinstance(layer, nn.Linear):
                assert f"in_features={layer.weight.shape[1]}, out" in printed
            if isinstance(layer, Dropout):
                assert layer.width == layer.mask.shape[-1] in (5, 4)


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


def test_activations_with_numbers_of_their_own_are_not_pruned():
    model = nn.Sequential(linear(), nn.PReLU(4), linear())
    with torch.no_grad():
        model[1].weight[2], model[0].bias[2] = 0, -100
    x = torch.randn(20, 4)
    report = census(model, x)
    assert report["1"].dead.tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="'1': its activation keeps numbers for each"):
        prune(model, report)
    before = model(x)
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
        with pytest.raises(ValueError, match=says):
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
        ({"relu": nn.ELU(), "1": F.elu}, TypeError, "must hold modules"),
        ({"relu": Broken()}, RuntimeError, "broken"),
    ):
        with pytest.raises(kind, match=says):
            swap_activation(model, replacements, x)
        assert all(a is b for a, b in zip(model, layers, strict=True))
    functional, x = build("x.flatten(1)")
    with pytest.raises(ValueError, match=r"'relu\(\)' is no module"):
        swap_activation(functional, {"relu": nn.ELU()}, x, functional=True)


@pytest.mark.parametrize("name", ["mlp, norm", "cnn", "tokens", "x.flatten(1)"])
def test_shifted_units_fire_as_often_as_asked(name):
    model, x, _ = dying(name)
    done = shift_bias(model, x, p_active=0.3, functional=True)
    for old, new in zip(done.before, done.after, strict=True):
        assert new.p_active[old.dead] == pytest.approx(0.3, abs=2 / old.n_values + 1e-3)
    model, x, report = dying(name)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    done = shift_bias(model, x, layers=[report.names[0]], all_units=True, functional=True)
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


def test_a_shift_that_fails_changes_nothing():
    model, x = build("mlp")
    with torch.no_grad():
        model[0].bias[1] = -100
        model[2].weight[1] = -100
    numbers = everything(model)
    for options, says in (
        ({}, "'3': 2 has no bias"),  # after the first layer has been shifted
        ({"p_active": 1.0}, "p_active must be between 0 and 1"),
        ({"layers": ["7"]}, "layers must name"),
    ):
        with pytest.raises(ValueError, match=says):
            shift_bias(model, x, **options)
        assert same(everything(model), numbers)
    pooled, x = build("pooled first")
    with pytest.raises(ValueError, match="something stands between"):
        shift_bias(pooled, x, all_units=True)
    assert not pooled[0]._forward_hooks


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


def test_a_lower_rate_wakes_nothing():
    model, x, _ = dying("mlp")
    groups = [{"params": model[0].parameters(), "lr": torch.tensor(0.5)},
              {"params": model[2:].parameters()}]  # fmt: skip
    optimizer = torch.optim.Adam(groups, lr=1.0, foreach=False)
    done = lower_rate(model, optimizer, x, factor=0.1)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.05, 0.1])
    assert str(done.before) == str(done.after)
    for bad in (0, math.inf):
        with pytest.raises(ValueError, match="factor must be"):
            lower_rate(model, optimizer, x, factor=bad)
    with pytest.raises(ValueError, match="holds none of them"):
        lower_rate(linear(), optimizer, x)
    with pytest.raises(TypeError, match="optimizer must be"):
        lower_rate(model, "adam", x)
    assert float(optimizer.param_groups[1]["lr"]) == pytest.approx(0.1)


def test_every_public_name_is_documented():
    assert all(getattr(revival, name).__doc__ for name in revival.__all__)
