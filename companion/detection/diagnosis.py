"""What is wrong with a model's units, why, and what to try first.

`diagnose` decides by the report and, if given the model, by what ``evidence.py`` finds in it; what
to try stands in ``remedies.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.detection.causes import causes, share
from companion.detection.evidence import Evidence, examine
from companion.detection.remedies import REMEDIES

if TYPE_CHECKING:
    from torch import nn

    from companion.detection.report import LayerReport, UnitReport

__all__ = ["Diagnosis", "Finding", "diagnose"]

BOUNDED = {"sigmoid", "tanh", "lecun_tanh", "softsign", "hardtanh", "hardsigmoid"}
"""Activations that level off on both sides: where their slope is zero, they are saturated."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where."""

    what: str  #: "NaN units", "layer dead", "units dead", "units saturated", "always on", ...
    cause: str  #: such as "offset inputs"; the docstring of `diagnose` lists them
    layers: tuple[str, ...]  #: names of the activations, as in the report
    n_units: int  #: how many of their units are concerned
    evidence: tuple[str, ...]  #: what was measured
    remedies: tuple[str, ...]  #: what to try, in order
    page: str  #: the chapter that explains it, by its file's stem
    section: str  #: and the heading there

    def __str__(self) -> str:
        lines = [f"{self.what} in {', '.join(self.layers)}; cause: {self.cause}"]
        lines += [f"   seen  {text}" for text in self.evidence]
        lines += [f"   try   {text}" for text in self.remedies]
        return "\n".join([*lines, f"   read  {self.page}, {self.section!r}"])


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` returns: findings in the order in which to deal with them.

    It prints as text, has a length and is iterated over its findings; none means that none of
    these was found, not that the model is healthy.
    """

    findings: tuple[Finding, ...]  #: empty if none of what is looked for was found
    summary: str  #: shares of the report, in a sentence

    def __str__(self) -> str:
        if not self.findings:
            return f"Nothing wrong found. {self.summary}"
        numbered = [f"{number}. {finding}" for number, finding in enumerate(self.findings, 1)]
        return "\n".join([self.summary, *numbered])

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
    r"""Say what is wrong with a model's units, on what evidence, and what to try, in order.

    Parameters
    ----------
    report : UnitReport
        As `census` or `watch` gives it.
    model : torch.nn.Module, optional
        The model of the report, for causes: its biases, weights and norms.
    inputs : array_like or tensor of shape (n, ...), optional
        A batch of the model's inputs, some hundred samples: the model is run on them once, in
        evaluation mode, and each layer tried with centred inputs, and without its biases.
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
        One finding for each cause, with the layers that it concerns, in the order in which to
        deal with them: what comes earlier may end what comes later. This order, upstream first,
        is a convention: it doesn't say what would save most units, which only training tells.
        A cause without a rule here gets the nearest name.

        - **NaN units**: any.
        - **units dead**: a larger share than `dead`; **layer dead**: all, so that nothing passes.
        - **units saturated**: dead or saturated units of an activation that levels off on both
          sides (sigmoid, tanh, ...), whose cause is not looked for; saturated ones of any other
          are on its **flat side**.
        - **always on**: a larger share than `always_on` of a piecewise linear activation's units.
        - **too few samples**: less than `n_least`; then only NaN units and dead layers are named.

        The cause of death is decided by the first of these rules that applies.

        - **the norm's shift**: a norm stands before the activation, and at least half of the dead
          units have :math:`\beta\le-2|\gamma|` there. (Below a norm nothing else is decided.)
        - **biases that outweigh the signal**: dead and always-on units make up 80 % of the layer,
          each kind 20 % at least, and it is not the mean of the layer's inputs: centred ones would
          turn on less than half of the dead units (without `inputs`: it adds less than biases do).
        - With `inputs`: what at least half of the dead units would fire without, the mean of the
          layer's inputs or the **negative biases**; both are named if both hold, and if neither,
          the more negative part. The mean counts as **offset inputs** in the model's first layer;
          in a deeper one as **offset from the layer before** if it makes up more than 80 % of the
          inputs' mean square, else as **too large steps** if the weights' standard deviation has
          grown past 1.25 times that of He's rule, else as **weights against the mean**.
        - Without `inputs`: **negative biases** if at least half of the dead units have
          :math:`-b\ge|w|\,r`, where r is the root mean square of the units before (of the model's
          inputs: 1); else in the first layer **offset inputs**, since such biases leave no unit
          silent on standardized ones; in a deeper layer, if the means of the units before pull at
          least half of them down, and more than the biases do, that mean, under the names above;
          else **too large steps** if the standard deviation is 1.5 times He's; else **unknown**,
          as always without `model`.

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
    >>> found = diagnose(census(net, x), net, x)
    >>> [(finding.what, finding.cause, finding.layers) for finding in found]
    [('units dead', 'offset inputs', ('1',))]
    >>> print(diagnose(census(net, x - 20), net))
    Nothing wrong found. Of 99 units on 500 samples 0 are dead, 0 saturated, 0 always on.
    """
    for name, allowed in (("dead", dead), ("always_on", always_on)):
        if not 0 <= allowed < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, not {allowed!r}")
    if n_least < 1:
        raise ValueError(f"n_least must be positive, not {n_least!r}")
    if inputs is not None and model is None:
        raise ValueError("inputs need the model that takes them: give model too")
    seen = {} if model is None else examine(report, model, inputs)
    if not report.layers:
        raise ValueError("report must hold one layer at least")
    cases = list(_cases(tuple(report.layers), seen, model, dead, always_on, n_least))
    findings = []
    for cause in REMEDIES:  # in the order in which to deal with them
        found = [case for case in cases if case.cause == cause]
        if found:
            findings.append(_finding(cause, found, seen))
    return Diagnosis(tuple(findings), _summary(tuple(report.layers)))


@dataclass(frozen=True)
class _Case:
    """One layer that has something, and why."""

    what: str
    cause: str
    layer: str
    n_units: int
    evidence: list[str]


def _cases(
    layers: tuple[LayerReport, ...],
    seen: dict[str, Evidence],
    model: nn.Module | None,
    dead: float,
    always_on: float,
    n_least: int,
) -> Iterator[_Case]:
    few = [part for part in layers if part.n_seen < n_least]
    outweighed = set()
    for place, part in enumerate(layers):
        if n := int(part.nan.sum()):
            text = f"{share(part.nan)} units gave NaN or infinity"
            yield _Case("NaN units", "nan", part.name, n, [text, *_broken(model)])
        flat = part.dead | part.saturated
        whole = bool(part.dead.all())
        if few and not whole:
            continue
        if part.activation in BOUNDED and flat.mean() > dead:
            what = "layer dead" if whole else "units saturated"
            yield _Case(what, "saturated", part.name, int(flat.sum()), _flatness(part, flat))
        elif part.dead.mean() > dead:
            before = layers[place - 1] if place else None
            text = f"{share(part.dead)} units without a slope on {part.n_seen:,} samples"
            what, n = "layer dead" if whole else "units dead", int(part.dead.sum())
            for cause, evidence in causes(part, before, seen.get(part.name)):
                outweighed |= {part.name} if cause == "biases that outweigh the signal" else set()
                yield _Case(what, cause, part.name, n, [text, *evidence])
        elif part.saturated.mean() > dead:
            n = int(part.saturated.sum())
            evidence = _flatness(part, part.saturated)
            yield _Case("units saturated", "flat side", part.name, n, evidence)
        bends = part.activation != "identity" and part.name not in outweighed
        if bends and part.always_on.mean() > always_on:
            text = f"{share(part.always_on)} units on one linear piece on {part.n_seen:,} samples"
            yield _Case("always on", "always on", part.name, int(part.always_on.sum()), [text])
    if few:
        n, name = few[0].n_seen, few[0].name
        text = (
            f"{n} samples: a unit that was silent on all may be on for {100 * min(3 / n, 1):.2g} %"
        )
        yield _Case("too few samples", "too few samples", name, 0, [text])


def _finding(cause: str, cases: list[_Case], seen: dict[str, Evidence]) -> Finding:
    """Put the layers together that have something for the same cause."""
    names = tuple(case.layer for case in cases)
    evidence = [f"{case.layer}: {text}" for case in cases for text in case.evidence]
    what = cases[0].what
    if "dead" in what:
        what = "layer dead" if any(case.what == "layer dead" for case in cases) else "units dead"
        first = [name for name in names if name in seen and seen[name].first]
        if first:
            evidence.append(f"{first[0]} is the first layer: on these data its units stay dead")
        elif seen:
            evidence.append("units of deeper layers may come back, when layers before them move")
    remedies, page, section = REMEDIES[cause]
    n_units = sum(case.n_units for case in cases)
    return Finding(what, cause, names, n_units, tuple(evidence), remedies, page, section)


def _flatness(part: LayerReport, units: np.ndarray) -> list[str]:
    text = [f"{share(units)} units flat on all of {part.n_seen:,} samples"]
    if part.dead.any():
        text.append(f"{share(part.dead)} without any slope that counts, at most 1e-6")
    return text


def _broken(model: nn.Module | None) -> list[str]:
    """Say which parameters are no numbers."""
    if model is None:
        return []
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if not broken:
        return ["all parameters are finite: look at the inputs, or at an overflow on the way"]
    return [f"not finite: {', '.join(broken[:4])}{' and others' if len(broken) > 4 else ''}"]


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
