"""The names of Celery's own steps, for ``requires``; and what runs the steps of applications.

Umbel's worker has parts of its own in their place: each of these is a step that does nothing.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from umbel import signals

from ..bootsteps import Blueprint, Step, StepType
from ..utils.log import get_logger

logger = get_logger("celery.worker")


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


class _Consumer:
    """What steps of the consumer get."""

    def __init__(self, worker: Any) -> None:
        self.app = worker.app
        self.hostname = worker.hostname
        self.controller = worker
        self.pool = None
        self.steps: list[Any] = []
        self.connection = worker.app.connection_for_read()


class OwnSteps:
    """The steps of one worker's application, in a thread of their own: a step may block, a worker's loop may not."""

    def __init__(self, worker: Any) -> None:
        self._ended = threading.Event()
        self._blueprints: list[tuple[Blueprint, Any]] = []
        self._consumer = _Consumer(worker)
        worker.steps = []
        for kind, parent in (("worker", worker), ("consumer", self._consumer)):
            if worker.app.steps[kind]:
                blueprint = Blueprint(worker.app.steps[kind], name=kind.capitalize())
                self._blueprints.append((blueprint.apply(parent), parent))
        self._thread = threading.Thread(target=self._run, name="umbel-steps", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for blueprint, parent in self._blueprints:
                blueprint.start(parent)
            while not self._ended.is_set():
                self._take()
        except Exception:  # the application's own code: the worker goes on
            logger.exception("A step of the application failed")
        finally:
            for blueprint, parent in reversed(self._blueprints):
                blueprint.stop(parent)
            self._consumer.connection.release()

    def _take(self) -> None:
        consuming = any("consumers" in vars(step) for step in self._consumer.steps)
        if not consuming:
            self._ended.wait()
            return
        try:
            self._consumer.connection.drain_events(timeout=0.5)
        except TimeoutError:
            return

    def stop(self) -> None:
        """Stop the steps, and wait for that."""
        self._ended.set()
        self._thread.join(10.0)


_running: dict[int, OwnSteps] = {}


def start_steps(sender: Any = None, **_: Any) -> None:
    """Start the steps of the application of a worker that is ready."""
    if any(sender.app.steps.values()):
        _running[id(sender)] = OwnSteps(sender)


def stop_steps(sender: Any = None, **_: Any) -> None:
    """Stop the steps of a worker that has ended."""
    steps = _running.pop(id(sender), None)
    if steps is not None:
        steps.stop()


signals.worker_ready.connect(start_steps, weak=False)
signals.worker_shutdown.connect(stop_steps, weak=False)
