r"""First-order optimizers in NumPy: each a few lines in which the formula can be read.

An optimizer is a function. It takes the gradient, itself a function of the parameters, and a start,
and returns its trajectory: every point it visited, in float64, the start first.

>>> gradient_descent(lambda x: x * [1.0, 4.0], [1.0, 1.0], learning_rate=0.25, steps=2)
array([[1.    , 1.    ],
       [0.75  , 0.    ],
       [0.5625, 0.    ]])

The conventions are those of `torch.optim`. Clipping goes around the gradient:
``lambda x: clip_by_norm(gradient(x), 1.0)``. Taught in the chapter `gradient_descent`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from companion.checks import finite_array, function, real, whole

__all__ = ["DivergenceError", "adam", "adamw", "clip_by_norm", "clip_by_value", "gradient_descent",
           "momentum", "nesterov", "rmsprop", "warmup_cosine"]  # fmt: skip

Array = NDArray[np.float64]
Gradient = Callable[[Any], ArrayLike]
Rate = float | Callable[[int], float]


class DivergenceError(ArithmeticError):
    """A step would have left the finite numbers."""

    step: int  #: the step that failed, counted from 0, as a schedule counts
    trajectory: Array  #: the step + 1 points before it, all finite, which can still be plotted


def _walk(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int,
          update: Callable[..., Any], weight_decay: float, eps: float = 1, betas: Any = (0, 0),
          **fractions: float) -> Array:  # fmt: skip
    """Repeat (theta, *memory) = update(theta, g, rate, step, *memory) and keep every theta."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers, not {betas!r}")
    for name, x in {"betas[0]": betas[0], "betas[1]": betas[1], **fractions}.items():
        real(name, x, 0, 1, open_high=True)
    real("weight_decay", weight_decay, 0)
    real("eps", eps, 0)
    if not callable(learning_rate):
        real("learning_rate", learning_rate, 0, open_low=True)
    function("gradient", gradient)
    steps = whole("steps", steps, 0)
    trajectory, memory = np.array([finite_array("start", start)] * (steps + 1)), list[Any]()
    for step in range(steps):
        theta = trajectory[step]
        rate = learning_rate(step) if callable(learning_rate) else learning_rate
        rate = real(f"learning_rate({step})", rate, 0)
        with np.errstate(all="ignore"):
            g = gradient(theta.copy())  # from the second on it may overflow, a divergence
            g = np.array(g, float) if step else finite_array("gradient at start", g)
            if g.shape != theta.shape:
                raise ValueError(f"gradient must return start's shape {theta.shape}, not {g.shape}")
            trajectory[step + 1], *memory = update(theta, g, rate, step, *memory)
        # What is remembered counts too: v = inf would freeze Adam in silence.
        if not all(np.isfinite(x).all() for x in (g, trajectory[step + 1], *memory)):
            error = DivergenceError(
                f"the {'update' if np.isfinite(g).all() else 'gradient'} of step {step} is not "
                f"finite. The largest parameter was {np.max(np.abs(theta)):.3g}, the learning rate "
                f"{rate:.3g}. Try a smaller learning rate{'' if eps else ', or an eps above 0'}."
            )
            error.step, error.trajectory = step, trajectory[: step + 1].copy()
            raise error
    return trajectory


# fmt: off
def gradient_descent(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int, *,
                     weight_decay: float = 0) -> Array:
    r"""Step against the gradient.

    .. math:: g_t = \nabla f(\theta_t) + \lambda \theta_t, \; \theta_{t+1} = \theta_t - \eta_t\,g_t

    Parameters
    ----------
    gradient : callable
        Takes parameters of the shape of `start`; returns the gradient ∇f there, of that shape.
    start : array_like
        The first parameters, of any shape, or one number. It is not changed.
    learning_rate : float or callable
        The rate η, above 0; or a schedule: a function of the step 0, 1, ..., which may return 0.
    steps : int
        How many steps to take.
    weight_decay : float, default 0
        The coefficient λ of a penalty λ|θ|²/2, whose gradient is added.

    Returns
    -------
    ndarray of shape (steps + 1, \*start.shape)
        Every point visited, `start` first.

    Raises
    ------
    DivergenceError, ValueError, TypeError
        When a gradient or a step's outcome is not finite; when an argument is not as described.
    """
    def update(theta: Array, g: Array, rate: float, step: int) -> Any:
        g = g + weight_decay * theta
        return (theta - rate * g,)
    return _walk(gradient, start, learning_rate, steps, update, weight_decay)


