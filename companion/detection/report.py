"""What `watch` and `census` found: sums per unit, and what follows from them, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.checks import real_array, whole
from companion.dead_relu import dormancy_score
from companion.detection.storage import ARRAYS, COUNTS, SUMS, read, write

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["LayerReport", "UnitReport"]

KINDS = ("dead", "always_on", "saturated", "nan")
HEADS = (
    "layer", "activation", "units", "dead", "always on", "saturated", "NaN", "active", "samples",
    "p <=",
)  # fmt: skip
LONGEST = 30
"""Rows of the table at most."""


@dataclass(frozen=True, eq=False)
class LayerReport:
    """The units of one activation, or of one of its calls: arrays with one entry per unit.

    What it keeps are sums, so that adding reports is exact. A value is one output of a unit: one
    per sample, or for a channel or a feature of a sequence one per sample and position.

    A unit is **dead** on what was seen if the activation's derivative was zero at every value (at
    most 1e-6 in size, if the activation is smooth). It is **saturated** if it is not dead but the
    derivative was at most 0.01 in size at every value, and **always on** if it is neither and a
    piecewise linear activation used the same piece at every value, so that the unit is linear on
    what was seen. A unit with an output that is no finite number is **nan** and nothing else.
    """

    name: str  #: as in `model.named_modules()`; "relu (2)" is its second call, "relu()" a function
    activation: str  #: what kind, such as "relu"
    n_seen: int  #: samples
    n_values: int  #: samples times positions
    piecewise: bool  #: if the activation is piecewise linear
    active: np.ndarray  #: values at which the derivative was not zero
    steep: np.ndarray  #: values at which it was more than 0.01 in size
    upper: np.ndarray  #: values on the upper piece; 0 for smooth activations
    total: np.ndarray  #: sum of the outputs
    size: np.ndarray  #: sum of their absolute values
    low: np.ndarray  #: least output of a dead unit; NaN of a living one
    high: np.ndarray  #: largest output of a dead unit; NaN of a living one
    made_by: str = ""  #: path of the layer whose rows make the units, if it is known

    def __post_init__(self) -> None:
        for name in ("name", "activation", "made_by"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be text, not {getattr(self, name)!r}")
        if not isinstance(self.piecewise, bool):
            raise TypeError(f"piecewise must be True or False, not {self.piecewise!r}")
        if whole("n_values", self.n_values) < whole("n_seen", self.n_seen):
            raise ValueError(f"n_values must be n_seen, {self.n_seen}, or more")
        for name in ARRAYS:
            values = real_array(name, getattr(self, name))
            if values.shape != (max(1, np.size(self.active)),):
                raise ValueError(
                    f"{name} must be one number per unit, {np.size(self.active)}, not of shape "
                    f"{values.shape}"
                )
            within = (values >= 0) & (values <= self.n_values) & (values == np.floor(values))
            if name in COUNTS and not within.all():
                raise ValueError(f"{name} must be counts from 0 to n_values, {self.n_values}")
            values.setflags(write=False)
            object.__setattr__(self, name, values)  # the way to set up a frozen dataclass

    def __len__(self) -> int:
        return len(self.active)

    @property
    def p_active(self) -> np.ndarray:
        """Share of the values at which the derivative was not zero; NaN for a NaN unit."""
        return np.where(self.nan, np.nan, self.active / self.n_values)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the outputs."""
        return self.total / self.n_values

    @property
    def mean_abs(self) -> np.ndarray:
        """Mean of their absolute values."""
        return self.size / self.n_values

    @property
    def score(self) -> np.ndarray:
        """Dormancy score: `mean_abs` over the mean of that over the layer; NaN for a NaN unit.

        It is relative: in a layer where every unit is equally weak, every score is 1. It is 0 in a
        layer that is silent as a whole. (Sokar et al. 2023, eq. 1)
        """
        return dormancy_score(self.mean_abs)

    @property
    def nan(self) -> np.ndarray:
        """If an output was NaN or infinite, or their sum past the largest float."""
        return ~np.isfinite(self.size)

    @property
    def dead(self) -> np.ndarray:
        """If the derivative was zero at every value."""
        return (self.active == 0) & ~self.nan

    @property
    def constant(self) -> np.ndarray:
        """If the unit is dead and put out the same number at every value."""
        return self.dead & (self.low == self.high)

    @property
    def saturated(self) -> np.ndarray:
        """If it was at most 0.01 at every value, and the unit is not dead."""
        return (self.steep == 0) & (self.active > 0) & ~self.nan

    @property
    def always_on(self) -> np.ndarray:
        """If a piecewise linear activation used one piece only, and that not flat."""
        one = (self.upper == self.n_values) | ((self.active == self.n_values) & (self.upper == 0))
        return one & (self.steep > 0) & ~self.nan if self.piecewise else np.zeros(len(self), bool)

    @property
    def bound(self) -> float:
        """Largest P(active) that fits a dead unit, 3 / n_seen, with 95 % confidence.

        The rule of three: in n independent samples, something of probability 3 / n stays away with
        a chance of 5 %. Where a sample has many positions, the tokens of a sequence or the pixels
        of an image, the bound is that on the share of samples in which the unit fires at any.
        """
        return min(1.0, 3 / self.n_seen)

    def __add__(self, other: LayerReport) -> LayerReport:
        if not isinstance(other, LayerReport):
            return NotImplemented
        mine = (self.name, self.activation, self.piecewise, len(self))
        theirs = (other.name, other.activation, other.piecewise, len(other))
        if mine != theirs:
            raise ValueError(
                "reports must be of the same model, but one has the layer "
                f"{self.name!r} ({self.activation}, {len(self)} units) where the other has "
                f"{other.name!r} ({other.activation}, {len(other)} units)"
            )
        with np.errstate(invalid="ignore"):
            sums = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        sums["low"] = np.minimum(self.low, other.low)
        sums["high"] = np.maximum(self.high, other.high)
        n_seen, n_values = self.n_seen + other.n_seen, self.n_values + other.n_values
        return replace(self, n_seen=n_seen, n_values=n_values, **sums)


