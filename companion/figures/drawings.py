"""Drawings that explain: a net with sizes on its wires, values on a curve, steps.

Each draws on an Axes that it is given, and returns it; with `panels` and `show` a drawing has a
narrow form for phones. Positions are in the Axes' own units. The last three, `death`, `way_back`
and `way_forward`, make whole figures, for the pages of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from companion.activations import Activation, prelu, relu
from companion.figures.style import COLOURS, NARROW, WIDTH, panels

__all__ = [
    "arrow", "blank", "box", "cloud", "curve", "death", "histograms", "net", "steps", "way_back",
    "way_forward", "word",
]  # fmt: skip

_GREY, _BLUE, _BLACK = COLOURS["grey"], COLOURS["blue"], COLOURS["black"]
_ORANGE = COLOURS["orange"]

Point = tuple[float, float]


def blank(ax: Axes, width: float, height: float) -> Axes:
    """Make an empty sheet, `width` by `height` units, for boxes, arrows and words."""
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return ax


def box(
    ax: Axes,
    x: float,
    y: float,
    text: str = "",
    width: float = 1.0,
    height: float = 0.8,
    *,
    colour: str = _GREY,
) -> Axes:
    """Draw a box about a point, with a text in it."""
    corner = x - width / 2, y - height / 2
    ax.add_patch(Rectangle(corner, width, height, fc="white", ec=colour, lw=1.4, zorder=2))
    ax.text(x, y, text, ha="center", va="center", zorder=3)
    return ax


def arrow(
    ax: Axes, start: Point, end: Point, text: str = "", colour: str = _GREY, **style: Any
) -> Axes:
    """Draw an arrow, with a text above its middle.

    Parameters
    ----------
    ax : Axes
        To draw on.
    start, end : tuple of float
        Its ends.
    text : str, default ""
        What is written.
    colour : str
        Of both.
    **style
        For `matplotlib.patches.FancyArrowPatch`, such as ``linestyle="dashed"``.
    """
    line = dict(arrowstyle="-|>", color=colour, linewidth=1.4, shrinkA=0, shrinkB=0) | style
    ax.annotate("", end, start, arrowprops=line)
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    ax.annotate(
        text, middle, (0, 3), textcoords="offset points", ha="center", va="bottom", color=colour
    )
    return ax


def word(ax: Axes, x: float, y: float, text: str, colour: str = _BLACK, **style: Any) -> Axes:
    """Write a few words about a point."""
    centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}
    ax.text(x, y, text, color=colour, **centred | style)
    return ax


def net(
    ax: Axes,
    layers: Sequence[str],
    wires: Sequence[str] | None = None,
    *,
    below: Sequence[str] = (),
) -> Axes:
    """Draw a net as boxes in a row, with what flows written on the wires.

    Parameters
    ----------
    ax : Axes
        To draw on.
    layers : sequence of str
        What stands in the boxes, such as ``["Linear", "ReLU", "Linear"]``.
    wires : sequence of str, optional
        What stands on the wires, one more than there are layers: sizes, or names of values.
    below : sequence of str, optional
        What stands below the boxes.

    Raises
    ------
    ValueError
        If the numbers of layers, wires and words below don't fit.
    """
    wires = [""] * (len(layers) + 1) if wires is None else wires
    if len(wires) != len(layers) + 1:
        raise ValueError(f"wires must be {len(layers) + 1}, one more than layers, not {len(wires)}")
    if below and len(below) != len(layers):
        raise ValueError(f"below must be {len(layers)}, one for each layer, not {len(below)}")
    wire, room = 1.3, 1.7
    blank(ax, len(layers) * room + (len(layers) + 1) * wire, 2.0)
    for place, text in enumerate(wires):
        start = place * (room + wire)
        arrow(ax, (start, 1.2), (start + wire, 1.2), text)
    for place, text in enumerate(layers):
        middle = wire + room / 2 + place * (room + wire)
        box(ax, middle, 1.2, text, room, 0.9)
        word(ax, middle, 0.4, below[place] if below else "", _GREY)
    return ax


def curve(ax: Axes, f: Activation = relu, reach: float = 4.0, *, flat: float | None = 0.0) -> Axes:
    """Draw an activation as a thin line, where its slope is zero on grey ground.

    Parameters
    ----------
    ax : Axes
        To draw on.
    f : Activation, default relu
        The curve.
    reach : float, default 4
        The axis of z runs from −reach to reach.
    flat : float, optional
        Largest slope that counts as flat; None leaves the ground white.
    """
    z = np.linspace(-reach, reach, 401)
    if flat is not None:
        lies = abs(f.derivative(z)) <= flat
        ax.fill_between(
            z, 0, 1, where=lies, color="#EFEFEF", lw=0, transform=ax.get_xaxis_transform()
        )
    y = f(z)
    ax.plot(z, y, color=_GREY, linewidth=1)
    room = 0.14 * (y.max() - y.min())
    ax.set(xlim=(-reach, reach), ylim=(y.min() - room, y.max() + room), yticks=[], xticks=[0])
    ax.spines[:].set_visible(False)
    return ax


def cloud(
    ax: Axes, z: ArrayLike, f: Activation = relu, *, colour: str = _BLUE, spread: float = 0.04
) -> Axes:
    """Put a dot on an activation's curve for each pre-activation, a little aside to show crowds.

    Parameters
    ----------
    ax : Axes
        That of `curve`.
    z : array_like of shape (n,)
        The pre-activations; those beyond the edges stand at the edge.
    f : Activation, default relu
        The curve.
    colour : str
        Of the dots.
    spread : float, default 0.04
        How far aside, as a share of the Axes' height.
    """
    dots = np.clip(np.ravel(z).astype(float), *ax.get_xlim())
    aside = spread * np.ptp(ax.get_ylim()) * np.random.default_rng(0).uniform(-1, 1, dots.size)
    ax.plot(dots, f(dots) + aside, ".", color=colour, alpha=0.45, markeredgewidth=0)
    return ax


def histograms(
    ax: Axes, layers: Mapping[str, ArrayLike], *, bins: ArrayLike = 41, colour: str = _BLUE
) -> Axes:
    """Draw a histogram for each layer, the first at the top, over one axis.

    Parameters
    ----------
    ax : Axes
        To draw on.
    layers : mapping of str to array_like
        Values of each layer, by its name. All histograms have the same height.
    bins : int or array_like, default 41
        Number of bins over the range of all values, or their edges.
    colour : str
        Of the bars.
    """
    values = {name: np.ravel(given).astype(float) for name, given in layers.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins)
    middles = (edges[1:] + edges[:-1]) / 2
    for row, given in enumerate(values.values()):
        counts = np.histogram(given, edges)[0]
        base = -row + np.zeros(len(middles))
        high = base + 0.85 * counts / max(counts.max(), 1)
        ax.fill_between(middles, base, high, step="mid", color=colour, alpha=0.75, linewidth=0)
        ax.axhline(-row, color="#D0D0D0", linewidth=0.8)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0.9 - len(values), 1))
    ax.set_yticks([0.3 - row for row in range(len(values))], list(values))
    ax.tick_params(axis="y", length=0)
    ax.spines[["left"]].set_visible(False)
    return ax


def steps(ax: Axes, points: ArrayLike, *, colour: str = _BLUE, text: str = "") -> Axes:
    """Draw the steps of a descent: an arrow from each point to the next.

    Parameters
    ----------
    ax : Axes
        To draw on.
    points : array_like of shape (n_steps + 1, 2)
        Where the steps begin and end.
    colour : str
        Of the arrows.
    text : str, default ""
        A name, written at the first point.
    """
    places = np.asarray(points, dtype=float)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"points must have the shape (n, 2), not {places.shape}")
    ax.plot(*places.T, "o", color=colour, markersize=3)
    for start, end in pairwise(places):
        arrow(ax, tuple(start), tuple(end), colour=colour, mutation_scale=9)
    ax.annotate(text, places[0], (4, 5), textcoords="offset points", color=colour, fontsize=9)
    return ax


def death(narrow: bool) -> None:
    """Draw how a ReLU dies, and what three remedies do against it: for `show`."""
    plan = "A;B;C;D;E" if narrow else "AAABBB;CCDDEE"
    size = (NARROW, 6.0) if narrow else (WIDTH, 3.1)
    heights = [1.3, 1.3, 1, 1, 1] if narrow else [1.3, 1]
    axes = plt.subplot_mosaic(plan, figsize=size, height_ratios=heights)[1]
    living = np.random.default_rng(0).normal(0.2, 1.1, 50)
    dead, back = 0.45 * living - 2.4, 0.45 * living
    titles = {
        "A": "alive: slope 1 for some examples",
        "B": "dead: slope 0 for every example",
        "C": "leaky ReLU: no slope is 0",
        "D": "centring: moves it back",
        "E": "a lower rate: shorter steps",
    }
    for name, title in titles.items():
        curve(axes[name], prelu if name == "C" else relu).set_title(title)
        axes[name].set_xticks([0], ["$z=0$"])
    cloud(axes["A"], living)
    cloud(axes["B"], dead, colour=_ORANGE)
    arrow(axes["B"], (1.2, 1.3), (-1.3, 0.5), colour=_BLACK, connectionstyle="arc3,rad=.25")
    word(axes["B"], -0.9, 3.2, "a long step, inputs with an\noffset, or a negative bias")
    cloud(axes["C"], dead, prelu)
    cloud(axes["D"], dead, colour="#E3C5AE")
    cloud(axes["D"], back)
    arrow(axes["D"], (-2.2, 1.0), (-0.3, 1.0), colour=_BLACK)
    cloud(axes["E"], living - 0.4)
    arrow(axes["E"], (1.3, 2.3), (0.5, 1.7), colour=_BLACK)


def way_back(narrow: bool) -> None:
    """Draw the two factors of a layer, and what ten of them do to a gradient: for `show`."""
    plan = "AAA;BBB;CCC;DDD" if narrow else "AAA;BCD"
    size = (NARROW, 6.0) if narrow else (WIDTH, 3.3)
    heights = [1.1, 1, 1, 1] if narrow else [1, 1.2]
    axes = plt.subplot_mosaic(plan, figsize=size, height_ratios=heights)[1]
    layer = blank(axes["A"], 8.4 if narrow else 14, 3.4)
    middle = layer.get_xlim()[1] / 2
    arrow(layer, (middle + 4.2, 1.9), (middle + 2.75, 1.9), colour=_ORANGE)
    box(layer, middle + 1.6, 1.9, "slope", 2.2, 1.1)
    arrow(layer, (middle + 0.45, 1.9), (middle - 0.45, 1.9), colour=_ORANGE)
    box(layer, middle - 1.6, 1.9, "weights", 2.2, 1.1)
    arrow(layer, (middle - 2.75, 1.9), (middle - 4.2, 1.9), colour=_ORANGE)
    word(layer, middle, 3.1, "one layer, on the way back")
    word(layer, middle, 0.7, "the gradient is multiplied by both", _ORANGE)
    layers = np.arange(1, 11)
    cases = (("B", 0.7, "shrinks"), ("C", 1.0, "keeps its size"), ("D", 1.3, "grows"))
    for name, factor, says in cases:
        axes[name].bar(layers, factor ** (10 - layers), color=_ORANGE, width=0.7)
        axes[name].set_title(f"{factor:g} per layer: it {says}")
        axes[name].set(xticks=[1, 10], xlabel="layer")
    axes["B"].set_ylabel("size of the gradient")


def way_forward(narrow: bool) -> None:
    """Draw what two inputs share and what they differ by, through sigmoid layers: for `show`."""
    axes = panels(2, height=2.5, narrow=narrow, sharey=True)
    layers = np.arange(1, 21)
    cases = (("Xavier's weights: it is lost", 0.235), ("with batch norm: it stays", 1.0))
    for ax, (says, factor) in zip(axes, cases, strict=True):
        ax.semilogy(layers, np.full(20, 0.5), ".-", color=_GREY)
        ax.semilogy(layers, 0.2 * factor ** (layers - 1), ".-", color=_ORANGE)
        ax.set_title(says)
        ax.set(xticks=[1, 10, 20], xlabel="layer", ylim=(1e-14, 100))
        ax.text(20, 1.5, "what all inputs share", ha="right", color=_GREY)
    axes[0].text(1.5, 1e-11, "what two inputs\ndiffer by", color=_ORANGE)
    axes[1].text(20, 0.07, "what two inputs\ndiffer by", ha="right", va="top", color=_ORANGE)
    for ax in axes if narrow else axes[:1]:
        ax.set_ylabel("size in the outputs")
