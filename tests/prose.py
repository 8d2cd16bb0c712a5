"""Reading the book's prose: numbers that are results, and the claims they lean on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin

from companion.claims import Claim
from companion.claims.records import Record

RESULT = re.compile(
    r"""\d+(?:\.\d+)?\s?%                          # a percentage
      | \d+(?:\.\d+)?\s?(?:×|-?fold\b|times\b)     # a factor
      | (?<!CC\sBY\s)\b\d+\.\d+                    # a decimal; the licence is none
      | \d+e-?\d+                                  # a power of ten
      | \b(?:two|three|four|five|six|seven|eight|nine|ten|hundred|thousand)\stimes\b
    """,
    re.VERBOSE,
)
ORDER = re.compile(
    r"\b(?:more than|less than|fewer than|faster|fastest|slower|slowest|never|always|best|worst"
    r"|largest|smallest|highest|lowest|twice|outperforms?)\b",
    re.IGNORECASE,
)
WORDS = {"half": (0.5, 0.05), "none": (0, 0.005), "nothing": (0, 0.5), "all of them": (1, 0.005)}
_PARSER = (
    MarkdownIt("commonmark")
    .enable("table")
    .use(front_matter_plugin)
    .use(dollarmath_plugin)
    .use(myst_block_plugin)
    .use(myst_role_plugin)
    .use(colon_fence_plugin)
)
_PROSE = re.compile(
    r"\{(?!(?:eval-rst|bibliography|code|code-block|math|names|sources?|statements|tableofcontents)\b)"
)


@dataclass
class Paragraph:
    """A paragraph, heading or table cell: its running text, its claim links, whether it cites."""

    running: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)
    cites: bool = False


def paragraphs(markdown: str) -> Iterator[Paragraph]:
    """Split Markdown into paragraphs; code and mathematics fall out, directives are opened."""
    for token in _PARSER.parse(markdown):
        if token.type == "inline":
            yield _paragraph(token.children or [])
        elif token.type in ("fence", "colon_fence") and _PROSE.match(token.info.strip()):
            yield from paragraphs(re.sub(r"^:[\w-]+:.*$", "", token.content, flags=re.MULTILINE))


def _paragraph(tokens: list[Token]) -> Paragraph:
    paragraph = Paragraph()
    claim: str | None = None
    text = ""
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrs["href"])
            claim = target.removeprefix("claim:") if target.startswith("claim:") else None
            text = ""
        elif token.type == "link_close" and claim is not None:
            paragraph.links.append((text, claim))
            claim = None
        elif token.type == "myst_role":
            paragraph.cites |= str(token.meta["name"]).startswith("cite")
        elif token.type in ("text", "softbreak", "math_inline") and claim is not None:
            text += token.content or " "
        elif token.type in ("text", "softbreak"):
            paragraph.running += token.content or " "
    return paragraph


def pages(book: Path) -> Iterator[tuple[str, str]]:
    """Yield where each piece of prose stands, and its Markdown."""
    for path in sorted(book.glob("*.md")):
        yield path.name, path.read_text()
    for path in sorted(book.glob("*.ipynb")):
        for number, cell in enumerate(json.loads(path.read_text())["cells"], 1):
            if cell["cell_type"] == "markdown":
                yield f"{path.name}, cell {number}", "".join(cell["source"])
    rows = yaml.safe_load((book / "sources.yml").read_text())["statements"]
    for id, row in rows.items():
        yield f"sources.yml, {id}", row.get("answer", "")
    parts = yaml.safe_load((book / "names.yml").read_text())
    for row in (row for rows in parts.values() for row in rows):
        yield f"names.yml, {row['what']}", row.get("differs", "")


def faults(where: str, markdown: str, claims: dict[str, Claim]) -> list[str]:
    """List what is wrong with a text: unlinked results, links to nothing, numbers that disagree."""
    found = []
    for paragraph in paragraphs(markdown):
        if not paragraph.cites:
            for result in RESULT.finditer(paragraph.running):
                found.append(f"{where}: {result[0]!r} is a result without a claim")
        if (word := ORDER.search(paragraph.running)) and not (paragraph.links or paragraph.cites):
            found.append(f"{where}: {word[0]!r} leans on no claim in its paragraph")
        for text, id in paragraph.links:
            if id not in claims:
                found.append(f"{where}: [{text}](claim:{id}) links to a claim that nobody makes")
            elif fault := disagreement(text, claims[id]):
                found.append(f"{where}: [{text}](claim:{id}): {fault}")
    return found


def shown(notebook: dict[str, Any]) -> set[str]:
    """Names of a notebook's figures, and of its tables that carry a MyST target."""
    names = set()
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            names |= set(re.findall(r"^\((tab-[\w-]+)\)=$", text, re.MULTILINE))
        elif name := cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"):
            names.add(name)
    return names


