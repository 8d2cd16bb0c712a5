"""A page as a lesson: what folds, what stays, cards and ledgers; each fault has its name."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from companion.claims import Claim
from companion.claims.records import read_claims
from companion.figures.style import NARROW_PNG
from tests.website import BOOK, LEDGERS, build, soup


def png(width: int, grey: int) -> str:
    """A grey picture, as a notebook stores it."""
    file = io.BytesIO()
    Image.new("L", (width, 100), grey).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def figure(name: str, **extra: str) -> dict[str, Any]:
    """A code cell that stores a figure."""
    about = {"caption": f"The caption of {name}.", "name": f"fig-{name}"}
    alt = "A white picture on which nothing at all is drawn."
    output = new_output("display_data", {"image/png": png(700, len(name)), **extra})
    metadata = {"mystnb": {"figure": about, "image": {"alt": alt}}}
    return new_code_cell(f"draw_{name}()", outputs=[output], metadata=metadata)


def printed(source: str, text: str, *tags: str) -> dict[str, Any]:
    """A code cell that printed a text."""
    output = new_output("stream", name="stdout", text=text)
    return new_code_cell(source, outputs=[output], metadata={"tags": list(tags)} if tags else {})


def answer(cell: dict[str, Any]) -> dict[str, Any]:
    """Tag a cell as the answer of a prediction."""
    cell["metadata"]["tags"] = ["answer"]
    return cell


CELLS = [
    new_markdown_cell("# A page\n\nLet $x=2$.\n\nA sentence that tells what the page is about."),
    new_code_cell("import numpy as np"),
    new_code_cell("def f(x):\n    return 2 * x", metadata={"tags": ["open"]}),
    figure("seen", **{NARROW_PNG: png(350, 1)}),
    printed(
        "claim('share', shares)\ncheck('so')",
        "✓ share: 50.0 ± 0.5 % over 20 seeds (estimate)\n✓ check: so\n",
    ),
    new_markdown_cell(
        "## A section\n\nOf them [50 %](claim:share) are on, and [50.0](claim:share) again.\n\n"
        "> **Predict.** How many are *off*?\n\n"
        "> **Answer.** The others.\n\n"
        "> **Keep.** Half are on.\n\n"
        "> A plain quotation."
    ),
    new_markdown_cell("> **Predict.** And what does the figure show?"),
    answer(figure("answer")),
    new_markdown_cell("### More: the rest\n\nIt is [1.0](claim:rest)."),
    printed("claim('rest', 1.0, expect=1, within=0.1)", "✓ rest: 1.0 (expected 1.0 ± 0.1; a|b)\n"),
    figure("inside"),
    new_markdown_cell("## Exercises\n\n### 1. Do it\n\nFind one."),
    new_markdown_cell("#### Solution\n\nOne."),
    printed("print(1)", "1\n"),
    new_markdown_cell("### 2. Do more\n\nFind two."),
]


def make(folder: Path, cells: list[Any]) -> tuple[int, str]:
    """Build a book of one page and its ledger; return the exit status and what was said."""
    book = folder / "book"
    (book / "claims").mkdir(parents=True, exist_ok=True)
    if not (book / "assets").exists():
        (book / "assets").symlink_to(BOOK / "assets")
        shutil.copy(BOOK / "references.bib", book)
    (book / "claims" / "page.md").write_text("# Claims\n\n```{ledger} page\n```\n")
    (book / "claims.md").write_text("# The ledger\n\n```{ledger}\n```\n")
    stored = {"share": {"values": [49.0, 51.5]}, "rest": {"values": [1.0, 1.2], "fell": [2]}}
    (book / "replication.json").write_text(json.dumps(stored))
    toc = "format: jb-book\nroot: page\nchapters:\n- file: claims\n  sections:\n"
    (folder / "_toc.yml").write_text(toc + "  - file: claims/page\n")
    metadata = {"kernelspec": {"name": "python3", "language": "python", "display_name": ""}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), book / "page.ipynb")
    built = build(book, folder / "_toc.yml", folder)
    return built.returncode, built.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with one of everything, built."""
    folder = tmp_path_factory.mktemp("small")
    assert make(folder, CELLS) == (0, "")
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def page(small: Path) -> BeautifulSoup:
    return BeautifulSoup((small / "page.html").read_text("utf-8"), "html.parser").article


