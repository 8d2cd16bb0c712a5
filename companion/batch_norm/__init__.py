r"""Batch norm and layer norm: forward, backward, running statistics; and how gradients grow.

A unit's m values :math:`x_i` in a batch are brought to mean 0 and variance 1, and then to a mean
and a size that are learned (Ioffe and Szegedy 2015):

.. math:: y_i = \gamma\,\hat x_i + \beta, \quad \hat x_i = \frac{x_i - \mu}{\sqrt{v + \epsilon}},
    \quad \mu = \frac1m \sum_i x_i, \quad v = \frac1m \sum_i (x_i - \mu)^2

Layer norm (Ba et al. 2016) takes mean and variance over the units of an example instead. All work
is done in float64, and PyTorch is the check.

Taught in the chapter `batch_norm`.

>>> x = [[1.0, 10.0], [2.0, 20.0], [6.0, 60.0]]  # three examples, two units
>>> y, cache = batch_norm(x, eps=1e-12)
>>> print(y.round(4))
[[-0.9258 -0.9258]
 [-0.4629 -0.4629]
 [ 1.3887  1.3887]]
"""

from __future__ import annotations

from companion.batch_norm.growth import batch_norm_gradient_growth, measure_gradient_growth
from companion.batch_norm.norms import (
    batch_norm,
    batch_norm_backward,
    batch_norm_eval,
    layer_norm,
    layer_norm_backward,
)
from companion.batch_norm.statistics import Cache, RunningStatistics

__all__ = [
    "Cache", "RunningStatistics", "batch_norm", "batch_norm_backward", "batch_norm_eval",
    "batch_norm_gradient_growth", "layer_norm", "layer_norm_backward", "measure_gradient_growth",
]  # fmt: skip
