"""One look for every figure, and the few plots that several chapters share.

A figure function takes an Axes, or makes one, and returns it. Colours are Okabe and Ito's, which
readers with any kind of colour vision can tell apart; lines carry their names beside them instead
of in a legend; what comes from several seeds has its 95 % interval.

Used in every chapter.
"""

from __future__ import annotations

import io
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from companion.activations import Activation
from companion.claims import interval

__all__ = ["COLOURS", "label", "panels", "plot_activation", "plot_seeds", "use_style"]

COLOURS = MappingProxyType(
    {
        "blue": "#0072B2",
        "vermillion": "#D55E00",
        "green": "#00805E",
        "purple": "#A8558A",
        "grey": "#6B6B6B",
        "black": "#1A1A1A",
    }
)
"""The palette of Okabe and Ito, green and purple darkened until thin lines read well on white."""

WIDTH = 6.9
"""Width of a figure in inches: 690 pixels, the column of the page."""

_STYLE: dict[str, Any] = {
    "axes.edgecolor": COLOURS["grey"],
    "axes.labelcolor": COLOURS["black"],
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[c for name, c in COLOURS.items() if name != "grey"]),
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
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png)


def _png(figure: Figure) -> bytes:
    """Draw at twice the size it is shown in, with 64 colours: a third of the bytes."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    image = Image.open(drawn).convert("RGB")
    image.quantize(64, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
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


def label(ax: Axes, x: float, y: float, text: str, colour: str = "black", **options: Any) -> Axes:
    """Write a line's name beside it, in its colour.

    Parameters
    ----------
    ax : Axes
        To write on.
    x, y : float
        Where the text starts, in data units.
    text : str
        The name.
    colour : str, default "black"
        Name in `COLOURS`.
    **options
        For `matplotlib.axes.Axes.text`, such as ``ha="right"``.

    Returns
    -------
    Axes
    """
    style: dict[str, Any] = {"va": "center", "fontsize": 9} | options
    ax.text(x, y, text, color=_colour(colour), **style)
    return ax


def plot_activation(
    f: Activation,
    ax: Axes | None = None,
    *,
    low: float = -4.0,
    high: float = 4.0,
    **parameters: float,
) -> Axes:
    """Draw an activation (solid, blue) and its derivative (dashed, vermillion).

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
    ax.plot(z, slope, color=COLOURS["vermillion"], linestyle=(0, (4, 2)))
    ax.set(xlim=(low, high), xlabel="pre-activation $z$")
    return ax


def plot_seeds(
    x: ArrayLike,
    values: ArrayLike,
    ax: Axes | None = None,
    *,
    colour: str = "blue",
    name: str = "",
    **options: Any,
) -> Axes:
    """Draw the mean over seeds with its 95 % interval as a band, and its name at the end.

    Parameters
    ----------
    x : array_like of shape (n,)
        Where the values were measured.
    values : array_like of shape (n, n_seeds)
        One column for each seed, two at least.
    ax : Axes, optional
        To draw on; by default a new one.
    colour : str, default "blue"
        Name in `COLOURS`.
    name : str, default ""
        Written behind the last point.
    **options
        For `matplotlib.axes.Axes.plot`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there are fewer than two seeds, or `x` and `values` differ in length.
    """
    x, values = np.asarray(x), np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 2 or len(x) != len(values):
        raise ValueError(
            f"values must be of shape ({len(x)}, n_seeds) with two seeds at least, "
            f"not {values.shape}"
        )
    ax = _axes(ax)
    mean, low, high = interval(values)
    ax.plot(x, mean, color=_colour(colour), **options)
    ax.fill_between(x, low, high, color=_colour(colour), alpha=0.2, linewidth=0)
    if name:
        ax.annotate(
            name,
            (x[-1], mean[-1]),
            xytext=(5, 0),
            textcoords="offset points",
            color=_colour(colour),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    return ax


def _axes(ax: Axes | None) -> Axes:
    return plt.subplots()[1] if ax is None else ax


def _colour(name: str) -> str:
    if name not in COLOURS:
        raise ValueError(f"colour must be one of {list(COLOURS)}, not {name!r}")
    return COLOURS[name]
