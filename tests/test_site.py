"""The website, as built: complete, self-contained, light, and usable by everyone.

The first half reads the pages as files. The second half opens each of them twice in a Chromium,
once wide and light, once as narrow as a phone and dark; `REQUIRE_BROWSER=1` (or `CI`) makes a
missing browser a failure.
"""

import base64
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from pkgutil import iter_modules
from typing import Any
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.website import (
    BOOK,
    HTML,
    LEDGERS,
    NOTEBOOKS,
    PAGES,
    ROOT,
    VIEWS,
    Server,
    article,
    build,
    soup,
)

MODULES = sorted(module.name for module in iter_modules([str(ROOT / "companion")]))
BUDGET = 450_000
VISITED = [*PAGES, LEDGERS[0], LEDGERS[-1], "search"]
FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)


# ---- pages as files -------------------------------------------------------------------------


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", [*PAGES, *LEDGERS])
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
def test_root_is_the_first_page() -> None:
    root, first = ((HTML / f"{name}.html").read_text("utf-8") for name in ("index", PAGES[0]))
    assert root == first


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", PAGES)
def test_link_to_a_page_shows_what_it_is(page: str) -> None:
    told = {tag["property"]: tag["content"] for tag in soup(page).select("meta[property]")}
    assert told["og:title"] == article(page).h1.text.rstrip("#¶")
    assert 20 < len(told["og:description"]) <= 160
    others = [soup(other).find("meta", attrs={"name": "description"})["content"] for other in PAGES]
    assert others.count(told["og:description"]) == 1 or page in {"api", "bibliography"}


@pytest.mark.usefixtures("site")
def test_nothing_leads_to_an_address_that_is_not_set() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    if "OWNER" not in config["repository"]["url"]:
        pytest.skip("the address is set")
    for path in HTML.rglob("*.html"):
        assert "OWNER" not in path.read_text("utf-8"), path.name
    assert not (HTML / "sitemap.xml").exists()


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
@pytest.mark.parametrize("page", [*PAGES, *LEDGERS])
def test_nothing_is_loaded_from_another_host(page: str) -> None:
    loaded = soup(page).select("[src], link[href]:not([rel=canonical])")
    for tag in loaded:
        address = tag.get("src") or tag["href"]
        assert not re.match(r"(\w+:)?//", address), address


@pytest.mark.usefixtures("site")
def test_internal_links_and_anchors_resolve() -> None:
    names = [str(path.relative_to(HTML))[:-5] for path in HTML.rglob("*.html")]
    pages = {name: soup(name) for name in names if not name.startswith("_static")}
    anchors = {
        HTML / f"{name}.html": {t.get("id") or t.get("name") for t in html.select("[id], a[name]")}
        for name, html in pages.items()
    }
    broken = []
    for name, html in pages.items():
        here = HTML / f"{name}.html"
        for tag in html.select("[href], [src]"):
            address = tag.get("href") or tag.get("src") or ""
            target, anchor = urldefrag(address)
            target = unquote(target.partition("?")[0])
            if re.match(r"\w+:|//", address) or address == "#" or name == "404":
                continue
            path = (here.parent / target).resolve() if target else here
            known = not anchor or path not in anchors or unquote(anchor) in anchors[path]
            if not (path.is_file() and known):
                broken.append(f"{name}: {address}")
    assert not broken


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_notebook_can_be_downloaded(page: str) -> None:
    links = [a["href"] for a in soup(page).select(".article-header-buttons a")]
    download = next(link for link in links if link.endswith(".ipynb") and "://" not in link)
    assert (HTML / download).read_bytes() == (BOOK / f"{page}.ipynb").read_bytes()


