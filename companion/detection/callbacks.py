"""A watch as a callback: for Lightning's Trainer, and for the Trainer of transformers.

Both libraries are imported when a callback is made.
"""

from __future__ import annotations

import warnings
from typing import Any

from companion.detection.session import Watch, watch

__all__ = ["lightning_callback", "trainer_callback"]


def lightning_callback(*, model: str = "", prefix: str = "units/", **options: Any) -> Any:
    """Return a callback for Lightning's Trainer, which logs the shares of dead units each epoch.

    Parameters
    ----------
    model : str, default ""
        Which part of the `LightningModule` to watch, by its name: what ``training_step`` calls.
        By default the module itself, which is right if it calls ``self(x)``.
    prefix : str, default "units/"
        Goes before the names of `UnitReport.to_dict`.
    **options
        For `watch`, such as ``every=10``.

    Returns
    -------
    lightning.pytorch.Callback
        Its `reports` are those of the epochs.

    Raises
    ------
    ImportError
        If Lightning is not installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        raise ImportError("lightning_callback needs Lightning: pip install lightning") from None

    class DeadUnits(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.reports: list[Any] = []
            self.watched = watch(pl_module.get_submodule(model), **options).attach()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            flat = _flat(self.watched, self.reports, prefix)
            pl_module.log_dict(flat)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self.watched.detach()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            if hasattr(self, "watched"):
                self.watched.detach()

    return DeadUnits()


def trainer_callback(*, prefix: str = "units/", **options: Any) -> Any:
    """Return a callback for the Trainer of transformers; its log gets the shares of dead units.

    Parameters
    ----------
    prefix : str, default "units/"
        Goes before the names of `UnitReport.to_dict`.
    **options
        For `watch`, such as ``every=10``.

    Returns
    -------
    transformers.TrainerCallback
        What it finds between two logs stands in ``trainer.state.log_history``, of all units
        together in the log too; its `reports` are the whole of it.

    Raises
    ------
    ImportError
        If transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError:
        raise ImportError("trainer_callback needs it: pip install transformers") from None

    class DeadUnits(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.reports: list[Any] = []
            self.watched = watch(kwargs["model"], mode="train", **options).attach()

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            flat = _flat(self.watched, self.reports, prefix)
            state.log_history[-1].update(flat)
            logs.update(
                {key: value for key, value in flat.items() if "/" not in key[len(prefix) :]}
            )

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.watched.detach()

    return DeadUnits()


def _flat(watched: Watch, reports: list[Any], prefix: str) -> dict[str, float]:
    """Take what was seen since the last time; a callback never ends a training."""
    try:
        report = watched.report()
    except ValueError as error:
        warnings.warn(f"no unit was counted: {error}", stacklevel=2)
        return {}
    watched.clear()
    reports.append(report)
    return {f"{prefix}{key}": value for key, value in report.to_dict().items()}
