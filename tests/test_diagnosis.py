"""Every kind of finding is planted, and each bound of `diagnose` held from either side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from companion.detection import LayerReport, UnitReport, census, diagnose
from companion.detection.diagnosis import HAND_OVER, KINDS
from companion.detection.evidence import examine, variation
from companion.experiments import mlp, residual_mlp

BOOK = Path(__file__).parent.parent / "book"


def net(seed=0, widths=(64, 64, 64), **options):
    return mlp(20, 5, np.random.default_rng(seed), widths=widths, **options)


def samples(n=600, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 20)))


def seen(*given, **options):
    """What is found, and in which layers."""
    return [(finding.what, finding.layers) for finding in diagnose(*given, **options)]


def units(dead=0, on=0, nan=0, flat=0, n=100, kind="relu", n_seen=1000, made_by="", name="1"):
    """A layer of n units: the first ones dead, then saturated, the last ones always on, or NaN."""
    place = np.arange(n)
    active = np.where(place < dead, 0, np.where(place >= n - on, n_seen, n_seen // 2))
    steep = np.where(place < dead + flat, 0, active)
    size = np.where(place >= n - nan, np.nan, 1.0)
    values = {
        "name": name, "activation": kind, "n_seen": n_seen, "n_values": n_seen, "piecewise": True,
        "active": active, "steep": steep, "upper": active, "total": size, "size": size,
        "low": 0 * size, "high": size, "made_by": made_by,
    }  # fmt: skip
    return LayerReport(**values)


# ---- planted diseases -----------------------------------------------------------------------


def shifted(seed):
    model = net(seed, batch_norm=True).eval()
    with torch.no_grad():
        model(samples())
        model[4].bias[:40] = -5
    return model


def with_nan(seed):
    model = net(seed)
    with torch.no_grad():
        model[2].weight[3, 0] = math.nan
    return model


def frozen(seed):
    model = net(seed)
    model[2].weight.requires_grad_(False)
    return model


ILL = {
    "nan": (with_nan, 0, "not finite", ("3", "5")),
    "bias": (lambda seed: net(seed, widths=(64,), bias=-60.0), 0, "layer dead", ("1",)),
    "shift": (shifted, 0, "units dead", ("5",)),
    "sigmoid": (
        lambda seed: net(seed, widths=(64,), activation="sigmoid", init=99.0), 30,
        "units saturated", ("1",),
    ),
    "leaky": (lambda seed: net(seed, (64,), activation="leaky_relu"), 8, "units saturated", ("1",)),
    "linear": (lambda seed: net(seed, widths=(64,), bias=9.0), 0, "always on", ("1",)),
    "offset": (lambda seed: net(seed, activation="softplus"), 2, "inputs far from zero", ()),
    "weights": (
        lambda seed: net(seed, (64,), init=math.sqrt(20)), 0, "weights far from He's rule", ("1",)
    ),
    "frozen": (frozen, 0, "parameters frozen", ()),
}  # fmt: skip
"""By disease: model of a seed, distance of its inputs from zero, what is found, in which layers."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("disease", ILL)
def test_a_planted_disease_is_named_first(disease, seed):
    build, far, what, layers = ILL[disease]
    model, x = build(seed), samples() + far
    found = diagnose(census(model, x), model, x)
    first = found[0]
    assert first.what == what
    assert set(layers) <= set(first.layers)
    assert first.evidence
    lines = str(found).splitlines()
    assert lines[0] == found.summary
    assert lines[1].startswith(f"1. {what}")
    assert lines[-3:] == HAND_OVER.splitlines()
    assert max(map(len, lines)) <= 80
    assert {len(line) - len(line.lstrip()) for line in lines} <= {0, 3, 6}


HEALTHY = [
    {}, {"activation": "leaky_relu"}, {"activation": "gelu"}, {"activation": "tanh"},
    {"activation": "sigmoid", "init": "xavier"}, {"batch_norm": True}, {"init": "pytorch"},
    {"activation": "identity"},
]  # fmt: skip


@pytest.mark.parametrize("options", HEALTHY, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_wrong_with_a_healthy_net(options, seed):
    model, x = net(seed, widths=(64, 64), **options), samples()
    report = census(model, x)
    for found in (diagnose(report), diagnose(report, model), diagnose(report, model, x)):
        assert len(found) == 0
        assert found.findings == ()
        assert str(found).startswith(
            "Nothing wrong found (a rate that is too high is not seen here). Of 128 units"
        )
        assert str(found).endswith(HAND_OVER)


def test_all_kinds_have_a_place_in_the_order_and_a_page():
    assert {what for _, _, what, _ in ILL.values()} <= set(KINDS)
    assert all((BOOK / f"{page}.ipynb").exists() for page in KINDS.values())


def test_findings_stand_in_their_order():
    model = frozen(0)
    with torch.no_grad():
        model[0].bias[:20] = -60
        model[4].bias.fill_(-600)
        model[2].weight[0, 0] = math.nan
        model[4].weight *= 99
    x = samples(299) + 5
    parts = (
        units(20, n=64, made_by="0"), units(64, n=64, name="3", made_by="2"),
        units(on=50, n=64, name="5", made_by="4"),
    )  # fmt: skip
    found = diagnose(UnitReport(parts), model, x)
    n_units = {finding.what: finding.n_units for finding in found}
    assert [what for what in n_units if n_units[what]] == ["layer dead", "units dead", "always on"]
    assert [finding.what for finding in found] == [what for what in KINDS if what in
        {"not finite", "layer dead", "units dead", "always on", "inputs far from zero",
         "weights far from He's rule", "parameters frozen"}]  # fmt: skip


# ---- bounds, on either side -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "options", "what"),
    [
        (units(5), {}, []), (units(6), {}, ["units dead"]),
        (units(30), {"dead": 0.3}, []), (units(31), {"dead": 0.3}, ["units dead"]),
        (units(flat=5), {}, []), (units(flat=6), {}, ["units saturated"]),
        (units(5, flat=5), {}, []), (units(6, flat=6), {}, ["units dead", "units saturated"]),
        (units(3, flat=2, kind="tanh"), {}, []),
        (units(3, flat=3, kind="tanh"), {}, ["units saturated"]),
        (units(60, kind="tanh"), {}, ["units saturated"]),
        (units(100), {}, ["layer dead"]), (units(100, kind="tanh"), {}, ["layer dead"]),
        (units(99), {"dead": 0.99}, []),
        (units(on=50), {}, []), (units(on=51), {}, ["always on"]),
        (units(on=20), {"always_on": 0.2}, []), (units(on=21), {"always_on": 0.2}, ["always on"]),
        (units(on=99, kind="identity"), {}, []),
        (units(nan=1), {}, ["not finite"]),
        (units(6, n_seen=300), {}, ["units dead"]),
        (units(6, flat=6, on=60, n_seen=299), {}, ["too few samples"]),
        (units(6, n_seen=9), {"n_least": 9}, ["units dead"]),
        (units(100, n_seen=3), {}, ["layer dead", "too few samples"]),
        (units(nan=1, n_seen=3), {}, ["not finite", "too few samples"]),
    ],
)  # fmt: skip
def test_shares_and_samples_without_a_finding(part, options, what):
    found = diagnose(UnitReport((part,)), **options)
    assert [finding.what for finding in found] == what
    if what and what[0] != "too few samples":
        counts = {
            "units dead": part.dead.sum(), "layer dead": 100, "always on": part.always_on.sum(),
            "not finite": 1,
        }  # fmt: skip
        assert found[0].n_units == counts.get(what[0], (part.dead | part.saturated).sum())


@pytest.mark.parametrize("n", [299, 60, 3, 2])
def test_what_a_silent_unit_may_still_do_by_the_rule_of_three(n):
    parts = units(n_seen=299), units(n_seen=n, name="3")
    (finding,) = diagnose(UnitReport(parts))
    assert finding.n_units == 0
    (text,) = finding.evidence
    assert text.startswith(f"{n} samples: a unit that was silent on all may be on for ")
    assert float(text.split()[-2]) == pytest.approx(min(300 / n, 100), rel=0.01)


