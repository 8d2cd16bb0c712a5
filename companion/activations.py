r"""The activations of the book, each beside its exact derivative, in NumPy.

One entry per activation: its code stands on a line with its formula, and the code of its derivative
on the next line with its own. Each instance is called like a function and knows its derivative.
NaN gives NaN, the infinities give the limits, and no finite number is too large or too small:

>>> relu([-2.0, 0.0, 3.0])
array([0., 0., 3.])
>>> leaky_relu.derivative([-2.0, 0.0, 3.0], negative_slope=0.2)
array([0.2, 0.2, 1. ])
>>> silu.derivative([-float("inf"), 0.0, 1e308])
array([0. , 0.5, 1. ])

Taught in the chapter `activations`. PyTorch is the check (`twin`), imported only on request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import erf, exp, inf, pi, sqrt
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from companion.checks import choice

__all__ = [
    "ACTIVATIONS", "SELU_ALPHA", "SELU_LAMBDA", "Activation", "activation", "elu", "gelu",
    "gelu_tanh", "hardtanh", "identity", "leaky_relu", "lecun_tanh", "mish", "prelu", "relu",
    "selu", "sigmoid", "silu", "softplus", "softsign", "tanh",
]  # fmt: skip

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Activation:
    """An activation: call it for its value, ask `derivative` for its slope, `twin` for PyTorch's.

    What depends on a parameter (range, Lipschitz constant, kinks) is given for the default. Its
    limits are `f(inf)` and `derivative(inf)`: a saturating activation has a derivative of 0 there.
    """

    name: str  #: the key in `ACTIVATIONS` and the name of the instance in this module
    summary: str  #: one sentence
    f: Callable[..., Array]  #: the code of f; called on a float array, it checks nothing
    formula: str  #: f(z) in LaTeX, without dollar signs
    f_prime: Callable[..., Array]  #: the code of the derivative
    derivative_formula: str  #: f'(z) in LaTeX
    range: tuple[float, float]  #: greatest lower and least upper bound of f
    lipschitz: float  #: the largest absolute slope
    source: str  #: the paper or textbook it comes from
    twin_name: str | None  #: the same function in PyTorch
    twin_options: Mapping[str, Any] = field(default_factory=dict)  #: what makes it the same
    kinks: tuple[float, ...] = ()  #: where f has no derivative; ours is there what autograd's is
    parameters: Mapping[str, float] = field(default_factory=dict)  #: names and defaults

    def __post_init__(self) -> None:
        arguments = [f"\n{key} : float or array, default {x}" for key, x in self.parameters.items()]
        doc = (
            f"{self.summary}\n\n.. math:: f(z) = {self.formula}\n\n"
            f".. math:: f'(z) = {self.derivative_formula}\n\n"
            f"Parameters\n----------\nz : array_like{''.join(arguments)}\n\n"
            f"Notes\n-----\nSource: {self.source}. In PyTorch: {self.twin_name}.\n"
        )
        object.__setattr__(self, "__doc__", doc)  # the way to set up a frozen dataclass
        for key in ("parameters", "twin_options"):
            object.__setattr__(self, key, MappingProxyType(dict(getattr(self, key))))

    def __repr__(self) -> str:
        return f"<Activation {self.name}>"

    def __reduce__(self) -> str:
        return self.name  # pickled by name: a copy is the instance itself

    def __call__(self, z: npt.ArrayLike, **parameters: npt.ArrayLike) -> Array:
        """Return f(z), elementwise: float32 for float32, else float64; a scalar for a scalar.

        The keywords are those of `parameters`; an array has to broadcast to the shape of z.
        """
        return self._evaluate(self.f, z, parameters)

    def derivative(self, z: npt.ArrayLike, **parameters: npt.ArrayLike) -> Array:
        """Return f'(z), elementwise; arguments and result as for f(z)."""
        return self._evaluate(self.f_prime, z, parameters)

    def twin(self) -> Callable[..., Any]:
        """Return PyTorch's function: tensor in, tensor out, with the same keyword parameters."""
        if self.twin_name is None:
            raise ValueError(f"{self.name} has no twin in PyTorch")
        import torch

        function = attrgetter(self.twin_name.removeprefix("torch."))(torch)
        function = function() if isinstance(function, type) else function  # torch.nn.Identity
        if self.name == "prelu":  # its slope must be a tensor: one number, or one per channel
            return lambda t, slope=0.25: function(
                t, torch.as_tensor(slope, dtype=t.dtype, device=t.device).ravel()
            )
        return partial(function, **self.twin_options, **self.parameters)

    def _evaluate(self, function: Callable[..., Array], z: Any, given: Mapping[str, Any]) -> Array:
        z = np.asarray(z)
        if z.dtype.kind not in "fiu":
            raise TypeError(f"z must hold real numbers (float or integer), got dtype {z.dtype}")
        z = z.astype(np.float32 if z.dtype.type is np.float32 else np.float64, copy=False)
        if unknown := given.keys() - self.parameters.keys():
            raise TypeError(f"{self.name} has keywords {[*self.parameters]}, not {min(unknown)!r}")
        checked = {}
        for key, value in {**self.parameters, **given}.items():
            x = np.asarray(value)
            if x.dtype.kind not in "fiu":
                raise TypeError(f"{key} must be a real number or an array of them, got {value!r}")
            with np.errstate(over="ignore"):
                checked[key] = x = x.astype(z.dtype)
            if not np.isfinite(x).all() or (key == "alpha" and not (x > 0).all()):
                allowed = "finite and positive" if key == "alpha" else "finite"
                raise ValueError(f"{key} must be {allowed}, got {value!r}")
            try:
                np.broadcast_to(x, z.shape)
            except ValueError:
                raise ValueError(f"{key} of shape {x.shape} must broadcast to {z.shape}") from None
        return np.asarray(function(z, **checked))[()]


