"""The tested companion of the book *Keeping Neurons Alive*.

It holds what several cells need and no page should repeat: the activations with their exact
derivatives, the laboratory that trains many seeds at once, the style of the figures, and the claims
that tie the prose to what was run. What a chapter teaches is written out in NumPy, once, and
checked against PyTorch. Functions work on arrays; randomness is always an argument.

=====================  ==========================================================================
chapter                module
=====================  ==========================================================================
`activations`          `companion.activations`: each activation beside its derivative, in NumPy
`gradient_descent`     `companion.gradient_descent`: the optimizers, clipping, a schedule, in NumPy
`vanishing_gradients`  `companion.vanishing_gradients`: a model's profile, and mean-field theory
`initialization`       `companion.initialization`: every rule for starting weights; gains; in NumPy
`batch_norm`           `companion.batch_norm`: batch norm and layer norm, both ways, in NumPy
`gradient_explosion`   `companion.gradient_explosion`: how batch norm makes gradients grow, in NumPy
`regularization`       `companion.regularization`: penalties, dropout, the spectral norm, in NumPy
`dead_relu`            `companion.dead_relu`: the step that kills; dormancy scores; in NumPy
`born_dead`            `companion.born_dead`: nets that are dead before training, in NumPy
`detection`            `companion.detection`: which units of a model are dead, and why; hooks
`revival`              `companion.revival`: resets of dead units, pruning, other remedies
`dead_channels`        `companion.dead_channels`: what positions and borders do, in NumPy
`claims`               `companion.claims`, `companion.notebooks`: claims, and reading them back
chapters on depth      `companion.quadrature`: averages over a normal distribution
every chapter          `companion.figures`, `companion.devices`: one style; seeds
chapters that train    `companion.experiments`: data, models, and training of many seeds at once
=====================  ==========================================================================

Importing the package imports neither PyTorch nor matplotlib.
"""

from companion.activations import (
    ACTIVATIONS,
    elu,
    gelu,
    gelu_tanh,
    hardtanh,
    identity,
    leaky_relu,
    lecun_tanh,
    mish,
    prelu,
    relu,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)
from companion.claims import ClaimError, check, claim

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "ClaimError",
    "check",
    "claim",
    "elu",
    "gelu",
    "gelu_tanh",
    "hardtanh",
    "identity",
    "leaky_relu",
    "lecun_tanh",
    "mish",
    "prelu",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanh",
]
