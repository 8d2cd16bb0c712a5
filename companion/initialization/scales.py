r"""How large weights should be: fans, standard deviations, gains.

Numbers only, no draws. A *gain* is what multiplies the :math:`1/\sqrt{n_\text{in}}` of a linear
layer; for an activation it undoes what the activation takes from the signal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from companion.activations import Activation
from companion.checks import real, whole, wholes
from companion.quadrature import Moments, gaussian_mean

__all__ = [
    "STDS", "fans", "gain", "he_std", "lecun_std", "pytorch_std", "variance_gain", "xavier_std",
]  # fmt: skip


def fans(shape: Sequence[int], *, groups: int = 1, transposed: bool = False) -> tuple[int, int]:
    r"""Count the connections that lead into a unit, and those that lead out of an input.

    Parameters
    ----------
    shape : sequence of int
        Of the weights, as PyTorch has it: (fan_out, fan_in) of a linear layer,
        (channels_out, channels_in / groups, \*kernel) of a convolution,
        (channels_in, channels_out / groups, \*kernel) of a transposed one.
    groups : int, default 1
        Of the convolution; divides the channels on the first axis. A depthwise convolution has as
        many as channels.
    transposed : bool, default False
        Whether it is a transposed convolution, such as `torch.nn.ConvTranspose2d`.

    Returns
    -------
    fan_in, fan_out : int
        Of a convolution, channels of the group times the places of the kernel: borders and strides
        are left out.

    Raises
    ------
    ValueError, TypeError
        If `shape` has fewer than two axes, or an axis or `groups` is no positive whole number.

    Notes
    -----
    Source: He et al. 2015, section 2.2. ``torch.nn.init`` sees the weights alone: with groups its
    fan_out is too large by their number, and of a transposed convolution its fan_in is what is
    called fan_out here, and the other way round.

    Examples
    --------
    >>> fans((10, 64)), fans((256, 64, 3, 3)), fans((64, 1, 3, 3), groups=64)
    ((64, 10), (576, 2304), (9, 9))
    >>> fans((64, 16, 4, 4), transposed=True)  # from 64 channels to 16
    (1024, 256)
    """
    lengths = wholes("shape", shape)
    if len(lengths) < 2:
        raise ValueError(
            f"shape must have two axes at least, (fan_out, fan_in, ...), not {tuple(lengths)}: "
            "biases have no fan"
        )
    first, second, *kernel = lengths
    if first % whole("groups", groups):
        raise ValueError(f"groups must divide the {first} channels of shape[0], not be {groups}")
    field = math.prod(kernel)
    of_first, of_second = first // groups * field, second * field
    return (of_first, of_second) if transposed else (of_second, of_first)


def xavier_std(fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    r"""Compute Xavier's standard deviation, :math:`g \sqrt{2 / (n_\text{in} + n_\text{out})}`.

    Parameters
    ----------
    fan_in, fan_out : int
        Number of inputs and outputs of the layer.
    gain : float, default 1
        g, for example of `gain`; not negative.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        If a fan is no positive whole number, or the gain negative or not finite.

    Notes
    -----
    Source: Glorot and Bengio 2010, eq. 12 and 16.

    Examples
    --------
    >>> xavier_std(100, 28)
    0.125
    """
    total = whole("fan_in", fan_in) + whole("fan_out", fan_out)
    return real("gain", gain, 0) * math.sqrt(2 / total)


def he_std(fan: int, negative_slope: float = 0.0) -> float:
    r"""Compute He's standard deviation, :math:`\sqrt{2 / ((1 + a^2)\,n)}`.

    Parameters
    ----------
    fan : int
        n: fan_in, to keep the size of the signal, or fan_out, to keep that of the gradient.
    negative_slope : float, default 0
        a, the slope of a leaky ReLU left of 0.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        If the fan is no positive whole number, or the slope not finite.

    Notes
    -----
    Source: He et al. 2015, eq. 10, 14 and 15.

    Examples
    --------
    >>> he_std(128), f"{he_std(128, negative_slope=0.25):.6f}"
    (0.125, '0.121268')
    """
    slope = real("negative_slope", negative_slope)
    return math.sqrt(2 / whole("fan", fan)) / math.hypot(1, slope)


def lecun_std(fan_in: int, gain: float = 1.0) -> float:
    r"""Compute LeCun's standard deviation, :math:`g / \sqrt{n_\text{in}}`.

    Arguments, errors as for `xavier_std`. Source: LeCun et al. 1998, eq. 16.

    Examples
    --------
    >>> lecun_std(64)
    0.125
    """
    return real("gain", gain, 0) * math.sqrt(1 / whole("fan_in", fan_in))


def pytorch_std(fan_in: int) -> float:
    r"""Compute the standard deviation of PyTorch's default, :math:`1 / \sqrt{3 n_\text{in}}`.

    Argument, errors as for `lecun_std`. Source: see `pytorch_default`.

    Examples
    --------
    >>> pytorch_std(12) * 6
    1.0
    """
    return math.sqrt(1 / (3 * whole("fan_in", fan_in)))


STDS: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "he": lambda fan_in, fan_out: he_std(fan_in),
        "lecun": lambda fan_in, fan_out: lecun_std(fan_in),
        "pytorch": lambda fan_in, fan_out: pytorch_std(fan_in),
        "xavier": xavier_std,
    }
)
"""Standard deviation of the weights, of fan_in and fan_out, by the rule's name.