def _times(a: Any, z: Array) -> Array:
    """a·z, but 0·∞ is 0: a factor that has vanished wins. Past the largest float lies ±∞."""
    with np.errstate(over="ignore"):
        return a * np.where(a == 0, 0.0, z)


def _sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z) for z ≥ 0, e^z / (1 + e^z) for z < 0: no exponential ever overflows."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1 + e)


def _normal_cdf(z: Array) -> Array:
    from scipy.special import ndtr  # here, so that the module loads without SciPy

    return ndtr(z)


def _normal_pdf(z: Array) -> Array:
    return np.exp(-(np.clip(z, -40, 40) ** 2) / 2) / sqrt(2 * pi)  # no float holds e^(-40²/2)


def _cubic(z: Array, c: float) -> Array:
    z = np.clip(z, -1e4, 1e4)  # the sigmoid of the cubic is 0 or 1 long before
    return sqrt(8 / pi) * (z + c * z**3)


#: With SELU_LAMBDA the one solution of E f(z) = 0, E f(z)² = 1, z ~ N(0, 1); the tests solve it.
SELU_ALPHA = 1.6732632423543772848
SELU_LAMBDA = 1.0507009873554804934  #: the scale that belongs to SELU_ALPHA

# fmt: off
identity = Activation(
    "identity", "No activation: a network of linear layers.",
    lambda z: +z,                              r"z",
    lambda z: np.where(np.isnan(z), z, 1.0),   r"1",
    range=(-inf, inf), lipschitz=1.0, source="textbook", twin_name="torch.nn.Identity")

sigmoid = Activation(
    "sigmoid", "The logistic function: from 0 to 1, never steeper than 1/4.",
    lambda z: _sigmoid(z),                  r"\frac{1}{1 + e^{-z}}",
    lambda z: _sigmoid(z) * _sigmoid(-z),   r"\sigma(z)\,(1 - \sigma(z))",
    range=(0.0, 1.0), lipschitz=0.25, source="textbook", twin_name="torch.sigmoid")

tanh = Activation(  # in float32 the derivative is exactly 0 from |z| = 10 on, or sooner (13 ln 2)
    "tanh", "The hyperbolic tangent, a sigmoid centred on 0.",
    lambda z: np.tanh(z),            r"\tanh(z)",
    lambda z: 1 - np.tanh(z) ** 2,   r"1 - \tanh^2(z)",
    range=(-1.0, 1.0), lipschitz=1.0, source="LeCun et al. 1998", twin_name="torch.tanh")

