"""The page of names says what PyTorch has, and what Keras and TensorFlow had when looked up."""

from __future__ import annotations

import ast
import copy
import json
import runpy
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, optim
from torch.nn import functional

from companion import ACTIVATIONS
from companion.experiments import OPTIMIZERS

BOOK = Path(__file__).parent.parent / "book"
LISTING = runpy.run_path(str(BOOK / "listings" / "run_names.py"))
ENTRIES, POINTS, entries = LISTING["ENTRIES"], LISTING["POINTS"], LISTING["entries"]
STORED: dict[str, Any] = json.loads((BOOK / "listings" / "names.json").read_text())
FACTS = STORED["facts"]
PAGE = (BOOK / "names.md").read_text()

NET = nn.Sequential(nn.Linear(3, 2))
THERE = {
    "torch": torch, "nn": nn, "F": functional, "init": nn.init, "optim": optim, "copy": copy,
    "net": NET, "layer": NET[0], "p": NET[0].weight, "x": torch.ones(2), "loss": torch.ones(1),
    "optimizer": optim.SGD(NET.parameters()),
}  # fmt: skip


def fault(expression: str, arguments: Mapping[str, Any]) -> str:
    """Say what an expression shows that its arguments do not have, or nothing."""
    call = ast.parse(expression, mode="eval").body
    if not isinstance(call, ast.Call) or not arguments or "args" in arguments:
        return ""
    for argument in call.args:
        assert isinstance(argument, ast.Name)
        if argument.id not in arguments:
            return f"no argument {argument.id}"
    for keyword in call.keywords:
        if keyword.arg not in arguments:
            return f"no argument {keyword.arg}"
        if isinstance(keyword.value, ast.Name):
            continue
        shown, default = ast.literal_eval(keyword.value), arguments[keyword.arg]
        shown, default = (str(v).lower() if isinstance(v, str) else v for v in (shown, default))
        if shown != default:
            return f"{keyword.arg} is {default!r} by default"
    return ""


@pytest.mark.parametrize("expression", [*entries("pytorch")])
def test_pytorch_has_the_name_and_the_default(expression):
    assert fault(expression, LISTING["look_up"](expression, THERE)) == ""


@pytest.mark.parametrize("expression", [*entries("keras"), *entries("tensorflow")])
def test_keras_and_tensorflow_had_the_name_and_the_default(expression):
    assert fault(expression, STORED["names"][expression]) == ""


def test_what_was_looked_up_is_what_the_page_shows():
    assert STORED["names"].keys() == {*entries("keras"), *entries("tensorflow")}
    for said in ("keras", "tensorflow", "date", "example"):
        assert STORED[said] in PAGE
    assert [line[11:] for line in PAGE.splitlines() if line.startswith("```{names}")] == [*ENTRIES]
    keys = {"what", "pytorch", "keras", "tensorflow", "differs"}
    assert all(row.keys() <= keys for rows in ENTRIES.values() for row in rows)


def test_what_the_book_uses_is_on_the_page():
    said = {plain(expression) for expression in entries("pytorch")}
    assert {plain(a.twin_name) for a in ACTIVATIONS.values() if a.twin_name} <= said
    makers = [getattr(maker, "func", maker) for maker in OPTIMIZERS.values()]
    assert {plain(maker.__name__) for maker in makers} <= said


def plain(expression: str) -> str:
    """The last part of a name, the same for a module and a function."""
    return expression.partition("(")[0].rpartition(".")[2].replace("_", "").lower()


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("nn.LeakyReLU(negative_slope=0.01)", ""),
        ("nn.LeakyReLU(negative_slope=0.2)", "is 0.01 by default"),
        ("nn.LeakyReLU(alpha=0.01)", "no argument alpha"),
        ("nn.Linear(n, out_features)", "no argument n"),
    ],
)
def test_another_default_is_refused(expression, says):
    found = fault(expression, LISTING["look_up"](expression, THERE))
    assert says in found
    assert bool(says) == bool(found)
    with pytest.raises(AttributeError):
        LISTING["look_up"]("nn.LeakyRelu()", THERE)


def test_activations_agree_but_for_those_that_the_page_names():
    x = torch.tensor(POINTS)
    apart = []
    for row in ENTRIES["Activations"]:
        found = []
        for expression in row["pytorch"]:
            made = eval(expression.partition("(")[0], THERE)
            words = {"approximate": "tanh"} if "form" in expression else {}
            f = made(**words) if isinstance(made, type) else made
            found.append(f(x).detach().numpy())
        found += [STORED["values"][e] for e in row.get("keras", []) + row.get("tensorflow", [])]
        if np.abs(np.array(found) - found[0]).max() > 1e-6:
            apart.append(row["what"].partition("]")[0][1:])
    assert apart == ["leaky ReLU", "PReLU"]


