"""Look at the signal and the gradient in each layer of a PyTorch model, and leave no trace.

PyTorch is imported where it is needed: the theory beside this module does without.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.untouched import taken, untouched

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor, nn

__all__ = ["SignalProfile", "signal_profile"]

_SMALL, _LARGE = 1e-12, 1e18  # between them squares stay within single precision


@dataclass(frozen=True, eq=False)
class SignalProfile:
    """What `signal_profile` returns: arrays with one entry per layer, in the order of the calls.

    It prints as a table; `plot` draws it.
    """

    names: np.ndarray  #: as in `model.named_modules()`; the second call of a layer is "name (2)"
    rms: np.ndarray  #: root mean square of the outputs, the pre-activations
    gradient_rms: np.ndarray  #: of the gradient of an example's loss, to the outputs for it
    weight_gradient_rms: np.ndarray  #: of the gradient of the batch's mean loss, to the weight
    cosine: np.ndarray  #: of the angle between two examples' outputs, mean over all pairs

    def __str__(self) -> str:
        width = max(5, *(len(name) for name in self.names))
        heads = f"{'rms':>9} {'gradient':>9} {'weight gradient':>15} {'cosine':>7}"
        numbers = (self.rms, self.gradient_rms, self.weight_gradient_rms, self.cosine)
        rows = [
            "{:{}} {:9.3g} {:9.3g} {:15.3g} {:7.3f}".format(name, width, *row)
            for name, *row in zip(self.names, *numbers, strict=True)
        ]
        return "\n".join([f"{'layer':{width}} {heads}", *rows])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the size of outputs and gradients over the layers, on a logarithmic axis.

        Layers are numbered from 1; what is 0 or no finite number has no point. `ax` is the Axes to
        draw on, by default new ones; they are returned.
        """
        from companion.figures import plot_lines

        layers = np.arange(1, len(self.names) + 1)
        given = {"output": self.rms, "gradient": self.gradient_rms}
        lines = {name: np.where((y > 0) & (y < np.inf), y, np.nan) for name, y in given.items()}
        lines = {name: y for name, y in lines.items() if not np.isnan(y).all()}
        if len(layers) == 1:  # a point is no line
            layers, lines = np.array([0.5, 1.5]), {name: y.repeat(2) for name, y in lines.items()}
        ax = plot_lines(layers, lines, ax, xlabel="layer", ylabel="root mean square", yscale="log")
        ax.locator_params(axis="x", integer=True)
        return ax


