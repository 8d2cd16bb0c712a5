"""What `watch` and `census` found: sums per unit, and what follows from them, in NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.dead_relu import dormancy_score
from companion.detection.storage import SUMS, read, sum_over_ranks, write

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["LayerReport", "UnitReport"]

KINDS = ("dead", "always_on", "saturated", "nan")


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
    square: np.ndarray  #: sum of their squares
    low: Any = None  #: least output of each unit
    high: Any = None  #: largest output of each unit
    made_by: str = ""  #: the layer whose rows make the units, if it is known

    def __post_init__(self) -> None:
        for name in SUMS:
            sums = np.array(getattr(self, name), dtype=float)
            sums.setflags(write=False)
            object.__setattr__(self, name, sums)  # the way to set up a frozen dataclass

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
    def rms(self) -> np.ndarray:
        """Their root mean square."""
        return np.sqrt(self.square / self.n_values)

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
        a chance of 5 %.
        """
        return min(1.0, 3 / self.n_seen)

    def _check(self, other: LayerReport) -> None:
        mine = (self.name, self.activation, self.piecewise, len(self))
        theirs = (other.name, other.activation, other.piecewise, len(other))
        if mine != theirs:
            raise ValueError(
                "reports must be of the same model, but one has the layer "
                f"{self.name!r} ({self.activation}, {len(self)} units) where the other has "
                f"{other.name!r} ({other.activation}, {len(other)} units)"
            )

    def __add__(self, other: LayerReport) -> LayerReport:
        if not isinstance(other, LayerReport):
            return NotImplemented
        self._check(other)
        with np.errstate(invalid="ignore"):
            sums = {name: getattr(self, name) + getattr(other, name) for name in SUMS}
        n_seen, n_values = self.n_seen + other.n_seen, self.n_values + other.n_values
        if self.low is not None and other.low is not None:
            sums["low"] = np.minimum(self.low, other.low)
            sums["high"] = np.maximum(self.high, other.high)
        return replace(self, n_seen=n_seen, n_values=n_values, **sums)


@dataclass(frozen=True, eq=False)
class UnitReport:
    """What `watch` and `census` return: a `LayerReport` for each call of an activation.

    It prints as a table, and `plot` draws it; ``report[0]`` and ``report["relu"]`` are layers,
    ``for layer in report`` takes one after the other, and the sum of two reports of the same model
    is the report of all that was seen by both.

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
    """

    layers: tuple[LayerReport, ...]  #: in the order in which they were first called
    unwatched: int = 0  #: calls of functional activations per forward pass that were not watched
    overflowed: bool = False  #: if a parameter or an output of the model was no finite number
    example: Any = None  #: arguments of the first pass, and keywords, of a few samples

    def __post_init__(self) -> None:
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
        return self.layers[key]

    def __add__(self, other: UnitReport) -> UnitReport:
        if not isinstance(other, UnitReport):
            return NotImplemented
        for name in self.names:
            if name not in other.names:
                raise ValueError(f"reports must be of the same model; one has no layer {name!r}")
        for name in other.names:
            if name not in self.names:
                raise ValueError(f"reports must be of the same model; one has no layer {name!r}")
        layers = tuple(layer + other[layer.name] for layer in self.layers)
        unwatched = max(self.unwatched, other.unwatched)
        overflowed = self.overflowed or other.overflowed
        return UnitReport(layers, unwatched, overflowed, self.example or other.example)

    def __radd__(self, other: Any) -> UnitReport:
        return self if other == 0 else NotImplemented  # so that sum(reports) works

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.names)) if self.layers else 5
        kind = max(10, *(len(layer.activation) for layer in self.layers)) if self.layers else 10
        heads = " units   dead  always on  saturated    NaN  active   samples  P(active) <="
        lines = [f"{'layer':{width}}  {'activation':{kind}} {heads}"]
        for layer in self.layers:
            dead, on, flat, nan = (int(getattr(layer, name).sum()) for name in KINDS)
            p = layer.p_active[~layer.nan]
            active = f"{100 * p.mean():5.1f} %" if p.size else "    NaN"
            lines.append(
                f"{layer.name:{width}}  {layer.activation:{kind}}  {len(layer):5} {dead:6} "
                f"{on:10} {flat:10} {nan:6} {active} {layer.n_seen:9,}  {layer.bound:12.2g}"
            )
        if self.unwatched:
            lines.append(
                f"(not watched: {self.unwatched} functional calls per forward pass; "
                "functional=True shows them)"
            )
        if self.overflowed:
            lines.append("(overflowed: the model is no longer finite; its counts say nothing else)")
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the shares of dead, always on, saturated and NaN units over the layers.

        Layers are numbered from 1; a kind of unit that no layer has is not drawn, except the dead.
        `ax` is the Axes to draw on, by default new ones; they are returned.
        """
        from companion.figures import plot_lines

        if not self.layers:
            raise ValueError("report has no layer to plot")
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
        names = ("p_active", "mean", "mean_abs", "rms", "score", *KINDS)
        frames = []
        for layer in self.layers:
            columns: dict[str, Any] = {"layer": layer.name, "unit": range(len(layer))}
            columns |= {"activation": layer.activation, "n_seen": layer.n_seen}
            columns |= {name: getattr(layer, name) for name in names}
            frames.append(pandas.DataFrame(columns))
        return pandas.concat(frames).set_index(["layer", "unit"])

    def save(self, path: str | Path) -> None:
        """Write the report to a file, as JSON."""
        write(path, self.layers, self.unwatched, self.overflowed)

    @classmethod
    def load(cls, path: str | Path) -> UnitReport:
        """Read what `save` wrote; `ValueError` if the file holds anything else."""
        layers, unwatched, overflowed = read(path)
        return cls(tuple(LayerReport(**row) for row in layers), unwatched, overflowed)

    def all_reduce(self, group: Any = None) -> UnitReport:
        """Return the sum of the reports of all ranks; each of them must call it.

        `group` is a process group of `torch.distributed`, by default that of all ranks. Raises
        `ValueError` on every rank if the reports are of different models.
        """
        rows, overflowed = sum_over_ranks(self.layers, self.overflowed, group)
        return UnitReport(tuple(LayerReport(**row) for row in rows), self.unwatched, overflowed)
