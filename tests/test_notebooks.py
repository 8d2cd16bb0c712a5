"""Running notebooks, reading claims back, and the ledger."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from companion import notebooks
from companion.claims import Claim
from companion.notebooks import (
    execute,
    fingerprint,
    ledger,
    main,
    read_claims,
    replicate,
    stored_figure,
    toc,
)

ROOT = Path(__file__).parent.parent


def cell(source: str, text: str = "") -> dict:
    output = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    return {
        "cell_type": "code",
        "id": fingerprint(source),
        "execution_count": 1,
        "metadata": {},
        "source": source,
        "outputs": output,
    }


def prose(source: str) -> dict:
    return {"cell_type": "markdown", "id": fingerprint(source), "metadata": {}, "source": source}


def notebook(*cells: dict) -> str:
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


DRAW = (
    "from companion import claim\nfrom companion.devices import generator\n"
    "draw = generator(5).normal()\nclaim('a-draw', draw, above=DRAWN)"
)


@pytest.fixture
def book(tmp_path):
    """A book of two chapters and a ledger."""
    (tmp_path / "_toc.yml").write_text(
        "root: intro\nparts:\n- chapters:\n  - file: one\n  - file: two\n  - file: claims\n"
    )
    folder = tmp_path / "book"
    folder.mkdir()
    (folder / "intro.md").write_text("# Book\n\nSee $|z|$ and [0.5](claim:first) here. Then more.")
    (folder / "one.ipynb").write_text(
        notebook(
            prose("# One\n\n## A section: first\n"),
            cell("claim('first', ...)", "✓ first: 0.500 (expected 0.5 ± 0.1; a paper)\n"),
        )
    )
    (folder / "two.ipynb").write_text(
        notebook(
            prose(
                "# Two\n\n:::{note}\n:class: tip\n"
                "Not so. It is [more than 0](claim:a-draw) {cite:p}`x`, we saw.\n:::"
            ),
            cell(DRAW.replace("DRAWN", "-10"), "✓ a-draw: 0.1 (above -10)\n"),
        )
    )
    (folder / "claims.ipynb").write_text(
        notebook(
            cell(
                "from IPython.display import Markdown\nfrom companion.notebooks import ledger\n"
                "Markdown(ledger())"
            )
        )
    )
    return folder


def test_claims_are_read_back_with_section_and_sentence(book):
    first, draw = read_claims(book)
    assert first.claim == Claim("first", 0.5, 0.5, 0.1, source="a paper")
    assert (first.page, first.section) == ("one", "A section: first")
    assert first.statement == "See $|z|$ and **0.5** here."
    assert (draw.page, draw.statement) == ("two", "It is **more than 0**, we saw.")


def test_claim_id_used_twice_is_refused(book):
    (book / "two.ipynb").write_text((book / "one.ipynb").read_text())
    with pytest.raises(ValueError, match=r"'first' is used twice: in one.*two"):
        read_claims(book)


def test_missing_page_is_named(book):
    (book / "two.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match=r"_toc.yml names pages .* lacks: two"):
        toc(book)


def test_ledger_has_a_row_and_an_anchor_for_each_claim(book):
    table = ledger(book)
    assert '| <a id="first"></a>`first`' in table
    assert r"See $\vert z\vert $ and **0.5** here." in table
    assert "(one.ipynb#a-section-first)" in table
    assert "| 0.50 | expected 0.5 ± 0.1 (a paper) | – |" in table
    (book / "replication.json").write_text('{"first": [19, 20]}')
    assert "| 19 of 20 |" in ledger(book)


def test_execute_runs_cleans_and_does_not_write(book):
    before = (book / "two.ipynb").read_text()
    ran = execute(book / "two.ipynb")
    assert (book / "two.ipynb").read_text() == before
    (code,) = [c for c in ran["cells"] if c["cell_type"] == "code"]
    assert code["metadata"] == {"ran": fingerprint("".join(code["source"]))}
    assert code["execution_count"] == 1
    assert Claim.parse("".join(code["outputs"][0]["text"])).holds
    assert ran["metadata"]["language_info"] == {"name": "python"}


def test_seed_shifts_what_is_drawn(book):
    lines = {str(execute(book / "two.ipynb", seed=seed)["cells"][1]["outputs"]) for seed in (0, 1)}
    assert len(lines) == 2


def test_failing_claim_stops_the_run_and_nothing_is_written(book):
    (book / "two.ipynb").write_text((book / "two.ipynb").read_text().replace("-10", "10"))
    before = (book / "two.ipynb").read_text()
    with pytest.raises(Exception, match="ClaimError"):
        main(["two", "--book", str(book)])
    assert (book / "two.ipynb").read_text() == before
    assert not list(book.glob("*.tmp"))


def test_main_runs_what_is_named_and_then_the_ledger(book):
    main(["two", "--book", str(book)])
    stored = json.loads((book / "claims.ipynb").read_text())
    assert "a-draw" in str(stored["cells"][0]["outputs"])
    assert json.loads((book / "one.ipynb").read_text())["cells"][1]["metadata"] == {}


def test_replication_counts_how_often_each_claim_held(book, capsys):
    (book / "one.ipynb").write_text(notebook(prose("# One")))
    text = (book / "two.ipynb").read_text()
    (book / "two.ipynb").write_text(text.replace("above=-10", "above=0"))
    replicate(book, seeds=3)
    stored = json.loads((book / "replication.json").read_text())
    signs = [re.search(r"✗", line) for line in capsys.readouterr().out.splitlines()]
    assert stored["a-draw"] == [3 - sum(map(bool, signs)), 3]


def test_replication_of_named_pages_keeps_the_counts_of_the_others(book):
    (book / "replication.json").write_text('{"first": [19, 20], "a-draw": [1, 2]}')
    replicate(book, seeds=1, names=["two"])
    stored = json.loads((book / "replication.json").read_text())
    assert stored == {"first": [19, 20], "a-draw": [1, 1]}


def test_main_without_names_runs_all(book, monkeypatch):
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda path: ran.append(path.stem))
    monkeypatch.setattr(notebooks, "_write", lambda path, notebook: None)
    main(["--book", str(book)])
    assert ran == ["one", "two", "claims"]
    monkeypatch.setattr(notebooks, "replicate", lambda book, *options: ran.append(options))
    main(["--book", str(book), "--replicate", "2"])
    main(["two", "--book", str(book), "--replicate", "3"])
    assert ran[3:] == [(2, []), "claims", (3, ["two"]), "claims"]


def test_readme_shows_the_stored_first_figure():
    intro = json.loads((ROOT / "book" / "intro.ipynb").read_text())
    shown = (ROOT / "book" / "assets" / "readme-figure.png").read_bytes()
    assert shown == stored_figure(intro, "fig-living")
    with pytest.raises(ValueError, match="name must be that of a stored figure, not 'fig-no'"):
        stored_figure(intro, "fig-no")


def test_first_page_run_anew_gives_the_readme_its_figure(book, monkeypatch):
    (book / "assets").mkdir()
    drawn = {"output_type": "display_data", "data": {"image/png": "cGl4ZWxz"}, "metadata": {}}
    page = json.loads(notebook(cell("draw()")))
    page["cells"][0] |= {
        "outputs": [drawn],
        "metadata": {"mystnb": {"figure": {"name": "fig-living"}}},
    }
    monkeypatch.setattr(notebooks, "execute", lambda path: page)
    main(["intro", "--book", str(book)])
    assert (book / "assets" / "readme-figure.png").read_bytes() == b"pixels"