def test_run_of_cells_folds_into_one_line_below_what_is_seen(page):
    folds = page.select("details.checks")
    assert [fold.summary.text for fold in folds] == [
        "Code, 4 lines · 2 checks ✓",
        "Code, 1 line",
        "Code, 2 lines · 1 check ✓",
    ]
    first = folds[0]
    assert [cell.get_text().strip()[:6] for cell in first.select(".cell_input")] == [
        "import",
        "draw_s",
        "claim(",
    ]
    before = first.find_all_previous("div", class_="cell")
    assert "def f(x)" in before[1].text
    assert before[0].find("img")
    assert before[0].find("figcaption")
    assert not first.find("img")


def test_open_cell_stays(page):
    (cell,) = page.select("div.cell.tag_open")
    assert cell.find_parent("details") is None


def test_figures_in_folds_carry_no_number(page):
    numbers = [figure.text for figure in page.select(".caption-number")]
    assert len(numbers) == 2
    inside = page.select_one("details.more .unnumbered")
    assert "The caption of inside." in inside.text
    assert inside.find_parent("details")["id"] == "more-the-rest"


def test_boxes(page):
    names = ("predict", "answer", "keep")
    kinds = [name for box in page.select(".lesson") for name in names if name in box["class"]]
    assert kinds == ["predict", "answer", "keep", "predict"]
    assert page.select_one(".lesson.predict em").text == "off"
    words, drawing = page.select("details.answer")
    assert "The others." in words.text
    assert drawing.find("img")
    assert page.select_one("blockquote").text.strip() == "A plain quotation."


def test_solution_folds_with_its_code_and_what_follows_does_not(page):
    (solution,) = page.select("details.solution")
    assert "print(1)" in solution.text
    assert not solution.select("details")
    assert "Find two." not in solution.text


def test_claim_link_knows_row_cell_and_place(page, small):
    first, second, _ = page.select("a.claim")
    assert first["href"] == second["href"] == "claims/page.html#share"
    assert (first.get("id"), second.get("id")) == ("said-share", None)
    assert page.find(id="made-share").find_parent("details")["class"] == ["fold", "checks"]
    text = (small / "page.html").read_text("utf-8")
    cards = json.loads(re.search(r'id="cards">(.*?)</script>', text)[1])
    assert cards["share"] == {
        "rows": [
            ["measured", "50.0 ± 0.5 % over 20 seeds"],
            ["other seeds", "49 to 51.5 in 2 runs"],
        ],
        "cell": "#made-share",
    }
    assert cards["rest"]["rows"][1:] == [
        ["must be", "expected 1.0 ± 0.1 (a|b)"],
        ["other seeds", "1 to 1.2 in 2 runs; did not hold in 1"],
    ]


def test_phone_gets_the_narrow_picture(page, small):
    (picture,) = page.select("picture")
    source = picture.source
    assert source["media"] == "(max-width: 600px)"
    with Image.open(small / source["srcset"]) as stored:
        assert stored.width == 350
    assert source["width"] == "175"
    assert picture.img["width"] == "350"


def test_ledger_s_row_tells_what_the_claim_printed(small):
    table = BeautifulSoup((small / "claims" / "page.html").read_text("utf-8"), "html.parser").table
    share, rest = table.tbody.find_all("tr")
    assert (share["id"], share["class"]) == ("share", ["estimate"])
    assert "Of them 50 % are on, and 50.0 again." in share.text
    assert [cell.text.strip() for cell in rest.find_all("td")][
        1
    ] == "theory expected 1.0 ± 0.1 (a|b)"
    assert {a["href"] for a in rest.find_all("a")} == {
        "../page.html#made-rest",
        "../page.html#said-rest",
    }
    assert len(share.select("svg .seed")) == 2
    assert len(rest.select("svg .bound")) == 2
    index = BeautifulSoup((small / "claims.html").read_text("utf-8"), "html.parser").table
    assert [cell.text for cell in index.tbody.find_all("td")] == ["A page", "1", "1", "0", "2"]


FAULTS: list[tuple[str, Callable[[list[Any]], object], str]] = [
    (
        "a number without a claim",
        lambda cells: cells.insert(6, new_markdown_cell("It is [7 %](claim:gone).")),
        "linked to a claim that nobody makes: gone",
    ),
    (
        "a fold around a figure without a caption",
        lambda cells: cells[10]["metadata"]["mystnb"].pop("figure"),
        "a figure without a caption in a fold",
    ),
    (
        "a figure without words",
        lambda cells: cells[3]["metadata"]["mystnb"].pop("image"),
        "an image without alt text",
    ),
    (
        "a link into a fold that is not there",
        lambda cells: cells.insert(6, new_markdown_cell("See [it](#more-the-lost).")),
        "more-the-lost",
    ),
]