def signal_profile(
    model: nn.Module, x: Any, y: Any, *, loss: Callable[[Any, Tensor], Tensor] | None = None
) -> SignalProfile:
    r"""Measure signal and gradient in each layer of a model, on one batch.

    A layer is a module with a weight of two or more axes (linear, convolution, ...), or a recurrent
    or attention layer of PyTorch as a whole; it has a row for each of its calls. Its output is
    measured before whatever follows, which may change it in place. The model is run once, as it is,
    in training or evaluation mode, on its device; then it is bit for bit as before, and so are all
    random states, even if it raised an exception (see `companion.untouched`).

    Parameters
    ----------
    model : torch.nn.Module
        Takes a batch of inputs.
    x : array_like of shape (n, ...)
        Inputs; converted to the model's dtype, but whole numbers stay if it has an embedding.
    y : array_like of shape (n, ...)
        Whole numbers are labels, for the cross-entropy; others are values, in the shape of the
        model's output, for the mean squared error.
    loss : callable, optional
        Instead of these two: takes the model's output and `y`, returns the batch's mean loss.

    Returns
    -------
    SignalProfile
        For the losses :math:`\ell_i` of n examples, their mean :math:`\bar\ell`, and a layer's
        outputs :math:`z_i`: `rms` and `cosine` are those of the :math:`z_i`. `gradient_rms` is that
        of :math:`n\,\partial \bar\ell / \partial z_i`, which is
        :math:`\partial \ell_i / \partial z_i` where no batch norm mixes the examples, and does not
        depend on n. `weight_gradient_rms` is that of :math:`\partial \bar\ell / \partial W`,
        through all calls of the layer; NaN if the weight is frozen. Where no gradient arrives, it
        is 0. `cosine` leaves out outputs of zeros, which have no direction, and is NaN if less than
        two remain, or the first axis is not that of the examples.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by its name. A net that overflows is no error.

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> layers = [part for _ in range(4) for part in (torch.nn.Linear(99, 99), torch.nn.Sigmoid())]
    >>> net = torch.nn.Sequential(*layers)
    >>> profile = signal_profile(net, torch.randn(64, 99), torch.zeros(64, 99))
    >>> profile.names.tolist(), profile.rms.shape
    (['0', '2', '4', '6'], (4,))
    >>> bool((profile.gradient_rms[1:] / profile.gradient_rms[:-1] > 5).all())  # it vanishes
    True
    """
    import torch
    from torch.autograd.graph import get_gradient_edge
    from torch.nn.utils.parametrize import cached

    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {model!r}")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be callable, not {loss!r}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile made runs without our hooks
    calls: Counter[str] = Counter()
    names: list[str] = []
    signals: list[tuple[float, float]] = []
    of_outputs: list[float] = []
    weights: list[list[Tensor]] = []
    frozen: list[Any] = []  # outputs to which no weight of the same layer calls the gradient

    def look(name: str, whole: bool, module: nn.Module, _: Any, given: Any) -> Any:
        own: list[Any] = (
            [p for p in module.parameters() if p.ndim >= 2] if whole else [module.weight]
        )
        output = given[0] if whole and isinstance(given, tuple) else given  # with states behind it
        if not isinstance(output, torch.Tensor):
            return None
        trained = output.requires_grad and any(weight.requires_grad for weight in own)
        if not output.requires_grad:  # nothing up to here has a gradient, but what follows may
            with torch.enable_grad():
                output = output.detach().requires_grad_().clone()
        calls[name] += 1
        names.append(name if calls[name] == 1 else f"{name} ({calls[name]})")
        signals.append(_signal(output.detach(), len(x)))
        weights.append([weight for weight in own if weight.requires_grad])
        if not trained:
            frozen.append(get_gradient_edge(output))
        of_outputs.append(0.0)

        def keep(gradient: Tensor, place: int = len(of_outputs) - 1) -> None:
            of_outputs[place] = _rms([gradient]) * len(x)

        output.register_hook(keep)  # for the output as it is now, even if changed in place later
        return output if output is given or not isinstance(given, tuple) else (output, *given[1:])

    with untouched(model), torch.inference_mode(False), cached():  # with gradients
        x, y = _batch(model, x, y)
        output = _call(model, x, look)
        if not names:
            raise ValueError("model must call a layer with a weight of two or more axes")
        value = (loss or _loss)(output, y)
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
            raise ValueError(f"loss must be one number that depends on the model, not {value!r}")
        wanted = [weight for own in weights for weight in own]
        found = iter(torch.autograd.grad(value, [*wanted, *frozen], allow_unused=True))
    of_weights = [_rms([next(found) for _ in own]) if own else math.nan for own in weights]
    rms, cosine = np.array(signals).T
    return SignalProfile(np.array(names), rms, np.array(of_outputs), np.array(of_weights), cosine)


def _call(model: nn.Module, x: Tensor, look: Callable[..., Any]) -> Any:
    """Run the model, with a look at the output of every layer."""
    from torch import nn

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            whole = isinstance(module, nn.RNNBase | nn.MultiheadAttention)
            if whole or getattr(getattr(module, "weight", None), "ndim", 0) >= 2:
                called = partial(look, name or type(module).__name__, whole)
                hooks.callback(module.register_forward_hook(called).remove)
        with taken("x", x):
            return model(x)


