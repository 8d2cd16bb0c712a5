"""What `watch` adds to a training step, beside what else is done to see units die: `make bench`.

All ways run in turn on the same net and batch, ten steps each, in an order shuffled for every
round, with one thread; a number is the median over the rounds of the ratio to the bare steps of the
same round, of the process's CPU time and of wall time. "bare, again" shows the noise. What is
marked * is typed anew from the sources named, as little of it as is needed: no package is run but
torchlens, and that only where it is installed (it is no dependency of the book). Where torchvision
and transformers are (the extra ``zoo``), `watch` is also run on nets of theirs.

``python benchmarks/watch.py 40`` runs 40 rounds; the default is 20.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from companion.detection import watch

STEPS = 10
Way = Callable[[nn.Module, Tensor], AbstractContextManager[Any]]


def perceptron() -> nn.Module:
    """Six hidden layers of 512 units."""
    layers = [nn.Linear(*fans) for fans in pairwise([784] + [512] * 6)]
    hidden = [part for layer in layers for part in (layer, nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(512, 10))


def convolutional() -> nn.Module:
    """Three convolutions and two linear layers."""
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise([1, 32, 64, 64]):
        parts += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(576, 128), nn.ReLU(), nn.Linear(128, 10))


@contextmanager
def hooked(see: Callable[..., Any], model: nn.Module, kind: type | tuple = nn.ReLU) -> Iterator:
    """Call `see(module, inputs, output)` after each call of the activations."""
    handles = [m.register_forward_hook(see) for m in model.modules() if isinstance(m, kind)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def before_each_pass(model: nn.Module, check: Callable[[], Any]) -> Iterator[None]:
    """Call `check` before each forward pass, but not before those that it makes itself."""
    busy = False

    def see(*_: Any) -> None:
        nonlocal busy
        if not busy:
            busy = True
            check()
            busy = False

    handle = model.register_forward_pre_hook(see)
    try:
        yield
    finally:
        handle.remove()


def textbook(model: nn.Module, x: Tensor) -> AbstractContextManager[Any]:
    """Keep for each unit whether it was zero on all samples so far: the loop of Lippe 2022."""
    dead: dict[nn.Module, Tensor] = {}

    def see(module: nn.Module, _: Any, h: Tensor) -> None:
        h = h.detach().transpose(1, -1).flatten(0, -2)
        silent = (h == 0).all(dim=0)
        dead[module] = dead[module] & silent if module in dead else silent

    return hooked(see, model)


def copies(model: nn.Module, x: Tensor) -> AbstractContextManager[Any]:
    """Keep every output as a NumPy array, here for ten steps, to look at them afterwards."""
    kept: list[Any] = []
    return hooked(lambda module, _, h: kept.append(h.detach().numpy().copy()), model)


def statistics_of_layers(model: nn.Module, x: Tensor) -> AbstractContextManager[Any]:
    """Mean, deviation and share near zero of a layer's outputs: fastai's ActivationStats."""
    kept: list[tuple[float, ...]] = []

    def see(module: nn.Module, _: Any, h: Tensor) -> None:
        h = h.detach()
        near = (h <= 0.05).long().sum().item() / h.numel()
        kept.append((h.mean().item(), h.std().item(), near))

    return hooked(see, model, (nn.Linear, nn.Conv2d))


@contextmanager
def dormancy(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Score the units on 64 samples before each step, in a pass of its own: ReDo's check."""
    masks: list[Tensor] = []

    def see(module: nn.Module, _: Any, h: Tensor) -> None:
        size = h.abs().mean(dim=[i for i in range(h.ndim) if i != 1])
        masks.append(size / (size.mean() + 1e-9) <= 0.025)

    def check() -> None:
        masks.clear()
        with torch.no_grad(), hooked(see, model):
            model(x[:64])

    with before_each_pass(model, check):
        yield


