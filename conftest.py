"""Make every pytest run strict, also that of a single notebook, and count the sources at home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["TQDM_DISABLE"] = "1"  # no progress bars in tests, nor in the notebooks they run

pytest_plugins = ("tests.comparison",)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a notebook in one process, whatever ``--dist`` says: its cells share a kernel."""
    from xdist.scheduler import LoadScopeScheduling

    return LoadScopeScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many of the sources' statements the book answers so far."""
    sources = yaml.safe_load((Path(__file__).parent / "book" / "sources.yml").read_text())
    at_home = sum("page" in entry for entry in sources.values())
    terminalreporter.line(
        f"sources: {at_home} of {len(sources)} statements are at home in the book"
    )
