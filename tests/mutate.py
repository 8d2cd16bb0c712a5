"""Plant faults in a module, one at a time, and see whether its own test file notices each.

``make mutants NAMES=dead_relu`` plants them in `companion.dead_relu` and runs that test file;
of a package, in each of its modules in turn. Of the file, only those tests run that come by the
fault's line, if there are any. What no test has noticed, a survivor, is printed: it wants a test,
or less code, unless it makes no difference (a limit on what is held at a time, say). A fault lives
in a child process alone; no file is changed.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from coverage import CoverageData

ROOT = Path(__file__).parents[1]
PRELOADED = (  # so that a child need not: it starts in milliseconds
    "torch.func", "scipy.stats", "scipy.optimize", "matplotlib.pyplot", "sklearn.datasets",
    "nbclient", "IPython",
)  # fmt: skip
SWAPPED: dict[type[ast.AST], type[Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--noconftest"]
OWN = {"diagnosis": "diagnosis", "evidence": "diagnosis", "trial": "trial", "candidates": "trial"}
OWN |= {"notebooks": "notebooks", "records": "notebooks"}
"""Modules of a package that have a test file of their own: its name."""
OPPOSITES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
OPPOSITES |= {"any": "all", "all": "any"}


def mutated(node: ast.AST) -> ast.AST | None:
    """Return the node with a fault in it, or None if it has no place for one."""
    copy = deepcopy(node)
    match copy:
        case ast.Constant(value=bool() | None | str()):
            return None
        case ast.Constant(value=int() | float() as number):
            copy.value = number + 1 if isinstance(number, int) else 2 * number or 1.0
        case ast.BinOp() | ast.BoolOp() if type(copy.op) in SWAPPED:
            copy.op = SWAPPED[type(copy.op)]()
        case ast.Compare() if type(copy.ops[-1]) in SWAPPED:
            copy.ops[-1] = SWAPPED[type(copy.ops[-1])]()
        case ast.Name(id=name) if name in OPPOSITES:
            copy.id = OPPOSITES[name]
        case ast.Attribute(attr=name) if name in OPPOSITES:
            copy.attr = OPPOSITES[name]
        case ast.IfExp():
            copy.body, copy.orelse = copy.orelse, copy.body
        case ast.UnaryOp(op=ast.Not()):
            return copy.operand
        case _:
            return None
    return copy


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Yield where an expression stands: its parent, the field, and the place in a list."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for place, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield tree, field, place if isinstance(value, list) else None
                yield from places(child)


def mutants(source: str) -> Iterator[tuple[str, range, CodeType]]:
    """Yield each mutant of a source: what was changed, on which lines, and the code."""
    tree = ast.parse(source)
    for parent, field, place in list(places(tree)):
        old = getattr(parent, field) if place is None else getattr(parent, field)[place]
        new = mutated(old)
        if new is None:
            continue
        says = f"line {old.lineno}: {ast.unparse(old)}  ->  {ast.unparse(new)}"
        for node in (new, old):
            if place is None:
                setattr(parent, field, node)
            else:
                getattr(parent, field)[place] = node
            if node is new:
                code = compile(ast.fix_missing_locations(tree), "<mutant>", "exec")
        yield says, range(old.lineno, old.end_lineno + 1), code


class Planted(MetaPathFinder, Loader):
    """Import one module from other code than its file's."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self.name, self.path, self.code = name, path, code

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Answer for that module alone."""
        package = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        if name != self.name:
            return None
        return spec_from_file_location(
            name, self.path, loader=self, submodule_search_locations=package
        )

    def exec_module(self, module: ModuleType) -> None:
        """Run the code in the module."""
        exec(self.code, vars(module))


def passes(
    tests: Sequence[str], limit: float, planted: Planted | None = None, data: str = ""
) -> bool:
    """Run tests in a child process; what takes longer than the limit does not pass.

    With `data`, note in this file which test comes by which line.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        if planted:
            sys.meta_path.insert(0, planted)
        os.environ["COVERAGE_FILE"] = data
        own = ["-p", "pytest_cov", "--cov=companion", "--cov-context=test", "--cov-report="]
        os._exit(int(pytest.main([*OPTIONS, *(own if data else []), *tests])))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


class Tests:
    """The tests of one file, and which of them come by a line."""

    def __init__(self, file: Path) -> None:
        self.file, start = str(file), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            data = f"{folder}/coverage"
            if not passes([self.file], 900, data=data):
                raise SystemExit(f"{file} does not pass as it is")
            kept = CoverageData(data)
            kept.read()
            self.lines = {file: kept.contexts_by_lineno(file) for file in kept.measured_files()}
        self.limit = 10 + 3 * (time.monotonic() - start)

    def of(self, path: Path, lines: range) -> list[str]:
        """Name the tests that come by these lines; the file, if that is not known."""
        found = self.lines.get(str(path), {})
        first = max((line for line in found if line <= lines[0]), default=0)  # of the statement
        contexts = {context for line in (first, *lines) for context in found.get(line, ())}
        return sorted({context.partition("|")[0] for context in contexts} - {""}) or [self.file]


def main() -> None:
    """Plant faults in the named modules of the companion."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=main.__doc__)
    parser.add_argument("names", nargs="+", help="modules or packages, such as dead_relu")
    parser.add_argument("--most", type=int, default=40, help="mutants of a module, drawn at random")
    options = parser.parse_args()
    os.environ |= {"TQDM_DISABLE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name in PRELOADED:
        importlib.import_module(name)
    files: dict[str, Tests] = {}
    for stem in options.names:
        home = ROOT / "companion" / stem
        for path in sorted(home.glob("**/*.py")) or [home.with_suffix(".py")]:
            own = OWN.get(path.stem, path.relative_to(ROOT / "companion").with_suffix("").parts[0])
            if own not in files:
                files[own] = Tests(ROOT / "tests" / f"test_{own}.py")
            tests = files[own]
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(part for part in parts if part != "__init__")
            found = list(mutants(path.read_text()))
            tried = random.Random(0).sample(found, min(options.most, len(found)))
            survivors = [
                says
                for says, lines, code in tried
                if passes(tests.of(path, lines), tests.limit, Planted(module, path, code))
            ]
            killed = len(tried) - len(survivors)
            print(f"{module}: {killed} of {len(tried)} killed ({len(found)} in all)", flush=True)
            for survivor in survivors:
                print(f"  {survivor}", flush=True)


if __name__ == "__main__":
    main()