def momentum(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int, *,
             beta: float = 0.9, weight_decay: float = 0) -> Array:
    r"""Let a velocity v gather the gradients: the heavy ball.

    .. math:: v_0 = g_0, \quad v_t = \beta\,v_{t-1} + g_t, \qquad
        \theta_{t+1} = \theta_t - \eta_t\,v_t

    β is `beta`, in [0, 1); all else is as for `gradient_descent`, g too. Source: Polyak 1964.
    """
    def update(theta: Array, g: Array, rate: float, step: int, v: Any = 0.0) -> Any:
        g = g + weight_decay * theta
        v = beta * v + g
        return theta - rate * v, v
    return _walk(gradient, start, learning_rate, steps, update, weight_decay, beta=beta)


def nesterov(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int, *,
             beta: float = 0.9, weight_decay: float = 0) -> Array:
    r"""Let the velocity carry the parameters ahead before the gradient is taken.

    .. math:: v_t = \beta\,v_{t-1} + g_t, \quad \theta_{t+1} = \theta_t - \eta_t\,(g_t + \beta\,v_t)

    β, in [0, 1), is `beta`; v starts at 0; all else is as for `gradient_descent`. As in PyTorch,
    the points are those looked ahead to. Sources: Nesterov 1983; Sutskever et al. 2013.
    """
    def update(theta: Array, g: Array, rate: float, step: int, v: Any = 0.0) -> Any:
        g = g + weight_decay * theta
        v = beta * v + g
        return theta - rate * (g + beta * v), v
    return _walk(gradient, start, learning_rate, steps, update, weight_decay, beta=beta)


def rmsprop(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int, *,
            alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0) -> Array:
    r"""Divide the gradient by the root of a running mean of its square.

    .. math:: v_t = \alpha\,v_{t-1} + (1-\alpha) g_t^2, \quad
        \theta_{t+1} = \theta_t - \eta_t\,\frac{g_t}{\sqrt{v_t} + \varepsilon}

    α is `alpha`, in [0, 1), ε is `eps`, at least 0; all else is as for `gradient_descent`. As v
    starts at 0, the first step is 1/√(1 - α) = 10 rates long. Source: Tieleman and Hinton 2012,
    lecture 6.5e.

    >>> rmsprop(lambda x: 1000 * x, start=1.0, learning_rate=0.01, steps=1).round(3)
    array([1. , 0.9])
    """
    def update(theta: Array, g: Array, rate: float, step: int, v: Any = 0.0) -> Any:
        g = g + weight_decay * theta
        v = alpha * v + (1 - alpha) * g**2
        return theta - rate * g / (np.sqrt(v) + eps), v
    return _walk(gradient, start, learning_rate, steps, update, weight_decay, eps, alpha=alpha)


def _adam_direction(g: Array, step: int, betas: tuple[float, float], eps: float,
                    m: Any = 0.0, v: Any = 0.0) -> Any:
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    m_hat, v_hat = m / (1 - betas[0] ** (step + 1)), v / (1 - betas[1] ** (step + 1))
    return m_hat / (np.sqrt(v_hat) + eps), m, v


def adam(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int, *,
         betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
         weight_decay: float = 0) -> Array:
    r"""Divide a running mean of the gradient by the root of one of its square, both corrected.

    .. math:: m_t = \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t, \quad
        v_t = \beta_2\,v_{t-1} + (1 - \beta_2)\,g_t^2, \quad \theta_{t+1} = \theta_t - \eta_t\,
        \frac{m_t / (1 - \beta_1^{t+1})}{\sqrt{v_t / (1 - \beta_2^{t+1})} + \varepsilon}

    `betas` are β₁ and β₂, in [0, 1), `eps` is ε, at least 0; all else is as for `gradient_descent`.
    However large the gradient is, the first step is one rate long. Source: Kingma and Ba 2015.
    """
    def update(theta: Array, g: Array, rate: float, step: int, *memory: Any) -> Any:
        g = g + weight_decay * theta
        direction, *rest = _adam_direction(g, step, betas, eps, *memory)
        return theta - rate * direction, *rest
    return _walk(gradient, start, learning_rate, steps, update, weight_decay, eps, betas)


