"""Find out what helps; bring dead units back, or take them out: trials, resets, pruning.

>>> import numpy as np, torch
>>> from companion.detection import census
>>> x = torch.randn(100, 4)
>>> net = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU(), torch.nn.Linear(9, 2))
>>> _ = torch.nn.init.constant_(net[0].bias[:5], -50.0)  # five units die
>>> before = net(x)
>>> smaller = prune(net, census(net, x))  # the same function by the other four
>>> smaller[0].weight.shape, bool((smaller(x) - before).abs().max() < 1e-6)
(torch.Size([4, 4]), True)
>>> revival = revive(net, census(net, x), rng=np.random.default_rng(0))  # or with five new ones
>>> revival.n_units, bool((net(x) == before).all())
(5, True)

Which of these helps a net, or a lower rate, or centred inputs, `trial` finds out on copies of it.

Which layer makes a unit and which ones read it is found by `unit_groups`. What cannot be touched
safely is refused by name, and nothing is changed then.

Where to find what: `graph` looks at a model, `groups` tries what that has found; `choice` selects
units, and knows the constants that they put out; `resets` and `pruning` do the work, by way of
`edits` and `optimizer_state`; `schedule` does it while a net trains. `remedies` holds the others;
`trial` compares them all, and `candidates` lists what it compares. `probing` runs copies.

Taught in the chapter `revival`.
"""

from __future__ import annotations

from companion.revival.groups import Reader, UnitGroup, UnitGroups, unit_groups
from companion.revival.pruning import prune
from companion.revival.remedies import (
    Centre,
    Remedy,
    centre_inputs,
    redraw,
    shift_bias,
    swap_activation,
)
from companion.revival.resets import Revival, Touched, revive
from companion.revival.schedule import Reviver, revive_every
from companion.revival.trial import Outcome, Trial, trial

__all__ = [
    "Centre", "Outcome", "Reader", "Remedy", "Revival", "Reviver", "Touched", "Trial", "UnitGroup",
    "UnitGroups", "centre_inputs", "prune", "redraw", "revive", "revive_every", "shift_bias",
    "swap_activation", "trial", "unit_groups",
]  # fmt: skip
