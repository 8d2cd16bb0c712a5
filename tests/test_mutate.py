"""The tool that plants faults: which it plants, and that a test file notices one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.mutate import mutants

ROOT = Path(__file__).parents[1]
SOURCE = '''
"""A docstring with 1 number."""
def f(x: int = 3) -> float | None:
    """Return 1."""
    if x <= 2 and not x:
        raise ValueError(f"{x + 1} is too much")
    return max(x, 0.0) if x is None else -x**2
'''


def test_faults_are_numbers_operators_and_branches():
    found = [says.split(": ", 1)[1] for says, *_ in mutants(SOURCE)]
    assert sorted(found) == sorted(
        [
            "3  ->  4",
            "x <= 2 and (not x)  ->  x <= 2 or not x",
            "x <= 2  ->  x < 2",
            "2  ->  3",
            "not x  ->  x",
            "max(x, 0.0) if x is None else -x ** 2  ->  -x ** 2 if x is None else max(x, 0.0)",
            "x is None  ->  x is not None",
            "max  ->  min",
            "0.0  ->  1.0",
            "x ** 2  ->  x * 2",
            "2  ->  3",
        ]
    )


def test_each_mutant_has_one_fault_and_the_source_none_afterwards():
    codes = [code for *_, code in mutants("y = 1 + 2\n")]
    values = []
    for code in codes:
        names: dict[str, int] = {}
        exec(code, names)
        values.append(names["y"])
    assert sorted(values) == [-1, 4, 4]  # 1 - 2, 2 + 2, 1 + 3


def test_the_tool_runs_a_modules_own_tests_and_changes_no_file():
    path = ROOT / "companion" / "dead_relu.py"
    before = path.read_bytes()
    command = [sys.executable, "-m", "tests.mutate", "dead_relu", "--most", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert re.match(r"companion.dead_relu: [0-3] of 3 killed \(\d+ in all\)\n", done.stdout), done
    assert path.read_bytes() == before
