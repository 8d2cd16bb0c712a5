"""The top of the package: names that people use, each fetched when it is asked for."""

import importlib
import subprocess
import sys

import pytest

import companion


def run(code):
    """Run code in a fresh interpreter; fail with what it said."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_else():
    code = """
import sys
import companion
assert {"census", "relu", "__version__"} <= set(dir(companion))
assert not {"numpy", "torch", "matplotlib", "scipy"} & sys.modules.keys()
from companion import relu, he_normal, adam, claim, mean_field
assert "numpy" in sys.modules
assert not {"torch", "matplotlib", "scipy"} & sys.modules.keys()
from companion import census
assert "torch" in sys.modules
assert "matplotlib" not in sys.modules
print(census.__module__)
"""
    assert run(code) == "companion.detection.census\n"


@pytest.mark.parametrize("name", companion.__all__)
def test_a_name_is_that_of_its_module(name):
    home = importlib.import_module(f"companion.{companion._HOME[name]}")
    assert getattr(companion, name) is getattr(home, name)
    assert name in home.__all__


@pytest.mark.parametrize("toolbox", ["detection", "revival"])
def test_the_toolbox_is_at_the_top_as_a_whole(toolbox):
    module = importlib.import_module(f"companion.{toolbox}")
    assert {name for name, home in companion._HOME.items() if home == toolbox} == {*module.__all__}


def test_a_name_stands_there_once():
    names = [name for listed in companion._NAMES.values() for name in listed.split()]
    assert len(names) == len({*names}) == len(companion.__all__)


def test_a_module_is_no_name():
    """`from companion import gradient_descent` must give the chapter's module."""
    assert not companion._NAMES.keys() & companion._HOME.keys()
    from companion import batch_norm, gradient_descent

    assert batch_norm.__name__ == "companion.batch_norm"
    assert gradient_descent.__name__ == "companion.gradient_descent"


def test_a_wrong_name_is_refused_and_a_close_one_proposed():
    with pytest.raises(AttributeError, match=r"no attribute 'cenus'. Did you mean 'census'\?$"):
        _ = companion.cenus
    with pytest.raises(AttributeError, match=r"no attribute 'qqq'$"):
        _ = companion.qqq
    with pytest.raises(ImportError, match="cannot import name 'cenus'"):
        exec("from companion import cenus")


def test_star_gives_every_name():
    names = {}
    exec("from companion import *", names)
    assert {*companion.__all__} <= names.keys()
