"""A trial changes nothing, compares like with like, and names the remedy that works."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from companion.detection import census, watch
from companion.experiments import digits
from companion.revival import Outcome, Trial, trial
from companion.revival.candidates import AS_IT_IS, REMEDIES, Candidate, Run

SGD = partial(torch.optim.SGD, lr=0.1)
DIGITS = digits()
ALL = [name for name in REMEDIES if name != AS_IT_IS]


def net(seed=0, dtype=torch.float64, *, bias=0.0, scale=1.0, act=nn.ReLU):
    """Plain layers, by He's rule; faults by their size."""
    torch.manual_seed(seed)
    layers = []
    for n_in, n_out in ((64, 64), (64, 64), (64, 64), (64, 10)):
        layer = nn.Linear(n_in, n_out)
        nn.init.kaiming_normal_(layer.weight)
        nn.init.constant_(layer.bias, bias if n_out == 64 else 0.0)
        layer.weight.data *= scale
        layers += [layer, act()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def batches(far=0.0, size=64, seed=0):
    x, y = torch.from_numpy(DIGITS.x_train) + far, torch.from_numpy(DIGITS.y_train)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [(x[part], y[part]) for part in order.split(size)]


def small(n=6, dtype=torch.float32):
    """A net of one layer, and six batches: a trial takes no time."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    x = torch.randn(10 * n, 3, dtype=dtype)
    return model, list(zip(x.split(10), (x[:, 0] > 0).long().split(10), strict=True))


def quick(model, loader, make=SGD, loss=cross_entropy, **options):
    return trial(model, make, loss, loader, **{"steps": 5, "seeds": 2} | options)


def frozen(model):
    model[2].requires_grad_(False)
    return model


# ---- the remedy that is named works ---------------------------------------------------------

PLANTED = {
    "healthy": (net, SGD, 0.0, {AS_IT_IS}),
    "rate": (net, partial(torch.optim.SGD, lr=3.0), 0.0, {"a tenth of the rate", "batch norm"}),
    "offset": (net, SGD, 20.0, {"inputs centred"}),
    "biases": (partial(net, bias=-3.0), SGD, 0.0, {"redrawn"}),
    "weights": (partial(net, scale=10.0), SGD, 0.0, {"redrawn"}),
    "frozen": (lambda seed: frozen(net(seed)), SGD, 0.0, {AS_IT_IS, "unfrozen"}),
}
"""By fault: a net of a seed, its optimizer, how far its inputs are from zero, and what helps."""


def accuracy_after(remedy, model, make, far, steps):
    """Train a copy under one remedy for long; the share of test digits that are right."""
    torch.manual_seed(99)

    def loss(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    run = Run(copy.deepcopy(model), batches(far), loss, steps, np.random.default_rng(99))
    REMEDIES[remedy].apply(run)
    run.train(make)
    right = run.model.eval()(torch.from_numpy(DIGITS.x_test) + far).argmax(1)
    return float((right == torch.from_numpy(DIGITS.y_test)).double().mean())


@pytest.mark.parametrize("fault", PLANTED)
def test_the_remedy_named_first_works_in_a_training_ten_times_as_long(fault):
    build, make, far, allowed = PLANTED[fault]
    model = build(0)
    found = trial(model, make, cross_entropy, batches(far))
    assert found.best in allowed
    assert accuracy_after(found.best, model, make, far, 10 * found.steps) > 0.95
    before = accuracy_after(AS_IT_IS, model, make, far, 10 * found.steps)
    assert (before < 0.2) == (found.best != AS_IT_IS)


def test_weights_of_nan_are_drawn_anew():
    model, loader = small()
    model[0].weight.data[0, 0] = math.nan
    found = quick(model, loader, steps=50, remedies=["redrawn", "warm-up"])
    assert found.best == "redrawn"
    assert found.outcomes[0].loss < 0.5
    assert "instead of not finite" in found.advice
    assert math.isnan(found.loss)


# ---- nothing is changed ---------------------------------------------------------------------


def state_of(model):
    return {
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "wanted": [p.requires_grad for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "children": [list(m._modules.items()) for m in model.modules()],
        "random": (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()),  # noqa: NPY002
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one is other or one == other


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_model_and_random_states_are_bit_for_bit_untouched(training, fails):
    model, loader = small()
    model.insert(1, nn.BatchNorm1d(8))
    model.insert(3, nn.Dropout(0.5))
    model.train(training)
    cross_entropy(model(loader[0][0]), loader[0][1]).backward()
    data = TensorDataset(*(torch.cat(part) for part in zip(*loader, strict=True)))
    own = torch.Generator().manual_seed(3)
    shuffled = DataLoader(data, batch_size=10, shuffle=True, generator=own)
    before, generator = state_of(model), own.get_state()

    def call(model, batch):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        call.count += 1
        if fails and call.count > 40:
            raise KeyError("in the middle")
        return cross_entropy(model(batch[0]), batch[1])

    call.count = 0
    if fails:
        with pytest.raises(KeyError, match="in the middle"):
            quick(model, shuffled, loss=None, call=call, remedies=["warm-up"], steps=99)
    else:
        quick(model, shuffled, loss=None, call=call)
    assert same(state_of(model), before)
    assert torch.equal(own.get_state(), generator)


def test_data_stay_as_they_are_even_if_a_model_works_in_place():
    model, loader = small()
    model.insert(0, nn.ReLU(inplace=True))
    before = copy.deepcopy(loader)
    one = quick(model, loader, remedies=[])
    two = quick(model, loader, remedies=[])
    assert same(loader, before)
    assert one.outcomes[0].losses == two.outcomes[0].losses


def test_a_call_that_works_in_place_meets_the_same_batches_each_time():
    model, loader = small()
    one, two = (
        quick(
            model, loader, loss=None, remedies=[],
            call=lambda m, b, double=double: cross_entropy(m(double(b[0])), b[1]),
        )
        for double in (lambda x: x * 2, lambda x: x.mul_(2))
    )  # fmt: skip
    assert one.outcomes[0].losses == two.outcomes[0].losses


def test_a_watch_does_not_count_what_copies_do():
    model, loader = small()
    with watch(model) as watched:
        model(loader[0][0])
        quick(model, loader)
    assert watched.report()[0].n_seen == 10


def test_a_trial_within_no_grad_trains_all_the_same():
    model, loader = small()
    with torch.no_grad():
        within = quick(model, loader, remedies=[])
    assert within.outcomes[0].losses == quick(model, loader, remedies=[]).outcomes[0].losses
    assert within.outcomes[0].loss != within.loss


# ---- like is compared with like -------------------------------------------------------------


class Recorder:
    """A call that notes which batches it was given, in training and in evaluation mode."""

    def __init__(self):
        self.trained, self.measured = [], []

    def __call__(self, model, batch):
        if torch.is_grad_enabled():
            self.trained.append(int(batch["id"]))
        else:
            self.measured.append(int(batch["id"]))
            assert not model.training
        return cross_entropy(model(batch["x"]), batch["y"])


def numbered(n):
    model, loader = small(n)
    return model, [{"id": i, "x": x, "y": y} for i, (x, y) in enumerate(loader)]


@pytest.mark.parametrize(
    ("n", "steps", "taken", "held"),
    [
        (6, 9, 6, [4]), (5, 9, 5, [4]), (4, 9, 4, []), (1, 3, 1, []), (12, 9, 9, [4]),
        (12, 10, 10, [4, 9]),
    ],
)  # fmt: skip
def test_each_fifth_batch_is_held_out_and_the_rest_come_again_in_an_order_by_seed(
    n, steps, taken, held
):
    model, loader = numbered(n)
    call, given = Recorder(), []
    found = quick(
        model, (given.append(b["id"]) or b for b in loader), loss=None, call=call, steps=steps,
        seeds=3, remedies=["warm-up", "gradient clipped"],
    )  # fmt: skip
    assert given == list(range(taken))  # taken once, no more than needed
    assert found.n_held == len(held)
    used = [i for i in range(taken) if i not in held]
    assert set(call.measured) == set(held or used)
    trained = np.array(call.trained[1:]).reshape(-1, steps)  # the first: is it a loss of this?
    seeds = {outcome.remedy: len(outcome.losses) for outcome in found.outcomes}
    assert len(trained) == sum(seeds.values())
    first = trained[: seeds.pop(AS_IT_IS)]
    assert len(first) == 3
    place = 3
    for n_seeds in (seeds["warm-up"], seeds["gradient clipped"]):
        assert (trained[place : place + n_seeds] == first[:n_seeds]).all()  # they see the same
        place += n_seeds
    for order in first:
        for start in range(0, steps, len(used)):
            part = order[start : start + len(used)].tolist()
            assert len(set(part)) == len(part)
            assert set(part) <= set(used)
    if len(used) > 2:
        assert len({tuple(order) for order in first}) > 1


def test_the_outcome_as_it_is_is_that_of_a_loop_by_hand():
    model, loader = small()
    found = quick(model, loader, remedies=[], steps=7, seeds=3)
    losses, shares = [], []
    held, used = [loader[4]], [batch for i, batch in enumerate(loader) if i != 4]
    for seed in range(3):
        rng, mine = np.random.default_rng(seed), copy.deepcopy(model)
        optimizer = SGD(mine.parameters())
        for place in np.concatenate([rng.permutation(5), rng.permutation(5)])[:7]:
            optimizer.zero_grad()
            cross_entropy(mine(used[place][0]), used[place][1]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(float(cross_entropy(mine(held[0][0]), held[0][1])))
        shares.append(float(census(mine, [held[0][0]])[0].dead.mean()))
    (outcome,) = found.outcomes
    assert outcome.losses == pytest.approx(losses)
    assert outcome.dead == pytest.approx(shares)
    assert outcome.loss == pytest.approx(np.mean(losses))
    assert outcome.spread == pytest.approx(np.std(losses, ddof=1))
    with torch.no_grad():
        first = float(cross_entropy(model(held[0][0]), held[0][1]))
    assert found.loss == pytest.approx(first)
    assert found.dead == pytest.approx(census(model, [held[0][0]])[0].dead.mean())
    assert outcome.seconds > 0


def test_seeds_differ_and_repeat():
    model, loader = small()
    model.insert(2, nn.Dropout(0.5))
    runs = []
    for seed in (5, 6):  # which is the script's own
        torch.manual_seed(seed)
        runs.append(quick(model, loader, seeds=3))
    one, two = runs
    assert [o.losses for o in one.outcomes] == [o.losses for o in two.outcomes]
    assert all(len(set(outcome.losses)) == len(outcome.losses) for outcome in one.outcomes)
    assert len(next(o for o in one.outcomes if o.remedy == AS_IT_IS).losses) == 3


def test_only_one_batch_without_a_draw_leaves_no_spread():
    model, loader = small(1)
    (outcome,) = quick(model, loader, remedies=[]).outcomes
    assert outcome.spread == 0


def test_modes_are_those_of_the_model_and_training_if_it_is_evaluated():
    model, loader = small()
    model.insert(1, nn.BatchNorm1d(8))
    modes = []

    def call(model, batch):
        if torch.is_grad_enabled():
            modes.append((model.training, model[1].training))
        return cross_entropy(model(batch[0]), batch[1])

    model.train()
    model[1].eval()  # a norm that is frozen on purpose
    quick(model, loader, loss=None, call=call, remedies=[])
    assert set(modes[1:]) == {(True, False)}
    modes.clear()
    quick(model.eval(), loader, loss=None, call=call, remedies=[])
    assert set(modes[1:]) == {(True, True)}


# ---- each remedy does what it says ----------------------------------------------------------


def run_of(model, loader, steps=8, rng=0):
    def loss(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    return Run(copy.deepcopy(model), loader, loss, steps, np.random.default_rng(rng))


def applied(name, model, loader, **options):
    run = run_of(model, loader, **options)
    REMEDIES[name].apply(run)
    return run


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        (AS_IT_IS, [0.1] * 8),
        ("a tenth of the rate", [0.01] * 8),
        ("warm-up", [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
@pytest.mark.parametrize("tensor", [False, True])
def test_rates_of_each_step(name, rates, tensor):
    seen = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([float(group["lr"]) for group in self.param_groups])
            return super().step(closure)

    def make(parameters):
        first, *others = parameters
        rate = torch.tensor(0.1) if tensor else 0.1
        return Noting([{"params": [first]}, {"params": others, "lr": 0.2}], lr=rate)

    applied(name, *small()).train(make)
    np.testing.assert_allclose(seen, np.outer(rates, [1, 2]), rtol=1e-6)


@pytest.mark.parametrize(("name", "most"), [("gradient clipped", 1.0), (AS_IT_IS, math.inf)])
def test_the_gradients_norm_is_at_most_one(name, most):
    model, loader = small()
    model[2].weight.data *= 1000
    norms = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            square = sum(p.grad.square().sum() for g in self.param_groups for p in g["params"])
            norms.append(float(square.sqrt()))
            return loss

    applied(name, model, loader).train(lambda parameters: Noting(parameters, lr=0.01))
    assert max(norms) <= most * 1.001
    assert max(norms) > 0.99
    if most == math.inf:
        assert max(norms) > 5


@pytest.mark.parametrize("name", ["inputs centred", "inputs standardized"])
def test_inputs_are_centred_on_what_is_trained_on(name):
    model, loader = small()
    run = applied(name, model, [(3 * x + 7, y) for x, y in loader])
    x = 3 * torch.cat([x for x, _ in loader]) + 7
    torch.testing.assert_close(run.model[0].mean, x.mean(0))
    scale = x.std(0, correction=0) if name == "inputs standardized" else torch.ones(3)
    torch.testing.assert_close(run.model[0].scale, scale)


def test_dead_units_are_shifted_or_reset_by_the_runs_generator():
    model, loader = small()
    model[0].bias.data[:3] = -50.0
    x = torch.cat([x for x, _ in loader])
    for name in ("biases shifted", "dead units reset"):
        run = applied(name, model, loader)
        assert census(model, x)[0].dead.sum() == 3
        assert not census(run.model, x)[0].dead.any()
    one, two, other = (
        applied("dead units reset", model, loader, rng=seed).model[0].weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_weights_are_drawn_by_hes_rule():
    model = nn.Sequential(
        nn.Conv2d(16, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 500),
    )  # fmt: skip
    model[1].running_mean += 3
    model[1].weight.data += 3
    torch.manual_seed(0)
    drawn = applied("redrawn", model, []).model
    for place, fan_in in ((0, 144), (4, 64)):
        std = float(drawn[place].weight.detach().std())
        assert std == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
    assert not drawn[4].bias.any()
    assert (drawn[1].weight == 1).all()
    assert not drawn[1].running_mean.any()


def test_to_redraw_and_slow_down_does_both():
    model, loader = small()
    run = applied("redrawn, a tenth of the rate", model, loader)
    assert not torch.equal(run.model[0].weight, model[0].weight)
    assert run.rate(0) == 0.1


def test_frozen_parameters_are_trained():
    model, loader = small()
    model[0].requires_grad_(False)
    found = quick(model, loader)
    assert "unfrozen" in [outcome.remedy for outcome in found.outcomes]
    assert all(p.requires_grad for p in applied("unfrozen", model, loader).model.parameters())
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize(
    ("name", "new"),
    [("leaky ReLU", "LeakyReLU(negative_slope=0.1)"), ("GELU", "GELU(approximate='none')")],
)
def test_activations_are_swapped(name, new):
    assert str(applied(name, *small()).model[1]) == new


@pytest.mark.parametrize(
    ("layer", "shape", "norm"),
    [
        (nn.Linear(4, 6), (4,), nn.BatchNorm1d), (nn.Conv1d(2, 6, 2), (2, 5), nn.BatchNorm1d),
        (nn.Conv2d(2, 6, 2), (2, 5, 5), nn.BatchNorm2d),
        (nn.Conv3d(2, 6, 2), (2, 5, 5, 5), nn.BatchNorm3d),
        (nn.ConvTranspose2d(2, 6, 2), (2, 5, 5), nn.BatchNorm2d),
    ],
    ids=str,
)  # fmt: skip
def test_a_batch_norm_stands_between_layer_and_activation(layer, shape, norm):
    act = nn.ReLU()
    model = nn.Sequential(nn.Sequential(layer, act), nn.Identity(), act).double()
    changed = applied("batch norm", model, []).model
    assert isinstance(changed[0][1], nn.Sequential)
    fresh = changed[0][1][0]
    assert type(fresh) is norm
    assert (fresh.num_features, fresh.weight.dtype) == (6, torch.float64)
    assert isinstance(changed[2], nn.ReLU)  # which follows no layer
    x = torch.randn(7, *shape, dtype=torch.float64)
    z = model[0][0](x)
    expected = (z - z.mean([0, *range(2, z.ndim)], keepdim=True)).relu() > 0
    assert torch.equal(changed(x) > 0, expected)


def test_one_activation_behind_two_layers_gets_a_batch_norm_of_its_own_each():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 5), act, nn.Linear(5, 2))
    changed = applied("batch norm", model, []).model
    assert [changed[i][0].num_features for i in (1, 3)] == [4, 5]


# ---- what cannot be tried -------------------------------------------------------------------


class Functions(nn.Module):
    """Has no activation module, and takes a number of its inputs for granted."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.sin(self.a(x)))


def test_what_cannot_be_tried_is_named_with_the_reason():
    model, loader = small()
    found = quick(model, loader)
    assert found.not_tried == {
        "biases shifted": "no unit is dead",
        "dead units reset": "no unit is dead",
        "unfrozen": "no parameter is frozen",
    }
    assert {o.remedy for o in found.outcomes} == set(REMEDIES) - set(found.not_tried)
    assert "not tried: biases shifted, dead units reset (no unit is dead)" in str(found)


def test_a_model_without_known_activations_is_tried_by_its_loss():
    model, (_, loader) = Functions(), small()
    model.train()
    found = quick(model, loader)
    assert math.isnan(found.dead)
    with torch.no_grad():
        assert found.loss == pytest.approx(float(cross_entropy(model(loader[4][0]), loader[4][1])))
    assert {"a tenth of the rate", "warm-up", "redrawn"} <= {
        outcome.remedy for outcome in found.outcomes
    }
    assert "follows a layer" in found.not_tried["batch norm"]
    assert found.not_tried["GELU"] == "no ReLU is a module of the model"
    assert "?" in str(found)


def test_any_error_of_a_remedy_is_a_reason():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(12, 5, 3)  # sequences: a batch norm takes their positions for channels
    found = quick(model, [(x, torch.randn(12, 5, 2))], loss=mse_loss)
    assert found.not_tried["batch norm"].startswith("RuntimeError: ")
    assert "\n" not in found.not_tried["batch norm"]
    refusal = {"layers": [nn.Linear(3, 3).requires_grad_(False)]}["layers"][0]
    model.insert(0, refusal)
    model[1].bias.data.fill_(-50.0)
    model[1].bias.requires_grad_(False)
    reason = quick(model, [(x, torch.randn(12, 5, 2))], loss=mse_loss).not_tried["dead units reset"]
    assert reason.endswith("1.bias")  # without the sentence that nothing was changed


def test_an_optimizer_without_a_rate():
    class Rateless(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

        def step(self, closure=None):
            closure()
            for p in self.param_groups[0]["params"]:
                p.data -= 0.1 * p.grad

    found = quick(*small(), make=Rateless)
    for name in ("a tenth of the rate", "warm-up"):
        assert "no learning rate" in found.not_tried[name]
    assert found.outcomes[0].remedy


@pytest.mark.parametrize("entry", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_batches_that_are_not_finite_are_named_and_nothing_is_tried(entry, value, kind):
    x, y = torch.randn(6, 10, 3), torch.randn(6, 10, 2)
    (x, y)[entry][2, 0, 0] = value
    loader = list(zip(x, y, strict=True))
    if kind == "array":
        loader = [(x.numpy(), y.numpy()) for x, y in loader]
    found = quick(small()[0], loader, loss=mse_loss, steps=6)
    what = ("inputs", "targets")[entry]
    says = f"batch 3 of 6 holds NaN or infinity in its {what}"
    assert (found.outcomes, found.n_held) == ((), 0)
    assert found.best == ""
    assert found.not_tried == dict.fromkeys(REMEDIES, says)
    assert found.advice == f"Nothing was tried: {says}."
    assert str(found).startswith(found.advice)
    assert found._repr_html_()
    named = [{"text": "words", "x": x, "y": y} for x, y in loader]
    found = quick(small()[0], named, loss=None, call=lambda m, b: mse_loss(m(b["x"]), b["y"]))
    assert f"in its {'xy'[entry]}" in found.advice


def test_what_the_net_as_it_is_raises_comes_through():
    model, loader = small()
    with pytest.raises(ValueError, match="batch_size"):
        quick(model, [*loader[:2], (loader[2][0], loader[2][1][:-1])])


# ---- kinds of models, optimizers and loaders ------------------------------------------------


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6), nn.Sequential(nn.Linear(6, 5), nn.ReLU())
        self.out = nn.Linear(5, 2)

    def forward(self, ids, labels=None):
        logits = self.out(self.head(self.table(ids).mean(1)))
        return {"logits": logits, "loss": cross_entropy(logits, labels)}


def test_a_model_that_takes_dictionaries():
    torch.manual_seed(0)
    loader = [{"ids": torch.randint(9, (8, 4)), "labels": torch.randint(2, (8,))} for _ in range(6)]
    found = quick(Words(), loader, loss=None, call=lambda model, batch: model(**batch)["loss"])
    assert {"a tenth of the rate", "leaky ReLU", "batch norm"} <= {
        outcome.remedy for outcome in found.outcomes
    }
    assert "inputs centred" in found.not_tried


@pytest.mark.parametrize(
    "make",
    [
        partial(torch.optim.Adam, lr=0.01), partial(torch.optim.LBFGS, lr=0.1, max_iter=2),
        lambda parameters: torch.optim.AdamW([{"params": list(parameters)}], lr=0.01),
    ],
)  # fmt: skip
def test_any_optimizer_of_pytorch(make):
    found = quick(*small(), make=make)
    assert "a tenth of the rate" in [outcome.remedy for outcome in found.outcomes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["list", "iterator", "arrays", "loader"])
def test_any_loader_gives_the_same(dtype, kind):
    model, loader = small(dtype=torch.float64)
    model = model.to(dtype)
    given = {
        "list": loader,
        "iterator": iter(loader),
        "arrays": [[x.numpy(), y.numpy()] for x, y in loader],
        "loader": DataLoader(
            TensorDataset(*(torch.cat(part) for part in zip(*loader, strict=True))), batch_size=10
        ),
    }
    losses = quick(model, given[kind], remedies=[]).outcomes[0].losses
    assert losses == quick(model, loader, remedies=[]).outcomes[0].losses


def test_a_compiled_model_is_tried_as_the_original():
    model, loader = small()
    wrapped = nn.DataParallel(model)
    assert quick(wrapped, loader, remedies=[]).outcomes[0].losses == (
        quick(model, loader, remedies=[]).outcomes[0].losses
    )


# ---- the verdict ----------------------------------------------------------------------------


def verdict(monkeypatch, start, gain=math.nan, **losses):
    """Run a trial whose measurements are given: by remedy, the loss of each seed."""
    module = sys.modules["companion.revival.trial"]
    values = {AS_IT_IS: losses.pop("base"), **losses}
    coming = [start]

    def measured(*_):
        return coming.pop(), 0.25, gain

    def apply(run, seeds):
        coming.append(next(seeds))

    fake = {
        name: Candidate(partial(apply, seeds=iter(row)), f"do {name}")
        for name, row in values.items()
    }
    monkeypatch.setattr(module, "_measure", measured)
    monkeypatch.setattr(module, "REMEDIES", fake)
    return quick(*small(), steps=1, seeds=len(values[AS_IT_IS]))


@pytest.mark.parametrize(
    ("start", "base", "other", "best"),
    [
        # A fall of 2: a tenth of it, 0.2, is less than 30 % of the loss.
        (3.0, (1.0, 1.0), (0.799, 0.799), "other"),
        (3.0, (1.0, 1.0), (0.801, 0.801), AS_IT_IS),
        (5.0, (2.5, 2.5), (2.25, 2.25), "other"),  # exactly a tenth
        # A fall of 99: 30 % of the loss is less.
        (100.0, (1.0, 1.0), (0.699, 0.699), "other"),
        (100.0, (1.0, 1.0), (0.701, 0.701), AS_IT_IS),
        # On average, but not for each seed; for each seed, and on average.
        (3.0, (1.0, 1.0), (1.01, 0.3), AS_IT_IS),
        (3.0, (1.0, 1.0), (1.0, 0.3), AS_IT_IS),
        (3.0, (1.0, 1.0), (0.99, 0.3), "other"),
        (3.0, (1.0, 2.0), (0.9, 1.5), "other"),
        # A net that learns nothing: what counts is to come down by 1 %.
        (2.0, (2.0, 2.0), (1.979, 1.979), "other"),
        (2.0, (2.0, 2.0), (1.981, 1.97), AS_IT_IS),
        (2.0, (2.1, 2.1), (1.99, 1.99), AS_IT_IS),
        (2.0, (2.1, 2.1), (1.97, 1.97), "other"),
        # What ends at NaN.
        (2.0, (math.nan, 1.0), (1.9, 1.9), "other"),
        (2.0, (math.nan, 1.0), (1.9, 1.99), AS_IT_IS),
        (2.0, (1.0, 1.0), (0.1, math.nan), AS_IT_IS),
        (2.0, (math.nan, math.nan), (math.inf, 0.1), AS_IT_IS),
        (math.nan, (1.0, 1.0), (0.6, 0.6), "other"),
        (math.inf, (1.0, 1.0), (0.8, 0.8), AS_IT_IS),
        # Losses may be negative.
        (-1.0, (-2.0, -2.0), (-2.09, -2.09), AS_IT_IS),
        (-1.0, (-2.0, -2.0), (-2.11, -2.11), "other"),
        (-2.0, (-1.0, -1.0), (-2.01, -2.01), AS_IT_IS),
        (-2.0, (-1.0, -1.0), (-2.03, -2.03), "other"),
    ],
)
def test_a_remedy_is_taken_if_it_beats_the_noise_and_is_worth_it(
    monkeypatch, start, base, other, best
):
    found = verdict(monkeypatch, start, base=base, other=other)
    assert found.best == best
    assert found.outcomes[0].remedy == best
    if best == "other":
        assert found.advice.startswith("Take 'other': a loss of ")
        assert found.advice.endswith(". How: do other.")
    else:
        assert found.advice.startswith("No remedy ")


def test_the_best_of_those_that_help_is_first_and_the_rest_stand_by_their_loss(monkeypatch):
    found = verdict(
        monkeypatch, 3.0, base=(1.0, 1.2), good=(0.5, 0.6), best=(0.3, 0.5), lucky=(0.1, 1.3),
        lost=(math.nan, 0.1), bad=(1.5, 1.5),
    )  # fmt: skip
    losses = {outcome.remedy: outcome.losses for outcome in found.outcomes}
    assert losses == {
        "best": (0.3, 0.5), "good": (0.5, 0.6), "lucky": (0.1, 1.3), AS_IT_IS: (1.0, 1.2),
        "bad": (1.5,), "lost": (pytest.approx(math.nan, nan_ok=True),),  # beaten with one seed
    }  # fmt: skip
    assert list(losses) == ["best", "good", "lucky", AS_IT_IS, "bad", "lost"]
    assert str(found.outcomes[4]) == "1.5"
    assert math.isnan(found.outcomes[4].spread)
    assert found.advice == (
        "Take 'best': a loss of 0.4 ± 0.1 instead of 1.1 ± 0.1, lower by 0.7 to 0.7 with each of 2 "
        "seeds. How: do best."
    )


def test_what_the_advice_says_if_nothing_helps(monkeypatch):
    found = verdict(monkeypatch, 3.0, base=(1.0, 1.2), other=(0.99, 1.19))
    assert [outcome.remedy for outcome in found.outcomes] == [AS_IT_IS, "other"]
    assert found.advice == (
        "No remedy beats the noise: go on with the net as it is, at a loss of 1.1 ± 0.1."
    )
    found = verdict(monkeypatch, 2.0, base=(2.1, 2.1), other=(2.0, 2.0))
    assert found.advice == "No remedy helps: none brings the loss well below 2, its start."
    found = verdict(monkeypatch, 2.0, base=(math.nan, 1.0), other=(1.0, 1.0))
    assert "a loss of 1 ± 0 instead of not finite. How" in found.advice


def test_a_trial_prints_as_a_table_in_text_html_and_plain_values():
    one = Outcome("<b>", (0.25, 0.35), (0.5, 0.25), 1.25, "so")
    base = Outcome(AS_IT_IS, (1.0, 1.0), (math.nan, math.nan), 2.0, "go on")
    found = Trial((one, base), {"x": "no"}, 3.0, 0.125, 7, 2, 4)
    assert str(found).splitlines() == [
        "Take '<b>': a loss of 0.3 ± 0.07 instead of 1 ± 0, lower by 0.65 to 0.75 with each of 2 "
        "seeds. How: so.",
        "remedy    loss        dead  seconds",
        "<b>       0.3 ± 0.07  38 %  1.2",
        "as it is  1 ± 0       ?     2.0",
        "7 steps, 2 seeds (±: their standard deviation; fewer where a remedy was beaten), measured "
        "on 4 batches held out; at the start: loss 3, dead 12 %",
        "not tried: x (no)",
    ]
    page = found._repr_html_()
    assert page.count("<tr>") == 3
    assert page.count("<th>") == 4
    assert "<td>&lt;b&gt;</td><td>0.3 ± 0.07</td><td>38 %</td><td>1.2</td>" in page
    again = json.loads(json.dumps(found.to_dict()))
    assert again["best"] == "<b>"
    assert again["outcomes"][0]["losses"] == [0.25, 0.35]
    assert again["not_tried"] == {"x": "no"}
    on_all = Trial((base,), {}, 3.0, 0.125, 7, 2, 0)
    assert "measured on the batches trained on" in str(on_all)
    assert "only guesses" not in str(found)
    same = dataclasses.replace(base, gains=(1.0, 0.0099))
    same = Trial((dataclasses.replace(one, gains=(1.0, 1.0)), same), {}, 3.0, 0.125, 7, 2, 4, True)
    says = "only guesses, as its loss is as high with the inputs of other samples: "
    assert str(same).splitlines()[-1] == f"{says}at the start; as it is"


# ---- better than a guess --------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "best"), [(0.0099, AS_IT_IS), (0.0101, "other")])
def test_a_remedy_must_be_better_than_a_guess(monkeypatch, gain, best):
    found = verdict(monkeypatch, 3.0, base=(2.0, 2.0), other=(1.0, 1.0), gain=gain)
    assert found.best == best
    losses = {outcome.remedy: outcome.losses for outcome in found.outcomes}
    assert len(losses["other"]) == (2 if best == "other" else 1)
    if best == AS_IT_IS:
        assert found.outcomes[0].guesses
        assert found.advice == (
            "Within 1 steps the net comes to do better than a guess under no remedy: "
            "try more steps."
        )


class Sequential(nn.Module):
    """Takes sequences, in either order of axes, and calls an embedding first."""

    def __init__(self, batch_first):
        super().__init__()
        self.axis = 1 if batch_first else 0
        self.table, self.act, self.head = nn.Embedding(9, 9), nn.ReLU(), nn.Linear(9, 2)

    def forward(self, tokens):
        return self.head(self.act(self.table(tokens)).mean(self.axis))


@pytest.mark.parametrize("batch_first", [True, False])
def test_with_inputs_of_others_a_net_that_has_learned_does_worse(batch_first):
    tokens = torch.arange(2).repeat_interleave(8).repeat(6).view(6, 16)[..., None].expand(6, 16, 3)
    y = torch.arange(2).repeat_interleave(8).repeat(6).view(6, 16)
    loader = [(t if batch_first else t.T, target) for t, target in zip(tokens, y, strict=True)]
    torch.manual_seed(0)
    model = Sequential(batch_first)
    adam = partial(torch.optim.Adam, lr=0.05)
    found = quick(model, loader, adam, steps=40, remedies=[])
    (outcome,) = found.outcomes
    assert found.guesses
    assert not outcome.guesses
    assert outcome.loss < 0.05
    assert min(outcome.gains) > 2  # all are wrong
    model.head.weight.data.fill_(0.0)
    model.head.requires_grad_(False)
    found = quick(model, loader, adam, steps=40, remedies=[])
    assert found.outcomes[0].gains == pytest.approx((0, 0), abs=1e-7)
    assert found.advice.startswith(
        "Within 40 steps the net comes to do better than a guess under no"
    )


@pytest.mark.parametrize(("period", "size"), [(2, 2), (2, 16), (4, 16), (8, 16)])
def test_labels_in_a_regular_order_hide_no_learning(period, size):
    """To shift the inputs by half a batch, say, would give each sample one of its own class."""
    torch.manual_seed(0)
    y = torch.arange(160) % period
    x = nn.functional.one_hot(y, period) + 0.1 * torch.randn(160, period)
    model = nn.Sequential(nn.Linear(period, 16), nn.ReLU(), nn.Linear(16, period))
    adam = partial(torch.optim.Adam, lr=0.05)
    loader = list(zip(x.split(size), y.split(size), strict=True))
    (outcome,) = quick(model, loader, adam, steps=60, remedies=[]).outcomes
    assert outcome.loss < 0.1
    assert min(outcome.gains) > 1
    assert not outcome.guesses


def test_where_nothing_can_be_exchanged_it_is_not_asked():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 3))

        def forward(self, x):
            return torch.relu(x) @ self.weight.T

    class Outer(nn.Sequential):
        """Its own parameter is not that of a layer."""

        def __init__(self):
            super().__init__(nn.ReLU())
            self.weight = nn.Parameter(torch.randn(2, 3))

        def forward(self, x):
            return super().forward(x) @ self.weight.T

    _, loader = small()
    (free,) = quick(Free(), loader, remedies=[]).outcomes  # is a layer itself
    assert all(map(math.isfinite, free.gains))
    (outer,) = quick(Outer(), loader, remedies=[]).outcomes
    assert all(map(math.isnan, outer.gains))
    model, loader = small()
    singles = [(x[:1], y[:1]) for x, y in loader]
    (alone,) = quick(model, singles, remedies=[]).outcomes
    assert all(map(math.isnan, alone.gains))
    assert not alone.guesses


