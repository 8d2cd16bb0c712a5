"""One look for every figure, and the few plots that several chapters share.

A figure function takes an Axes, or makes one, and returns it. Colours are Okabe and Ito's, which
readers with any kind of colour vision can tell apart; lines carry their names beside them instead
of in a legend; what comes from several seeds has its 95 % interval. A figure that holds such means
stores them, with their intervals, inside its PNG: another processor draws other pixels, and may.

Used in every chapter.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from companion.activations import Activation
from companion.claims import interval

__all__ = [
    "COLOURS",
    "panels",
    "plot_activation",
    "plot_grid",
    "plot_lines",
    "use_style",
    "varies_within",
]

COLOURS = MappingProxyType(
    {
        "blue": "#0072B2",
        "orange": "#C85200",
        "green": "#00805E",
        "purple": "#A8558A",
        "grey": "#6B6B6B",
        "black": "#1A1A1A",
    }
)
"""The palette of Okabe and Ito, green and purple darkened until thin lines read well on white."""

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

WIDTH = 6.9
"""Width of a figure in inches: 690 pixels, the column of the page."""

_STYLE: dict[str, Any] = {
    "axes.edgecolor": COLOURS["grey"],
    "axes.labelcolor": COLOURS["black"],
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=list(COLOURS.values())),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (WIDTH, 3.2),
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "xtick.color": COLOURS["grey"],
    "xtick.labelcolor": COLOURS["black"],
    "ytick.color": COLOURS["grey"],
    "ytick.labelcolor": COLOURS["black"],
}


def use_style() -> None:
    """Set the book's style, and in a notebook store figures as small, sharp PNGs."""
    mpl.rcParams.update(mpl.rcParamsDefault | {"backend": mpl.rcParams["backend"]} | _STYLE)
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if shell := get_ipython():
        plt.switch_backend(mpl.get_backend())  # it registers its own PNGs when it is loaded
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png)


def varies_within(artist: Artist, y: ArrayLike, x: ArrayLike | None = None) -> None:
    """Say how far the numbers behind a drawn line or image may be off on another machine.

    The tests then compare these numbers instead of the picture. `plot_lines` and `plot_grid` do so
    for the means of seeds; what a page draws by itself from trained nets needs it.

    Parameters
    ----------
    artist : Line2D or AxesImage
        What `Axes.plot` or `Axes.imshow` made.
    y : float or array_like
        Half widths of the intervals of its y values, or of the image's values; of their shape.
    x : float or array_like, optional
        The same for its x values; by default they are the same everywhere.
    """
    artist.within = y, 0.0 if x is None else x  # type: ignore[attr-defined]


def _numbers(figure: Figure) -> list[dict[str, Any]] | None:
    """Collect the numbers behind a figure, or None if none of them may vary."""
    drawn, varies = [], False
    for place, ax in enumerate(figure.axes):
        wide, high = (abs(np.subtract(*ends)) / 200 for ends in (ax.get_xlim(), ax.get_ylim()))
        for line in ax.lines:
            x, y = np.transpose(line.get_xydata())
            if line.get_transform() != ax.transData or not x.size:
                continue
            half_y, half_x = getattr(line, "within", (None, wide))
            if half_y is None:  # a hundred points show the shape of any curve
                thinned = len(x) // 100 + 1
                x, y, half_y = x[::thinned], y[::thinned], high
            drawn.append({"axes": place, "x": x, "x within": half_x, "y": y, "y within": half_y})
        for image in ax.images:
            half = getattr(image, "within", (0.005, None))[0]
            drawn.append({"axes": place, "y": image.get_array(), "y within": half})
        varies |= any(hasattr(artist, "within") for artist in (*ax.lines, *ax.images))
    short = [{name: _short(values) for name, values in found.items()} for found in drawn]
    return short if varies else None


def _short(values: ArrayLike) -> Any:
    """Five digits of each number, as lists for JSON; what is no number as None."""
    flat = [float(f"{v:.5g}") if np.isfinite(v) else None for v in np.ravel(values)]
    return flat if np.ndim(values) else flat[0]


def _png(figure: Figure) -> bytes:
    """Draw at twice the size it is shown in, with 64 colours: a third of the bytes."""
    from PIL import Image, PngImagePlugin

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    image = Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    inside = PngImagePlugin.PngInfo()
    if numbers := _numbers(figure):
        inside.add_text("numbers", json.dumps(numbers, separators=(",", ":")), zip=True)
        inside.add_text("pixels", hashlib.sha256(image.convert("RGB").tobytes()).hexdigest())
    image.save(small, format="png", optimize=True, pnginfo=inside)
    return small.getvalue()


def panels(columns: int, rows: int = 1, height: float = 2.6, **options: Any) -> np.ndarray:
    """Make a figure of several Axes, as wide as the page.

    Parameters
    ----------
    columns, rows : int
        How many.
    height : float, default 2.6
        Of one row, in inches.
    **options
        For `matplotlib.pyplot.subplots`, such as ``sharey=True``.

    Returns
    -------
    ndarray of Axes, of shape (rows * columns,)
    """
    _, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), squeeze=False, **options)
    return axes.ravel()


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
    ax = _axes(ax)
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
    ax = _axes(ax)
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
    ax, values, half = _axes(ax), np.asarray(values), None
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


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax
