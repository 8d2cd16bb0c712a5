r"""How signals and gradients change from layer to layer: in theory, and in the net at hand.

In a wide net whose weights are drawn with variance :math:`\sigma_w^2 / n` for n inputs, and its
biases with :math:`\sigma_b^2`, the variance q of a pre-activation and the correlation c of two
inputs go through the layers by (Poole et al. 2016)

.. math:: q' = \sigma_w^2\,E\,f(u)^2 + \sigma_b^2, \quad
    q' c' = \sigma_w^2\,E\,f(u_1) f(u_2) + \sigma_b^2, \quad u \sim N(0, q),

and each layer multiplies the square of a gradient by :math:`\chi = \sigma_w^2\,E\,f'(u)^2`.
The theory stands in ``theory.py`` and ``fixed_points.py``. `signal_profile`, in ``profiles.py``,
measures the same in any PyTorch model, and alone imports PyTorch.

Taught in the chapter `vanishing_gradients`.
"""

from companion.vanishing_gradients.fixed_points import FixedPointError
from companion.vanishing_gradients.profiles import SignalProfile, signal_profile
from companion.vanishing_gradients.theory import (
    GradientFactor,
    MeanField,
    correlation_map,
    critical_sigma_w,
    gradient_factor,
    length_map,
    mean_field,
)

__all__ = [
    "FixedPointError", "GradientFactor", "MeanField", "SignalProfile", "correlation_map",
    "critical_sigma_w", "gradient_factor", "length_map", "mean_field", "signal_profile",
]  # fmt: skip
