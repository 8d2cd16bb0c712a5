"""Which remedy helps this net: short trainings of copies, from one state, on the same batches."""

from __future__ import annotations

import copy
import html
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.checks import choice, names, whole
from companion.detection import census
from companion.detection.session import bare
from companion.revival.candidates import AS_IT_IS, REMEDIES, Loss, Run
from companion.untouched import taken, untouched

__all__ = ["Outcome", "Trial", "trial"]

ESCAPE, FALL, LOSS = 0.01, 0.1, 0.3
"""Shares of the first loss, of its fall, and of the last loss: to gain less is no success."""


@dataclass(frozen=True)
class Outcome:
    """What came out of the trainings under one remedy; losses and shares are one per seed.

    A remedy that is beaten with one seed is not trained with the next.
    """

    remedy: str
    losses: tuple[float, ...]  #: mean over the batches held out, at the end
    dead: tuple[float, ...]  #: share of the units that are dead on them, by `census`; NaN: unknown
    seconds: float  #: for all seeds
    how: str = ""  #: how to apply the remedy for good
    gains: tuple[float, ...] = ()  #: how much higher losses are with inputs of other samples

    @property
    def guesses(self) -> bool:
        """If with one of the seeds the net is no better than with the inputs of other samples."""
        return any(map(_is_guess, self.losses, self.gains))

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.losses))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN of one seed, or if a loss is no finite number."""
        if len(self.losses) < 2 or not math.isfinite(self.loss):
            return math.nan
        return float(np.std(self.losses, ddof=1))

    def __str__(self) -> str:
        if not math.isfinite(self.loss):
            return "not finite"
        return f"{self.loss:.3g}" + (f" ± {self.spread:.1g}" if len(self.losses) > 1 else "")


@dataclass(frozen=True)
class Trial:
    """What `trial` returns; it prints as a table whose first row is the remedy to take."""

    outcomes: tuple[Outcome, ...]  #: the remedy to take first, then by their loss
    not_tried: dict[str, str]  #: by remedy, the reason
    loss: float  #: at the start
    dead: float  #: share of the units that are dead at the start
    steps: int
    seeds: int
    n_held: int  #: batches held out of the training; 0 if there were too few, and all are measured
    guesses: bool = False  #: if the net, at the start, is no better than with others' inputs

    @property
    def best(self) -> str:
        """Name of the remedy to take; "as it is" if no other helps, "" if nothing was tried."""
        return self.outcomes[0].remedy if self.outcomes else ""

    @property
    def advice(self) -> str:
        """Say in a sentence which remedy to take, and by how much it won."""
        if not self.outcomes:
            return f"Nothing was tried: {next(iter(self.not_tried.values()))}."
        best = self.outcomes[0]
        base = next(found for found in self.outcomes if found.remedy == AS_IT_IS)
        if best is not base:
            text = f"Take {best.remedy!r}: a loss of {best} instead of {base}"
            by = np.subtract(base.losses, best.losses)
            if np.isfinite(by).all():
                text += (
                    f", lower by {by.min():.2g} to {by.max():.2g} with each of {self.seeds} seeds"
                )
            return f"{text}. How: {best.how}."
        if all(found.guesses for found in self.outcomes):
            return (
                f"Within {self.steps} steps the net comes to do better than a guess under no "
                "remedy: try more steps."
            )
        if math.isfinite(base.loss) and base.loss < self.loss:
            return f"No remedy beats the noise: go on with the net as it is, at a loss of {base}."
        return f"No remedy helps: none brings the loss well below {self.loss:.3g}, its start."

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("remedy", "loss", "dead", "seconds")]
        for found in self.outcomes:
            rows.append((found.remedy, str(found), _percent(found.dead), f"{found.seconds:.1f}"))
        return rows

    def _notes(self) -> list[str]:
        on = f"{self.n_held} batches held out" if self.n_held else "the batches trained on"
        notes = [
            f"{self.steps} steps, {self.seeds} seeds (±: their standard deviation; fewer where a "
            f"remedy was beaten), measured on {on}; at the start: loss {self.loss:.3g}, dead "
            f"{_percent([self.dead])}"
        ]
        guessing = ["at the start"] * self.guesses + [o.remedy for o in self.outcomes if o.guesses]
        if guessing:
            text = "only guesses, as its loss is as high with the inputs of other samples"
            notes.append(f"{text}: {'; '.join(guessing)}")
        for reason in dict.fromkeys(self.not_tried.values()):
            remedies = [name for name, why in self.not_tried.items() if why == reason]
            notes.append(f"not tried: {', '.join(remedies)} ({reason})")
        return notes

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self.advice, *(line.rstrip() for line in lines), *self._notes()])

    def _repr_html_(self) -> str:
        rows = [
            "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
            for tag, row in zip(["th"] + ["td"] * len(self.outcomes), self._rows(), strict=True)
        ]
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        advice, *notes = (f"<p>{html.escape(text)}</p>" for text in (self.advice, *self._notes()))
        return f"{advice}<table>{table}</table>{''.join(notes)}"

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain numbers, strings, lists and dicts."""
        return {"best": self.best, "advice": self.advice, **asdict(self)}


