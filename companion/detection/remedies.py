"""What to try against each cause, in order, and where the book explains it."""

from __future__ import annotations

__all__ = ["REMEDIES"]

REMEDIES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "nan": (
        (
            "go back to the last state without NaN: nothing repairs these weights",
            "look for NaN in the inputs, and for log(0), 0/0 or the root of 0 in the loss",
            "train with a lower rate and clip the gradient's norm",
        ),
        "vanishing_gradients",
        "Too large",
    ),
    "offset inputs": (
        (
            "subtract the training set's mean from the inputs (and from all later ones)",
            "or put a batch norm before the activation, or lower the rate: an offset kills by "
            "large steps",
            "then reset the dead units, or start again: a first layer does not come back by itself",
        ),
        "dead_relu",
        "How long is a deadly step?",
    ),
    "biases that outweigh the signal": (
        (
            "draw the weights by He's rule and start the biases at zero, before training",
            "or put a batch norm before each activation",
            "or add residual connections",
            "or less weight decay, if the weights are far smaller than by He's rule",
        ),
        "initialization",
        "Ten layers, half of them dead",
    ),
    "the norm's shift": (
        (
            "set the norm's shift (beta, its bias) of the dead units to zero and its scale to one: "
            "new weights before it change nothing",
            "keep the norm's parameters out of penalties and under a lower rate",
        ),
        "batch_norm",
        "Can a unit still die?",
    ),
    "negative biases": (
        (
            "start the biases at zero, or raise those of the dead units until they fire",
            "leave biases out of what pushes them down: high rates, penalties on activity",
            "reset the dead units",
        ),
        "dead_relu",
        "Before the first step",
    ),
    "too large steps": (
        (
            "start again with a lower rate, or with a warm-up: lowering it now prevents, and "
            "seldom heals",
            "reset the dead units once the rate is lower",
            "or put a batch norm before the activation, or take a leaky activation",
        ),
        "revival",
        "Too late",
    ),
    "weights against the mean": (
        (
            "if the net was trained: start again with a lower rate, or with a warm-up",
            "if it was not: the draw is to blame; reset the dead units",
            "or put a batch norm before the activation, or take a leaky activation",
        ),
        "revival",
        "Too late",
    ),
    "offset from the layer before": (
        (
            "mend the earlier layers first: this one receives their offset",
            "or put a batch norm or layer norm before the activation",
            "then reset the units that are still dead",
        ),
        "dead_relu",
        "Which layer dies, and when?",
    ),
    "no signal": (
        (
            "mend the layer before: what arrives here is the same for every sample",
        ),
        "dead_relu",
        "In practice",
    ),
    "unknown": (
        (
            "give diagnose the model, and a batch of its inputs, if it had not both",
            "look at the inputs' mean, the biases and the learning rate, in this order",
            "reset the dead units once the cause is gone",
        ),
        "dead_relu",
        "In practice",
    ),
    "saturated": (
        (
            "center the inputs and divide them by their standard deviation",
            "start from smaller weights, by Xavier's rule, and lower the rate",
            "or put a batch norm before the activation, or take one that does not level off",
        ),
        "detection",
        "Smooth activations saturate",
    ),
    "flat side": (
        (
            "look at inputs, biases and rate as for dead units: the slope hides the same causes",
            "or put a batch norm before the activation",
        ),
        "detection",
        "Smooth activations saturate",
    ),
    "always on": (
        (
            "look whether biases or the mean of the inputs outweigh what differs between samples",
            "draw the weights by He's rule, start the biases at zero, center the inputs",
            "or put a batch norm before the activation",
        ),
        "initialization",
        "Ten layers, half of them dead",
    ),
    "too few samples": (
        ("repeat the census on more samples: the training set, if it is affordable",),
        "detection",
        "From a batch to a data set",
    ),
}  # fmt: skip
"""By cause: what to try, in order; page and section that explain it."""
