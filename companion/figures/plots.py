"""Plots that several chapters share: an activation, lines with intervals, a grid of shares.

A plot takes an Axes, or makes one, and returns it. Lines carry their names beside them instead of
in a legend; what comes from several seeds has its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from companion.activations import Activation
from companion.claims import interval
from companion.figures.style import COLOURS, new_axes, varies_within

_PREFERRED = {
    "relu": "blue",
    "silu": "blue",
    "tanh": "orange",
    "leaky_relu": "green",
    "elu": "purple",
    "sigmoid": "purple",
    "gelu": "black",
    "identity": "grey",
    "softsign": "grey",
}
"""An activation keeps its colour from figure to figure."""


def plot_activation(
    f: Activation,
    ax: Axes | None = None,
    *,
    low: float = -4.0,
    high: float = 4.0,
    **parameters: float,
) -> Axes:
    """Draw an activation (solid, blue) and its derivative (dashed, orange).

    Parameters
    ----------
    f : Activation
        One of `companion.activations.ACTIVATIONS`.
    ax : Axes, optional
        To draw on; by default a new one.
    low, high : float
        Ends of the axis of z.
    **parameters
        Of the activation, such as ``negative_slope=0.2``.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax)
    z = np.linspace(low, high, 801)
    slope = f.derivative(z, **parameters)
    slope[1:][np.abs(np.diff(slope)) > 0.1] = np.nan  # a jump is no line
    ax.axhline(0, color="#D0D0D0", linewidth=0.8, zorder=0)
    ax.plot(z, f(z, **parameters), color=COLOURS["blue"])
    ax.plot(z, slope, color=COLOURS["orange"], linestyle=(0, (4, 2)))
    ax.set(xlim=(low, high), xlabel="pre-activation $z$")
    return ax


def plot_lines(
    x: ArrayLike, lines: Mapping[str, ArrayLike], ax: Axes | None = None, **settings: Any
) -> Axes:
    """Draw lines over one x, each with its name at its end; of several seeds, mean and interval.

    Parameters
    ----------
    x : array_like of shape (n,)
        Shared by the lines.
    lines : mapping of str to array_like of shape (n,) or (n, n_seeds)
        By name. With seeds, the mean is drawn, and a band over its 95 % interval. Seeds that are
        NaN, since their nets have overflowed, are left out; the line's name says how many they are.
        Where all are NaN before the first value, the line has not begun.
    ax : Axes, optional
        To draw on; by default a new one.
    **settings
        For `matplotlib.axes.Axes.set`, such as ``xlabel="steps"``, ``yscale="log"``.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there are more lines than `COLOURS`, or a line's length is not that of `x`.
    """
    x = np.asarray(x)
    if len(lines) > len(COLOURS):
        raise ValueError(f"lines must be at most {len(COLOURS)}, one per colour, not {len(lines)}")
    ax = new_axes(ax)
    means: dict[str, np.ndarray] = {}
    colours = _choose_colours(lines)
    for place, (name, given) in enumerate(lines.items()):
        values = np.asarray(given)
        if len(values) != len(x):
            raise ValueError(
                f"lines[{name!r}] must have the length of x, {len(x)}, not {len(values)}"
            )
        shown, half = name, None
        if values.ndim == 2:
            gone = np.isnan(values)
            begun = np.logical_or.accumulate(~gone.all(axis=1))  # before, there is no value yet
            lost = gone[begun].any(axis=0).sum()
            shown += f"\n({lost} of {values.shape[1]} overflowed)" if lost else ""
            values, low, high = interval(values)
            half = (high - low) / 2
            ax.fill_between(x, low, high, color=colours[name], alpha=0.2, linewidth=0)
        dashes = "-" if place < 3 else (0, (4, 3))  # shows a line that it covers
        (line,) = ax.plot(x, values, color=colours[name], linestyle=dashes)
        if half is not None:
            varies_within(line, half)
        means[shown], colours[shown] = values, colours[name]
    ax.set(xlim=(x.min(), x.max()), **settings)
    _name_ends(ax, x, means, colours)
    return ax


