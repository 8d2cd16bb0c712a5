"""The comparison of outputs: what passes, and what must not."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.comparison import Output, same_picture, same_text


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("rms 0.998", "rms 0.999"),
        ("[0.12 0.50]", "[0.13 0.50]"),
        ("9.99e-05", "1.00e-04"),
        ("0.5", "0.5"),
        ("-0.00", "0.00"),
        ("2 of 7, 1.5 s", "2 of 7, 1.6 s"),
    ],
)
def test_one_unit_in_the_last_place_passes(stored, new):
    assert same_text(stored, new)
    assert Output(stored) == Output(new)


@pytest.mark.parametrize(
    ("stored", "new"),
    [
        ("rms 0.998", "rms 1.000"),
        ("0.30", "0.32"),
        ("9.99e-05", "1.01e-04"),
        ("0.5", "0.52"),
        ("n = 5", "n = 6"),
        ("5", "5.0"),
        ("True", "False"),
        ("a 0.1", "b 0.1"),
        ("one\ntwo", "one"),
        ("shape (3, 4)", "shape (4, 3)"),
    ],
)
def test_anything_else_fails(stored, new):
    assert not same_text(stored, new)
    assert Output(stored) != Output(new)


def test_measured_value_of_a_claim_is_compared_to_the_last_place():
    stored = "✓ a-claim: 0.998 (expected 1.00 ± 0.02)"
    assert same_text(stored, stored.replace("0.998", "0.999"))
    assert not same_text(stored, stored.replace("0.998", "1.000"))


def test_claim_that_varies_is_judged_by_its_own_bounds():
    stored = "✓ matches: 2.2e-16 (below 1e-12; varies: rounding)"
    assert same_text(stored, stored.replace("2.2e-16", "5.1e-15"))
    assert not same_text(stored, stored.replace("2.2e-16", "2.2e-11"))
    assert not same_text(stored, stored.replace("1e-12", "1e-11"))
    assert not same_text(stored, stored.replace("matches", "other"))


def picture(shift: int = 0, noise: float = 0.0, width: int = 400) -> str:
    """A white picture with one black curve, `shift` pixels higher, as base64 text."""
    pixels = np.full((200, width), 255.0)
    x = np.arange(width)
    y = np.round(100 + 60 * np.sin(x / 40)).astype(int) - shift
    for thick in (-1, 0, 1):
        pixels[y + thick, x] = 0
    pixels = np.clip(pixels - noise * (x % 2), 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def test_same_curve_passes_also_encoded_otherwise():
    assert same_picture(picture(), picture(noise=1))
    assert Output(picture()) == Output(picture(noise=1))


def test_moved_curve_and_other_size_fail():
    assert not same_picture(picture(), picture(shift=1))
    assert not same_picture(picture(), picture(width=401))
    assert Output(picture()) != Output(picture(shift=1))