def _percent(shares: Iterable[float]) -> str:
    share = float(np.mean(list(shares)))
    return f"{100 * share:.0f} %" if math.isfinite(share) else "?"


def _is_guess(loss: float, gain: float) -> bool:
    """Tell if a loss would be the same, to 1 %, with inputs of other samples; NaN: unknown."""
    return gain < ESCAPE * abs(loss)


def _helps(found: Outcome, base: Outcome, start: float) -> bool:
    """Tell if a remedy beats the net as it is, by the rule that `trial` states."""
    if _beaten(found.losses, found.gains, base, start):
        return False
    if not math.isfinite(base.loss):
        return True
    start = start if math.isfinite(start) else math.inf
    worth = min(FALL * (start - base.loss), LOSS * abs(base.loss))
    return bool(np.subtract(base.losses, found.losses).mean() >= worth)


def _beaten(losses: Sequence[float], gains: Sequence[float], base: Outcome, start: float) -> bool:
    """Tell if a remedy fails with one of the seeds so far, so that the others need no training."""
    start = start if math.isfinite(start) else math.inf
    if not np.isfinite(losses).all() or (start - np.array(losses) < ESCAPE * abs(start)).any():
        return True
    if any(map(_is_guess, losses, gains)):
        return True
    if not math.isfinite(base.loss):
        return False
    return bool((np.array(losses) >= base.losses[: len(losses)]).any())


