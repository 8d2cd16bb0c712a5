"""Colours and style, and how a figure becomes a picture, for the page and for a phone.

Colours are Okabe and Ito's, which readers with any kind of colour vision can tell apart. A figure
that holds means of seeds stores them, with their intervals, inside its PNG: another processor draws
other pixels, and may.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
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

NARROW_PNG = "application/x-narrow-png"
"""Kind of output under which a notebook stores the picture for a phone."""

WIDTH, NARROW = 6.9, 3.5
"""Widths of a figure in inches: 690 pixels, the column of the page, and 350 on a phone."""

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
        shell.display_formatter.formatters["image/png"].for_type(Figure, png)


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


def png(figure: Figure) -> bytes:
    """Draw at twice the size it is shown in, with 32 colours: a quarter of the bytes."""
    from PIL import Image, PngImagePlugin

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    image = Image.open(drawn).convert("RGB").quantize(32, dither=Image.Dither.NONE)
    inside = PngImagePlugin.PngInfo()
    if numbers := _numbers(figure):
        inside.add_text("numbers", json.dumps(numbers, separators=(",", ":")), zip=True)
        inside.add_text("pixels", hashlib.sha256(image.convert("RGB").tobytes()).hexdigest())
    image.save(small, format="png", optimize=True, pnginfo=inside)
    return small.getvalue()


def show(draw: Callable[[bool], object]) -> None:
    """Show a figure that is drawn twice, for the page and for a phone.

    Parameters
    ----------
    draw : callable
        Draws the figure; it is given True for the narrow one, whose panels stand below each other.
        `panels` takes the same argument.
    """
    from IPython.display import display

    pictures = {}
    for kind, narrow in (("image/png", False), (NARROW_PNG, True)):
        before = set(plt.get_fignums())
        draw(narrow)
        made = [plt.figure(number) for number in plt.get_fignums() if number not in before]
        if len(made) != 1:
            raise ValueError(f"draw must make one figure, not {len(made)}")
        pictures[kind] = base64.b64encode(png(made[0])).decode()
        plt.close(made[0])
    display(pictures, raw=True)


def panels(
    columns: int, rows: int = 1, height: float = 2.6, *, narrow: bool = False, **options: Any
) -> np.ndarray:
    """Make a figure of several Axes, as wide as the page, or as a phone and below each other.

    Parameters
    ----------
    columns, rows : int
        How many.
    height : float, default 2.6
        Of one row, in inches.
    narrow : bool, default False
        Whether it is for a phone.
    **options
        For `matplotlib.pyplot.subplots`, such as ``sharey=True``.

    Returns
    -------
    ndarray of Axes, of shape (rows * columns,)
    """
    if narrow:
        rows, columns = rows * columns, 1
        options.pop("width_ratios", None)
    size = (NARROW if narrow else WIDTH, height * rows)
    _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    return axes.ravel()


def new_axes(ax: Axes | None) -> Axes:
    """The Axes given, or those of a new figure."""
    return plt.subplots()[1] if ax is None else ax