def test_the_two_forms_of_gelu_lie_apart_as_said():
    exact, close = (
        STORED["values"][f"tf.nn.gelu(approximate={form})"][POINTS.index(-1.0)]
        for form in ("False", "form")
    )
    assert abs(exact - close) == pytest.approx(0.00015, abs=0.000005)


def test_prelu_learns_one_slope_or_one_for_each_number():
    prelu = nn.PReLU().weight
    assert [prelu.numel(), prelu.item()] == [1, 0.25]
    assert FACTS["slopes of PReLU"] == [4 * 5 * 6, 0.0]


def test_shapes():
    assert [*nn.Linear(5, 3).weight.shape] == [3, 5]
    assert FACTS["shape of a dense layer's weights"] == [5, 3]
    assert FACTS["weights before the first input"] == 0
    convolution = nn.Conv2d(2, 7, 3)
    assert [*convolution(torch.ones(1, 2, 8, 8)).shape] == [1, 7, 6, 6]
    assert FACTS["shape of its output"] == [1, 6, 6, 7]
    assert FACTS["the layers of tf.keras are Keras'"] is True


def test_batch_norm():
    batch = torch.tensor(FACTS["batch"])[:, None]
    norm = nn.BatchNorm1d(1)
    norm(batch)
    mean = batch.mean().item()
    assert norm.running_mean.item() == pytest.approx(0.1 * mean)
    assert FACTS["running mean"] == pytest.approx((1 - 0.99) * mean, rel=1e-4)
    variances = {n: float(batch.var(correction=n)) for n in (0, 1)}
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * variances[1])
    assert FACTS["running variance"] == pytest.approx(0.99 + 0.01 * variances[0], abs=1e-5)
    assert FACTS["running variance"] != pytest.approx(0.99 + 0.01 * variances[1], abs=1e-3)
    assert FACTS["frozen batch norm"] == pytest.approx(batch[0].item() / 1.001**0.5, rel=1e-5)
    norm.requires_grad_(False)
    before = norm.running_mean.clone()
    norm(batch)
    assert norm.running_mean != before


def test_layer_norm():
    small = torch.tensor([[-0.01, 0.01, -0.01, 0.01]])
    assert nn.LayerNorm(4)(small)[0, 1].item() == pytest.approx(0.95, abs=0.005)
    assert FACTS["layer norm of 0.01"] == pytest.approx(0.30, abs=0.005)


def test_dropout_and_modes():
    torch.manual_seed(0)
    assert {*nn.Dropout(0.75)(torch.ones(64)).tolist()} == {0.0, 4.0}
    assert FACTS["dropout in training"] == [0.0, 4.0]
    assert {*FACTS["dropout in a plain call"][0]} == {1.0}


def drawn(rule: Any) -> tuple[float, float]:
    """Deviation and largest size of a layer's first weights, 400 inputs and 300 outputs."""
    torch.manual_seed(0)
    layer = nn.Linear(400, 300)
    rule(layer.weight)
    return layer.weight.std().item(), layer.weight.abs().max().item()


def test_first_weights():
    found = {
        "GlorotUniform": drawn(nn.init.xavier_uniform_),
        "GlorotNormal": drawn(nn.init.xavier_normal_),
        "HeUniform": drawn(nn.init.kaiming_uniform_),
        "HeNormal": drawn(nn.init.kaiming_normal_),
    }
    deviations = {"Glorot": (2 / 700) ** 0.5, "He": (2 / 400) ** 0.5, "Lecun": 400**-0.5}
    draws = FACTS["draws"]
    for name, kept in [*draws.items()]:
        family = name.removesuffix("Normal").removesuffix("Uniform")
        deviation = deviations[{"layers.Dense": "Glorot", "scale 2": "He"}.get(family, family)]
        assert kept["deviation"] == pytest.approx(deviation, rel=0.02)
        if name in found:
            assert found[name][0] == pytest.approx(deviation, rel=0.02)
    for name in ("GlorotNormal", "HeNormal"):  # cut off at two of the wider deviations
        deviation = deviations[name.removesuffix("Normal")]
        assert draws[name]["largest"] < 2 * deviation / 0.8796 + 1e-4
        assert found[name][1] > 3.5 * deviation
    default = drawn(lambda _: None)
    assert default[0] == pytest.approx((1 / 3 / 400) ** 0.5, rel=0.02)
    assert default[1] == pytest.approx(400**-0.5, rel=0.01)
    bias = nn.Linear(400, 300).bias.abs().max().item()
    assert bias == pytest.approx(400**-0.5, rel=0.02)
    assert nn.init.calculate_gain("relu") == pytest.approx(2**0.5)


def steps(optimizer: Any, gradients: list[float], rates: tuple[float, ...] = ()) -> list[float]:
    """How far each step moves a weight that begins at one."""
    w = nn.Parameter(torch.ones(1))
    made, seen = optimizer([w]), [1.0]
    for k, gradient in enumerate(gradients):
        if rates:
            made.param_groups[0]["lr"] = rates[k]
        w.grad = torch.tensor([gradient])
        made.step()
        seen.append(w.item())
    return [b - a for a, b in pairwise(seen)]


def test_momentum_and_a_lowered_rate():
    rates = (0.1, 0.1, 0.01)
    found = steps(lambda p: optim.SGD(p, momentum=0.9), [1.0] * 3, rates)
    kept = FACTS["momentum, the rate cut tenfold"]
    assert found == pytest.approx([-0.1, -0.19, -0.0271], abs=1e-6)
    assert kept == pytest.approx([-0.1, -0.19, -0.181], abs=1e-6)


def test_where_epsilon_stands():
    small = steps(lambda p: optim.RMSprop(p, 0.001, alpha=0.9, eps=1e-4), [1e-4])[0]
    assert small == pytest.approx(-0.001 * 1e-4 / (0.1**0.5 * 1e-4 + 1e-4), rel=0.01)
    kept = FACTS["RMSprop at a gradient of 1e-4"][0]
    assert kept == pytest.approx(-0.001 * 1e-4 / (0.1 * 1e-8 + 1e-4) ** 0.5, rel=0.01)
    found = [steps(optim.Adam, [gradient])[0] for gradient in (1.0, 1e-4, 1e-6)]
    assert found == pytest.approx([-0.001, -0.001, -0.001], rel=0.02)
    sizes = FACTS["Adam at gradients of 1 and 1e-6"]
    assert sizes == pytest.approx([-0.001, -0.00097, -0.00024], rel=0.01)


def test_weight_decay_and_penalties():
    decay = {"lr": 0.5, "weight_decay": 0.1}
    assert steps(lambda p: optim.AdamW(p, **decay), [0.0]) == pytest.approx([-0.05])
    assert steps(lambda p: optim.SGD(p, **decay), [0.0]) == pytest.approx([-0.05])
    assert steps(lambda p: optim.Adam(p, **decay), [0.0]) == pytest.approx([-0.5])
    for moved in FACTS["weight decay 0.1 at rate 0.5"].values():
        assert moved == pytest.approx(-0.05)
    assert FACTS["L2 penalty of 3"] == pytest.approx(0.1 * 3**2)
    assert FACTS["l2_loss of 3"] == pytest.approx(0.5 * 3**2)


def test_clipping_of_all_or_of_each():
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    nn.utils.clip_grad_norm_([a, b], 1.0)
    kept = FACTS["clipped to 1"]
    assert [a.grad[0].item(), b.grad[1].item()] == pytest.approx(kept["global_clipnorm"], abs=1e-5)
    assert kept["global_clipnorm"] == pytest.approx([0.6, 0.8])
    assert kept["clipnorm"] == pytest.approx([1.0, 1.0])


def test_spectral_norm_divides_by_the_largest_singular_value():
    assert FACTS["largest singular value"] == pytest.approx(1.0, abs=1e-4)
    made = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3), n_power_iterations=50)
    assert torch.linalg.matrix_norm(made.weight, 2).item() == pytest.approx(1.0, abs=1e-4)
    kept = made.parametrizations.weight.original
    assert torch.linalg.matrix_norm(kept, 2).item() != pytest.approx(1.0, abs=0.01)


def test_cross_entropy_takes_sums_or_probabilities():
    found = nn.CrossEntropyLoss()(torch.tensor([[2.0, -1.0]]), torch.tensor([0])).item()
    assert FACTS["cross-entropy"] == pytest.approx([found, found], rel=1e-5)


def test_warm_up():
    optimizer = optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    optim.lr_scheduler.LinearLR(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert FACTS["warm-up"] == [0.0, 0.5, 1.0]


def test_clones_hooks_and_seeds():
    assert torch.equal(copy.deepcopy(NET)[0].weight, NET[0].weight)
    assert FACTS["a clone's weights are the old ones"] is False
    assert FACTS["a layer takes hooks"] is False
    torch.manual_seed(0)
    apart = np.subtract(torch.randn(3).tolist(), FACTS["three numbers from seed 0"])
    assert np.abs(apart).min() > 0.01