def trial(
    model: nn.Module,
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
    loss: Callable[[Any, Any], Tensor] | None,
    loader: Iterable[Any],
    *,
    steps: int = 150,
    seeds: int = 3,
    remedies: Sequence[str] | None = None,
    call: Loss | None = None,
    progress: bool | None = None,
) -> Trial:
    """Train copies of a model for a few steps under one remedy each, and measure what comes out.

    All start from the model's state, with a fresh optimizer, and see the same batches in the same
    order. The model itself is not trained; it and all random states are as before.

    Parameters
    ----------
    model : torch.nn.Module
        As it is now: before the training, or where it went wrong. It is trained in the modes that
        its modules are in, and in training mode if it is in evaluation mode.
    make_optimizer : callable
        Takes a copy's parameters and returns its optimizer, such as
        ``functools.partial(torch.optim.SGD, lr=0.1)``.
    loss : callable or None
        Of the model's output and the targets of a batch. None if `call` is given.
    loader : iterable
        Of batches, tuples of inputs and targets. The first `steps` are taken once, and kept in
        memory; if there are fewer, they come again. Of five or more each fifth is held out of the
        training: losses and dead units are measured on these.
    steps : int, default 150
        Of each training.
    seeds : int, default 3
        Trainings for each remedy, 2 at least. They differ in the order of the batches, and in what
        is drawn: dropout, new weights.
    remedies : sequence of str, optional
        Those to try, beside the net as it is; by default all: "a tenth of the rate", "warm-up",
        "gradient clipped", "inputs centred", "inputs standardized", "biases shifted", "dead units
        reset", "redrawn", "redrawn, a tenth of the rate", "unfrozen", "leaky ReLU", "GELU", "batch
        norm". Each costs `steps` steps of training with the first seed, and as many with each
        further one while it is not beaten.
    call : callable, optional
        ``call(model, batch)`` returns the loss, for batches or models of another kind. It must use
        the model that it is given.
    progress : bool, optional
        Show a bar; by default on a terminal, if it takes more than a second.

    Returns
    -------
    Trial
        A remedy that cannot be tried on this model is named in it, with the reason. Nothing is
        tried on batches that hold NaN or infinity.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by its name. What the net as it is raises while it is trained
        comes through.

    Notes
    -----
    The remedy to take is that with the lowest mean loss, of those that beat the net as it is. That
    a remedy does if with every seed its loss is finite, at least 1 % below the first one, better
    than a guess, and lower than that of the net as it is; and if the means differ by 30 % of the
    loss as it is, or by 10 % of what that has fallen, whichever is less: what gains less in a few
    steps is seldom worth a change, or is noise. (Where the net as it is ends at NaN, the first
    three conditions decide.)

    Better than a guess is a net whose loss rises by 1 % at least if it is given inputs of other
    samples of the batch: what its first layer with parameters puts out is exchanged between them,
    and the targets stay. (Where no such layer is called, or a batch is one sample, this is not
    asked.)

    A short training prefers what is quick: "a tenth of the rate" of a good rate loses. Taught in
    the chapter `detection`.

    Examples
    --------
    >>> from functools import partial
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(320, 8) + 20  # far from zero
    >>> y = (x[:, 0] > 20).long()
    >>> net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    >>> sgd = partial(torch.optim.SGD, lr=0.1)
    >>> batches = list(zip(x.split(32), y.split(32)))
    >>> some = ["a tenth of the rate", "inputs centred", "unfrozen"]
    >>> tried = trial(net, sgd, nn.functional.cross_entropy, batches, remedies=some)
    >>> tried.best, tried.not_tried["unfrozen"]
    ('inputs centred', 'no parameter is frozen')
    """
    net = bare(model)
    steps, seeds = whole("steps", steps), whole("seeds", seeds, 2)
    choice("progress", progress, (True, False, None))
    others = [name for name in REMEDIES if name != AS_IT_IS]
    chosen = (AS_IT_IS, *(others if remedies is None else names("remedies", remedies, others)))
    if call is not None and loss is not None:
        raise ValueError("loss must be None where call is given, which returns the loss")
    if not callable(make_optimizer):
        raise TypeError(f"make_optimizer must be callable, not {make_optimizer!r}")
    compute = _supervised(net, loss) if call is None else call
    if not callable(compute):
        raise TypeError(f"call must be callable, not {call!r}")

    def batch_loss(model: nn.Module, batch: Any) -> Tensor:
        return compute(model, copy.deepcopy(batch))  # which a model may change in place

    with untouched(net), _random_state(loader), torch.enable_grad():
        batches = _take(loader, steps)
        if reason := _not_finite(batches):
            return Trial((), dict.fromkeys(chosen, reason), math.nan, math.nan, steps, seeds, 0)
        held = batches[4::5] or batches
        trained = [batch for place, batch in enumerate(batches) if place % 5 != 4]
        _refuse(copy.deepcopy(net), batches[0], batch_loss)
        start = _measure(copy.deepcopy(net), held, batch_loss)
        found: dict[str, Outcome] = {}
        not_tried: dict[str, str] = {}
        for name in _shown(chosen, progress):
            begun = time.perf_counter()
            losses, dead, gains = list[float](), list[float](), list[float]()
            try:
                for seed in range(seeds):
                    if found and _beaten(losses, gains, found[AS_IT_IS], start[0]):
                        break
                    torch.manual_seed(seed)
                    rng = np.random.default_rng(seed)
                    run = Run(copy.deepcopy(net), trained, batch_loss, steps, rng)
                    REMEDIES[name].apply(run)
                    run.train(make_optimizer)
                    loss_then, dead_then, gain = _measure(run.model, held, batch_loss)
                    losses.append(loss_then)
                    dead.append(dead_then)
                    gains.append(gain)
            except Exception as error:  # a user's script goes on
                if name == AS_IT_IS:
                    raise
                not_tried[name] = _reason(error)
            else:
                how, seconds = REMEDIES[name].how, time.perf_counter() - begun
                found[name] = Outcome(name, tuple(losses), tuple(dead), seconds, how, tuple(gains))
    base = found[AS_IT_IS]
    outcomes = sorted(found.values(), key=lambda o: o.loss if math.isfinite(o.loss) else math.inf)
    best = next((o for o in outcomes if _helps(o, base, start[0])), base)
    outcomes.sort(key=lambda o: o is not best)
    n_held = len(batches) - len(trained)
    guesses = _is_guess(start[0], start[2])
    return Trial(tuple(outcomes), not_tried, *start[:2], steps, seeds, n_held, guesses)


def _supervised(net: nn.Module, loss: Any) -> Loss:
    """Take the loss of a model's output and the targets, on its device and in its precision."""
    if not callable(loss):
        raise TypeError(f"loss must be callable, or None where call= is given, not {loss!r}")
    like = next(p for p in net.parameters() if p.is_floating_point())

    def compute(model: nn.Module, batch: Any) -> Tensor:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(
                "loader must give pairs of inputs and targets; call=lambda model, batch: ... "
                f"returns the loss of others, such as {type(batch).__name__}"
            )
        x, y = (torch.as_tensor(part) for part in batch)
        x, y = (t.to(like.device, like.dtype if t.is_floating_point() else t.dtype) for t in (x, y))
        found: Tensor = loss(model(x), y)
        return found

    return compute


