"""One look for every figure: plots that prove, drawings that explain.

``style`` holds colours and sizes and turns figures into pictures, ``plots`` what is drawn of
measurements, ``drawings`` what explains an idea. Used in every chapter.
"""

from companion.figures.drawings import (
    arrow,
    blank,
    box,
    cloud,
    curve,
    death,
    histograms,
    net,
    steps,
    way_back,
    way_forward,
    word,
)
from companion.figures.plots import plot_activation, plot_grid, plot_lines
from companion.figures.style import COLOURS, panels, show, use_style, varies_within

__all__ = [
    "COLOURS", "arrow", "blank", "box", "cloud", "curve", "death", "histograms", "net", "panels",
    "plot_activation", "plot_grid", "plot_lines", "show", "steps", "use_style", "varies_within",
    "way_back", "way_forward", "word",
]  # fmt: skip
