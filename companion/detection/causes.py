"""Why the dead units of a layer are dead: the rules of `diagnose`, each with its evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from companion.detection.evidence import Evidence

if TYPE_CHECKING:
    from companion.detection.report import LayerReport

__all__ = ["causes", "share"]

Cause = tuple[str, list[str]]
WEIGHTS = ("too large steps", "weights against the mean")
"""Two names for one thing: the first if the weights have grown past He's by `GROWN`."""
GROWN = 1.25


def causes(part: LayerReport, before: LayerReport | None, source: Evidence | None) -> list[Cause]:
    """Name the causes of a layer's dead units, the most likely first, each with its evidence.

    `before` is the layer that the report has before this one, `source` what is known of the
    weights between the two. The rules stand in the docstring of `companion.detection.diagnose`.
    """
    dead = part.dead
    if source is not None and source.norm:
        if source.beta is None or source.gamma is None:
            return [("unknown", [])]
        below = dead & (source.beta <= -2 * abs(source.gamma))
        if 2 * below.sum() >= dead.sum():
            text = f"{share(below, dead)} dead units have a shift of −2 scales or less"
            return [("the norm's shift", [f"{text} in {source.norm!r}"])]
        return [("unknown", [])]
    if source is None:
        return [("unknown", [])]
    on = part.always_on
    one_sided = (dead | on).mean() >= 0.8 and dead.mean() >= 0.2 and on.mean() >= 0.2
    if one_sided and _outweighed(dead, before, source):
        text = f"and {share(on)} units are always on: the sign hardly depends on the sample"
        return [("biases that outweigh the signal", [text, _scale(source)])]
    if source.mean_part is not None:
        return _tried(dead, source)
    return _guessed(dead, before, source)


def _outweighed(dead: np.ndarray, before: LayerReport | None, source: Evidence) -> bool:
    """Tell if biases, and not the mean of the layer's inputs, decide the signs."""
    if source.bias is None:
        return False
    if source.fires_centred is not None:
        return bool(2 * (dead & source.fires_centred).sum() < dead.sum())
    part = source.norms  # what standardized inputs add to a unit, root mean square
    if before is not None and source.fan.shape[1] == len(before):
        part = abs(source.fan @ before.mean)
    return bool(np.median(abs(source.bias)) > np.median(part))


def _tried(dead: np.ndarray, source: Evidence) -> list[Cause]:
    """Decide by what the units would do without the mean of their inputs, or without biases."""
    bias = np.zeros(len(dead)) if source.bias is None else source.bias
    centred, unbiased = source.fires_centred, source.fires_unbiased
    assert centred is not None
    assert unbiased is not None
    assert source.mean_part is not None
    offset = _of_the_mean(source, source.offset)
    texts = {
        offset: [
            f"{share(dead & centred, dead)} would fire if {source.layer!r} had centred inputs",
            f"{100 * source.offset:.0f} % of these inputs' mean square is that of their mean",
        ],
        "negative biases": [
            f"{share(dead & unbiased, dead)} would fire with biases of zero",
            f"the median bias of the dead units is {np.median(bias[dead]):.2g}",
        ],
    }
    counts = {offset: (dead & centred).sum(), "negative biases": (dead & unbiased).sum()}
    named = [cause for cause, n in counts.items() if 2 * n >= dead.sum()]
    if not named:
        by_bias = (bias < source.mean_part)[dead].mean() >= 0.5
        named = ["negative biases" if by_bias else offset]
    named.sort(key=lambda cause: -counts[cause])
    if not (centred | unbiased)[dead].any() and not source.mean_part[dead].any() and not bias.any():
        return [("no signal", ["the dead units' inputs and biases are zero"])]
    return [(cause, texts[cause] + [_scale(source)] * (cause in WEIGHTS)) for cause in named]


def _of_the_mean(source: Evidence, offset: float) -> str:
    """Say where it comes from if the mean of a layer's inputs turns its units off."""
    if source.first:
        return "offset inputs"
    if offset > 0.8:
        return "offset from the layer before"
    return WEIGHTS[0] if source.scale >= GROWN else WEIGHTS[1]


def _scale(source: Evidence) -> str:
    return f"the weights' standard deviation is {source.scale:.2f} times that of He's rule"


def _guessed(dead: np.ndarray, before: LayerReport | None, source: Evidence) -> list[Cause]:
    """Decide by biases and weights alone."""
    r = 1.0 if before is None else float(np.sqrt(np.mean(before.mean_abs**2)))
    if source.bias is not None:
        low = dead & (source.bias < 0) & (-source.bias >= source.norms * r)
        if 2 * low.sum() >= dead.sum():
            text = f"{share(low, dead)} dead units have a bias below minus the length of their "
            text += f"weights times {r:.2g}, the root mean square of "
            text += "the units before" if before else "standardized inputs"
            return [("negative biases", [text])]
    if source.first:
        text = "the dead units' biases are too small for that on standardized inputs"
        return [("offset inputs", [text])]
    bias = np.zeros(len(dead)) if source.bias is None else source.bias
    if before is not None and source.fan.shape[1] == len(before):
        part = source.fan @ before.mean
        down = dead & (part < 0) & (part <= bias)
        if 2 * down.sum() >= dead.sum():
            offset = float(np.sum(before.mean**2) / np.sum(before.mean_abs**2))
            text = f"{share(down, dead)} dead units are pulled down by the mean of {before.name!r}"
            text += f", in the middle by {-np.median(part[down]):.2g}"
            return [(_of_the_mean(source, offset), [text, _scale(source)])]
    return [(WEIGHTS[0] if source.scale >= 1.5 else "unknown", [_scale(source)])]


def share(part: np.ndarray, whole: np.ndarray | None = None) -> str:
    """Say how many are in a part: "12 of 64"."""
    return f"{part.sum()} of {part.size if whole is None else whole.sum()}"
