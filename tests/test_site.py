"""The website, as built: complete, self-contained, light, and usable by everyone.

The first half reads the pages as files. The second half opens each of them twice in a Chromium,
once wide and light, once as narrow as a phone and dark; `REQUIRE_BROWSER=1` (or `CI`) makes a
missing browser a failure.
"""

import gzip
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from mimetypes import guess_type
from pathlib import Path
from pkgutil import iter_modules
from typing import Any
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup, Tag
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
NOTEBOOKS = [page for page in PAGES if (BOOK / f"{page}.ipynb").exists()]
MODULES = sorted(module.name for module in iter_modules([str(ROOT / "companion")]))
BUDGET = 450_000
FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


def build(book: Path, toc: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Build a book with this project's configuration, as `make book` does."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(book), "-W", "-n"]
    command += ["--config", str(ROOT / "_config.yml"), "--toc", str(toc)]
    command += ["--path-output", str(output), "--keep-going", "--quiet"]
    with (output / "messages.txt").open("w+") as messages:  # a file waits for no process
        built = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=messages, timeout=100
        )
        messages.seek(0)
        return subprocess.CompletedProcess(command, built.returncode, "", messages.read())


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew where anything has changed; what is installed is taken as it is."""
    command = ["make", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/book.installed", "book"]
    said = tmp_path_factory.mktemp("make") / "messages.txt"
    with said.open("w") as messages:
        made = subprocess.run(command, cwd=ROOT, stdout=messages, stderr=messages, timeout=200)
    assert made.returncode == 0, said.read_text()
    return HTML


@cache
def soup(page: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / f"{page}.html").read_text("utf-8"), "html.parser")


def article(page: str) -> Tag:
    found = soup(page).find("article")
    assert isinstance(found, Tag)
    return found


# ---- pages as files -------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", PAGES)
def test_page_is_complete(page: str) -> None:
    html = soup(page)
    assert html.html["lang"] == "en"
    assert html.title.string.strip().endswith("Keeping Neurons Alive")
    assert len(html.find_all("h1")) == 1
    assert html.find("meta", attrs={"name": "description"})["content"].strip()
    levels = [int(tag.name[1]) for tag in article(page).find_all(re.compile(r"^h[1-6]$"))]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert {"CC BY 4.0", "BSD-3-Clause"} <= {a.text for a in html.find_all("a", rel="license")}


@pytest.mark.usefixtures("site")
def test_root_leads_to_the_first_page() -> None:
    assert f"{PAGES[0]}.html" in (HTML / "index.html").read_text("utf-8")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", PAGES)
def test_every_image_is_described(page: str) -> None:
    for image in soup(page).find_all("img"):
        alt = image.get("alt", "").strip()
        beside_words = image.find_parent(["a", "button"]) and image.parent.get_text(strip=True)
        assert not FILE_NAME.fullmatch(alt), image["src"]
        assert len(alt) > 20 or (alt == "" and beside_words), f"{image['src']}: alt={alt!r}"


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", PAGES)
def test_figures_have_their_size_and_only_the_first_is_awaited(page: str) -> None:
    figures = article(page).find_all("img", src=re.compile(r"\.png$"))
    for number, image in enumerate(figures):
        header = (HTML / unquote(image["src"])).read_bytes()[16:24]
        size = int.from_bytes(header[:4]) // 2, int.from_bytes(header[4:]) // 2
        assert (int(image["width"]), int(image["height"])) == size
        assert 300 < size[0] <= 710, f"{size[0]} px wide: save at twice the size on the page"
        assert (image.get("loading") == "lazy") == (number > 0)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_loaded_from_another_host(page: str) -> None:
    loaded = soup(page).select("[src], link[href]:not([rel=canonical])")
    for tag in loaded:
        address = tag.get("src") or tag["href"]
        assert not re.match(r"(\w+:)?//", address), address


@pytest.mark.usefixtures("site")
def test_internal_links_and_anchors_resolve() -> None:
    pages = {path.stem: soup(path.stem) for path in HTML.glob("*.html")}
    anchors = {
        f"{stem}.html": {tag.get("id") or tag.get("name") for tag in html.select("[id], a[name]")}
        for stem, html in pages.items()
    }
    broken = []
    for stem, html in pages.items():
        for tag in html.select("[href], [src]"):
            address = tag.get("href") or tag.get("src") or ""
            target, anchor = urldefrag(address)
            target = unquote(target.partition("?")[0]) or f"{stem}.html"
            if re.match(r"\w+:|//", address) or address == "#":
                continue
            if not (HTML / target).is_file() or (
                anchor and target in anchors and unquote(anchor) not in anchors[target]
            ):
                broken.append(f"{stem}: {address}")
    assert not broken


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_notebook_can_be_downloaded_and_launched(page: str) -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    owner, name = config["repository"]["url"].split("/")[-2:]
    links = [a["href"] for a in soup(page).select(".article-header-buttons a")]
    assert (
        f"https://colab.research.google.com/github/{owner}/{name}/blob/main/book/{page}.ipynb"
        in links
    )
    binder = f"https://mybinder.org/v2/gh/{owner}/{name}/main?urlpath=lab/tree/book/{page}.ipynb"
    assert binder in links
    download = next(link for link in links if link.endswith(".ipynb") and "://" not in link)
    assert (HTML / download).read_bytes() == (BOOK / f"{page}.ipynb").read_bytes()
    canonical = soup(page).find("link", rel="canonical")["href"]
    assert canonical == f"https://{owner}.github.io/{name}/{page}.html"


@pytest.mark.usefixtures("site")
def test_mathematics_is_set_and_spoken() -> None:
    for page in PAGES:
        html = (HTML / f"{page}.html").read_text("utf-8")
        assert "katex-error" not in html
        assert not [tag for tag in soup(page).find_all("script") if "mathjax" in str(tag).lower()]
        for formula in article(page).select("span.katex"):
            assert formula.find("math"), f"{page}: {formula.text}"
    assert len(article("activations").select("span.katex")) > 20


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_its_entry(name: str) -> None:
    module = importlib.import_module(f"companion.{name}")
    anchors = {tag["id"] for tag in article("api").select("[id]")}
    assert f"module-companion.{name}" in anchors
    assert {f"companion.{name}.{public}" for public in module.__all__} <= anchors


def test_faults_fail_the_build(site: Path, tmp_path: Path) -> None:
    """A formula that is none and a figure without words fail a build that passes without them."""
    picture = (BOOK / "assets" / "logo.svg").read_text("utf-8")
    output = new_output("display_data", {"image/svg+xml": picture})
    words = {"mystnb": {"image": {"alt": "A unit alive and a unit dead."}}}
    good = [
        new_markdown_cell(
            "# A page\n\nHalf, $\\frac{1}{2}$, is [50 %](claim:some-claim).\n\n$$x^2$$"
        ),
        new_code_cell("figure", outputs=[output], metadata=words),
    ]
    bad = [
        new_markdown_cell("# A page\n\nHalf, $\\frac{1}{2$.\n\n$$\\unknownmacro x$$"),
        new_code_cell("figure", outputs=[output]),
    ]
    book = tmp_path / "book"
    book.mkdir()
    (book / "assets").symlink_to(BOOK / "assets")
    shutil.copy(BOOK / "references.bib", book)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")

    def messages(cells: list[Any]) -> str:
        metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": ""}}
        nbformat.write(new_notebook(cells=cells, metadata=metadata), book / "page.ipynb")
        built = build(book, tmp_path / "_toc.yml", tmp_path)
        assert bool(built.returncode) == bool(built.stderr), built.stderr
        return built.stderr

    assert messages(good) == ""
    for _ in range(2):  # what failed fails again, though nothing has changed
        warnings = messages(bad)
        assert warnings.count("WARNING: mathematics: KaTeX parse error") == 2
        assert warnings.count("WARNING: page: an image without alt text") == 1


def test_vendored_parts_agree() -> None:
    """Styles and fonts are of the KaTeX that sets the formulas; the lock names no address."""
    from sphinxcontrib.katex import katex_version

    package = json.loads((ROOT / "package.json").read_text())
    assert package["dependencies"]["katex"] == katex_version
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]


# ---- pages in a browser ---------------------------------------------------------------------


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


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
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


@dataclass
class Visit:
    """What one first visit of a page showed."""

    sent: dict[str, int]
    missing: list[str]
    width: int = 0
    too_wide: list[str] = field(default_factory=list)
    off_host: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    axe: list[dict[str, Any]] = field(default_factory=list)
    theme: str = ""
    background: str = ""


TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(tag => {
    if (tag.getBoundingClientRect().right <= innerWidth + 1) return false
    for (let box = tag; box; box = box.parentElement)
        if (/auto|scroll|hidden/.test(getComputedStyle(box).overflowX)) return false
    return true
}).map(tag => tag.outerHTML.slice(0, 120))"""


