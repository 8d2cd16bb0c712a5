"""Whatever looks at a model leaves it bit for bit as it was: what it holds, and random states."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from companion import census, diagnose, prune, revive, signal_profile, trial, unit_groups, watch
from companion.untouched import taken, untouched


@dataclass
class Notes:
    seen: list = field(default_factory=list)
    n: int = 0


def held():
    """A module that holds one of everything."""
    module = nn.Linear(3, 3)
    module.register_buffer("buffer", torch.arange(3.0))
    module.numbers, module.nested = [1, [2]], {"a": [1], "b": {"c": deque([1, 2], maxlen=3)}}
    module.members, module.pair = {1, 2}, ([1], 2)
    module.array, module.tensor = np.arange(3.0), torch.ones(3)
    module.notes, module.space = Notes(), SimpleNamespace(x=[1], n=0)
    module.ordered = OrderedDict(a=1, b=2)
    module.none, module.text = None, "text"
    return module


CHANGES = {
    "a list": lambda m: m.numbers.append(3),
    "a list within": lambda m: m.numbers[1].append(3),
    "a list emptied": lambda m: m.numbers.clear(),
    "an attribute": lambda m: setattr(m, "text", "other"),
    "a new attribute": lambda m: setattr(m, "fresh", 1),
    "an attribute gone": lambda m: delattr(m, "none"),
    "another list": lambda m: setattr(m, "numbers", [1, [2]]),
    "a dict": lambda m: m.nested.update(z=1),
    "a dict within": lambda m: m.nested["b"].clear(),
    "a deque": lambda m: m.nested["b"]["c"].append(9),
    "a set": lambda m: m.members.symmetric_difference_update({2, 3}),
    "a list in a tuple": lambda m: m.pair[0].append(9),
    "an array": lambda m: m.array.__iadd__(1),
    "a tensor": lambda m: m.tensor.add_(1),
    "a dataclass": lambda m: setattr(m.notes, "n", 5),
    "a list in a dataclass": lambda m: m.notes.seen.append(1),
    "a namespace": lambda m: setattr(m.space, "n", 5),
    "an order": lambda m: m.ordered.move_to_end("a"),
    "a parameter": lambda m: m.weight.data.mul_(2),
    "a parameter's sign": lambda m: m.weight.data.neg_(),
    "a parameter replaced": lambda m: setattr(m, "weight", nn.Parameter(torch.zeros(3, 3))),
    "a parameter's numbers replaced": lambda m: setattr(m.weight, "data", torch.zeros(2, 2)),
    "a parameter to another precision": lambda m: m.double(),
    "a parameter frozen": lambda m: m.weight.requires_grad_(False),
    "a gradient": lambda m: m(torch.ones(1, 3)).sum().backward(),
    "a buffer": lambda m: m.buffer.zero_(),
    "a buffer not finite": lambda m: m.buffer.fill_(float("nan")),
    "a buffer replaced": lambda m: setattr(m, "buffer", torch.zeros(3)),
    "a hook": lambda m: m.register_forward_hook(lambda *_: None),
    "a mode": lambda m: m.eval(),
    "a child": lambda m: m.add_module("child", nn.ReLU()),
    "a parameter gone": lambda m: delattr(m, "bias"),
}


def picture(thing, seen=None):
    """All that a thing holds, with the identity of what is in it."""
    seen = {} if seen is None else seen
    if id(thing) in seen:
        return "again"
    seen[id(thing)] = thing
    if isinstance(thing, torch.Tensor):
        grad = None if thing.grad is None else picture(thing.grad, seen)
        return (id(thing), thing.dtype, thing.requires_grad, grad, thing.detach().numpy().tobytes())
    if isinstance(thing, np.ndarray):
        return (id(thing), thing.tobytes())
    if isinstance(thing, nn.Module | Notes | SimpleNamespace):
        return (id(thing), picture(vars(thing), seen))
    if isinstance(thing, dict):
        return (id(thing), [(key, picture(value, seen)) for key, value in thing.items()])
    if isinstance(thing, list | tuple | deque):
        return (id(thing), [picture(value, seen) for value in thing])
    if isinstance(thing, set):
        return (id(thing), sorted(map(repr, thing)))
    return (id(thing), repr(thing))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_taken_back(change, fails):
    module = held()
    module.weight.grad = torch.ones(3, 3)
    before = picture(module)
    try:
        with untouched(module):
            CHANGES[change](module)
            assert picture(module) != before
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert picture(module) == before


def test_random_states_are_given_back():
    def states():
        torch_state = torch.get_rng_state().numpy().tobytes()
        numpy_state = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (numpy_state[1].tobytes(), numpy_state[2]), torch_state

    module = nn.Linear(2, 2)
    before = states()
    with untouched(module):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        torch.backends.mha.set_fastpath_enabled(False)
        assert all(a != b for a, b in zip(states(), before, strict=True))
    assert states() == before
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_has_no_numbers_yet_and_tensors_of_inference_mode_are_kept():
    lazy = nn.LazyLinear(3)
    with untouched(lazy):
        pass
    assert lazy.weight.__class__ is nn.parameter.UninitializedParameter
    with torch.inference_mode():
        module = nn.Linear(2, 2)
        module.cache = torch.zeros(2)
    with untouched(module), torch.inference_mode():
        module.cache.add_(1)
    assert not module.cache.any()
    sparse = nn.Module()
    sparse.register_buffer("table", torch.eye(3).to_sparse())
    with untouched(sparse):
        sparse.table.mul_(2)
    assert torch.equal(sparse.table.to_dense(), torch.eye(3))


def test_a_backward_pass_may_come_after_a_look():
    net, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)), torch.ones(2, 3)
    loss = net(x).sum()
    census(net, x)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_one_looks_at_a_time():
    module, order = nn.Linear(2, 2), []

    def look():
        with untouched(module):
            order.append("other")

    with untouched(module):
        other = threading.Thread(target=look)
        other.start()
        other.join(0.2)
        order.append("first")
        with untouched(module):  # the same thread may look again
            order.append("within")
    other.join()
    assert order == ["first", "within", "other"]


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, TypeError])
def test_inputs_that_do_not_fit_are_named(error):
    says = r"x must be what the model takes, but with inputs of shape \(2, 3\) it raised"
    with pytest.raises(ValueError, match=says), taken("x", torch.zeros(2, 3)):
        raise error("sizes")
    with pytest.raises(ValueError, match=r"with list it raised .*: sizes"), taken("x", [1]):
        raise error("sizes")


@pytest.mark.parametrize(
    "error", [KeyError("sizes"), TypeError("x must be a tensor"), torch.OutOfMemoryError("full")]
)
def test_other_errors_come_through(error):
    with pytest.raises(type(error)), taken("x", None):
        raise error


# ---- whatever looks, at models of many kinds -----------------------------------------------------


class Block(nn.Module):
    """A residual block that keeps what it sees, with functions, a mask and a count."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.seen, self.count = [], 0

    def forward(self, x):
        self.count += 1
        h = torch.relu(self.norm(self.a(x)))
        self.seen.append(h)
        return x + self.b(nn.functional.dropout(h, 0.5, self.training))