def _signal(output: Tensor, n: int) -> tuple[float, float]:
    """Root mean square, and mean cosine between examples by the norm of a sum of unit vectors."""
    import torch

    rows = _rows(output if output.ndim and len(output) == n else output[None])
    norms = torch.linalg.vector_norm(rows, dim=1)
    count = len(rows)
    if _SMALL < norms.min() <= norms.max() < _LARGE:
        units = norms.reciprocal() @ rows
    else:
        rows = rows.double()
        norms = torch.linalg.vector_norm(rows, dim=1)
        count = int(norms.count_nonzero())
        units = torch.where(norms > 0, 1 / norms, 0.0) @ rows
    square = float(torch.linalg.vector_norm(units, dtype=torch.float64)) ** 2
    cosine = (square - count) / (count * (count - 1)) if count > 1 else math.nan
    rms = float(torch.linalg.vector_norm(norms, dtype=torch.float64)) / rows.numel() ** 0.5
    return rms, cosine


def _rms(gradients: Sequence[Tensor | None]) -> float:
    """Root mean square of all these numbers; what is None has no gradient."""
    parts = [_rows(gradient) for gradient in gradients if gradient is not None]
    count = sum(rows.numel() for rows in parts)
    return math.hypot(*map(_norm, parts)) / count**0.5 if count else 0.0


def _norm(rows: Tensor) -> float:
    import torch

    norm = float(torch.linalg.vector_norm(torch.linalg.vector_norm(rows, dim=1).double()))
    if not _SMALL < norm < _LARGE:
        norm = float(torch.linalg.vector_norm(rows.double()))
    return norm


def _rows(t: Tensor) -> Tensor:
    """Flatten all but the first axis; at least single precision."""
    import torch

    return t.reshape(len(t), -1).to(torch.promote_types(t.dtype, torch.float32))


def _batch(model: nn.Module, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets as tensors of their own, as the model takes them."""
    import torch
    from torch import nn
    from torch.nn.parameter import is_lazy

    parameters = [p for p in model.parameters() if p.is_floating_point()]
    if not parameters or any(is_lazy(p) for p in parameters):
        raise ValueError("model must have parameters, and lazy ones must have been initialized")
    like = parameters[0]
    tokens = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())
    given = []
    for name, array in (("x", x), ("y", y)):
        try:
            t = torch.as_tensor(array if torch.is_tensor(array) else np.array(array, order="C"))
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an array of numbers: {error}") from None
        if t.is_complex() or (name == "y" and t.dtype == torch.bool):
            raise TypeError(f"{name} must hold real numbers, not {t.dtype}")
        if not t.ndim or not t.numel():
            raise ValueError(f"{name} must hold one example at least, along its first axis")
        whole = not t.is_floating_point() and (name == "y" or tokens)
        t = t.detach().to(like.device, torch.long if whole else like.dtype, copy=True)
        if not math.isfinite(t.min()) or not math.isfinite(t.max()):
            raise ValueError(f"{name} must be finite, but holds NaN or infinity")
        given.append(t)
    if len(given[0]) != len(given[1]):
        raise ValueError(f"y must have the length of x, {len(given[0])}, not {len(given[1])}")
    return given[0], given[1]


def _loss(output: Any, y: Tensor) -> Tensor:
    """Cross-entropy for labels, mean squared error for values."""
    import torch
    from torch.nn.functional import cross_entropy, mse_loss

    if not isinstance(output, torch.Tensor):
        raise TypeError(f"model must return a tensor, not {type(output).__name__}; or give a loss")
    shape, kind = output.shape, "values" if y.is_floating_point() else "labels"
    fits = y.shape == shape if kind == "values" else y.shape == shape[:1] + shape[2:] != shape
    if not fits:
        raise ValueError(
            f"y of shape {tuple(y.shape)}, {kind} of type {y.dtype}, does not fit the model's "
            f"output of shape {tuple(shape)}"
        )
    if kind == "values":
        return mse_loss(output, y)
    if y.min() < 0 or y.max() >= shape[1]:
        raise ValueError(
            f"y must hold labels from 0 to {shape[1] - 1}, as the model's output has the shape "
            f"{tuple(shape)}, but holds {y.min()} to {y.max()}"
        )
    return cross_entropy(output, y)
