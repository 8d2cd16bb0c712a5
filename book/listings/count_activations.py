"""Count the activations in torchvision's models that classify images; store the counts.

``python book/listings/count_activations.py`` in an environment that has torchvision (the extra
``zoo``) writes `torchvision.json` beside this file. The models are built without weights,
and one image is sent through each on the device ``meta``, which computes no number. What is
counted are the calls of activations.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.overrides import TorchFunctionMode
from torchvision import models

NAMES = {
    "relu": "ReLU", "relu_": "ReLU", "hardtanh": "ReLU6", "relu6": "ReLU6", "gelu": "GELU",
    "silu": "SiLU", "hardswish": "Hardswish", "sigmoid": "sigmoid", "tanh": "tanh",
    "hardsigmoid": "Hardsigmoid", "leaky_relu": "leaky ReLU", "prelu": "PReLU", "elu": "ELU",
    "selu": "SELU", "mish": "Mish", "softplus": "softplus",
}  # fmt: skip


class Calls(TorchFunctionMode):
    """Counts the activations that are called, whether as modules or as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.within = False

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Note one call, and not those that it makes itself."""
        kwargs = kwargs or {}
        name = NAMES.get(getattr(function, "__name__", ""))
        if name is None or self.within:
            return function(*args, **kwargs)
        if function.__name__ == "hardtanh" and (kwargs["min_val"], kwargs["max_val"]) != (0, 6):
            raise ValueError("a hardtanh that is no ReLU6")
        self.seen[name] += 1
        self.within = True
        try:
            return function(*args, **kwargs)
        finally:
            self.within = False


def count(name: str) -> dict[str, int]:
    """Calls of each activation in one pass of a model."""
    where = "cpu" if name.startswith("regnet") else "meta"  # a regnet computes its widths
    with torch.device(where):
        model = models.get_model(name, weights=None).to("meta").eval()
    side = 299 if name == "inception_v3" else 224
    with Calls() as calls:
        model(torch.zeros(1, 3, side, side, device="meta"))
    return dict(calls.seen.most_common())


def main() -> None:
    """Count in all of them and write the file."""
    found = {
        "torchvision": torchvision.__version__.partition("+")[0],
        "date": date.today().isoformat(),
        "calls": {name: count(name) for name in models.list_models(module=models)},
    }
    text = json.dumps(found, indent=1)
    (Path(__file__).parent / "torchvision.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
