"""What nbval lacks: a comparison that knows what it compares, so that it holds on any machine.

nbval compares stored and new outputs with ``!=``. Loaded as a plug-in (by ``conftest.py`` at the
root), this module hands it strings that know better:

- words and integers must be the same to the letter,
- decimals to one unit in the last printed place,
- an estimate, printed as mean ± half width of its interval, within that interval,
- a claim in value and interval likewise, and its bounds, unit and source to the letter; where it
  says that it ``varies``, both values within its own bounds,
- figures as pictures, to a root mean square of one grey level of 256; a figure of trained nets, if
  another processor draws other pixels, by the numbers that it stores: each mean within its
  interval, everything else within half a percent of its axis.

A cell that fails or runs out of time hides none of those behind it.

It relies on nbval's internals, so nbval is pinned.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from decimal import Decimal
from typing import Any

import numpy as np
from nbval import plugin
from nbval.plugin import IPyNbCell, IPyNbFile
from PIL import Image

from companion.claims import Claim

FIGURE_RMS = 1.0
"""Largest root mean square difference of two pictures of one figure, in grey levels of 256."""

_DECIMAL = re.compile(r"[-+]?\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)")
_ESTIMATE = re.compile(
    r"(?P<mean>[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?) ± (?P<half>\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
)
_WIDER = 2
"""Intervals of one estimate may differ by this factor."""


def same_text(stored: str, new: str) -> bool:
    """Whether two texts agree, as the module says."""
    stored_lines, new_lines = stored.splitlines(), new.splitlines()
    if len(stored_lines) != len(new_lines):
        return False
    return all(_same_line(*lines) for lines in zip(stored_lines, new_lines, strict=True))


def _same_line(stored: str, new: str) -> bool:
    was, now = Claim.parse(stored), Claim.parse(new)
    if was and now:
        return _same_claim(was, now) and (bool(was.varies) or _same_measured(stored, new))
    if was or now:
        return False
    a, b = _ESTIMATE.findall(stored), _ESTIMATE.findall(new)
    if len(a) != len(b) or not all(map(_same_estimate, a, b)):
        return False
    return _same_decimals(*(_ESTIMATE.sub("estimate", line) for line in (stored, new)))


def _same_decimals(stored: str, new: str) -> bool:
    if _DECIMAL.sub("#", stored) != _DECIMAL.sub("#", new):
        return False
    pairs = zip(_DECIMAL.findall(stored), _DECIMAL.findall(new), strict=True)
    return all(_same_decimal(Decimal(a), Decimal(b)) for a, b in pairs)


def _same_claim(was: Claim, now: Claim) -> bool:
    """Whether two claims are one, and both hold."""
    one, other = (
        (c.id, c.required, c.unit, c.varies, c.source, (c.n_seeds or 0) + c.n_overflowed)
        for c in (was, now)
    )
    return one == other and was.holds and now.holds


def _same_measured(stored: str, new: str) -> bool:
    """Whether what two lines of one claim say before their bracket agrees."""
    was, now = (line.partition(": ")[2].partition(" (")[0] for line in (stored, new))
    a, b = _ESTIMATE.match(was), _ESTIMATE.match(now)
    if a and b:
        return _same_estimate(a.groups(), b.groups())
    return _same_decimals(was, now)


def _same_estimate(was: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether two means lie within their interval, and the intervals are about as wide."""
    (a, half_a), (b, half_b) = (tuple(map(Decimal, found)) for found in (was, now))
    equal = 0 in (half_a, half_b)  # all values of one run were: it prints as few places as it can
    places = [int(x.as_tuple().exponent) for x in (a, half_a, b, half_b)]
    last = Decimal(1).scaleb(max(places) if equal else min(places))
    alike = max(half_a, half_b) <= _WIDER * min(half_a, half_b) + last
    return alike and abs(a - b) <= max(min(half_a, half_b), last)