# ---- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"model": "net"}, TypeError, "model must be a torch.nn.Module"),
        ({"make": 0.1}, TypeError, "make_optimizer must be callable"),
        ({"make": list}, TypeError, "make_optimizer must return an optimizer"),
        ({"loss": None}, TypeError, "loss must be callable"),
        ({"loss": 3}, TypeError, "loss must be callable"),
        ({"loss": None, "call": 3}, TypeError, "call must be callable"),
        ({"call": lambda m, b: m(b[0]).sum()}, ValueError, "loss must be None where call"),
        ({"loader": 3}, TypeError, "loader must give batches"),
        ({"loader": "xy"}, TypeError, "loader must give batches"),
        ({"loader": []}, ValueError, "loader must give at least one batch"),
        ({"loader": torch.ones(6, 3)}, TypeError, "loader must give pairs of inputs and targets"),
        ({"loader": [{"x": 1}]}, TypeError, "loader must give pairs of inputs and targets"),
        ({"steps": 0}, ValueError, "steps must"),
        ({"steps": 2.5}, TypeError, "steps must"),
        ({"seeds": 1}, ValueError, "seeds must be a whole number, 2 or more"),
        ({"remedies": "GELU"}, TypeError, "remedies must"),
        ({"remedies": ["gelu"]}, ValueError, "remedies must"),
        ({"loss": lambda o, y: o}, TypeError, "loss and call must return one number"),
        ({"loss": lambda o, y: 3.0}, TypeError, "loss and call must return one number"),
        ({"loss": lambda o, y: o.detach().sum()}, ValueError, "must use the model"),
        ({"loss": None, "call": lambda m, b: small()[0](b[0]).sum()}, ValueError, "must use the m"),
        ({"make": lambda p: SGD(small()[0].parameters())}, ValueError, "make_optimizer must take"),
    ],
)
def test_bad_arguments_are_named(change, error, says):
    model, loader = small()
    given = {"model": model, "loader": loader} | change
    with pytest.raises(error, match=says):
        quick(given.pop("model"), given.pop("loader"), **given)


def test_a_model_whose_parameters_are_all_frozen_is_refused():
    model, loader = small()
    with pytest.raises(ValueError, match="model must have a parameter that is not frozen"):
        quick(model.requires_grad_(False), loader)


def test_a_bar_is_shown_on_request(capsys):
    quick(*small(), remedies=[], progress=False)
    assert "trial" not in capsys.readouterr().err
    quick(*small(), remedies=[], progress=True)
    assert "trial" in capsys.readouterr().err
