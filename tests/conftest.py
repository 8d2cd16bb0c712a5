"""What several tests of the site share: the built site, its server, a browser."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.website import HTML, ROOT, Server


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew where anything has changed; what is installed is taken as it is."""
    command = ["make", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/book.installed", "book"]
    said = tmp_path_factory.mktemp("make") / "messages.txt"
    lock = (ROOT / ".site.lock").open("w")
    with said.open("w") as messages, lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes share the site
        made = subprocess.run(command, cwd=ROOT, stdout=messages, stderr=messages, timeout=200)
    assert made.returncode == 0, said.read_text()
    return HTML


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        names = ("chromium", "chromium-browser", "google-chrome")
        found = [shutil.which(name) for name in names] + [driver.chromium.executable_path]
        path = next((name for name in found if name and Path(name).exists()), None)
        if path is None:
            if os.environ.get("CI") or os.environ.get("REQUIRE_BROWSER"):
                pytest.fail("no Chromium found, and CI or REQUIRE_BROWSER requires one")
            pytest.skip("no Chromium found: install it, or let playwright (`playwright install`)")
        switches = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
        switches += ["disable-background-networking", "disable-component-update"]
        switches += ["host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
        with driver.chromium.launch(
            executable_path=path, args=[f"--{name}" for name in switches]
        ) as opened:
            yield opened
