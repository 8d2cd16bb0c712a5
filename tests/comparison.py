"""What nbval lacks: decimals to the last printed place, and figures compared as pictures.

nbval compares stored and new outputs with ``!=``. Loaded as a plug-in (by ``conftest.py`` at the
root), this module hands it strings that know better: text may differ by one unit in the last
printed place of a decimal, and PNG pictures by a root mean square of one grey level of 256.
Integers and words stay exact. The measured value of a claim that says it ``varies`` is judged by
the claim's own bounds. It relies on nbval's internals, so nbval is pinned.
"""

from __future__ import annotations

import base64
import io
import re
from decimal import Decimal

import numpy as np
from nbval import plugin
from nbval.plugin import IPyNbCell, IPyNbFile
from PIL import Image

from companion.claims import Claim

FIGURE_RMS = 1.0
"""Largest root mean square difference of two pictures of one figure, in grey levels of 256."""

_DECIMAL = re.compile(r"[-+]?\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)")


def same_text(stored: str, new: str) -> bool:
    """Whether two texts agree: decimals to one unit in the last place, all else exactly."""
    stored_lines, new_lines = stored.splitlines(), new.splitlines()
    if len(stored_lines) != len(new_lines):
        return False
    return all(_same_line(*lines) for lines in zip(stored_lines, new_lines, strict=True))


def _same_line(stored: str, new: str) -> bool:
    was, now = Claim.parse(stored), Claim.parse(new)
    if was and now and was.varies:
        return was.holds and now.holds and _bounds_of(was) == _bounds_of(now)
    if _DECIMAL.sub("#", stored) != _DECIMAL.sub("#", new):
        return False
    pairs = zip(_DECIMAL.findall(stored), _DECIMAL.findall(new), strict=True)
    return all(_same_decimal(Decimal(a), Decimal(b)) for a, b in pairs)


def _bounds_of(claim: Claim) -> tuple[object, ...]:
    return (claim.id, claim.required, claim.unit, claim.n_seeds, claim.varies, claim.source)


def _same_decimal(stored: Decimal, new: Decimal) -> bool:
    last_place = min(int(x.as_tuple().exponent) for x in (stored, new))
    return abs(stored - new) <= Decimal(1).scaleb(last_place)


def same_picture(stored: str, new: str) -> bool:
    """Whether two base64-encoded PNGs have the same size and all but the same pixels."""
    a, b = (_pixels(picture) for picture in (stored, new))
    return a.shape == b.shape and float(np.sqrt(((a - b) ** 2).mean())) <= FIGURE_RMS


def _pixels(picture: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    return np.asarray(image.convert("RGB"), dtype=float)


class Output(str):
    """A stored or new output, equal to another when the book's rules say so."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if str.__eq__(self, other) is True:
            return True
        if not isinstance(other, str):
            return False
        same = same_picture if self.startswith("iVBORw0KGgo") else same_text
        return same(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other


_plain_sanitize = IPyNbCell.sanitize
_plain_coverage = plugin.setup_coverage, plugin.teardown_coverage


def _sanitize(self: IPyNbCell, output: object) -> object:
    sanitized = _plain_sanitize(self, output)
    return Output(sanitized) if isinstance(sanitized, str) else sanitized


def pytest_configure() -> None:
    """Let nbval compare with our rules, and not measure coverage: its kernels hang over that."""
    IPyNbCell.sanitize = _sanitize
    plugin.setup_coverage = plugin.teardown_coverage = lambda *_, **__: None


def pytest_unconfigure() -> None:
    """Leave nbval as it was."""
    IPyNbCell.sanitize = _plain_sanitize
    plugin.setup_coverage, plugin.teardown_coverage = _plain_coverage


def pytest_collectstart(collector: object) -> None:
    """Have figures compared, which nbval skips."""
    if isinstance(collector, IPyNbFile):
        skipped = (mime for mime in collector.skip_compare if mime != "image/png")
        collector.skip_compare = tuple(skipped)