AXE = """async () => {
    const heads = tag => document.querySelector(tag.target[0]).querySelector("math")
    const seen = {exclude: [".katex-html"]}  // hidden from readers' tools: they have the MathML
    return (await axe.run(seen)).violations.map(fault => ({...fault, nodes: fault.nodes.filter(
        tag => fault.id !== "empty-table-header" || !heads(tag)  // axe does not read MathML
    )}))
}"""


@pytest.fixture(scope="session")
def visit(browser: Any, server: Server) -> Any:
    """Open a page once per view, scroll through it, and look at everything."""
    axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text("utf-8")

    @cache
    def look(name: str, view: str) -> Visit:
        server.sent, server.missing = {}, []
        seen = Visit(server.sent, server.missing)
        with browser.new_context(**VIEWS[view]) as context:
            page = context.new_page()
            page.on("pageerror", lambda error: seen.errors.append(str(error)))
            page.on(
                "console",
                lambda line: line.type in {"error", "warning"} and seen.errors.append(line.text),
            )
            page.on(
                "request",
                lambda request: (
                    request.url.startswith((server.address, "data:"))
                    or seen.off_host.append(request.url)
                ),
            )
            page.goto(f"{server.address}{name}.html", wait_until="networkidle")
            page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
            for image in page.locator("article img").all():  # in a closed fold none is loaded
                image.scroll_into_view_if_needed()
                image.evaluate("image => image.decode()")
            seen.width = page.evaluate("document.documentElement.scrollWidth")
            if seen.width != VIEWS[view]["viewport"]["width"]:
                seen.too_wide = page.evaluate(TOO_WIDE)
            seen.theme = page.evaluate("document.documentElement.dataset.theme")
            seen.background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            page.evaluate(axe)
            seen.axe = page.evaluate(AXE)
        return seen

    return look


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", PAGES)
def test_page_works(visit: Any, page: str, view: str) -> None:
    """It loads everything from its own host, logs no error, fits the screen and the budget."""
    seen: Visit = visit(page, view)
    assert seen.errors == []
    assert seen.off_host == []
    assert seen.missing == []
    assert seen.width == VIEWS[view]["viewport"]["width"], seen.too_wide
    assert sum(seen.sent.values()) <= BUDGET, sorted(seen.sent.items(), key=lambda kv: -kv[1])[:9]
    assert seen.theme == view
    assert (max(map(int, re.findall(r"\d+", seen.background))) < 64) == (view == "dark")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", PAGES)
