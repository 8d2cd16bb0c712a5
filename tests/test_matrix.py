"""The machine matrix: its settings, its table, and that a setting reaches the kernels."""

import json
import os
import subprocess
import sys

import pytest

from tests import matrix
from tests.matrix import NOT_PINNED, newest_python, row, run_suite, settings

DISPATCHED = ["X86_V3", "X86_V4", "AVX512_ICL"]


def test_settings_are_those_of_the_processor(tmp_path):
    wide = settings(DISPATCHED, "fpu avx2 avx512f", tmp_path / "a")
    assert len(wide) == 6
    assert wide["as is"] == {}
    assert wide["vector units off"]["NPY_DISABLE_CPU_FEATURES"] == "X86_V3 X86_V4 AVX512_ICL"
    assert wide["AVX2 only"]["NPY_DISABLE_CPU_FEATURES"] == "X86_V4 AVX512_ICL"
    assert wide["AVX-512"]["ATEN_CPU_CAPABILITY"] == "avx512"
    old = settings(DISPATCHED, "fpu sse4_2", tmp_path / "b")
    assert wide.keys() - old.keys() == {"AVX2 only", "AVX-512"}


PROBE = """
import json, numpy, torch
features = numpy._core._multiarray_umath.__cpu_features__
print(json.dumps([torch.backends.cpu.get_cpu_capability(), features.get("X86_V3", False)]))
"""


def test_setting_reaches_torch_and_numpy(tmp_path):
    off = settings(["X86_V3", "X86_V4"], "", tmp_path)["vector units off"]
    said = subprocess.check_output([sys.executable, "-c", PROBE], env=os.environ | off, text=True)
    assert json.loads(said) == ["DEFAULT", False]


def test_profile_turns_onednn_off(tmp_path):
    off = settings(DISPATCHED, "", tmp_path)["oneDNN off"]
    code = "import torch; print(torch.backends.mkldnn.enabled)"
    command = [sys.executable, "-m", "IPython", "-c", code]
    said = subprocess.check_output(command, env=os.environ | off, text=True)
    assert said.split()[-1] == "False"


@pytest.mark.parametrize(
    ("printed", "line", "n_failed"),
    [
        ("12 passed in 3.0s", "| as is | 0 of 12 | – | 7 |", 0),
        (
            "FAILED book/intro.ipynb::Cell 3\nFAILED tests/test_x.py::test_y[a] - assert 1\n"
            "2 failed, 10 passed in 3s",
            "| as is | 2 of 12 | intro Cell 3, test_x test_y[a] | 7 |",
            2,
        ),
        (
            "ERROR tests/test_x.py - ImportError\n1 error in 1s",
            "| as is | 1 of 1 | test_x | 7 |",
            1,
        ),
        ("no such option", "| as is | 1 of 1 | nothing ran no such option | 7 |", 1),
    ],
)
def test_row_counts_and_names_what_differs(printed, line, n_failed):
    assert row("as is", printed, 7.2) == (line, n_failed)


def test_suite_runs_under_a_setting(tmp_path):
    test = tmp_path / "test_told.py"
    test.write_text("import os\n\ndef test_told():\n    assert os.environ['TOLD'] == 'yes'\n")
    common = {"PYTEST_ADDOPTS": f"-c /dev/null --rootdir {tmp_path}"}
    assert "1 passed" in run_suite(sys.executable, [str(test)], common | {"TOLD": "yes"})[0]
    assert "1 failed" in run_suite(sys.executable, [str(test)], common | {"TOLD": "no"})[0]


def test_newest_python_is_no_older_than_this_one():
    ask = "import sys; print(*sys.version_info[:2])"
    said = subprocess.check_output([newest_python(), "-c", ask], text=True)
    assert tuple(map(int, said.split())) >= sys.version_info[:2]


def test_pins_of_torch_and_numpy_are_lifted():
    pins = (matrix.ROOT / "constraints.txt").read_text().splitlines()
    lifted = {pin.partition("==")[0] for pin in pins if NOT_PINNED.match(pin)}
    assert {"numpy", "torch"} <= lifted
    assert all(name.startswith(("numpy", "torch", "triton", "cuda", "nvidia")) for name in lifted)
