"""Make every pytest run strict, also that of a single notebook: see tests/comparison.py."""

pytest_plugins = ("tests.comparison",)