def test_page_is_accessible(visit: Any, page: str, view: str) -> None:
    faults = [
        f"{fault['id']} ({fault['impact']}): {fault['help']}\n  {node['html'][:200]}"
        for fault in visit(page, view).axe
        for node in fault["nodes"][:3]
    ]
    assert not faults, "\n".join(faults)


@pytest.fixture
def wide(browser: Any) -> Iterator[Any]:
    with browser.new_context(**VIEWS["light"]) as context:
        yield context.new_page()


def test_colour_scheme_follows_the_button(wide: Any, server: Server) -> None:
    wide.goto(f"{server.address}{PAGES[0]}.html", wait_until="load")
    theme = "document.documentElement.dataset.theme"
    for expected in ("light", "dark", "light"):
        wide.wait_for_function(f"{theme} === '{expected}'")
        wide.locator(".theme-switch-button").click()


def test_keyboard_reaches_content_and_solutions(wide: Any, server: Server) -> None:
    wide.goto(f"{server.address}activations.html", wait_until="load")
    wide.keyboard.press("Tab")
    skip = wide.locator(":focus")
    assert skip.inner_text() == "Skip to main content"
    assert skip.is_visible()
    wide.keyboard.press("Enter")
    wide.wait_for_url("**#main-content")  # fails after half a minute; a busy browser needs a moment
    fold = wide.locator("article details", has=wide.locator("summary", has_text="Solution")).first
    words, code = fold.locator("p").first, fold.locator(".cell_input pre").first
    assert not words.is_visible()
    assert not code.is_visible()
    fold.locator("summary").focus()
    wide.keyboard.press("Enter")
    words.wait_for(state="visible")
    code.wait_for(state="visible")


def test_claim_link_shows_its_row(wide: Any, server: Server) -> None:
    wide.goto(f"{server.address}activations.html", wait_until="load")
    link = wide.locator('article a[href*="claims.html#"]:visible').last
    claim = link.get_attribute("href").partition("#")[2]
    link.click()
    wide.wait_for_url(f"**/claims.html#{claim}")
    row = wide.locator(f'[id="{claim}"]').locator(
        "xpath=ancestor::*[self::tr or self::li or self::p][1]"
    )
    assert row.is_visible()
    box = row.bounding_box()
    assert 0 <= box["y"] < 900
    assert claim in row.inner_text()


def test_print_is_the_article_on_white(browser: Any, server: Server) -> None:
    with browser.new_context(**VIEWS["dark"]) as context:
        page = context.new_page()
        page.goto(f"{server.address}activations.html", wait_until="load")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert page.locator("article h1").is_visible()
        for furniture in (".bd-sidebar-primary", ".bd-header-article", ".prev-next-area"):
            assert not page.locator(furniture).is_visible()
        assert page.locator("article pre").first.evaluate(
            "pre => getComputedStyle(pre).whiteSpace"
        ) in {"pre-wrap", "break-spaces"}
