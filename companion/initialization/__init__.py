r"""The starting weights of a network: every rule that has a name, in NumPy.

A rule takes the shape of the weights in PyTorch's order and a generator, and returns an array:

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> he_normal((128, 64), rng).shape, he_normal((256, 64, 3, 3), rng, negative_slope=0.25).shape
((128, 64), (256, 64, 3, 3))

How large the weights are stands in ``scales.py`` (`fans`, `gain`, `he_std`, ..., and `STDS`, which
has the rules by name), the rules in ``rules.py``, what depends on more than one weight at a time in
``matrices.py`` (`orthogonal`, `lsuv`, ...); all names are found here. Biases start at 0, except in
`pytorch_default` and `randomized_asymmetric`, which draw them.

Taught in the chapter `initialization`.
"""

from companion.initialization.matrices import LSUV, lsuv, orthogonal, randomized_asymmetric
from companion.initialization.rules import (
    he_normal,
    he_uniform,
    lecun_normal,
    lecun_uniform,
    pytorch_default,
    xavier_normal,
    xavier_uniform,
)
from companion.initialization.scales import (
    STDS,
    fans,
    gain,
    he_std,
    lecun_std,
    pytorch_std,
    variance_gain,
    xavier_std,
)

__all__ = [
    "LSUV", "STDS", "fans", "gain", "he_normal", "he_std", "he_uniform", "lecun_normal",
    "lecun_std", "lecun_uniform", "lsuv", "orthogonal", "pytorch_default", "pytorch_std",
    "randomized_asymmetric", "variance_gain", "xavier_normal", "xavier_std", "xavier_uniform",
]  # fmt: skip