Normal numbers and biases of zero; under "pytorch" both are uniform, as `pytorch_default` has them.
"""


def gain(activation: str | Activation, **parameters: float) -> float:
    r"""Compute the second-moment gain, which keeps the size of the signal from layer to layer.

    .. math:: g = \bigl(E\,f(z)^2\bigr)^{-1/2}, \quad z \sim N(0, 1)

    With weights of mean 0 and standard deviation :math:`g / \sqrt{n_\text{in}}`, pre-activations of
    variance 1 give pre-activations of variance 1, whatever the mean of :math:`f(z)` is.

    Parameters
    ----------
    activation : str or Activation
        Such as "gelu"; the keywords are its own, such as ``negative_slope=0.2``.

    Returns
    -------
    float
        For ReLU :math:`\sqrt 2`, for SELU 1, for tanh 1.5925. ``torch.nn.init.calculate_gain`` has
        5/3 for tanh and 3/4 for SELU, neither of which keeps the variance at 1; and 1 for sigmoid.

    Raises
    ------
    ValueError, TypeError
        As `companion.quadrature.Moments`, or if the activation is 0 almost everywhere.

    Notes
    -----
    For ReLU and its leaky forms, He et al. 2015; by quadrature for any other.
    Taught in the chapter `initialization`.

    Examples
    --------
    >>> print(f"{gain('relu'):.6f} {gain('tanh'):.6f} {gain('leaky_relu', negative_slope=0.2):.6f}")
    1.414214 1.592537 1.386750
    """
    return _root("square", activation, float(Moments(activation, **parameters).square(1.0)))


def variance_gain(activation: str | Activation, **parameters: float) -> float:
    r"""Compute the variance gain: what restores the *spread* of the outputs.

    .. math:: \bigl(E\,f(z)^2 - (E\,f(z))^2\bigr)^{-1/2}, \quad z \sim N(0, 1)

    It is :math:`\operatorname{std}(z) / \operatorname{std}(f(z))`, and equal to `gain` if
    :math:`E\,f(z) = 0`. Otherwise it is larger and too large for weights: a layer's next
    pre-activations depend on the mean too. Behind batch norm, which removes the mean, it is right.
    Arguments, errors as for `gain`. Source: PyTorch's issue 24991 estimates it from samples.

    Examples
    --------
    >>> print(f"{variance_gain('relu'):.6f} {variance_gain('tanh'):.6f}")
    1.712859 1.592537
    """
    moments = Moments(activation, **parameters)
    mean = gaussian_mean(moments.f, 1.0, moments.activation.kinks)
    spread = gaussian_mean(lambda z: (moments.f(z) - mean) ** 2, 1.0, moments.activation.kinks)
    if spread <= 1e-24 * mean**2:  # of a constant, it is 0 but for rounding
        spread = 0.0
    return _root("variance", activation, float(spread))


def _root(what: str, activation: str | Activation, moment: float) -> float:
    if not 0 < moment < math.inf:
        raise ValueError(f"{activation!r} has no gain: its mean {what} is {moment!r}")
    return moment**-0.5
