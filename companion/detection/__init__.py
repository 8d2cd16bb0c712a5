"""Which units of a model are dead: over a data set, while it trains, and why.

A unit is dead on a data set if its activation's *derivative* is zero for every sample, and for a
channel at every position: then nothing before it learns from these samples. That its output is near
zero is neither necessary nor sufficient. `census` counts over a data set, `watch` round a training
loop; both return a `UnitReport`, which `diagnose` reads. What helps, `companion.revival.trial`
finds out. `lightning_callback` and `trainer_callback` are a `watch` for the loops of others.

Taught in the chapter `detection`.
"""

from __future__ import annotations

from companion.detection.callbacks import lightning_callback, trainer_callback
from companion.detection.census import census
from companion.detection.diagnosis import Diagnosis, Finding, diagnose
from companion.detection.report import LayerReport, UnitReport
from companion.detection.session import Watch, watch

__all__ = [
    "Diagnosis", "Finding", "LayerReport", "UnitReport", "Watch", "census", "diagnose",
    "lightning_callback", "trainer_callback", "watch",
]  # fmt: skip