def idle(records: Iterable[Record], said: set[str], there: dict[str, set[str]]) -> list[str]:
    """List the claims that no sentence says and that guard nothing their page shows."""
    found = []
    for record in records:
        id, guards = record.claim.id, record.guards
        if id in said or (guards and guards in there[record.page]):
            continue
        why = f"guards {guards!r}, which {record.page} does not show" if guards else ""
        found.append(f"{id}: {why or 'stands in no sentence and guards nothing'}")
    return found


_NUMBER = re.compile(
    r"(?P<digits>[-−]?\d+(?:\.(?P<decimals>\d+))?)"
    r"(?:e(?P<e>[-−]?\d+)|\s?(?:·|×|\\times|\\cdot)\s?10(?:\^\{?(?P<tex>-?\d+)\}?|(?P<up>[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)))?"
)
_UP = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _numbers(text: str) -> list[tuple[float, float]]:
    """Numbers in a text, each with half a unit of its last written place."""
    found = []
    for match in _NUMBER.finditer(text):
        power = match["e"] or match["tex"] or (match["up"] or "").translate(_UP) or "0"
        scale = 10.0 ** int(power.replace("−", "-"))
        value = float(match["digits"].replace("−", "-"))
        found.append((value * scale, 0.5 * scale * 10.0 ** -len(match["decimals"] or "")))
    return found


def disagreement(text: str, claim: Claim) -> str:
    """Say how a linked text disagrees with its claim, to the precision written, or nothing."""
    if text.lower() in WORDS:
        value, within = WORDS[text.lower()]
        scale = 100 if claim.unit == "%" else 1
        agrees = abs(claim.value / scale - value) <= within + (claim.spread or 0) / scale
        return "" if agrees else f"measured {claim.measured}"
    numbers = _numbers(text)
    if not numbers:
        return ""
    percent = 100 if "%" in text and claim.unit != "%" else 1
    if claim.unit == "%" and "%" not in text:
        return "measured in percent, written without"
    printed = _numbers(claim.measured)[0][1]
    for (value, half), measured in zip(numbers, (claim.value, claim.spread), strict=False):
        if measured is None or len(numbers) > 2:
            return "more numbers than the claim has"
        if found := re.search(r"\b(?:more|less|fewer) than\b", text):
            more = found[0].startswith("more")
            agrees = required(claim, value / percent, more)
            if not agrees:
                return f"measured {claim.measured}, required {claim.required}"
            continue
        measured *= percent
        if half < 0.99 * percent * printed:
            return f"more digits than the claim prints, {claim.measured}"
        else:
            agrees = abs(measured - value) <= half * (1 + 1e-9)
        if not agrees:
            return f"measured {claim.measured}"
    return ""


def required(claim: Claim, bound: float, more: bool) -> bool:
    """Whether a claim could not hold unless its value were more (or less) than a bound."""
    if claim.kind == "estimate":
        spread = claim.spread or 0.0
        return claim.value - spread > bound if more else claim.value + spread < bound
    if claim.expect is not None and claim.within is not None:
        ends = claim.expect - claim.within, claim.expect + claim.within
        return ends[0] > bound if more else ends[1] < bound
    end = claim.above if more else claim.below
    return end is not None and (end >= bound if more else end <= bound)