def _take(loader: Iterable[Any], steps: int) -> list[Any]:
    """Keep the first batches."""
    if isinstance(loader, str | bytes | Mapping) or not isinstance(loader, Iterable):
        raise TypeError(f"loader must give batches, not be a {type(loader).__name__}")
    batches = [copy.deepcopy(batch) for batch in islice(loader, steps)]
    if not batches:
        raise ValueError("loader must give at least one batch, but it is empty")
    return batches


def _not_finite(batches: list[Any]) -> str:
    """Name the first batch that holds NaN or infinity."""
    for number, batch in enumerate(batches, 1):
        entries = batch if isinstance(batch, Mapping) else {"inputs": batch}
        if isinstance(batch, tuple | list):
            entries = dict(zip(("inputs", "targets"), batch, strict=False))
        for name, part in entries.items():
            if isinstance(part, np.ndarray) and part.dtype.kind == "f":
                part = torch.from_numpy(part)
            if isinstance(part, Tensor) and not bool(part.isfinite().all()):
                return f"batch {number} of {len(batches)} holds NaN or infinity in its {name}"
    return ""


def _refuse(model: nn.Module, batch: Any, batch_loss: Loss) -> None:
    """Raise if what is computed is no loss of this model."""
    with taken("loader, loss or call", batch):
        value = batch_loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TypeError(f"loss and call must return one number, a tensor, not {value!r}")
    wanted = [p for p in model.parameters() if p.requires_grad]
    if not wanted:
        raise ValueError("model must have a parameter that is not frozen")
    found = torch.autograd.grad(value, wanted, allow_unused=True) if value.requires_grad else ()
    if all(gradient is None for gradient in found):
        raise ValueError("call must use the model that it is given, and return a loss of it")


def _measure(model: nn.Module, batches: list[Any], batch_loss: Loss) -> tuple[float, float, float]:
    """Return a copy's mean loss in evaluation mode, its share of dead units, and its gain.

    The gain is by how much the loss is higher if samples are given the inputs of others.
    """
    losses: list[float] = []

    def call(model: nn.Module, batch: Any) -> Tensor:
        value = batch_loss(model, batch)
        losses.append(float(value))
        return value

    try:
        report = census(model, batches, call=call)
    except ValueError:  # no activation that is known; or it is the loss's, and comes again
        losses.clear()
        with torch.no_grad():
            for batch in batches:
                call(model.eval(), batch)
        dead = math.nan
    else:
        units = np.concatenate([layer.dead for layer in report])
        dead = math.nan if report.overflowed else float(units.mean())
    loss = float(np.mean(losses))
    return loss, dead, _loss_of_others(model, batches, batch_loss) - loss


def _others(n: int) -> Tensor:
    """For each of n samples another one, the same each time, and in no order that labels have."""
    order = torch.randperm(n, generator=torch.Generator())  # whose seed is always the same
    return order.roll(1)[order.argsort()]


def _loss_of_others(model: nn.Module, batches: list[Any], batch_loss: Loss) -> float:
    """Return the mean loss if each sample is given the input of another of its batch.

    NaN if the model calls no layer whose outputs could be exchanged.
    """
    first: list[nn.Module] = []
    exchanged: list[bool] = []

    def exchange(module: nn.Module, args: Any, output: Any) -> Any:
        if first or not isinstance(output, Tensor) or not output.ndim:
            return output
        first.append(module)
        exchanged.append(len(output) > 1)
        for axis in range(2 if output.ndim == 3 else 1):  # of sequences, either may be the samples
            output = output.index_select(axis, _others(output.shape[axis]).to(output.device))
        return output

    layers = [m for m in model.modules() if [*m.parameters(recurse=False)] and not [*m.children()]]
    losses = []
    with torch.no_grad(), ExitStack() as hooks:
        model.eval()
        for layer in layers:
            hooks.callback(layer.register_forward_hook(exchange).remove)
        for batch in batches:
            first.clear()
            losses.append(float(batch_loss(model, batch)))
    return float(np.mean(losses)) if any(exchanged) else math.nan


def _reason(error: Exception) -> str:
    text = str(error).partition("\n")[0].partition(". Nothing was changed")[0]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _shown(chosen: Sequence[str], progress: bool | None) -> Iterable[str]:
    from tqdm import tqdm

    if progress is None:  # on a terminal only, and if it takes its time
        return tqdm(chosen, "trial", unit="remedy", leave=False, delay=1.0, disable=None)
    return tqdm(chosen, "trial", unit="remedy", disable=not progress)


@contextmanager
def _random_state(loader: Any) -> Iterator[None]:
    """Give back the random state of a loader's own generator."""
    own: Any = getattr(loader, "generator", None)
    state = own.get_state() if isinstance(own, torch.Generator) else None
    try:
        yield
    finally:
        if state is not None:
            own.set_state(state)
