"""What others see of the site: descriptions, preview cards, the root page, the map, the 404 page.

The site's address derives from the repository's, in `_config.yml`. While that says OWNER there is
none: then nothing leads to it, neither buttons nor lines of code, and pages name no address.
"""

from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

UNSET = "OWNER"
LONGEST = 160
"""Characters of a description; search engines cut there."""


def derive(app: Sphinx, config: Config) -> None:
    """Derive the site's address from the repository's, if that is set."""
    url = config.html_theme_options["repository_url"]
    github = re.fullmatch(r".*github\.com/(.+?)/(.+?)/?", url)
    if not config.html_baseurl and github and UNSET not in url:
        config.html_baseurl = f"https://{github[1]}.github.io/{github[2]}/"
    config.html_additional_pages.setdefault("404", "404.html")


def drop_lines(app: Sphinx, doctree: nodes.document) -> None:
    """Take lines of code away that would lead to an address that is not set."""
    for block in list(doctree.findall(nodes.literal_block)):
        kept = [line for line in block.astext().splitlines() if UNSET not in line]
        if kept != block.astext().splitlines():
            block.children = [nodes.Text("\n".join(kept))]
            block.rawsource = "\n".join(kept)


def description(doctree: nodes.document) -> str:
    """The beginning of a page's prose, whole sentences or at least whole words."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        hidden = isinstance(paragraph.parent, (nodes.entry, nodes.admonition, nodes.block_quote))
        if len(text) < 50 or hidden or list(paragraph.findall(nodes.math)):
            continue
        if len(text) > LONGEST:
            cut = text[: LONGEST - 1]
            stop = max(cut.rfind(". "), cut.rfind("? "))
            text = cut[: stop + 1] if stop > 50 else cut[: cut.rfind(" ")] + " …"
        return text
    return ""


def tell(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Describe the page for search engines and for those who are sent a link to it."""
    words = description(doctree) if doctree else ""
    words = words or "Why units of a neural network fall silent, and what keeps them alive."
    heading = re.sub(r"<[^>]+>", "", context.get("title", "")) or app.config.html_title
    tags = {"og:title": heading, "og:description": words, "og:type": "article"}
    tags["og:site_name"] = app.config.html_title
    context["base"] = app.config.html_baseurl
    if base := app.config.html_baseurl:
        tags["og:url"] = f"{base}{pagename}.html"
        if picture := re.search(
            r'<img[^>]*src="((?:\.\./)*_images/[^"]+)"', context.get("body", "")
        ):
            tags["og:image"] = base + picture[1].replace("../", "")
            tags["twitter:card"] = "summary_large_image"
    text = f'<meta name="description" content="{escape(words)}"/>'
    text += "".join(f'<meta property="{k}" content="{escape(v)}"/>' for k, v in tags.items())
    context["metatags"] = context.get("metatags", "") + text
    if UNSET in app.config.html_theme_options["repository_url"]:
        drop_buttons(context)


def drop_buttons(context: dict[str, Any]) -> None:
    """Take away the buttons that lead to an address that is not set."""
    kept = []
    for button in context.get("header_buttons", []):
        if button.get("type") == "group":
            button["buttons"] = [b for b in button["buttons"] if UNSET not in str(b.get("url", ""))]
            if not button["buttons"]:
                continue
        if UNSET not in str(button.get("url", "")):
            kept.append(button)
    if "header_buttons" in context:
        context["header_buttons"][:] = kept


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Make the root a real page, and list all pages for search engines."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    shutil.copy(out / f"{app.config.root_doc}.html", out / "index.html")
    if base := app.config.html_baseurl:
        pages = "".join(f"<url><loc>{base}{p}.html</loc></url>" for p in sorted(app.env.found_docs))
        start = '<?xml version="1.0" encoding="UTF-8"?>\n'
        start += '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
        (out / "sitemap.xml").write_text(f"{start}{pages}</urlset>\n", "utf-8")
        (out / "robots.txt").write_text(f"User-agent: *\nSitemap: {base}sitemap.xml\n", "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.connect("config-inited", derive)
    if UNSET in str(app.config.html_theme_options.get("repository_url", "")):
        app.connect("doctree-read", drop_lines)
    app.connect("html-page-context", tell, priority=910)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