def dead(layer):
    with torch.no_grad():
        layer.bias[:2] = -50.0
    return layer


ZOO = {
    "perceptron": lambda: nn.Sequential(dead(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
    "norms and dropout": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, 3)
    ),
    "blocks": lambda: nn.Sequential(Block(), Block(), nn.Linear(6, 3)),
    "smooth": lambda: nn.Sequential(dead(nn.Linear(6, 8)), nn.GELU(), nn.Linear(8, 3), nn.Tanh()),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)
    ),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), dead(nn.Conv1d(1, 4, 3)), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    ),
    "a mixed mode": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8).eval(), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)
    ),
}  # fmt: skip


def watched(model, x, y):
    with watch(model):
        pass


LOOKS = {
    "census": lambda model, x, y: census(model, x),
    "census in training mode": lambda model, x, y: census(model, x, mode="train"),
    "watch": watched,
    "unit_groups": lambda model, x, y: unit_groups(model, census(model, x)),
    "prune": lambda model, x, y: prune(model, census(model, x)),
    "dry run": lambda model, x, y: revive(model, census(model, x), rng=0, dry_run=True),
    "diagnose": lambda model, x, y: diagnose(census(model, x), model, x),
    "signal_profile": lambda model, x, y: signal_profile(model, x, y),
    "trial": lambda model, x, y: trial(
        model, partial(torch.optim.SGD, lr=0.1), nn.functional.cross_entropy,
        [(x[:20], y[:20]), (x[20:], y[20:])], steps=2, seeds=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ZOO)
def test_looking_changes_nothing(name, look):
    torch.manual_seed(0)
    model, x, y = ZOO[name](), torch.randn(40, 6), torch.randint(3, (40,))
    before, state = picture(model), torch.get_rng_state()
    LOOKS[look](model, x, y)
    assert picture(model) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("look", [name for name in LOOKS if name not in {"watch", "trial"}])
def test_looking_changes_nothing_where_the_model_raises(look):
    torch.manual_seed(0)
    model, x, y = ZOO["blocks"](), torch.randn(40, 6), torch.randint(3, (40,))
    before, state = picture(model), torch.get_rng_state()
    model[1].register_forward_hook(lambda *_: 1 / 0)
    hooked = picture(model)
    assert hooked != before
    with pytest.raises(ZeroDivisionError):
        LOOKS[look](model, x, y)
    assert picture(model) == hooked
    assert torch.equal(torch.get_rng_state(), state)