def plot_grid(
    values: ArrayLike, rows: Iterable, columns: Iterable, ax: Axes | None = None, **settings: Any
) -> Axes:
    """Draw a table of shares from 0 to 1 as fields, the darker the larger, with percents in them.

    Parameters
    ----------
    values : array_like of shape (n_rows, n_columns) or (n_rows, n_columns, n_seeds)
        The first row is drawn at the bottom. With seeds, their mean is drawn; seeds that are NaN,
        since their nets have overflowed, are left out, and a field without two others is empty.
    rows, columns : iterable
        What stands beside and below the fields.
    ax : Axes, optional
        To draw on; by default a new one.
    **settings
        For `matplotlib.axes.Axes.set`, such as ``ylabel="depth"``.

    Returns
    -------
    Axes
    """
    ax, values, half = new_axes(ax), np.asarray(values), None
    if values.ndim == 3:
        values, low, high = interval(values)
        half = (high - low) / 2
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1.2, aspect="auto", origin="lower")
    if half is not None:
        varies_within(image, half)
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.7 else COLOURS["black"]
        shown = f"{100 * value:.0f}" if np.isfinite(value) else "–"
        ax.text(column, row, shown, color=colour, ha="center", va="center")
    ax.set_xticks(range(values.shape[1]), [str(name) for name in columns])
    ax.set_yticks(range(values.shape[0]), [str(name) for name in rows])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(**settings)
    return ax


def _choose_colours(names: Iterable[str]) -> dict[str, str]:
    """Give each name its preferred colour, or else the first that nobody has or prefers."""
    chosen = {name: _PREFERRED[name] for name in names if name in _PREFERRED}
    free = [colour for colour in COLOURS if colour not in chosen.values()]
    return {name: COLOURS[chosen.get(name) or free.pop(0)] for name in names}


def _name_ends(
    ax: Axes, x: np.ndarray, lines: Mapping[str, np.ndarray], colours: Mapping[str, str]
) -> None:
    """Write each name behind the last point of its line that is in view, without overlaps."""
    bottom, top = sorted(ax.get_ylim())
    seen = {}
    for name, y in lines.items():
        in_view = np.flatnonzero(np.isfinite(y) & (y >= bottom) & (y <= top))
        if not in_view.size:
            raise ValueError(f"lines[{name!r}] has no point in view, from {bottom:g} to {top:g}")
        seen[name] = in_view[-1]
    places = {n: ax.transData.transform((x[i], lines[n][i])) * 72 / 100 for n, i in seen.items()}
    at_edge = sorted((n for n in lines if seen[n] == len(x) - 1), key=lambda n: places[n][1])
    heights = {name: places[name][1] + (0 if name in at_edge else 9) for name in lines}
    gap = 11 * (1 + max((name.count("\n") for name in lines), default=0))
    heights |= zip(at_edge, _spread([heights[name] for name in at_edge], gap), strict=True)
    for name, y in lines.items():
        ax.annotate(
            name,
            (x[seen[name]], y[seen[name]]),
            xytext=(5, heights[name] - places[name][1]),
            textcoords="offset points",
            color=colours[name],
            va="center",
            fontsize=9,
            annotation_clip=False,
        )


def _spread(heights: list[float], gap: float = 11) -> list[float]:
    """Move sorted heights apart to at least `gap`, each crowd about its own middle."""
    crowds: list[list[float]] = []
    for height in heights:
        crowds.append([height])
        while (
            len(crowds) > 1
            and _middle(crowds[-1]) - _middle(crowds[-2])
            < gap * (len(crowds[-1]) + len(crowds[-2])) / 2
        ):
            crowds[-2:] = [crowds[-2] + crowds[-1]]
    return [
        _middle(crowd) + gap * (place - (len(crowd) - 1) / 2)
        for crowd in crowds
        for place in range(len(crowd))
    ]


def _middle(crowd: list[float]) -> float:
    return sum(crowd) / len(crowd)
