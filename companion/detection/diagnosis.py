"""What is wrong with a model's units, and on what evidence; what helps is found by `trial`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.checks import real, whole
from companion.detection.evidence import Source, examine
from companion.detection.report import UnitReport

if TYPE_CHECKING:
    from torch import nn

    from companion.detection.report import LayerReport

__all__ = ["Diagnosis", "Finding", "diagnose"]

BOUNDED = {"sigmoid", "tanh", "lecun_tanh", "softsign", "hardtanh", "hardsigmoid"}
"""Activations that level off on both sides: where their slope is zero, they are saturated."""

KINDS = {
    "not finite": "vanishing_gradients",
    "layer dead": "dead_relu",
    "units dead": "dead_relu",
    "units saturated": "detection",
    "always on": "initialization",
    "inputs far from zero": "dead_relu",
    "parameters frozen": "revival",
    "no signal": "dead_relu",
    "weights far from He's rule": "initialization",
    "too few samples": "detection",
}
"""What may be found, in the order in which it is told, and the chapter about it."""

FAR, LARGE, SMALL = 0.5, 3.0, 0.2
"""Share of the mean in the inputs' mean square; weights' standard deviations over He's."""

SAME = 1e-4
"""Outputs that lie no further apart than this share of the largest are the same for all samples."""

LONGEST = 4
"""Layers whose evidence a finding prints."""

HAND_OVER = (
    "What helps is found by trying, with trial from companion:\n"
    "   print(trial(model, make_optimizer, loss, loader))\n"
    "   (of batches that are dicts: loss=None, call=lambda model, b: model(**b).loss)"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where."""

    what: str  #: "not finite", "layer dead", ...; the docstring of `diagnose` lists them
    layers: tuple[str, ...]  #: names of the activations, as in the report; empty: the whole model
    n_units: int  #: how many of their units are concerned
    evidence: tuple[str, ...]  #: what was measured, a text a layer; over 4 layers the worst first
    page: str  #: the chapter that explains it, by its file's stem

    def __str__(self) -> str:
        where = f" in {_listed(self.layers)}" if self.layers else ""
        lines = [f"{self.what}{where} (chapter {self.page})"]
        for text in self.evidence[:LONGEST]:
            lines += wrap(text, 80, initial_indent="   ", subsequent_indent=" " * 6)
        if (more := len(self.evidence) - LONGEST) > 0:
            lines.append(f"   ({more} more, none of them worse; .evidence has all)")
        return "\n".join(lines)


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` returns.

    It prints as text, has a length and is iterated over its findings; none means that none of
    these was found, not that the model is healthy.
    """

    findings: tuple[Finding, ...]  #: empty if none of what is looked for was found
    summary: str  #: shares of the report, in a sentence

    def __str__(self) -> str:
        nothing = "Nothing wrong found (a rate that is too high is not seen here). "
        summary = self.summary if self.findings else nothing + self.summary
        numbered = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        return "\n".join([summary, *numbered, HAND_OVER])

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, place: int) -> Finding:
        return self.findings[place]