@pytest.mark.parametrize(("share", "far"), [(0.49, False), (0.51, True)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_inputs_are_far_if_half_of_their_mean_square_is_their_means(share, far, size):
    n = 400
    within = torch.tensor([[-1.0], [1.0]] * (n // 2), dtype=torch.float64) * math.sqrt((n - 1) / n)
    x = size * (within.expand(n, 20) + math.sqrt(share / (1 - share)))
    model = net(widths=(9,), activation="identity")
    found = diagnose(census(model, x), model, x)
    assert [finding.what for finding in found] == ["inputs far from zero"] * far
    if far:
        assert found[0].evidence == ("51 % of the inputs' mean square is that of their mean",)


def test_two_centred_samples_are_not_far_from_zero_on_average():
    model, x = net(widths=(9,), activation="softplus"), samples(1000)
    report = census(model, x)
    shares = [examine(report, model, pair)[1] for pair in x.split(2)]
    assert abs(np.mean(shares)) < 0.05
    assert math.isnan(examine(report, model, x[:1])[1])
    assert examine(report, model, x[:2])[0]["1"].offset == pytest.approx(shares[0])


@pytest.mark.parametrize(
    ("factor", "far"), [(0.19, True), (0.21, False), (2.99, False), (3.01, True)]
)
@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nn.Linear(2, 6), 2), (nn.Linear(50, 6), 50), (nn.Conv2d(2, 6, 3), 18),
        (nn.Conv2d(4, 6, 3, groups=2), 18), (nn.ConvTranspose2d(2, 6, 3), 18),
    ],
    ids=str,
)  # fmt: skip
def test_weights_are_compared_with_hes_rule(layer, fan_in, factor, far):
    signs = torch.arange(layer.weight.numel()).view(layer.weight.shape) % 2 * 2.0 - 1
    model = nn.Sequential(layer, nn.Softplus()).double()
    with torch.no_grad():
        layer.weight.copy_(factor * math.sqrt(2 / fan_in) * signs)  # of this deviation, exactly
    channels = getattr(layer, "in_channels", fan_in)
    shape = (channels, 5, 5) if layer.weight.ndim > 2 else (channels,)
    report = census(model, torch.randn(300, *shape, dtype=torch.float64))
    sources, *_ = examine(report, model)
    assert sources["1"].scale == pytest.approx(factor, rel=1e-6)
    found = diagnose(report, model)
    assert [(f.what, f.layers) for f in found] == [("weights far from He's rule", ("1",))] * far
    says = f"1: made by '0': weights' standard deviation {factor:.2f} times He's"
    says += " (as small as some libraries draw them)" if factor < 1 else ""
    assert [finding.evidence for finding in found] == [(says,)] * far


@pytest.mark.parametrize("gamma", [1.0, -1.0, 0.5])
@pytest.mark.parametrize(("factor", "low"), [(-1.99, 0), (-2.0, 40), (-2.01, 40), (2.01, 0)])
def test_a_norms_shift_is_low_at_two_scales(gamma, factor, low):
    model = net(widths=(64,), batch_norm=True)
    with torch.no_grad():
        model[1].weight.fill_(gamma)
        model[1].bias[:40] = factor * abs(gamma)
    (finding,) = diagnose(UnitReport((units(40, n=64, name="2", made_by="0"),)), model)
    (text,) = finding.evidence
    assert text.startswith("2: 40 of 64 units on 1,000 samples, made by '0': weights'")
    assert text.endswith(f", of these units {low} have a shift of −2 scales or less in '1'")


def test_a_norm_of_zeros_has_no_low_shift():
    model, x = net(widths=(64,), batch_norm=True), samples()
    with torch.no_grad():
        model[1].weight[:30] = 0.0
        model[1].bias[:30] = 0.0
        model[1].bias[30:35] = -9.0
        model[1].running_mean[35:38] = 99.0  # dead with a shift of zero, and a scale of one
    (finding,) = diagnose(census(model, x), model, x)
    assert finding.n_units == 38
    says = (
        ", of these units 5 have a shift of −2 scales or less in '1', 30 a shift and scale of zero"
    )
    assert finding.evidence[0].endswith(says)


@pytest.mark.parametrize(("far", "constant"), [(0.0, True), (1e-6, False)])
@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_layer_without_a_signal_is_named_and_nothing_else_of_it(far, constant, level):
    model, x = net(widths=(64, 64)), samples() * far + level
    sources, *_ = examine(census(model, x), model, x)
    assert [source.constant for source in sources.values()] == [constant, constant]
    found = seen(census(model, x), model, x)
    silent = ("no signal", ("1", "3") if constant else ())  # of the layers, or of the outputs
    assert (silent in found) == (constant or level > 0)
    assert (("inputs far from zero", ()) in found) == (level > 0)
    if constant:
        assert {what for what, layers in found if layers} == {"no signal"}


@pytest.mark.parametrize(("apart", "same"), [(0.9e-4, True), (1.1e-4, False)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_model_whose_outputs_hardly_differ_gives_no_signal(apart, same, size):
    model = nn.Sequential(nn.Linear(1, 1), nn.Softplus(), nn.Linear(1, 2)).double()
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)[:, None]
    with torch.no_grad():
        h = model[:2](x)
        model[2].weight[0] = apart * size / (h.max() - h.min())
        model[2].weight[1] = 0.0
        model[2].bias[1] = -size  # the largest output, and the same for all
        model[2].bias[0] = -model[2].weight[0] * h.min()
    assert variation(model(x)) == pytest.approx(apart, rel=1e-6)
    found = [f for f in diagnose(census(model, x), model, x) if f.what == "no signal"]
    says = "what the model returns is the same for every sample, to 9e-05 of its size"
    assert [(f.layers, f.evidence) for f in found] == [((), (says,))] * same


def test_outputs_of_every_shape_are_looked_at():
    table = torch.tensor([[1.0, 2.0], [1.0, 2.5]])
    assert variation(table) == 0.2
    assert variation({"logits": table, "loss": torch.tensor(3.0)}) == 0.2
    assert variation((torch.ones(2, 3), [table])) == 0.2  # the largest
    assert variation(torch.zeros(2, 3)) == 0
    nothing = (table[:1], torch.tensor(1.0), torch.tensor([1, 2]), None, table * math.nan)
    assert all(math.isnan(variation(output)) for output in nothing)


def test_of_many_layers_the_worst_are_printed():
    parts = [units(dead, name=str(dead)) for dead in (10, 40, 20, 30, 50)]
    (finding,) = diagnose(UnitReport(tuple(parts)))
    assert finding.layers == ("10", "40", "20", "30", "50")
    assert [text.partition(":")[0] for text in finding.evidence] == ["50", "40", "30", "20", "10"]
    printed = str(finding).splitlines()
    assert len(printed) == 6
    assert printed[0] == "units dead in 10, 40, 20, 30 and 1 more (chapter dead_relu)"
    assert printed[-1] == "   (1 more, none of them worse; .evidence has all)"
    (finding,) = diagnose(UnitReport(tuple(parts[:4])))
    assert [text.partition(":")[0] for text in finding.evidence] == ["10", "40", "20", "30"]
    assert len(str(finding).splitlines()) == 5


def test_rounding_is_no_signal_where_some_inputs_are_zero():
    model, x = net(widths=(64,)), samples() * 1e-11
    x[:, 0], x[:, 1] = 0, 3
    assert examine(census(model, x), model, x)[0]["1"].constant


def test_one_sample_is_no_evidence_that_inputs_never_change():
    model = net(widths=(64,))
    assert seen(census(model, samples(1)), model, samples(1))[-1] == ("too few samples", ())
    assert not examine(census(model, samples(1)), model, samples(1))[0]["1"].constant


# ---- evidence -------------------------------------------------------------------------------


def test_evidence_tells_bias_weights_and_inputs_of_the_units_concerned():
    model, x = net(widths=(64,)), samples()
    with torch.no_grad():
        model[0].bias[:20] = -30.0
        model[0].bias[20] = -40.0
    found = diagnose(census(model, x), model, x)
    assert [(f.what, f.layers, f.n_units) for f in found] == [("units dead", ("1",), 21)]
    scale = float(model[0].weight.detach().std(correction=0)) / math.sqrt(2 / 20)
    share = 1 - float(x.var(dim=0).mean() / x.square().mean())
    assert found[0].evidence == (
        "1: 21 of 64 units on 600 samples, made by '0': weights' standard deviation "
        f"{scale:.2f} times He's, {100 * share:.0f} % of its inputs' mean square is their mean's, "
        "median bias -30",
    )
    assert "inputs" not in str(diagnose(census(model, x), model)[0].evidence)


def test_evidence_counts_what_inputs_of_a_deeper_layer_share():
    model, x = net(widths=(64, 64)), samples()
    sources, far, _ = examine(census(model, x), model, x)
    h = model[1](model[0](x)).detach()
    share = 1 - float(h.var(dim=0).mean() / h.square().mean())
    assert sources["3"].offset == pytest.approx(share)
    assert sources["1"].offset == pytest.approx(far)


def test_whole_numbers_are_inputs_like_others():
    model, x = net(widths=(64,)), samples().mul(9).round()
    report = census(model, x)
    expected = examine(report, model, x)[1]
    for inputs in (x.int(), x.int().tolist(), x.numpy().astype(np.int16)):
        assert examine(report, model, inputs)[1] == pytest.approx(expected)


class Twice(nn.Sequential):
    """Calls its layers again, on what comes out far from zero."""

    def forward(self, x):
        return super().forward(super().forward(x) + 100)


def test_what_a_layer_receives_is_that_of_its_first_call_in_evaluation_mode():
    model = Twice(nn.Dropout(0.9), nn.Linear(20, 20), nn.ReLU()).double().train()
    x = samples() + 1
    sources, *_ = examine(UnitReport((units(n=20, name="2", made_by="1"),)), model, x)
    share = 1 - float(x.var(dim=0).mean() / x.square().mean())
    assert sources["2"].offset == pytest.approx(share)


def test_a_norm_over_positions_says_nothing_of_units():
    model = nn.Sequential(nn.Linear(20, 12), nn.BatchNorm1d(5), nn.ReLU())
    with torch.no_grad():
        model[0].bias[6:].fill_(-3.0)
        model[1].bias.fill_(-9.0)
    x = samples(1500).float().view(300, 5, 20)
    assert examine(census(model, x), model)[0] == {}
    (finding,) = diagnose(UnitReport((units(on=7, n=12, name="2", made_by="0"),)), model)
    assert finding.evidence[0].endswith("median bias -3")


@pytest.mark.parametrize("n", [4, 5, 6])
def test_parameters_that_are_not_finite_are_named(n):
    model = net(widths=(9, 9))
    names = [name for name, _ in model.named_parameters()][:n]
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).fill_(math.nan)
    more = f" and {n - 4} more" if n > 4 else ""
    says = f"parameters that are not finite: {', '.join(names[:4])}{more}"
    first = diagnose(census(model, samples()), model)[0]
    assert (first.what, first.evidence[-1]) == ("not finite", says)


def test_a_parameter_behind_the_last_activation_may_be_the_one():
    model = net(widths=(9,))
    with torch.no_grad():
        model[2].bias[0] = math.inf
    found = diagnose(census(model, samples()), model)
    assert [(f.what, f.layers, f.evidence) for f in found] == [
        ("not finite", (), ("parameters that are not finite: 2.bias",))
    ]


def test_units_that_overflow_though_all_parameters_are_finite():
    model, x = net(widths=(9,)), samples()
    with torch.no_grad():
        model[0].weight.fill_(1e300)
    first = diagnose(census(model, x * 1e300), model)[0]
    assert first.layers == ("1",)
    assert first.evidence[-1].startswith("all parameters are finite")


def test_a_unit_that_overflows_in_one_layer_is_enough():
    report = UnitReport((units(nan=1), units(name="3")))
    first = diagnose(report, net())[0]
    assert (first.layers, first.n_units) == (("1",), 1)
    assert first.evidence[-1].startswith("all parameters are finite")


def test_frozen_parameters_are_named():
    model = net(widths=(9,))
    model[0].requires_grad_(False)
    (finding,) = diagnose(census(model, samples()), model)
    assert (finding.what, finding.evidence) == (
        "parameters frozen", ("no gradient will change 0.weight, 0.bias",)
    )  # fmt: skip


# ---- which layer makes the units ------------------------------------------------------------


def test_the_layer_that_a_report_names_is_the_one():
    model = nn.ModuleDict({"a": nn.Linear(20, 10), "b": nn.Linear(20, 10)})
    with torch.no_grad():
        model["b"].bias.fill_(-7.0)
    report = UnitReport((units(4, n=10, name="ModuleDict", made_by="b"),))
    assert diagnose(report, model)[0].evidence[0].endswith("median bias -7")
    report = UnitReport((units(4, n=11, name="ModuleDict", made_by="b"),))
    with pytest.raises(ValueError, match=r"report must be of this model.*11 units.*\(10, 20\)"):
        diagnose(report, model)
    report = UnitReport((units(n=1, name="ModuleDict", made_by="b"),))
    with pytest.raises(ValueError, match=r"report must be of this model.*1 units.*\(10, 20\)"):
        diagnose(report, model)


class Lists(nn.Module):
    """Has several numbers of channels, as timm's feature extractors do."""

    def __init__(self):
        super().__init__()
        self.out_channels = [3, 4]
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, x):
        return x


