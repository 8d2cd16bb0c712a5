"""Running notebooks, reading claims back, replications."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from companion.claims import Claim, notebooks
from companion.claims.notebooks import (
    collapse,
    execute,
    fingerprint,
    main,
    replicate,
    stored_figure,
)
from companion.claims.records import Replication, read_claims, replications, toc

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
    """A book of two chapters and a ledger with a page for one of them."""
    (tmp_path / "_toc.yml").write_text(
        "root: intro\nparts:\n- chapters:\n  - file: one\n  - file: two\n  - file: claims\n"
        "    sections:\n    - file: claims/one\n"
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
    (folder / "claims.md").write_text("# Claims")
    return folder


def test_claims_are_read_back_with_section_and_sentence(book):
    first, draw = read_claims(book)
    assert first.claim == Claim("first", 0.5, 0.5, 0.1, source="a paper")
    assert (first.page, first.section) == ("one", "A section: first")
    assert first.statements == ("See $|z|$ and **0.5** here.",)
    assert (draw.page, draw.statements) == ("two", ("It is **more than 0**, we saw.",))


def test_claim_id_used_twice_is_refused(book):
    (book / "two.ipynb").write_text((book / "one.ipynb").read_text())
    with pytest.raises(ValueError, match=r"'first' is used twice: in one.*two"):
        read_claims(book)


def test_missing_page_is_named(book):
    (book / "two.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match=r"_toc.yml names pages .* lacks: two"):
        toc(book)


SAID = [
    ("In 12 of 20 nets [2](claim:x) | more die.", "In 12 of 20 nets **2** | more die."),
    ("0.5 %, against [8 %](claim:x).", "0.5 %, against **8 %**."),
    ("3. Of these, e.g. [8 %](claim:x).", "Of these, e.g. **8 %**."),
    ("First. (Only [94 %](claim:x). And so on.) Last.", "(Only **94 %**. And so on.)"),
    ("**1. A task.** Find [8](claim:x).", "Find **8**."),
    ("It is so: [$|z|$](claim:x) and `a | b`.", "It is so: **$|z|$** and `a | b`."),
    ("- one\n- two: [2](claim:x)\n- three", "two: **2**"),
    ("| a | b |\n|--|--|\n| ReLU | [2 %](claim:x) |", "ReLU · **2 %**"),
    ("$$\na. B\n$$\nHence [2](claim:x) {cite:p}`he2015`.", "Hence **2**."),
    ("Lu et al. [2](claim:x) say so.", "Lu et al. **2** say so."),
]


@pytest.mark.parametrize(("text", "sentence"), SAID)
def test_sentence_is_kept_whole(book, text, sentence):
    (book / "intro.md").write_text(f"# Book\n\n{text.replace('claim:x', 'claim:first')}")
    assert read_claims(book)[0].statements == (sentence,)


def test_collapse_closes_all_but_the_lesson(book):
    tagged = {"cell_type": "code", "metadata": {"tags": ["open"]}, "source": [], "outputs": []}
    figure = {"cell_type": "code", "metadata": {}, "outputs": [{"data": {"image/png": ""}}]}
    printed = {"cell_type": "code", "metadata": {}, "outputs": [{"text": "1"}]}
    more, open_, old = (
        {"cell_type": "markdown", "metadata": dict(given), "source": [text]}
        for text, given in (
            ("### More: the rest\n\nWords.", {}),
            ("### Moreover\n\n#### Solution", {}),
            ("## Exercises", {"jp-MarkdownHeadingCollapsed": True}),
        )
    )
    collapse([tagged, figure, printed, more, open_, old])
    assert tagged["metadata"] == {"tags": ["open"]}
    assert figure["metadata"]["jupyter"] == {"source_hidden": True}
    assert printed["metadata"]["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
    assert more["metadata"] == {"jp-MarkdownHeadingCollapsed": True}
    assert open_["metadata"] == old["metadata"] == {}


def test_execute_runs_cleans_and_does_not_write(book):
    before = (book / "two.ipynb").read_text()
    ran = execute(book / "two.ipynb")
    assert (book / "two.ipynb").read_text() == before
    (code,) = [c for c in ran["cells"] if c["cell_type"] == "code"]
    hidden = {"source_hidden": True, "outputs_hidden": True}
    assert code["metadata"] == {"ran": fingerprint("".join(code["source"])), "jupyter": hidden}
    assert code["execution_count"] == 1
    assert Claim.parse("".join(code["outputs"][0]["text"])).holds
    assert ran["metadata"]["language_info"] == {"name": "python"}


def test_pieces_of_a_stream_are_stored_as_one(book):
    pieces = "import sys\nfor n in range(3):\n    print(n, flush=True)\nprint('!', file=sys.stderr)"
    (book / "one.ipynb").write_text(notebook(cell(pieces)))
    stored = execute(book / "one.ipynb")["cells"][0]["outputs"]
    assert [(o["name"], "".join(o["text"])) for o in stored] == [
        ("stdout", "0\n1\n2\n"),
        ("stderr", "!\n"),
    ]


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


def test_main_runs_what_is_named(book):
    main(["two", "--book", str(book)])
    stored = json.loads((book / "two.ipynb").read_text())
    assert "a-draw" in str(stored["cells"][1]["outputs"])
    assert json.loads((book / "one.ipynb").read_text())["cells"][1]["metadata"] == {}


def test_only_cells_that_were_edited_or_cleared_get_other_outputs(book):
    """As on another processor, where every cell prints something else."""
    cells = [cell(f"print({n})", f"{n}, elsewhere\n") for n in range(3)]
    for code in cells:
        code["metadata"] = {"ran": fingerprint(code["source"])}
    cells[1]["source"] = "print('edited')"
    cells[2] |= {"outputs": [], "execution_count": None}
    page = book / "two.ipynb"
    page.write_text(notebook(prose("# Two"), *cells, cell("3", "of no known run\n")))

    def stored():
        codes = json.loads(page.read_text())["cells"][1:]
        assert all(
            code["metadata"]["ran"] == fingerprint("".join(code["source"])) for code in codes
        )
        outputs = [code["outputs"][0] for code in codes]
        return ["".join(o.get("text") or o["data"]["text/plain"]).strip() for o in outputs]

    main(["two", "--book", str(book), "--changed"])
    assert stored() == ["0, elsewhere", "edited", "2", "3"]
    main(["two", "--book", str(book)])
    assert stored() == ["0", "edited", "2", "3"]


def test_a_cell_that_uses_what_an_edited_one_assigns_gets_other_outputs(book):
    kept = {
        "n = 1": True,
        "n = 2": False,  # edited
        "def twice():\n    return [2 * n for _ in 'a']": False,
        "[k for k in 'n']": True,
        "twice()": False,
        "print(n)": False,
        "n = 3": True,
        "n": True,
    }
    cells = [cell(source, "elsewhere") for source in kept]
    for code in cells:
        code["metadata"] = {"ran": fingerprint(code["source"])}
    cells[1]["metadata"] = {}
    page = book / "two.ipynb"
    page.write_text(notebook(prose("# Two"), *cells))
    main(["two", "--book", str(book), "--changed"])
    outputs = [str(code["outputs"]) for code in json.loads(page.read_text())["cells"][1:]]
    assert ["elsewhere" in text for text in outputs] == list(kept.values())
    assert "[4]" in outputs[4]


def test_replication_stores_every_value(book, capsys):
    (book / "one.ipynb").write_text(notebook(prose("# One")))
    text = (book / "two.ipynb").read_text()
    (book / "two.ipynb").write_text(text.replace("above=-10", "above=0"))
    assert replicate(book, seeds=3) == []
    stored = replications(book)["a-draw"]
    drawn = [np.random.default_rng(5 + 100_003 * seed).normal() for seed in (1, 2, 3)]
    assert stored.values == pytest.approx(drawn, rel=1e-5)
    assert stored.fell == [seed for seed, value in enumerate(drawn, 1) if value <= 0]
    lines = capsys.readouterr().out.splitlines()
    assert sum("['a-draw']" in line for line in lines) == len(stored.fell)


def test_replication_of_few_seeds_never_overwrites_many(book):
    kept = {"first": [0.5, 0.6], "a-draw": [0.0] * 20, "gone": [1.0]}
    rows = {id: {"values": values, "fell": [1, 9]} for id, values in kept.items()}
    (book / "replication.json").write_text(json.dumps(rows))
    assert replicate(book, seeds=2, names=["two"]) == []
    stored = replications(book)
    assert stored.keys() == {"first", "a-draw"}
    assert stored["first"].values == [0.5, 0.6]
    assert stored["a-draw"].values[2:] == [0.0] * 18
    assert 0.0 not in stored["a-draw"].values[:2]
    assert stored["a-draw"].fell == [9]


def test_replication_that_ends_with_an_error_stores_nothing(book):
    text = (book / "two.ipynb").read_text()
    (book / "two.ipynb").write_text(text.replace("draw = ", "claim('other', 1); draw = "))
    (failed,) = replicate(book, seeds=1, names=["two"])
    assert "COMPANION_SEED=1 two" in failed
    assert "an estimate needs" in failed
    assert not (book / "replication.json").exists()
    with pytest.raises(SystemExit, match="COMPANION_SEED=1 two"):
        main(["two", "--book", str(book), "--replicate", "1"])


def test_value_that_is_no_number_is_stored_as_none(book):
    text = (book / "two.ipynb").read_text()
    (book / "two.ipynb").write_text(text.replace("normal()", "normal() * float('nan')"))
    assert replicate(book, seeds=1, names=["two"]) == []
    assert replications(book)["a-draw"] == Replication([None], [1])


def test_main_without_names_runs_all(book, monkeypatch):
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda path, **_: ran.append(path.stem))
    monkeypatch.setattr(notebooks, "_write", lambda path, notebook: None)
    main(["--book", str(book)])
    assert ran == ["one", "two"]
    monkeypatch.setattr(notebooks, "replicate", lambda book, *options: ran.append(options) or [])
    main(["--book", str(book), "--replicate", "2"])
    main(["two", "--book", str(book), "--replicate", "3"])
    assert ran[2:] == [(2, []), (3, ["two"])]


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
    monkeypatch.setattr(notebooks, "execute", lambda path, **_: page)
    main(["intro", "--book", str(book)])
    assert (book / "assets" / "readme-figure.png").read_bytes() == b"pixels"
