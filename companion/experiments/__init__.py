"""The laboratory: data, models, and one training run for many replicas at once.

A result of one seed is an anecdote. `train` therefore stacks the parameters of all replicas along
a first axis and maps the model over it (`torch.func`), so that twenty small nets cost little more
than a few. Every random number is drawn on the CPU with NumPy, from one generator per seed, and
the nets train in float64: one seed alone gives the same curve as that seed among twenty.

Used in the chapters that train networks. The training run stands in ``training.py``, data in
``datasets.py``, models in ``models.py``, ``convolutions.py`` and ``layers.py``, what maps over
replicas in ``ensemble.py``; all names are found here.

Examples
--------
>>> curves = train(xor(), widths=(4,), activation="tanh", steps=50, seeds=range(3))
>>> curves.accuracy.shape == (len(curves.steps), 3)
True
>>> rates = train(xor(), widths=(4,), learning_rate=[0.1, 1.0], steps=50, seeds=range(3))
>>> rates.accuracy.shape == (len(rates.steps), 2, 3)
True
"""

from companion.experiments.convolutions import cnn
from companion.experiments.datasets import Data, digits, gaussian_noise, xor
from companion.experiments.layers import Dropout, Elementwise, PReLU, Residual, SpectralLinear
from companion.experiments.models import mlp, residual_mlp
from companion.experiments.training import OPTIMIZERS, Curves, train

__all__ = [
    "OPTIMIZERS", "Curves", "Data", "Dropout", "Elementwise", "PReLU", "Residual", "SpectralLinear",
    "cnn", "digits", "gaussian_noise", "mlp", "residual_mlp", "train", "xor",
]  # fmt: skip
