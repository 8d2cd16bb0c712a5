"""Many replicas of one model, trained side by side along a first axis.

`torch.func` stacks their parameters and maps the model over them; the optimizers of PyTorch work
elementwise and see nothing of it. `companion.experiments.train` is the way in.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, mse_loss

from companion.devices import device
from companion.experiments.datasets import Data
from companion.experiments.layers import Dropout, Elementwise

__all__ = ["Ensemble", "State", "batches_of", "few_threads"]

State = dict[str, np.ndarray]


class Ensemble:
    """All replicas: each parameter is a leaf per learning rate, the seeds on its first axis."""

    def __init__(
        self,
        nets: list[nn.Module],
        data: Data,
        make: Callable[..., torch.optim.Optimizer],
        n_rates: int,
        weight_decay: float,
        clip_norm: float | None,
        *,
        l1: float = 0.0,
        penalized: str | None = None,
        frozen: Sequence[str] = (),
        generators: Sequence[np.random.Generator] = (),
    ) -> None:
        where = device()
        dtype = torch.float32 if where.type == "mps" else torch.float64  # it knows no other
        tensors = [torch.from_numpy(np.asarray(array)) for array in data]
        self.x_train, self.y_train, self.x_test, self.y_test = (
            tensor.to(where, dtype if tensor.is_floating_point() else None) for tensor in tensors
        )
        self.clip_norm, self.n_rates, self.n_seeds = clip_norm, n_rates, len(nets)
        self.labels = not self.y_train.is_floating_point()
        self.net = copy.deepcopy(nets[0]).to(where, dtype)
        parameters, buffers = stack_module_state([net.to(where, dtype) for net in nets])
        self.names, self.l1, self.penalized = list(parameters), l1, penalized
        trained = self.trained(frozen)
        self.leaves = [
            [
                p.detach().clone().requires_grad_(train)
                for p, train in zip(parameters.values(), trained, strict=True)
            ]
            for _ in range(n_rates)
        ]
        self.buffers = {name: torch.cat([b] * n_rates) for name, b in buffers.items()}
        self.dropouts = [
            (f"{name}.mask", m) for name, m in self.net.named_modules() if isinstance(m, Dropout)
        ]
        self.generators = [rng.spawn(1)[0] for rng in generators] if self.dropouts else []
        self.optimizers = [
            make(self.groups(leaves, weight_decay), lr=1.0, weight_decay=weight_decay)
            for leaves in self.leaves
        ]
        self.largest = torch.full((n_rates, len(nets)), math.nan, device=where)
        self.forward = vmap(
            lambda p, b, x: functional_call(self.net, (p, b), (x,)), randomness="different"
        )

    def trained(self, frozen: Sequence[str]) -> list[bool]:
        """Tell for each parameter whether it is trained."""
        matches = [[f".{name}".endswith(f".{end}") for name in self.names] for end in frozen]
        for end, found in zip(frozen, matches, strict=True):
            if not any(found):
                raise ValueError(f"frozen must name parameters among {self.names}, not {end!r}")
        trained = [not any(found[i] for found in matches) for i in range(len(self.names))]
        if not any(trained):
            raise ValueError(f"frozen must leave a parameter to train, not be {frozen!r}")
        return trained

    def groups(self, leaves: list[Tensor], weight_decay: float) -> list[dict[str, Any]]:
        """Split what is trained into the parameters that decay and those that do not."""
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        if self.penalized != "weights":
            return [{"params": trained}]
        split = [leaf for leaf in trained if leaf.ndim > 2], [p for p in trained if p.ndim <= 2]
        decays = weight_decay, 0.0
        return [
            {"params": group, "weight_decay": decay}
            for group, decay in zip(split, decays, strict=True)
            if group
        ]

    def parameters(self) -> dict[str, Tensor]:
        """Each parameter of all replicas, of shape (n_rates * n_seeds, ...)."""
        stacked = zip(*self.leaves, strict=True)
        return {
            name: torch.cat(leaf) if self.n_rates > 1 else leaf[0]
            for name, leaf in zip(self.names, stacked, strict=True)
        }

    def state(self) -> State:
        """Each parameter as an array of shape (n_rates, n_seeds, ...)."""
        shape = self.n_rates, self.n_seeds
        parameters = self.parameters().items()
        return {
            name: p.detach().cpu().numpy().copy().reshape(*shape, *p.shape[1:])
            for name, p in parameters
        }

    def load(self, state: State) -> None:
        """Set the parameters of every rate to those of a state, of shape (n_seeds, ...)."""
        shapes = {
            name: tuple(leaf.shape) for name, leaf in zip(self.names, self.leaves[0], strict=True)
        }
        given = {name: np.shape(p) for name, p in state.items()}
        if given != shapes:
            raise ValueError(f"start must hold parameters of shapes {shapes}, not {given}")
        with torch.no_grad():
            for leaves in self.leaves:
                for name, leaf in zip(self.names, leaves, strict=True):
                    leaf.copy_(torch.from_numpy(state[name]))

    def step(self, batch: np.ndarray, rates: list[float]) -> None:
        """One step of every replica; `batch` holds the examples of each seed."""
        indices = torch.from_numpy(np.tile(batch, (self.n_rates, 1))).to(self.x_train.device)
        parameters, buffers = self.parameters(), self.buffers | self.masks(batch.shape[1])
        outputs = self.forward(parameters, buffers, self.x_train[indices])
        targets = self.y_train[indices]
        loss = self.loss(outputs.flatten(0, 1), targets.flatten(0, 1), reduction="sum")
        loss = loss / batch.shape[1]
        if self.l1:
            trained = [p for p in parameters.values() if p.requires_grad]
            priced = [p for p in trained if p.ndim > 2 or self.penalized == "all"]
            loss = loss + self.l1 * sum(p.abs().sum() for p in priced)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for number, (optimizer, leaves) in enumerate(
            zip(self.optimizers, self.leaves, strict=True)
        ):
            self.clip(number, [leaf.grad for leaf in leaves if leaf.grad is not None])
            for group in optimizer.param_groups:
                group["lr"] = rates[number]
            optimizer.step()

    def masks(self, n: int) -> dict[str, Tensor]:
        """Draw the masks of all dropout layers for a batch of n; every rate has the same."""
        drawn = [[module.fresh(n, rng) for _, module in self.dropouts] for rng in self.generators]
        return {
            name: torch.from_numpy(np.stack(masks))
            .repeat(self.n_rates, 1, 1)
            .to(self.buffers[name])
            for (name, _), masks in zip(self.dropouts, zip(*drawn, strict=True), strict=True)
        }

    def clip(self, number: int, gradients: list[Tensor]) -> None:
        """Note the norm of each replica's gradient, and cut those that are too long."""
        norms = torch.linalg.vector_norm(torch.cat([g.flatten(1) for g in gradients], 1), dim=1)
        self.largest[number] = torch.fmax(self.largest[number], norms)
        if self.clip_norm is not None:
            factors = (self.clip_norm / (norms + 1e-6)).clamp(max=1)
            for gradient in gradients:
                gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    def loss(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        """Cross-entropy for labels; for real targets, squared error, averaged over the outputs."""
        if self.labels:
            return cross_entropy(outputs, targets, reduction=reduction)
        error = mse_loss(outputs, targets.reshape(outputs.shape), reduction=reduction)
        return error / outputs.shape[-1] if reduction == "sum" else error

    @torch.no_grad()
    def look(self) -> tuple[np.ndarray, ...]:
        """Accuracy, loss, largest gradient, overflow, living units; one by one fits a cache."""
        net = self.copy_of_net()
        noted: list[np.ndarray] = []
        for module in net.modules():
            if isinstance(module, Elementwise):
                module.register_forward_pre_hook(partial(_note_living, noted))
        parameters = self.parameters()
        seen, alive = [], []
        for replica in range(self.n_rates * self.n_seeds):
            noted.clear()
            state = self.replica(parameters, replica)
            seen.append(self.look_at(partial(functional_call, net, state), net, state))
            alive.append(np.concatenate(noted) if noted else np.zeros(0, dtype=bool))
        self.layers = tuple(map(len, noted))
        shape = self.n_rates, self.n_seeds
        largest = self.largest.cpu().numpy().copy()
        self.largest.fill_(math.nan)
        accuracy, loss, finite = (column.reshape(shape) for column in np.array(seen).T)
        lost = finite == 0
        return accuracy, loss, largest, lost, np.array(alive).reshape(*shape, -1)

    def copy_of_net(self) -> nn.Module:
        """Copy the model; what its batch norms keep of the next batch is that batch's alone."""
        net = copy.deepcopy(self.net)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0  # what it keeps is then the whole training set's
        return net

    def replica(self, parameters: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Parameters and buffers of one replica; the buffers are copies."""
        state = {name: p[number] for name, p in parameters.items()}
        return state | {name: b[number].clone() for name, b in self.buffers.items()}

    @torch.no_grad()
    def net_of(self, number: int) -> nn.Module:
        """Copy one replica, in evaluation mode, with the training set's mean and variance."""
        net = self.copy_of_net()
        net.load_state_dict(self.replica(self.parameters(), number))
        pairs = zip(net.modules(), self.net.modules(), strict=True)
        norms = [pair for pair in pairs if isinstance(pair[0], nn.BatchNorm1d | nn.BatchNorm2d)]
        if norms:
            net.train()
            net(self.x_train)
        for norm, kept in norms:
            norm.momentum = kept.momentum
        return net.eval()

    def look_at(
        self, call: Callable[[Tensor], Tensor], net: nn.Module, state: dict[str, Tensor]
    ) -> tuple[float, float, bool]:
        """Test accuracy and training loss of one replica, and whether all of it is finite."""
        net.train()
        trained = call(self.x_train)
        loss = self.loss(trained, self.y_train, reduction="mean")
        net.eval()
        tested = call(self.x_test)
        known = (*(state[name] for name in self.names), trained, tested, loss)
        finite = all(bool(tensor.isfinite().all()) for tensor in known)
        if not self.labels:
            return math.nan, loss.item(), finite
        correct = tested.argmax(-1) == self.y_test
        return correct.double().mean().item(), loss.item(), finite


def _note_living(alive: list[np.ndarray], module: Elementwise, inputs: tuple[Tensor]) -> None:
    """Note which units of a layer have a slope on some training example; channels, anywhere."""
    if not module.training:
        return
    units = 1 if inputs[0].ndim > 3 else -1  # images have channels, sequences have features
    z = inputs[0].movedim(units, -1).flatten(0, -2).cpu().numpy()
    living = np.zeros(z.shape[1], dtype=bool)
    for rows in (z[:64], z[64:]):  # most show it on the first few
        slope = module.derivative(rows[:, ~living])
        living[~living] = ((slope != 0) & np.isfinite(slope)).any(axis=0)
    alive.append(living)


@contextmanager
def few_threads() -> Iterator[None]:
    """Keep PyTorch to the threads that ``OMP_NUM_THREADS`` names, or else to one, and fast.

    Two are faster on two idle cores, but where another program holds one of them, they wait for
    each other at every product: measured, 88 ms for a step instead of 3 ms. Denormal numbers, which
    dying nets produce and which are slow, count as zero meanwhile.
    """
    before, told = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    flushed = bool(torch.tensor([5e-324], dtype=torch.float64).mul(1.0) == 0)
    torch.set_num_threads(max(1, int(told)) if told.isdecimal() else 1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)


def batches_of(
    generators: list[np.random.Generator], n: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Yield indices of shape (n_seeds, batch_size): shuffled anew for each pass over the data."""
    while True:
        order = np.stack([rng.permutation(n) for rng in generators])
        for start in range(0, n - batch_size + 1, batch_size):
            yield order[:, start : start + batch_size]