def test_address_that_is_set_makes_buttons_previews_and_a_map(tmp_path: Path) -> None:
    config = (ROOT / "_config.yml").read_text().replace("OWNER", "someone")
    (tmp_path / "_config.yml").write_text(config)  # extensions are looked for beside it
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    book = tmp_path / "book"
    book.mkdir()
    for name in ("assets", "extensions"):
        (book / name).symlink_to(BOOK / name)
    shutil.copy(BOOK / "references.bib", book)
    picture = (BOOK / "assets" / "readme-figure.png").read_bytes()
    output = new_output("display_data", {"image/png": base64.b64encode(picture).decode()})
    words = {"mystnb": {"image": {"alt": "A unit alive and a unit dead."}}}
    text = "# A page\n\nWhat this page tells is told in this sentence here.\n\n```\nOWNER\n```"
    cells = [new_markdown_cell(text), new_code_cell("figure", outputs=[output], metadata=words)]
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": ""}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), book / "page.ipynb")
    built = build(book, tmp_path / "_toc.yml", tmp_path, tmp_path / "_config.yml")
    assert built.returncode == 0, built.stderr
    out = tmp_path / "_build" / "html"
    html = BeautifulSoup((out / "page.html").read_text("utf-8"), "html.parser")
    links = [a["href"] for a in html.select(".article-header-buttons a")]
    path = "someone/keeping-neurons-alive"
    assert f"https://colab.research.google.com/github/{path}/blob/main/book/page.ipynb" in links
    assert f"https://mybinder.org/v2/gh/{path}/main?urlpath=lab/tree/book/page.ipynb" in links
    base = "https://someone.github.io/keeping-neurons-alive/"
    told = {tag["property"]: tag["content"] for tag in html.select("meta[property]")}
    assert told["og:url"] == html.find("link", rel="canonical")["href"] == f"{base}page.html"
    assert (out / told["og:image"].removeprefix(base)).is_file()
    assert f"<loc>{base}page.html</loc>" in (out / "sitemap.xml").read_text()
    missing = BeautifulSoup((out / "404.html").read_text("utf-8"), "html.parser")
    assert missing.base["href"] == base
    assert html.find("pre").text.strip() == "OWNER"


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
def test_comma_behind_a_short_formula_stays_with_it() -> None:
    kept = [tag.get_text() for tag in article("source_dead_nodes").select("span.kept")]
    assert len(kept) > 20
    assert all(re.search(r"[,.;:?!)’”]$", text) for text in kept), kept
    alone = [
        text
        for formula in article("source_dead_nodes").select("span.katex")
        if len(formula.select_one("annotation").get_text()) <= 20
        and (text := str(formula.find_parent("span", class_="math").next_sibling))[:1]
        in set(",.;:")
        and not formula.find_parent("span", class_="kept")
    ]
    assert alone == []


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
    line = "✓ some-claim: 50.0 ± 0.5 % over 20 seeds (estimate)\n"
    good = [
        new_markdown_cell(
            "# A page\n\nHalf, $\\frac{1}{2}$, is [50 %](claim:some-claim).\n\n$$x^2$$"
        ),
        new_code_cell("figure", outputs=[output], metadata=words),
        new_code_cell("claim", outputs=[new_output("stream", text=line)]),
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


MEASURED = """() => [...document.querySelectorAll("article pre")].every(
    code => code.hasAttribute("tabindex") || !code.checkVisibility())"""
AXE = """async (view) => {  // the second view has the same words: only what it changes is looked at
    const heads = tag => document.querySelector(tag.target[0]).querySelector("math")
    const seen = {exclude: [".katex-html"]}  // hidden from readers' tools: they have the MathML
    const changed = ["color-contrast", "scrollable-region-focusable", "target-size"]
    const rules = view === "dark" ? {runOnly: {type: "rule", values: changed}} : {}
    const {violations} = await axe.run(seen, {resultTypes: ["violations"], ...rules})
    return violations.map(fault => ({...fault, nodes: fault.nodes.filter(
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
            page.goto(f"{server.address}{name}.html", wait_until="load")
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
            page.wait_for_function(MEASURED)  # the theme measures opened folds a moment later
            seen.axe = page.evaluate(AXE, view)
        return seen

    return look


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", VISITED)
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
@pytest.mark.parametrize("page", VISITED)
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
    link = wide.locator("article a.claim:visible").last
    claim = link.get_attribute("href").partition("#")[2]
    link.click()
    wide.locator("#claim-card a", has_text="in the ledger").click()
    wide.wait_for_url(f"**/claims/activations.html#{claim}")
    row = wide.locator(f'tr[id="{claim}"]')
    assert row.is_visible()
    box = row.bounding_box()
    assert 0 <= box["y"] < 900
    assert claim in row.inner_text()
    row.locator("a", has_text="the cell").click()
    here = f'[id="made-{claim}"]'  # the first claim of a cell names it, others a place in it
    cell = wide.locator(f".cell{here}, .cell:has({here})")
    cell.wait_for(state="visible")
    assert -50 <= cell.bounding_box()["y"] < 900


def test_layout_does_not_shift(wide: Any, server: Server) -> None:
    """Nothing that a reader has begun to read moves while the page loads."""
    wide.add_init_script("""
        window.shift = 0
        new PerformanceObserver(list => list.getEntries().forEach(entry => {
            if (!entry.hadRecentInput) window.shift += entry.value
        })).observe({type: "layout-shift", buffered: true})
    """)
    for page in NOTEBOOKS:
        wide.goto(f"{server.address}{page}.html", wait_until="load")
        wide.wait_for_timeout(200)
        wide.evaluate("scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
        wide.wait_for_timeout(200)
        assert wide.evaluate("window.shift") <= 0.05, page


def test_page_is_shown_first_and_its_closed_folds_are_not_laid_out(
    wide: Any, server: Server
) -> None:
    """Scripts wait for the text, and none asks how wide the code in a closed fold is."""
    wide.goto(f"{server.address}activations.html", wait_until="load")
    blocking = wide.evaluate(
        "[...document.querySelectorAll('head script[src]:not([defer])')].map(s => s.src)"
    )
    assert [src for src in blocking if "documentation_options.js" not in src] == []
    wide.wait_for_function("document.querySelector('article pre').hasAttribute('tabindex')")
    closed = "article details:not([open]) :is(pre, .katex-display)"
    assert wide.locator(closed).count() > 20
    assert wide.locator(f"{closed}[tabindex]").count() == 0
    fold = wide.locator("article details", has=wide.locator("pre")).first
    fold.locator("summary").first.click()
    fold.locator("pre[tabindex]").first.wait_for(state="visible")


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