lecun_tanh = Activation(
    "lecun_tanh", "LeCun's tanh, scaled so that f(1) = 1 and f(-1) = -1 to five digits.",
    lambda z: 1.7159 * np.tanh(2 / 3 * z),   r"1.7159\,\tanh(\frac{2}{3}\,z)",
    lambda z: 1.7159 * 2 / 3 * (1 - np.tanh(2 / 3 * z) ** 2),
    r"1.7159\,\frac{2}{3}\,(1 - \tanh^2(\frac{2}{3}\,z))",
    range=(-1.7159, 1.7159), lipschitz=1.7159 * 2 / 3, source="LeCun et al. 1998", twin_name=None)

softsign = Activation(  # 10^18 stands for ∞, to avoid ∞/∞
    "softsign", "A sigmoid that saturates slowly: its derivative falls like a power of z.",
    lambda z: np.clip(z, -1e18, 1e18) / (1 + np.minimum(np.abs(z), 1e18)),  r"\frac{z}{1 + |z|}",
    lambda z: (1 / (1 + np.abs(z))) ** 2,                               r"\frac{1}{(1 + |z|)^2}",
    range=(-1.0, 1.0), lipschitz=1.0, source="Glorot and Bengio 2010",
    twin_name="torch.nn.functional.softsign")

hardtanh = Activation(
    "hardtanh", "The tanh of straight lines.",
    lambda z: np.clip(z, -1.0, 1.0),               r"\max(-1, \min(1, z))",
    lambda z: np.heaviside(1.0 - np.abs(z), 0.0),  r"\mathbf{1}[|z| < 1]",
    range=(-1.0, 1.0), lipschitz=1.0, kinks=(-1.0, 1.0), source="textbook",
    twin_name="torch.nn.functional.hardtanh")

relu = Activation(
    "relu", "Rectified linear unit.",
    lambda z: np.maximum(z, 0.0),     r"\max(0, z)",
    lambda z: np.heaviside(z, 0.0),   r"\mathbf{1}[z > 0]",
    range=(0.0, inf), lipschitz=1.0, kinks=(0.0,), source="Glorot, Bordes and Bengio 2011",
    twin_name="torch.nn.functional.relu")

leaky_relu = Activation(  # in pieces, right for any slope a; max(a·z, z) is wrong for a > 1
    "leaky_relu", "ReLU with a fixed slope a = negative_slope below zero.",
    lambda z, negative_slope: np.maximum(z, 0.0) + _times(negative_slope, np.minimum(z, 0.0)),
    r"\max(0, z) + a\,\min(0, z)",
    lambda z, negative_slope: np.where(np.isnan(z), z, np.where(z > 0, 1.0, negative_slope)),
    r"\mathbf{1}[z > 0] + a\,\mathbf{1}[z \le 0]",
    range=(-inf, inf), lipschitz=1.0, kinks=(0.0,), parameters={"negative_slope": 0.01},
    source="Maas et al. 2013", twin_name="torch.nn.functional.leaky_relu")

prelu = Activation(
    "prelu", "ReLU with a learned slope a = slope below zero, which starts at 1/4.",
    lambda z, slope: leaky_relu.f(z, slope),         leaky_relu.formula,
    lambda z, slope: leaky_relu.f_prime(z, slope),   leaky_relu.derivative_formula,
    range=(-inf, inf), lipschitz=1.0, kinks=(0.0,), parameters={"slope": 0.25},
    source="He et al. 2015, eq. 1", twin_name="torch.nn.functional.prelu")

elu = Activation(  # expm1 keeps the digits that e^z - 1 loses near 0; alpha ≠ 1 has a kink at 0
    "elu", "Exponential linear unit: levels off at -alpha, and has no kink at alpha = 1.",
    lambda z, alpha: np.maximum(z, 0.0) + alpha * np.expm1(np.minimum(z, 0.0)),
    r"\max(0, z) + \alpha\,(e^{\min(0, z)} - 1)",
    lambda z, alpha: np.where(z > 0, 1.0, alpha * np.exp(np.minimum(z, 0.0))),
    r"\mathbf{1}[z > 0] + \alpha\,e^{z}\,\mathbf{1}[z \le 0]",
    range=(-1.0, inf), lipschitz=1.0, parameters={"alpha": 1.0},
    source="Clevert et al. 2016, eq. 15", twin_name="torch.nn.functional.elu")