def diagnose(
    report: UnitReport,
    model: nn.Module | None = None,
    inputs: Any = None,
    *,
    dead: float = 0.05,
    always_on: float = 0.5,
    n_least: int = 300,
) -> Diagnosis:
    r"""Say what is wrong with a model's units, and on what evidence.

    It says what is seen, and not what would help: that is found by `companion.revival.trial`.

    Parameters
    ----------
    report : UnitReport
        As `census` or `watch` gives it.
    model : torch.nn.Module, optional
        The model of the report, for its weights, biases and norms.
    inputs : array_like or tensor of shape (n, ...), or dict, optional
        A batch of the model's inputs, some hundred samples: the model is run on them once, in
        evaluation mode.
    dead : float, default 0.05
        Share of a layer's units that may be dead, or saturated, without a finding.
    always_on : float, default 0.5
        Share of a layer's units that may be always on without a finding.
    n_least : int, default 300
        Samples below which nothing is said about units of which only a part is dead: with 300 a
        unit that is on for 1 % of the data passes for dead in one of twenty cases.

    Returns
    -------
    Diagnosis
        One finding for each kind, with the layers that it concerns, in this order:

        - **not finite**: units that gave NaN or infinity, and which parameters are no numbers.
        - **layer dead**: all its units, so that nothing passes.
        - **units dead**: a larger share than `dead`.
        - **units saturated**: a larger share of saturated units; or of dead and saturated ones if
          the activation levels off on both sides (sigmoid, tanh, ...).
        - **always on**: a larger share than `always_on` of a piecewise linear activation's units.
        - **inputs far from zero**: more than half of their mean square is that of their mean over
          the samples. (Needs `inputs`.)
        - **weights far from He's rule**: their standard deviation is more than 3 times that of the
          rule, or less than 0.2 times. (Needs `model`, as do the next two.)
        - **parameters frozen**: any that no gradient will change.
        - **no signal**: a layer receives the same for every sample, and nothing else is said of its
          units; or the model returns the same for every sample, to 1e-4 of its largest number.
          (Needs `inputs`.)
        - **too few samples**: less than `n_least`.

        The evidence for units names, where it is known, the layer that makes them: its weights'
        standard deviation over that of He's rule, how much of its inputs' mean square is that of
        their mean, and the units' median bias; or, if a norm stands between, for how many of them
        its shift is at most −2 scales (:math:`\beta\le-2|\gamma|<0`), or both are zero. Of more
        than four layers the four with the largest share of such units are printed.

    Raises
    ------
    TypeError, ValueError
        If the report is not of this model, or an argument does not fit, by its name.

    Notes
    -----
    Taught in the chapter `detection`.

    Examples
    --------
    >>> import torch
    >>> from companion.detection import census
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(9, 99), torch.nn.ReLU(), torch.nn.Linear(99, 2))
    >>> x = torch.randn(500, 9) + 20  # far from zero
    >>> [(found.what, found.layers) for found in diagnose(census(net, x), net, x)]
    [('units dead', ('1',)), ('inputs far from zero', ())]
    >>> print(diagnose(census(net, x - 20), net).summary)
    Of 99 units on 500 samples 0 are dead, 0 saturated, 0 always on.
    """
    if not isinstance(report, UnitReport):
        raise TypeError(f"report must be a UnitReport, as census returns it, not {report!r}")
    dead, always_on = (
        real(name, value, 0, 1, open_high=True)
        for name, value in (("dead", dead), ("always_on", always_on))
    )
    n_least = whole("n_least", n_least)
    if inputs is not None and model is None:
        raise ValueError("inputs need the model that takes them: give model too")
    sources, far, apart = dict[str, Source](), math.nan, math.nan
    if model is not None:
        sources, far, apart = examine(report, model, inputs)
    cases: list[_Case] = []
    for part in report.layers:
        source = sources.get(part.name)
        cases += _of_units(part, source, model is not None, dead, always_on, n_least)
    cases += _of_model(report, model, far, apart, n_least)
    findings = []
    for what, page in KINDS.items():
        found = [case for case in cases if case.what == what]
        layers = tuple(case.layer for case in found if case.layer)
        if len(found) > LONGEST:
            found.sort(key=lambda case: (case.layer != "", -case.share))  # which is stable
        evidence = tuple(
            f"{case.layer}: {case.text}" if case.layer else case.text for case in found
        )
        n_units = sum(case.n_units for case in found)
        findings += [Finding(what, layers, n_units, evidence, page)] if found else []
    return Diagnosis(tuple(findings), _summary(report.layers))


@dataclass(frozen=True)
class _Case:
    """Something that one layer has, or the whole model."""

    what: str
    layer: str
    text: str
    n_units: int = 0
    share: float = 1.0  #: of the layer's units