def _same_decimal(stored: Decimal, new: Decimal) -> bool:
    last_place = min(int(x.as_tuple().exponent) for x in (stored, new))
    return abs(stored - new) <= Decimal(1).scaleb(last_place)


def same_picture(stored: str, new: str) -> bool:
    """Whether two base64-encoded PNGs have all but the same pixels, or else the same numbers."""
    was, now = (Image.open(io.BytesIO(base64.b64decode(picture))) for picture in (stored, new))
    a, b = (np.asarray(picture.convert("RGB"), dtype=float) for picture in (was, now))
    if a.shape == b.shape and float(np.sqrt(((a - b) ** 2).mean())) <= FIGURE_RMS:
        return True
    numbers = [_numbers(picture) for picture in (was, now)]
    return None not in numbers and same_numbers(*numbers)


def _numbers(picture: Image.Image) -> Any:
    """Read the numbers that a figure stores; None if it has none, or is not as it was drawn."""
    text = getattr(picture, "text", {})
    pixels = hashlib.sha256(picture.convert("RGB").tobytes()).hexdigest()
    return json.loads(text["numbers"]) if text.get("pixels") == pixels else None


def _flat(line: dict[str, Any], name: str) -> list[float]:
    """The numbers of a line, without those that are none."""
    return [value for value in np.ravel(line.get(name, [])) if value is not None]


def same_numbers(was: list[dict[str, Any]], now: list[dict[str, Any]]) -> bool:
    """Whether the numbers behind two figures agree, each within its interval."""
    if [line.keys() for line in was] != [line.keys() for line in now]:
        return False
    for a, b in zip(was, now, strict=True):
        if a["axes"] != b["axes"]:
            return False
        for name in a.keys() & {"x", "y"}:
            one, two = (np.array(line[name], dtype=float) for line in (a, b))
            halves = [np.array(line[f"{name} within"], dtype=float) for line in (a, b)]
            if one.shape != two.shape or (np.isnan(one) != np.isnan(two)).any():
                return False
            least = np.fmin(*halves)
            seen = [
                value for line in was if line["axes"] == a["axes"] for value in _flat(line, name)
            ]
            floor = (max(seen) - min(seen)) / 200 if seen else 0.0  # where all seeds were equal
            allowed = np.where(least > 0, least, floor) + 2e-5 * np.nanmax(abs(one), initial=0)
            if not (np.isnan(one) | (abs(one - two) <= allowed)).all():
                return False
    return True


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


_plain_sanitize, _plain_setup = IPyNbCell.sanitize, IPyNbCell.setup
_plain_coverage = plugin.setup_coverage, plugin.teardown_coverage


def _sanitize(self: IPyNbCell, output: object) -> object:
    sanitized = _plain_sanitize(self, output)
    return Output(sanitized) if isinstance(sanitized, str) else sanitized


def _setup(self: IPyNbCell) -> None:
    """Wait for output on a busy machine: after five seconds nbval would stop the kernel."""
    self.output_timeout = 60


def pytest_configure() -> None:
    """Let nbval compare with our rules, and not measure coverage: its kernels hang over that.

    What follows a cell that ran out of time is judged as well: nbval would expect it to fail.
    """
    IPyNbCell.sanitize = _sanitize
    IPyNbCell.setup = _setup
    plugin.setup_coverage = plugin.teardown_coverage = lambda *_, **__: None


def pytest_unconfigure() -> None:
    """Leave nbval as it was."""
    IPyNbCell.sanitize, IPyNbCell.setup = _plain_sanitize, _plain_setup
    plugin.setup_coverage, plugin.teardown_coverage = _plain_coverage


def pytest_collectstart(collector: object) -> None:
    """Have figures compared, which nbval skips."""
    if isinstance(collector, IPyNbFile):
        skipped = (mime for mime in collector.skip_compare if mime != "image/png")
        collector.skip_compare = tuple(skipped)