def test_channels_that_are_a_list_belong_to_no_layer():
    model, x = nn.Sequential(nn.Linear(20, 12), Lists(), nn.ReLU()), samples().float()
    assert examine(census(model, x), model, x)[0]["2"].layer == "0"
    assert len(diagnose(census(model, x), model, x)) == 0


class Conv1D(nn.Module):
    """The linear layer of GPT-2, whose weight stands the other way round."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out) * (2 / n_in) ** 0.5 / 10)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, len(self.weight)), self.weight)


def test_layers_of_transformers_and_inputs_in_a_dict():
    torch.manual_seed(0)
    model, x = nn.Sequential(Conv1D(20, 64), nn.ReLU()), samples().float()
    with torch.no_grad():
        model[0].bias[:30] = -9.0
    for inputs in (None, x, {"input": x}):
        found = {finding.what: finding for finding in diagnose(census(model, x), model, inputs)}
        assert found["units dead"].n_units == 30
        assert "made by '0': weights' standard deviation 0.1" in found["units dead"].evidence[0]
    with pytest.raises(ValueError, match="inputs must be what the model takes, but with dict"):
        diagnose(census(model, x), model, {"y": x})


class Sequence(nn.Module):
    """An activation behind an embedding and an LSTM."""

    def __init__(self):
        super().__init__()
        self.table, self.lstm = nn.Embedding(30, 8), nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, tokens):
        return self.head(self.lstm(self.table(tokens))[0])


def test_tokens_have_no_mean_and_a_layer_behind_an_lstm_is_not_the_first():
    torch.manual_seed(0)
    model, tokens = Sequence(), torch.randint(30, (400, 5))
    with torch.no_grad():
        model.head[0].bias[:20] = -9.0
        model.head[0].bias[20:] = 0.1
    found = diagnose(census(model, tokens), model, tokens)
    assert [(f.what, f.n_units) for f in found] == [("units dead", 20)]
    assert found[0].evidence[0].endswith("median bias -9")


def test_a_module_in_two_places_has_a_layer_for_each():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(20, 64), act, nn.Linear(64, 32), act, nn.Linear(32, 5))
    report = census(model.double(), samples())
    assert report.names == ["1", "1 (2)"]
    assert [source.layer for source in examine(report, model)[0].values()] == ["0", "2"]
    named = UnitReport((units(name="relu()"), units(name="0.relu() (2)")))
    assert examine(named, model)[0] == {}


def test_a_sum_in_between_is_not_taken_for_a_layer():
    model = residual_mlp(20, 5, np.random.default_rng(0), width=32, blocks=2)
    sources, *_ = examine(census(model, samples()), model)
    assert sources["1.branch.0"].layer == "0"
    assert "2.branch.0" not in sources
    report = UnitReport((units(40, name="2.branch.0"),))
    assert diagnose(report).findings[0].evidence == (
        "2.branch.0: 40 of 100 units on 1,000 samples",
    )
    (text,) = diagnose(report, model).findings[0].evidence
    assert text.endswith("made by no layer that is known: a sum, or out of sight")


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Unflatten(1, (3, 2, 2)), nn.LayerNorm((3, 2, 2)), nn.ReLU()),
        (nn.RMSNorm(12), nn.ReLU()),
        (nn.BatchNorm1d(12, affine=False), nn.Dropout(), nn.ReLU()),
        (nn.Unflatten(1, (3, 4)), nn.ConvTranspose1d(3, 6, 2), nn.ReLU()),
        (nn.Unflatten(1, (4, 3)), nn.ConvTranspose1d(4, 6, 2, groups=2), nn.ReLU()),
        (nn.Unflatten(1, (4, 3)), nn.Conv1d(4, 6, 2, groups=2, bias=False), nn.ReLU()),
        (nn.GLU(), nn.ReLU()),
        (parametrizations.spectral_norm(nn.Linear(12, 12)), nn.ReLU()),
        (nn.ReLU(),),
    ],
    ids=lambda layers: type(layers[-2]).__name__ if len(layers) > 1 else "none",
)
def test_layers_of_every_kind_can_stand_before(layers):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(20, 12), *layers), samples().float() + 30
    model.eval()
    report = census(model, x - 1000)
    for found in (diagnose(report, model, x), diagnose(report, model), diagnose(report)):
        assert all(finding.what in KINDS for finding in found)
        assert str(found)


# ---- arguments, and what stays as it is ------------------------------------------------------


def test_diagnosis_leaves_the_model_as_it_was():
    model, x = net(batch_norm=True), samples()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = census(model, x)
    random = torch.get_rng_state()
    for inputs in (x, x[:, :7]):
        if inputs is x:
            diagnose(report, model, inputs)
        else:
            with pytest.raises(ValueError, match="inputs must be what the model takes"):
                diagnose(report, model, inputs)
        assert model.training
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            lambda: net(widths=(32, 64, 64)),
            "64 units in the report, and the weight of '0' is of shape \\(32, 20\\)",
        ),
        (lambda: net(widths=(64,)), "no module '3'"),
        (lambda: net(activation="gelu"), "is gelu, not relu"),
        (lambda: nn.Linear(20, 5), "no module '1'"),
    ],
)
def test_a_report_of_another_model_is_refused(model, says):
    report = census(net(), samples())
    with pytest.raises(ValueError, match=f"report must be of this model.*{says}"):
        diagnose(report, model())


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"dead": -0.1}, ValueError, "dead must"),
        ({"dead": 1}, ValueError, "dead must"),
        ({"dead": "a"}, TypeError, "dead must"),
        ({"always_on": math.nan}, ValueError, "always_on must"),
        ({"always_on": 1}, ValueError, "always_on must"),
        ({"n_least": 0}, ValueError, "n_least must"),
        ({"n_least": math.nan}, TypeError, "n_least must"),
        ({"inputs": np.zeros((3, 20))}, ValueError, "give model too"),
        ({"model": "net"}, TypeError, "model must"),
        ({"model": net(), "inputs": np.full((3, 20), math.nan)}, ValueError, "inputs must be fin"),
        ({"model": net(), "inputs": np.zeros((0, 20))}, ValueError, "one sample at least"),
        ({"model": net(), "inputs": np.float64(3)}, ValueError, "one sample at least"),
    ],
)
def test_bad_arguments_are_named(arguments, error, says):
    with pytest.raises(error, match=says):
        diagnose(census(net(), samples()), **arguments)


@pytest.mark.parametrize("report", [None, "report", [units()]])
def test_what_is_no_report_is_named(report):
    with pytest.raises(TypeError, match="report must be a UnitReport"):
        diagnose(report)