def _of_units(
    part: LayerReport,
    source: Source | None,
    asked: bool,
    dead: float,
    always_on: float,
    n_least: int,
) -> Iterator[_Case]:
    """Find what is wrong with the units of one activation."""
    if n := int(part.nan.sum()):
        text = f"{n} of {len(part)} units gave NaN or infinity"
        yield _Case("not finite", part.name, text, n, n / len(part))
    if source is not None and not SMALL <= source.scale <= LARGE:
        text = f"made by {source.layer!r}: {_scale(source)}"
        if source.scale < SMALL:
            text += " (as small as some libraries draw them)"
        yield _Case("weights far from He's rule", part.name, text)
    if source is not None and source.constant:
        text = f"what {source.layer!r} receives is the same for every sample"
        yield _Case("no signal", part.name, text, len(part))
        return
    bounded = part.activation in BOUNDED
    flat = part.saturated | part.dead if bounded else part.saturated
    units = {
        "units dead": part.dead & (not bounded),
        "units saturated": flat,
        "always on": part.always_on & (part.activation != "identity"),
    }
    if part.dead.all():
        units = {"layer dead": part.dead}
    elif part.n_seen < n_least:
        return
    for what, concerned in units.items():
        least = {"layer dead": 0.0, "always on": always_on}.get(what, dead)
        if concerned.mean() > least:
            text = _text(part, concerned, source, asked)
            yield _Case(what, part.name, text, int(concerned.sum()), float(concerned.mean()))


def _text(part: LayerReport, units: np.ndarray, source: Source | None, asked: bool) -> str:
    """Say what is known of these units."""
    text = f"{units.sum()} of {len(part)} units on {part.n_seen:,} samples"
    if source is None:
        return f"{text}, made by no layer that is known: a sum, or out of sight" if asked else text
    facts = [_scale(source)]
    if not np.isnan(source.offset):
        facts.append(f"{100 * source.offset:.0f} % of its inputs' mean square is their mean's")
    if source.norm and source.beta is not None and source.gamma is not None:
        beta, gamma = source.beta[units], source.gamma[units]
        low, none = (beta < 0) & (beta <= -2 * abs(gamma)), (beta == 0) & (gamma == 0)
        facts.append(
            f"of these units {low.sum()} have a shift of −2 scales or less in {source.norm!r}"
        )
        if none.any():
            facts.append(f"{none.sum()} a shift and scale of zero")
    elif source.bias is not None:
        facts.append(f"median bias {np.median(source.bias[units]):.2g}")
    return f"{text}, made by {source.layer!r}: {', '.join(facts)}"


def _scale(source: Source) -> str:
    return f"weights' standard deviation {source.scale:.2f} times He's"


def _of_model(
    report: UnitReport, model: nn.Module | None, far: float, apart: float, n_least: int
) -> Iterator[_Case]:
    """Find what is wrong with the model's parameters, its inputs and outputs, and the report."""
    parameters = [] if model is None else list(model.named_parameters())
    broken = [name for name, p in parameters if not bool(p.isfinite().all())]
    frozen = [name for name, p in parameters if not p.requires_grad]
    if broken:
        yield _Case("not finite", "", f"parameters that are not finite: {_listed(broken)}")
    elif parameters and any(part.nan.any() for part in report.layers):
        text = "all parameters are finite: look at the inputs, or at an overflow on the way"
        yield _Case("not finite", "", text)
    if far > FAR:
        text = f"{100 * far:.0f} % of the inputs' mean square is that of their mean"
        yield _Case("inputs far from zero", "", text)
    if frozen:
        yield _Case("parameters frozen", "", f"no gradient will change {_listed(frozen)}")
    if apart <= SAME:
        text = f"what the model returns is the same for every sample, to {apart:.0e} of its size"
        yield _Case("no signal", "", text)
    least = min(report.layers, key=lambda part: part.n_seen)
    if least.n_seen < n_least:
        text = "samples: a unit that was silent on all may be on for"
        yield _Case("too few samples", "", f"{least.n_seen} {text} {100 * least.bound:.2g} %")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _summary(layers: tuple[LayerReport, ...]) -> str:
    """One sentence on the whole report."""
    units = {
        name: np.concatenate([getattr(part, name) for part in layers])
        for name in ("dead", "saturated", "always_on")
    }
    least = min(part.n_seen for part in layers)
    return (
        f"Of {len(units['dead']):,} units on {least:,} samples {units['dead'].sum()} are dead, "
        f"{units['saturated'].sum()} saturated, {units['always_on'].sum()} always on."
    )
