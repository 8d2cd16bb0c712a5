"""The search finds the right page for what students type, over http and from a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.website import BOOK, HTML

QUERIES = {
    "batch norm eval": "batch_norm",
    "dead neurons pytorch": "detection dead_relu",
    "layer norm": "batch_norm gradient_explosion",
    "running mean variance": "batch_norm",
    "batch size 1": "batch_norm",
    "internal covariate shift": "batch_norm",
    "relu": "activations dead_relu",
    "leaky relu": "activations revival",
    "gelu": "activations",
    "swish": "activations",
    "sigmoid derivative": "activations",
    "xor": "activations",
    "saturation": "activations vanishing_gradients",
    "vanishing gradient": "vanishing_gradients",
    "exploding gradients": "vanishing_gradients gradient_explosion gradient_descent",
    "gradient clipping": "vanishing_gradients gradient_descent optimizers",
    "skip connection": "vanishing_gradients gradient_explosion",
    "adam": "gradient_descent optimizers",
    "momentum": "gradient_descent optimizers",
    "learning rate too high": "gradient_descent dead_relu",
    "warmup": "gradient_descent optimizers dead_relu revival",
    "xavier initialization": "initialization",
    "kaiming he init": "initialization",
    "orthogonal initialization": "initialization",
    "bias initialization": "initialization dead_relu",
    "dropout": "regularization",
    "weight decay": "regularization",
    "l1 vs l2": "regularization",
    "spectral norm": "regularization",
    "overfitting": "regularization",
    "dying relu": "dead_relu",
    "loss not decreasing": "detection",
    "why is my network not learning": "detection",
    "pytorch hook activations": "detection",
    "how to fix dead relu": "revival",
    "prune dead neurons": "revival",
    "reset neurons": "revival",
    "dead filters cnn": "dead_channels",
    "he_normal": "initialization api",
    "census": "detection api",
    "死亡神经元": "dead_relu",
    "激活函数": "activations",
    "梯度消失": "vanishing_gradients",
    "梯度下降": "gradient_descent",
    "批归一化": "batch_norm",
    "权重初始化": "initialization",
    "正则化": "regularization",
}
"""What students type, and the pages of which one must be among the first three."""


@pytest.fixture(scope="module")
def searching(browser: Any, server: Any) -> Iterator[Any]:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.address}search.html", wait_until="load")
        yield page


@pytest.mark.parametrize("query", QUERIES)
def test_right_page_is_among_the_first_three(searching: Any, query: str) -> None:
    found = searching.evaluate("query => findPages(query)", query)
    pages = [hits[0].partition(".html")[0] for hits in found]
    assert set(pages[:3]) & set(QUERIES[query].split()), pages[:6]


def test_a_source_is_found_by_its_own_words(searching: Any) -> None:
    """A reader types the first twelve signs of a clause, or the document's subject."""
    sources = yaml.safe_load((BOOK / "sources.yml").read_text())
    clauses: dict[str, set[str]] = {}
    stems = {name: document["stem"] for name, document in sources["documents"].items()}
    runs = [
        (
            max(re.findall(r"[\u4e00-\u9fff]+", row["says"]), key=len, default="")[:12],
            stems[name[:2]],
        )
        for name, row in sources["statements"].items()
    ]
    for query, stem in runs:
        if len(query) >= 4:
            clauses.setdefault(query, set()).add(stem)
    for document in sources["documents"].values():
        clauses.setdefault(document["subject"], set()).add(document["stem"])
    assert len(clauses) > 200
    lost = []
    for query, stems_of_it in clauses.items():
        found = searching.evaluate("query => findPages(query)", query)
        if not stems_of_it & {hits[0].partition(".html")[0] for hits in found[:3]}:
            lost.append(query)
    assert len(lost) <= len(clauses) / 20, lost


def test_results_name_sections_and_show_prose(searching: Any, server: Any) -> None:
    searching.goto(f"{server.address}search.html?q=running+statistics", wait_until="load")
    first = searching.locator("#search-results section").first
    assert any("#" in link.get_attribute("href") for link in first.locator("a").all())
    assert first.locator("mark").count()
    assert "claim(" not in searching.locator("#search-results").inner_text()


def test_search_for_nothing_known_says_so(searching: Any, server: Any) -> None:
    searching.goto(f"{server.address}search.html?q=qqqqzzz", wait_until="load")
    assert "Nothing found" in searching.locator("#search-results").inner_text()


@pytest.mark.usefixtures("site")
def test_search_works_from_a_file(browser: Any) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: line.type == "error" and said.append(line.text))
        page.goto(f"{(HTML / 'search.html').as_uri()}?q=batch+norm", wait_until="load")
        assert page.locator("#search-results a").count() > 3
        assert said == []