@dataclass(frozen=True, eq=False, repr=False)
class UnitReport:
    """What `watch` and `census` return: a `LayerReport` for each call of an activation.

    It prints as a table, shows as one in a notebook, and `plot` draws it; ``report[0]`` and
    ``report["relu"]`` are layers, ``for layer in report`` takes one after the other, and the sum of
    two reports of the same model is the report of all that was seen by both.

    Examples
    --------
    >>> import torch
    >>> from companion.detection import census
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.ReLU())
    >>> _ = net[0].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> _ = net[0].bias.data.zero_()
    >>> one, two = census(net, torch.ones(50, 1)), census(net, -torch.ones(100, 1))
    >>> one["1"].dead, two["1"].dead, (one + two)["1"].dead
    (array([False,  True]), array([ True, False]), array([False, False]))
    >>> (one + two)["1"].p_active.round(2), (one + two)["1"].bound
    (array([0.33, 0.67]), 0.02)
    >>> one.to_dict()["1/dead"]
    0.5
    """

    layers: tuple[LayerReport, ...]  #: in the order in which they were first called
    notes: tuple[str, ...] = ()  #: what was not seen or not counted, and why
    overflowed: bool = False  #: if a parameter or an output of the model was no finite number
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """What the model was called with at first, two samples of it: arguments and keywords."""

    def __post_init__(self) -> None:
        for name, kind in (("layers", LayerReport), ("notes", str)):
            given = getattr(self, name)
            if not isinstance(given, tuple) or not all(isinstance(part, kind) for part in given):
                raise TypeError(f"{name} must be a tuple of {kind.__name__}s, not {given!r}")
        if not self.layers or len({*self.names}) < len(self.layers):
            raise ValueError("layers must be one at least, and of different names")
        if any(layer.nan.any() for layer in self.layers):
            object.__setattr__(self, "overflowed", True)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    @property
    def names(self) -> list[str]:
        """The layers' names."""
        return [layer.name for layer in self.layers]

    def __getitem__(self, key: str | int) -> LayerReport:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"no layer {key!r}, only {', '.join(map(repr, self.names))}")
            return self.layers[self.names.index(key)]
        if not isinstance(key, int | np.integer):
            raise TypeError(f"a layer is asked for by name or number, not {key!r}")
        if not -len(self) <= key < len(self):
            raise IndexError(f"no layer {key}, only {len(self)}, counted from 0")
        return self.layers[key]

    def __add__(self, other: UnitReport) -> UnitReport:
        if not isinstance(other, UnitReport):
            return NotImplemented
        for name in {*self.names} ^ {*other.names}:
            raise ValueError(f"reports must be of the same model; one has no layer {name!r}")
        return UnitReport(
            tuple(layer + other[layer.name] for layer in self.layers),
            tuple(dict.fromkeys(self.notes + other.notes)),
            self.overflowed or other.overflowed,
            self.example or other.example,
        )

    def __radd__(self, other: Any) -> UnitReport:
        return self if other == 0 else NotImplemented  # so that sum(reports) works

    def dead_only(self) -> UnitReport | None:
        """Return the layers that have dead or NaN units, as a report; None if there are none."""
        sick = tuple(layer for layer in self.layers if (layer.dead | layer.nan).any())
        return replace(self, layers=sick) if sick else None

    def to_dict(self) -> dict[str, float]:
        """Return shares of units as flat numbers, for any logger.

        The keys are "dead", "always_on", "saturated" and "nan" over all units, and "layer/dead" and
        so on, and "layer/active" (the mean of `p_active`), for each layer.
        """
        n_units = sum(map(len, self.layers))
        found = {
            kind: sum(int(getattr(layer, kind).sum()) for layer in self.layers) / n_units
            for kind in KINDS
        }
        for layer in self.layers:
            found |= {f"{layer.name}/{kind}": float(getattr(layer, kind).mean()) for kind in KINDS}
            found[f"{layer.name}/active"] = float(np.mean(layer.p_active))
        return found

    def _rows(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """Cells of the table, the worst layers first if not all fit, and what stands below it."""
        layers, lines = [*self.layers], []
        if len(layers) > LONGEST:
            layers.sort(key=lambda layer: -(layer.dead | layer.nan).mean())  # which is stable
            rest = len(layers) - LONGEST
            lines = [f"({rest} more; these are the worst. dead_only() has all with dead units)"]
        rows = []
        for layer in layers[:LONGEST]:
            p = layer.p_active[~layer.nan]
            active = f"{100 * p.mean():.1f} %" if p.size else "NaN"
            kinds = (f"{getattr(layer, kind).sum()}" for kind in KINDS)
            rows.append((layer.name, layer.activation, f"{len(layer)}", *kinds, active,
                         f"{layer.n_seen:,}", f"{layer.bound:.2g}"))  # fmt: skip
        notes = [*self.notes]
        if len(notes) > 4:
            notes = [*notes[:3], f"{len(notes) - 3} more notes"]
        lines += [f"({note})" for note in notes]
        if self.overflowed:
            lines.append("(overflowed: the model is no longer finite; its counts say nothing else)")
        return rows, lines

    def __str__(self) -> str:
        rows, lines = self._rows()
        widths = [max(len(row[i]) for row in (HEADS, *rows)) for i in range(len(HEADS))]
        table = []
        for row in (HEADS, *rows):
            cells = [
                f"{c:{w}}" if i < 2 else f"{c:>{w}}"
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            table.append("  ".join(cells))
        return "\n".join([*table, *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows, lines = self._rows()
        head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADS)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        below = "".join(f"<p>{escape(line)}</p>" for line in lines)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the shares of dead, always on, saturated and NaN units over the layers.

        Layers are numbered from 1; a kind of unit that no layer has is not drawn, except the dead.
        `ax` is the Axes to draw on, by default new ones; they are returned.
        """
        from companion.figures import plot_lines

        shares = {
            name.replace("_", " "): [100 * getattr(layer, name).mean() for layer in self.layers]
            for name in KINDS
        }
        lines = {name: y for name, y in shares.items() if name == "dead" or any(y)}
        x = np.arange(1, len(self) + 1)
        if len(self) == 1:  # a point is no line
            x, lines = np.array([0.5, 1.5]), {name: y * 2 for name, y in lines.items()}
        ax = plot_lines(
            x, lines, ax, xlabel="layer", ylabel="share of its units (%)", ylim=(-3, 103)
        )
        ax.locator_params(axis="x", integer=True)
        return ax

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas `DataFrame` with one row per unit, indexed by layer and unit."""
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas needs pandas: pip install pandas") from None
        names = ("p_active", "mean", "mean_abs", "score", *KINDS)
        frames = []
        for layer in self.layers:
            columns: dict[str, Any] = {"layer": layer.name, "unit": range(len(layer))}
            columns |= {"activation": layer.activation, "n_seen": layer.n_seen}
            columns |= {name: getattr(layer, name) for name in names}
            frames.append(pandas.DataFrame(columns))
        return pandas.concat(frames).set_index(["layer", "unit"])

    def save(self, path: str | Path) -> None:
        """Write the report to a file, as JSON; without the example."""
        write(path, self.layers, self.notes, self.overflowed)

    @classmethod
    def load(cls, path: str | Path) -> UnitReport:
        """Read what `save` wrote; `ValueError` if the file holds anything else."""
        try:
            found = read(path)
            layers = tuple(LayerReport(**row) for row in found.pop("layers"))
            return cls(layers, **found)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no report: {type(error).__name__}: {error}") from None

    def all_reduce(self, group: Any = None) -> UnitReport:
        """Return the sum of the reports of all ranks; each of them must call it.

        `group` is a process group of `torch.distributed`, by default that of all ranks. Raises
        `ValueError` on every rank if the reports are of different models.
        """
        from torch import distributed

        if not distributed.is_available() or not distributed.is_initialized():
            raise RuntimeError("all_reduce needs torch.distributed.init_process_group")
        reports: list[Any] = [None] * distributed.get_world_size(group)
        distributed.all_gather_object(reports, replace(self, example=None), group)
        return replace(sum(reports), example=self.example)
