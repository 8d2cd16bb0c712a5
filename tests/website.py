"""The website for tests: where its pages are, how books are built, a server for them."""

from __future__ import annotations

import gzip
import subprocess
import sys
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import unquote

import yaml
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
_ENTRIES = [chapter for part in TOC["parts"] for chapter in part["chapters"]]
PAGES = [TOC["root"], *(entry["file"] for entry in _ENTRIES)]
LEDGERS = [section["file"] for entry in _ENTRIES for section in entry.get("sections", [])]
NOTEBOOKS = [page for page in PAGES if (BOOK / f"{page}.ipynb").exists()]
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


def build(
    book: Path, toc: Path, output: Path, config: Path = ROOT / "_config.yml"
) -> subprocess.CompletedProcess[str]:
    """Build a book with this project's configuration, as `make book` does."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(book), "-W", "-n"]
    command += ["--config", str(config), "--toc", str(toc)]
    command += ["--path-output", str(output), "--keep-going", "--quiet"]
    with (output / "messages.txt").open("w+") as messages:  # a file waits for no process
        built = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=messages, timeout=100
        )
        messages.seek(0)
        return subprocess.CompletedProcess(command, built.returncode, "", messages.read())


@cache
def soup(page: str) -> BeautifulSoup:
    """A built page, parsed."""
    return BeautifulSoup((HTML / f"{page}.html").read_text("utf-8"), "html.parser")


def article(page: str) -> Tag:
    """What the page has to say, without what stands around it."""
    found = soup(page).find("article")
    assert isinstance(found, Tag)
    return found


class Server(ThreadingHTTPServer):
    """Serves the site as a static host would, with gzip, and notes what it sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sent: dict[str, int] = {}
        self.missing: list[str] = []

    @property
    def address(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """Answers one request of a `Server`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Send a file of the site, or say that there is none."""
        path = HTML / unquote(self.path.partition("?")[0].lstrip("/"))
        if not path.is_file():
            self.server.missing.append(self.path)
            self.send_error(404)
            return
        data = path.read_bytes()
        kind = guess_type(path.name)[0] or "application/octet-stream"
        self.send_response(200)
        if kind.startswith("text/") or kind.endswith(("javascript", "json", "svg+xml")):
            data = gzip.compress(data)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.server.sent[path.name] = len(data)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