@contextmanager
def traced(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Let torchlens trace a forward pass of its own before each step."""
    lens = importlib.import_module("torchlens")
    with before_each_pass(model, partial(lens.trace, model, x)):
        yield


def resnet() -> tuple[nn.Module, Tensor]:
    """ResNet-18 on images of 64 x 64 pixels."""
    models = importlib.import_module("torchvision.models")
    return models.resnet18(num_classes=10), torch.randn(8, 3, 64, 64)


class Bert(nn.Module):
    """A BERT of two layers, whose activations are called as functions."""

    def __init__(self) -> None:
        super().__init__()
        library = importlib.import_module("transformers")
        config = library.BertConfig(
            vocab_size=1000, hidden_size=256, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=1024, num_labels=10,
        )  # fmt: skip
        self.bert = library.BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.bert(input_ids=tokens).logits
        return logits


def bert() -> tuple[nn.Module, Tensor]:
    """It, on 8 sequences of 64 tokens."""
    return Bert(), torch.randint(1000, (8, 64))


WAYS: dict[str, Way] = {
    "bare": lambda model, x: nullcontext(),
    "bare, again": lambda model, x: nullcontext(),
    "watch(every=10)": lambda model, x: watch(model, every=10),
    "watch(every=1)": lambda model, x: watch(model),
    "watch(every=1, samples=32)": lambda model, x: watch(model, samples=32),
    "the textbook's loop, each step *": textbook,
    "NumPy copies of all outputs *": copies,
    "fastai's ActivationStats *": statistics_of_layers,
    "ReDo's check on 64 samples *": dormancy,
    "torchlens.trace": traced,
}


OURS = {name: way for name, way in WAYS.items() if "bare" in name or name.startswith("watch")}


def measure(
    model: nn.Module, x: Tensor, rounds: int, ways: dict[str, Way]
) -> dict[str, tuple[float, ...]]:
    """By way: milliseconds of CPU per step, and ratios to bare of CPU time and of wall time."""
    y = torch.randint(10, (len(x),))
    optimizer = torch.optim.Adam(model.parameters())

    def train() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

    if importlib.util.find_spec("torchlens") is None:
        ways = {name: way for name, way in ways.items() if name != "torchlens.trace"}
    train()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample([*ways], len(ways)):
            with ways[name](model, x):
                cpu, wall = time.process_time(), time.perf_counter()
                train()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((cpu, wall))
    rows = {}
    for name, taken in times.items():
        pairs = list(zip(taken, times["bare"], strict=True))
        ratios = [statistics.median(a[k] / b[k] for a, b in pairs) for k in (0, 1)]
        rows[name] = (1e3 * statistics.median(cpu for cpu, _ in taken) / STEPS, *ratios)
    return rows


def memory(steps: int) -> int:
    """Bytes of the tensors that `watch` keeps after so many steps of the perceptron."""
    model, x = perceptron(), torch.randn(2, 784)

    def held() -> int:
        gc.collect()
        found = {t.data_ptr(): t.nbytes for t in gc.get_objects() if issubclass(type(t), Tensor)}
        return sum(found.values())

    with torch.no_grad():
        model(x)
        before = held()
        with watch(model) as watched:
            for _ in range(steps):
                model(x)
            after = held()
        watched.report()
    return after - before


def main() -> None:
    """Print the tables."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    print(f"training steps with Adam, one thread; medians of {rounds} rounds of {STEPS} steps")
    for title, make, ways in (
        (
            "perceptron 784-6x512-10, batch of 256",
            lambda: (perceptron(), torch.randn(256, 784)),
            WAYS,
        ),
        (
            "3 convolutions, batch of 128",
            lambda: (convolutional(), torch.randn(128, 1, 28, 28)),
            WAYS,
        ),
        ("ResNet-18, batch of 8", resnet, OURS),
        ("BERT of 2 layers, batch of 8 x 64", bert, OURS),
    ):
        try:
            model, x = make()
        except ImportError as error:
            print(f"\n{title:38} not run: {error}")
            continue
        print(f"\n{title:38} ms of CPU   x bare: CPU    wall")
        rows = measure(model, x, rounds, ways)
        for name, (milliseconds, cpu, wall) in rows.items():
            print(f"{name:38} {milliseconds:9.1f}   {cpu:11.3f}   {wall:5.3f}", flush=True)
    print("\nbytes that watch keeps of a perceptron of 3072 hidden units")
    for steps in (10, 10_000):
        print(f"after {steps:6} steps: {memory(steps):9}")


if __name__ == "__main__":
    main()
