"""The comparison of outputs: what passes, and what must not."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

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


@pytest.mark.parametrize(
    ("stored", "new", "same"),
    [
        ("73 ± 2 %", "74 ± 2 %", True),
        ("73 ± 2 %", "75 ± 2 %", True),
        ("73 ± 2 %", "76 ± 2 %", False),
        ("73 ± 2 %", "73 ± 5 %", True),
        ("73 ± 2 %", "73 ± 6 %", False),
        ("73 ± 2 %", "75 ± 0 %", False),
        ("100 ± 0 %", "100 ± 1 %", True),
        ("100 ± 0 %", "99.98 ± 0.05 %", True),
        ("100 ± 0 %", "98.9 ± 0.9 %", False),
        ("100 ± 0 %", "98 ± 3 %", False),
        ("0.50 ± 0.03, n = 5", "0.52 ± 0.03, n = 5", True),
        ("0.50 ± 0.03, n = 5", "0.52 ± 0.03, n = 6", False),
        ("1.0 ± 0.1 and 2.0 ± 0.1", "1.1 ± 0.1 and 2.3 ± 0.1", False),
        ("-0.1 ± 0.4", "0.2 ± 0.4", True),
    ],
)
def test_estimates_agree_within_their_interval(stored, new, same):
    assert same_text(stored, new) is same


@pytest.mark.parametrize(
    ("old", "other", "same"),
    [
        ("73 ± 2", "74 ± 2", True),
        ("73 ± 2", "76 ± 2", False),
        ("over 20 seeds", "over 18 seeds, 2 more overflowed", True),
        ("over 20 seeds", "over 18 seeds", False),
        ("above 0", "above 1", False),
        ("a-claim", "b-claim", False),
        ("points", "%", False),
        ("✓ a-claim: 73 ± 2", "✗ a-claim: -1 ± 2", False),
    ],
)
def test_estimate_of_a_claim_agrees_within_its_interval(old, other, same):
    stored = "✓ a-claim: 73 ± 2 points over 20 seeds (above 0; theory 50 ± 30)"
    assert same_text(stored, stored.replace(old, other)) is same


def test_what_a_claim_requires_is_compared_to_the_letter():
    stored = "✓ a-claim: 0.998 (expected 1.00 ± 0.02)"
    assert not same_text(stored, stored.replace("1.00 ± 0.02", "1.01 ± 0.02"))


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


NUMBERS = [{"axes": 0, "x": [1, 2], "x within": 0.01, "y": [5.0, None], "y within": [0.5, None]}]


def figure(pixel: int, numbers: list[dict] | None, digest: str = "") -> str:
    """A small picture that stores numbers, as base64 text."""
    image = Image.fromarray(np.full((20, 20, 3), pixel, dtype=np.uint8)).quantize(4)
    info = PngInfo()
    if numbers is not None:
        pixels = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
        info.add_text("numbers", json.dumps(numbers), zip=True)
        info.add_text("pixels", digest or pixels)
    file = io.BytesIO()
    image.save(file, format="png", pnginfo=info)
    return base64.b64encode(file.getvalue()).decode()


def moved(**changes: object) -> list[dict]:
    return [NUMBERS[0] | changes]


@pytest.mark.parametrize(
    ("numbers", "same"),
    [
        (NUMBERS, True),
        (moved(y=[5.4, None]), True),
        (moved(y=[5.6, None]), False),
        (moved(y=[5.0, 1.0]), False),
        (moved(x=[1, 2.005]), True),
        (moved(x=[1, 2.1]), False),
        (moved(axes=1), False),
        (moved(**{"y within": [0.1, None], "y": [5.4, None]}), False),
        ([], False),
        (None, False),
    ],
)
def test_figure_of_trained_nets_is_compared_by_its_numbers(numbers, same):
    assert same_picture(figure(10, NUMBERS), figure(200, numbers)) is same


def test_mean_of_equal_seeds_may_move_by_half_a_percent_of_the_axis():
    def equal(y: float) -> list[dict]:
        return [{"axes": 0, "x": [1, 2], "x within": 0, "y": [0.0, y], "y within": [0.1, 0.0]}]

    assert same_picture(figure(10, equal(100)), figure(200, equal(99.6)))
    assert not same_picture(figure(10, equal(100)), figure(200, equal(99.4)))


def test_numbers_of_a_picture_that_was_changed_count_for_nothing():
    assert not same_picture(figure(10, NUMBERS, digest="0" * 64), figure(200, NUMBERS))


def test_cell_that_runs_out_of_time_hides_nothing(tmp_path):
    def cell(source: str, text: str) -> dict:
        output = {"output_type": "stream", "name": "stdout", "text": text}
        return {
            "cell_type": "code", "id": str(abs(hash(source))), "execution_count": 1,
            "metadata": {}, "source": source, "outputs": [output],
        }  # fmt: skip

    cells = [
        cell("import time; time.sleep(60)", "slow\n"),
        cell("print(1 + 1)", "2\n"),
        cell("print(1 + 2)", "2\n"),
    ]
    path = tmp_path / "slow.ipynb"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p"]
    command += ["tests.comparison", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=3"]
    command += ["--rootdir", str(tmp_path), "-c", "/dev/null", "-rfE", str(path)]
    ran = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    failed = re.findall(r"^FAILED .*::Cell (\d)", ran.stdout, re.MULTILINE)
    assert failed == ["0", "2"], ran.stdout
    assert "1 passed" in ran.stdout
