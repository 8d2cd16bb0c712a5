"""A census from the command line: ``python -m companion census package.module:model --data x.npy``.

`model` is a module of PyTorch, or a function without arguments that returns one; the file holds an
array of inputs (.npy, or the first array of an .npz).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m companion", description=__doc__)
    parser.add_argument("command", choices=["census"])
    parser.add_argument("model", help="where the model is, such as package.module:net")
    parser.add_argument("--data", required=True, type=Path, help="inputs, .npy or .npz")
    given = parser.parse_args(arguments)
    from companion.detection import census

    place, _, name = given.model.partition(":")
    sys.path.insert(0, "")  # as python -m does
    try:
        model = getattr(importlib.import_module(place), name or "model")
        data = np.load(given.data)
        data = data[data.files[0]] if isinstance(data, np.lib.npyio.NpzFile) else data
    except (ImportError, AttributeError, OSError, ValueError) as error:
        parser.error(str(error))
    print(census(model() if not hasattr(model, "parameters") else model, data))


if __name__ == "__main__":
    main()