selu = Activation(
    "selu", "Scaled ELU: keeps mean 0 and variance 1 of a standard normal input.",
    lambda z: _times(SELU_LAMBDA, elu.f(z, SELU_ALPHA)),
    r"\lambda\,(\max(0, z) + \alpha\,(e^{\min(0, z)} - 1))",
    lambda z: SELU_LAMBDA * elu.f_prime(z, SELU_ALPHA),
    r"\lambda\,(\mathbf{1}[z > 0] + \alpha\,e^{z}\,\mathbf{1}[z \le 0])",
    range=(-SELU_LAMBDA * SELU_ALPHA, inf), lipschitz=SELU_LAMBDA * SELU_ALPHA, kinks=(0.0,),
    source="Klambauer et al. 2017", twin_name="torch.nn.functional.selu")

gelu = Activation(
    "gelu", "Gaussian error linear unit: z times the chance that a normal number is below z.",
    lambda z: _times(_normal_cdf(z), z),                    r"z\,\Phi(z)",
    lambda z: _normal_cdf(z) + _times(_normal_pdf(z), z),   r"\Phi(z) + z\,\varphi(z)",
    range=(-0.16997120747990366, inf), lipschitz=(1 + erf(1)) / 2 + exp(-1) / sqrt(pi),
    source="Hendrycks and Gimpel 2016", twin_name="torch.nn.functional.gelu")

gelu_tanh = Activation(  # (1 + tanh(v / 2)) / 2 = σ(v)
    "gelu_tanh", "The popular approximation of GELU by a tanh.",
    lambda z: _times(_sigmoid(_cubic(z, 0.044715)), z),
    r"\frac{1}{2}\,z\,(1 + \tanh(\sqrt{\frac{2}{\pi}}\,(z + 0.044715\,z^3)))",
    lambda z: _sigmoid(v := _cubic(z, 0.044715)) * (1 + _cubic(z, 0.134145) * _sigmoid(-v)),
    r"\sigma(v)\,(1 + w\,\sigma(-v)),\quad v = \sqrt{\frac{8}{\pi}}\,(z + 0.044715\,z^3),"
    r"\quad w = z\,v' = \sqrt{\frac{8}{\pi}}\,(z + 0.134145\,z^3)",
    range=(-0.17004075057125406, inf), lipschitz=1.1289930686587717,
    source="Hendrycks and Gimpel 2016", twin_name="torch.nn.functional.gelu",
    twin_options={"approximate": "tanh"})

silu = Activation(
    "silu", "Sigmoid linear unit, or Swish: z weighted by its own sigmoid.",
    lambda z: _times(_sigmoid(z), z),   r"z\,\sigma(z)",
    lambda z: _times(_sigmoid(z), 1 + _times(_sigmoid(-z), z)),
    r"\sigma(z)\,(1 + z\,(1 - \sigma(z)))",
    range=(-0.2784645427610738, inf), lipschitz=1.099839320128867,
    source="Ramachandran et al. 2017", twin_name="torch.nn.functional.silu")

softplus = Activation(  # PyTorch's threshold of 20 drops up to 2e-9; past 40 nothing is dropped
    "softplus", "The smooth ReLU, whose derivative is the sigmoid.",
    lambda z: np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))),   r"\ln(1 + e^{z})",
    lambda z: _sigmoid(z),                                         r"\sigma(z)",
    range=(0.0, inf), lipschitz=1.0, source="Glorot, Bordes and Bengio 2011",
    twin_name="torch.nn.functional.softplus", twin_options={"threshold": 40.0})

mish = Activation(
    "mish", "z weighted by the tanh of its softplus.",
    lambda z: _times(np.tanh(softplus.f(z)), z),   r"z\,\tanh(\ln(1 + e^{z}))",
    lambda z: (t := np.tanh(softplus.f(z))) + _times(_sigmoid(z) * (1 - t**2), z),
    r"t + z\,\sigma(z)\,(1 - t^2),\quad t = \tanh(\ln(1 + e^{z}))",
    range=(-0.30884341301725043, inf), lipschitz=1.088498161251728,
    source="Misra 2019", twin_name="torch.nn.functional.mish")

# fmt: on
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {each.name: each for each in [*globals().values()] if isinstance(each, Activation)}
)  #: every activation above by name, in this order; read-only


def activation(name: str | Activation) -> Activation:
    """Return the activation of that name; an `Activation` is returned as it is.

    >>> activation("relu").derivative(1.0)
    np.float64(1.0)
    """
    if isinstance(name, Activation):
        return name
    return ACTIVATIONS[choice("name", name, ACTIVATIONS)]