@pytest.mark.parametrize(("change", "says"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_fault_fails_the_build(tmp_path, change, says):
    cells = [nbformat.from_dict(json.loads(json.dumps(cell))) for cell in CELLS]
    change(cells)
    status, said = make(tmp_path, cells)
    assert status != 0
    assert says in said, said


# ---- the book's own ledgers -----------------------------------------------------------------


@pytest.mark.usefixtures("site")
def test_every_row_of_the_ledgers_tells_what_its_claim_printed():
    records = read_claims(BOOK)
    rows = [row for name in LEDGERS for row in soup(name).select(".ledger tbody tr")]
    assert [row["id"] for row in rows] == [record.claim.id for record in records]
    for record, row in zip(records, rows, strict=True):
        made = record.claim
        measured, kind, _ = (cell.text.strip() for cell in row.find_all("td"))
        source = f"; {made.source}" if made.source else ""
        varies = f"; varies: {made.varies}" if made.varies else ""
        asked = "" if made.kind == "estimate" else made.required
        line = f"✓ {made.id}: {measured} ({asked or 'estimate'}{varies}{source})"
        assert Claim.parse(line) == made
        asked += f" ({made.source})" if made.source else ""
        asked += f"; varies with {made.varies}" if made.varies else ""
        assert kind == f"{made.kind} {asked}".strip()
        seen = row.th.p.text
        if not record.statements:
            assert row.select(f'a[href$="#{record.guards}"]'), made.id
        sentence = next(iter(record.statements), "In no sentence.")
        words = re.findall(r"[\w%.]+", re.sub(r"\$[^$]*\$|\]\([^)]*\)", "", sentence))
        assert [word for word in words if word not in seen] == [], made.id


def test_each_chapter_with_claims_has_its_ledger():
    pages = dict.fromkeys(record.page for record in read_claims(BOOK))
    assert [f"claims/{page}" for page in pages] == LEDGERS
    assert {path.stem for path in (BOOK / "claims").glob("*")} == set(pages)


# ---- in a browser ---------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Any, small: Path) -> Iterator[Any]:
    """The small page, opened from its file; errors fail the test."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        tab = context.new_page()
        said: list[str] = []
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("console", lambda line: line.type == "error" and said.append(line.text))
        tab.goto((small / "page.html").as_uri(), wait_until="load")
        yield tab
        assert said == []


def test_card_opens_tells_and_closes(opened):
    link = opened.locator("a.claim").first
    card = opened.locator("#claim-card")
    link.hover()
    card.wait_for(state="visible")
    assert "49 to 51.5 in 2 runs" in card.inner_text()
    opened.mouse.move(5, 5)
    card.wait_for(state="hidden")
    link.click()
    assert link.get_attribute("aria-expanded") == "true"
    opened.keyboard.press("Escape")
    card.wait_for(state="hidden")
    assert opened.evaluate("document.activeElement.textContent") == "50 %"


def test_card_leads_to_the_cell_and_opens_its_fold(opened):
    opened.locator("a.claim").first.click()
    opened.locator("#claim-card a", has_text="the cell").click()
    cell = opened.locator("#made-share")
    cell.wait_for(state="visible")
    assert opened.locator("details.checks").first.get_attribute("open") is not None


def test_without_scripts_a_number_leads_to_its_row_and_back(browser, small):
    with browser.new_context(java_script_enabled=False) as context:
        tab = context.new_page()
        tab.goto((small / "page.html").as_uri())
        tab.locator("a.claim").first.click()
        tab.wait_for_url("**/claims/page.html#share")
        assert tab.locator("#share").is_visible()
        tab.locator("#share a", has_text="in the text").click()
        tab.wait_for_url("**/page.html#said-share")


def test_switch_shows_all_code_and_is_remembered(opened):
    switch = opened.locator("#show-code")
    switch.click()
    assert opened.locator("details.checks:not([open])").count() == 0
    opened.reload()
    assert opened.locator("details.checks:not([open])").count() == 0
    switch.click()
    assert opened.locator("details.checks[open]").count() == 0


def test_paper_opens_solutions_only(opened):
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details[open]").count() == 1
    assert opened.locator("details.solution[open]").count() == 1
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details[open]").count() == 0


def test_figure_enlarges_and_closes(opened):
    opened.locator("article img").first.click()
    dialog = opened.locator("#enlarged")
    assert dialog.locator("img").is_visible()
    opened.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_ledger_shows_one_kind(browser, small):
    with browser.new_context(viewport={"width": 390, "height": 844}) as context:
        tab = context.new_page()
        tab.goto((small / "claims" / "page.html").as_uri(), wait_until="load")
        tab.get_by_label("theories").check()
        assert not tab.locator("#share").is_visible()
        assert tab.locator("#rest").is_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") == 390