def adamw(gradient: Gradient, start: ArrayLike, learning_rate: Rate, steps: int, *,
          betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
          weight_decay: float = 1e-2) -> Array:
    r"""Take Adam's step u, and let the weights decay by themselves, not through the gradient.

    .. math:: \theta_{t+1} = (1 - \eta_t\,\lambda)\,\theta_t - \eta_t\,u_t

    All else is as for `adam`. Source: Loshchilov and Hutter 2019.
    """
    def update(theta: Array, g: Array, rate: float, step: int, *memory: Any) -> Any:
        direction, *rest = _adam_direction(g, step, betas, eps, *memory)
        return (1 - rate * weight_decay) * theta - rate * direction, *rest
    return _walk(gradient, start, learning_rate, steps, update, weight_decay, eps, betas)
# fmt: on


def _arrays(gradients: Any) -> tuple[list[Array], Callable[[list[Any]], Any]]:
    """Return the arrays as a list, and what brings a list of results into the form given."""
    for form in (list, tuple):
        if isinstance(gradients, form):
            arrays = [finite_array(f"gradients[{i}]", g) for i, g in enumerate(gradients)]
            return arrays, form
    return [finite_array("gradients", gradients)], lambda results: results[0]


def clip_by_norm(gradients: ArrayLike | Sequence[ArrayLike], max_norm: float) -> Any:
    r"""Shorten the gradients, all by one factor, where their joint norm is above `max_norm`.

    .. math:: g_i \leftarrow g_i \min\Big(1, \frac{c}{|g| + 10^{-6}}\Big), \; |g|^2 = \sum_i |g_i|^2

    `gradients` is an array or a list or tuple of arrays, all finite; new ones come back in that
    form. c is `max_norm`, above 0; the 10⁻⁶ is PyTorch's. Source: Pascanu, Mikolov and Bengio 2013.

    >>> clip_by_norm(np.array([30.0, 40.0]), max_norm=5.0)
    array([2.99999994, 3.99999992])
    """
    max_norm = real("max_norm", max_norm, 0, open_low=True)
    arrays, form = _arrays(gradients)
    norm = math.hypot(*(x for g in arrays for x in g.ravel().tolist()))  # no square overflows
    real("the norm of gradients", norm)
    return form([g * min(1, max_norm / (norm + 1e-6)) for g in arrays])


def clip_by_value(gradients: ArrayLike | Sequence[ArrayLike], limit: float) -> Any:
    """Move each component into [-limit, limit], which can turn the gradient.

    `limit` is above 0; all else is as for `clip_by_norm`.
    """
    limit = real("limit", limit, 0, open_low=True)
    arrays, form = _arrays(gradients)
    return form([np.clip(g, -limit, limit) for g in arrays])


def warmup_cosine(peak: float, steps: int, warmup: int = 0) -> Callable[[int], float]:
    r"""Return a schedule: a line up to the peak, then half a cosine down to 0.

    .. math:: \eta_t = \eta\,\frac{t + 1}{w} \;\text{for}\; t < w, \qquad
        \eta_t = \frac{\eta}{2} \Big(1 + \cos \pi\,\frac{t - w}{n - w}\Big) \;\text{after}

    `peak` is η, above 0; `steps` is n, of which the first w, `warmup`, are the line's. From step n
    on the rate is 0. Sources: Goyal et al. 2017; Loshchilov and Hutter 2017.

    >>> [round(warmup_cosine(1.0, steps=6, warmup=2)(t), 3) for t in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    peak = real("peak", peak, 0, open_low=True)
    steps, warmup = whole("steps", steps, 0), whole("warmup", warmup, 0)
    if warmup > steps:
        raise ValueError(f"warmup must be at most steps, {steps}, not {warmup}")

    def rate(step: int) -> float:
        step = whole("step", step, 0)
        if step < warmup:
            return peak * (step + 1) / warmup
        gone = (step - warmup) / (steps - warmup) if step < steps else 1.0
        return peak * (1 + math.cos(math.pi * gone)) / 2

    return rate
