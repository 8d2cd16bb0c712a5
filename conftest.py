"""Make every pytest run strict, also that of one notebook, and count what the sources wait for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["TQDM_DISABLE"] = "1"  # no progress bars in tests, nor in the notebooks they run

pytest_plugins = ("tests.comparison",)
collect_ignore = ["book/listings"]  # programs of the sources, some for TensorFlow


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a notebook in one process, whatever ``--dist`` says: its cells share a kernel.

    So do the tests of a file, except planted faults, each of which runs a part of the suite. What
    takes longest comes first, so that no process is left with it at the end.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if "test_honesty" in nodeid else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what opens the whole site first, then the notebooks, then planted faults."""
    slow = ("test_site", ".ipynb", "test_lesson", "test_honesty", "test_repository")

    def place(item: pytest.Item) -> int:
        return next((k for k, name in enumerate(slow) if name in item.nodeid), len(slow))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print for how many of the sources' statements the book has a run or a look-up to come."""
    sources = yaml.safe_load((Path(__file__).parent / "book" / "sources.yml").read_text())
    rows = sources["statements"].values()
    waiting = sum("needs" in row for row in rows)
    terminalreporter.line(f"sources: {waiting} of {len(rows)} statements wait for more to be shown")
