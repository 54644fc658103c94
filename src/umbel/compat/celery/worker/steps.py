"""The names of Celery's own steps, for ``requires``.

Umbel's worker has parts of its own in their place: each of these is a step that does nothing.
"""

from __future__ import annotations

from typing import Any

from .._steps import Step, StepType


def _steps(module: str, *names: str) -> dict[str, Any]:
    return {
        name: StepType(name, (Step,), {"__module__": module, "name": f"{module}.{name}"}) for name in names
    }


_worker = _steps("celery.worker.components", "Beat", "Consumer", "Hub", "Pool", "StateDB", "Timer")
_consumer = _steps(
    "celery.worker.consumer", "Agent", "Connection", "Control", "DelayedDelivery", "Events", "Evloop", "Gossip",
    "Heart", "Mingle", "Tasks",
)  # fmt: skip
Beat, Hub, Pool, StateDB, Timer = (_worker[name] for name in ("Beat", "Hub", "Pool", "StateDB", "Timer"))
Agent, Connection, Control, DelayedDelivery, Events = (
    _consumer[name] for name in ("Agent", "Connection", "Control", "DelayedDelivery", "Events")
)
Evloop, Gossip, Heart, Mingle, Tasks = (
    _consumer[name] for name in ("Evloop", "Gossip", "Heart", "Mingle", "Tasks")
)
Consumer = _worker["Consumer"]
WorkerComponent = _steps("celery.worker.autoscale", "WorkerComponent")["WorkerComponent"]
