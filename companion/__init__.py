"""The tested companion of the book *Keeping Neurons Alive*.

It holds what several cells need and no page should repeat: the activations with their exact
derivatives, the laboratory that trains many seeds at once, the style of the figures, and the claims
that tie the prose to what was run. What a chapter teaches is written out in NumPy, once, and
checked against PyTorch. Functions work on arrays; randomness is always an argument.

>>> from companion import he_normal, relu  # also census, watch, diagnose, revive, prune, ...
>>> relu(he_normal((2, 3), rng=0)).round(2)
array([[0.1 , 0.  , 0.52],
       [0.09, 0.  , 0.3 ]])

=====================  ==========================================================================
what a chapter teaches, in NumPy
-------------------------------------------------------------------------------------------------
`activations`          each activation beside its derivative
`gradient_descent`     the optimizers, clipping, a schedule
`vanishing_gradients`  mean-field theory; the profile of any PyTorch model
`initialization`       every rule for starting weights; gains
`batch_norm`           batch norm and layer norm, both ways
`gradient_explosion`   how batch norm makes gradients grow
`regularization`       penalties, dropout, the spectral norm
`dead_relu`            the step that kills; dormancy scores
`born_dead`            nets that are dead before training
`dead_channels`        what positions and borders do
`quadrature`           averages over a normal distribution, for the chapters on depth
---------------------  --------------------------------------------------------------------------
the toolbox, for models of your own
-------------------------------------------------------------------------------------------------
`detection`            which units of a model are dead, and why
`revival`              resets of dead units, pruning, other remedies
---------------------  --------------------------------------------------------------------------
the laboratory
-------------------------------------------------------------------------------------------------
`experiments`          data, models, and training of many seeds at once
---------------------  --------------------------------------------------------------------------
the book's machinery
-------------------------------------------------------------------------------------------------
`claims`               claims, reading them back from the pages, running the pages
`figures`              one style for every figure
`devices`              seeds, and where nets train
`checks`               checks of arguments
`untouched`            looking at a model without changing it
=====================  ==========================================================================

Importing the package imports nothing else: a name is fetched from its module when it is asked for.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from companion.activations import *
    from companion.claims import *
    from companion.detection import *
    from companion.gradient_descent import adam as adam
    from companion.gradient_descent import adamw as adamw
    from companion.gradient_descent import clip_by_norm as clip_by_norm
    from companion.gradient_descent import clip_by_value as clip_by_value
    from companion.gradient_descent import momentum as momentum
    from companion.gradient_descent import nesterov as nesterov
    from companion.gradient_descent import rmsprop as rmsprop
    from companion.gradient_descent import warmup_cosine as warmup_cosine
    from companion.initialization import *
    from companion.revival import *
    from companion.vanishing_gradients import *

__version__ = "0.1.0"

_NAMES = {
    "activations": """ACTIVATIONS elu gelu gelu_tanh hardtanh identity leaky_relu lecun_tanh mish
        prelu relu selu sigmoid silu softplus softsign tanh""",
    "claims": "ClaimError check claim",
    "detection": """Diagnosis Finding LayerReport UnitReport Watch census diagnose
        lightning_callback trainer_callback watch""",
    "gradient_descent": """adam adamw clip_by_norm clip_by_value momentum nesterov rmsprop
        warmup_cosine""",
    "initialization": """fans gain he_normal he_uniform lecun_normal lecun_uniform lsuv orthogonal
        pytorch_default randomized_asymmetric xavier_normal xavier_uniform""",
    "revival": """Centre Outcome Reader Remedy Revival Reviver Touched Trial UnitGroup UnitGroups
        centre_inputs prune redraw revive revive_every shift_bias swap_activation trial
        unit_groups""",
    "vanishing_gradients": "SignalProfile mean_field signal_profile",
}
"""The names at the top of the package, by the module that has them."""

_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)

if not TYPE_CHECKING:  # a type checker knows the names, and then finds the wrong ones

    def __getattr__(name: str) -> Any:
        """Fetch a name from its module."""
        if name not in _HOME:
            close = get_close_matches(name, _HOME, n=1)
            hint = f". Did you mean {close[0]!r}?" if close else ""
            raise AttributeError(f"module 'companion' has no attribute {name!r}{hint}")
        return getattr(import_module(f"companion.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
