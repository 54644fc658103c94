"""The steps of an application, run beside a worker's own parts: made with the worker, started when it takes tasks.

Steps of the worker get the worker, with ``timer``, ``pool``, ``blueprint`` and ``active_requests``; those of the
consumer an object with ``connection``, ``event_dispatcher``, ``timer``, ``pool``, ``app``, ``hostname`` and
``controller``. They run in a thread of their own: a step may block, a worker's loop may not.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from umbel import signals
from umbel.errors import OperationalError

from .._steps import Blueprint
from ..utils.log import get_logger
from ..utils.timer2 import Timer
from . import state

logger = get_logger("celery.worker")

#: Seconds before the steps of the consumer are started again when their connection was lost: at first, and at most.
_AGAIN: Final = (1.0, 30.0)


class Consumer:
    """What steps of the consumer get."""

    def __init__(self, worker: Any, timer: Timer) -> None:
        self.app = worker.app
        self.hostname = worker.hostname
        self.controller = worker
        self.timer = timer
        self.pool: Any = None
        self.blueprint: Any = None
        self.steps: list[Any] = []
        self.connection: Any = None
        self.event_dispatcher: Any = None
        #: The worker's part in elections, whose ``election_handlers`` a step may add to; None: it takes none.
        self.gossip: Any = None

    def connect(self) -> None:
        """Have a connection, and events that go over one."""
        self.connection = self.app.connection_for_read()
        self.event_dispatcher = self.app.events.Dispatcher(self.connection, hostname=self.hostname)

    def release(self) -> None:
        """Close them."""
        if self.connection is not None:
            self.event_dispatcher.close()
            self.connection.release()
            self.connection = self.event_dispatcher = None

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Have the worker take tasks from one queue more."""
        self.app.control.add_consumer(queue, *args, destination=[self.hostname], **options)

    def cancel_task_queue(self, queue: str) -> None:
        """Have the worker take no more tasks from a queue."""
        self.app.control.cancel_consumer(queue, destination=[self.hostname])

    def __repr__(self) -> str:
        return f"<Consumer: {self.hostname}>"


class OwnSteps:
    """The steps of one worker's application.

    Args:
        worker: the worker, not started yet.
        options: what it was given: steps get of it as keywords what they take.
    """

    def __init__(self, worker: Any, options: Mapping[str, Any]) -> None:
        self._worker = worker
        self._timer = Timer()
        self._ended = threading.Event()
        self._how: str | None = None
        self._consumer = Consumer(worker, self._timer)
        worker.timer, worker.steps, worker.use_eventloop = self._timer, [], False
        worker.active_requests = state.active_requests
        for kind, parent in (("worker", worker), ("consumer", self._consumer)):
            blueprint = Blueprint(worker.app.steps[kind], name=kind.capitalize())
            parent.blueprint = blueprint.apply(parent, **options)
        self._thread = threading.Thread(target=self._run, name="umbel-steps", daemon=True)

    def start(self) -> None:
        """Start the steps: the worker takes tasks."""
        parts = self._worker.parts
        self._worker.pool = self._consumer.pool = parts.pool if parts is not None else None
        self._consumer.gossip = parts.elections if parts is not None else None
        self._timer.ensure_started()
        self._thread.start()

    def _run(self) -> None:
        try:
            self._worker.blueprint.start(self._worker)
            self._consume()
        except Exception:  # the application's own code: the worker goes on
            logger.exception("A step of the application failed")
        finally:
            self._end()

    def _consume(self) -> None:
        """Run the steps of the consumer, anew whenever their connection is lost, until the worker ends."""
        pause = _AGAIN[0]
        while self._consumer.steps and not self._ended.is_set():
            try:
                self._consumer.connect()
                self._consumer.blueprint.start(self._consumer)
                while not self._ended.is_set():
                    self._take()
                    pause = _AGAIN[0]
            except (OperationalError, OSError) as error:
                logger.warning(
                    "Steps of the consumer lost their connection: %s. Trying again in %g s.", error, pause
                )
                self._consumer.blueprint.restart(self._consumer)
                self._consumer.release()
                self._ended.wait(pause)
                pause = min(pause * 2, _AGAIN[1])
        self._ended.wait()

    def _take(self) -> None:
        if not any("consumers" in vars(step) for step in self._consumer.steps):
            self._ended.wait()
            return
        try:
            self._consumer.connection.drain_events(timeout=0.5)
        except TimeoutError:
            return

    def _end(self) -> None:
        terminate = self._how == "Cold"
        for blueprint, parent in (
            (self._consumer.blueprint, self._consumer),
            (self._worker.blueprint, self._worker),
        ):
            if parent.steps:
                blueprint.stop(parent, terminate=terminate)
        self._consumer.blueprint.send_all(self._consumer, "shutdown", propagate=False)
        self._consumer.release()
        self._timer.stop()

    def warn(self, how: str) -> None:
        """Told how the worker is about to end: Warm, Soft or Cold."""
        self._how = how

    def stop(self) -> None:
        """Stop the steps, and wait for that."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(10.0)


class _Running:
    """The steps of the workers of this process."""

    def __init__(self) -> None:
        self.options: WeakKeyDictionary[Any, Mapping[str, Any]] = WeakKeyDictionary()
        self.steps: WeakKeyDictionary[Any, OwnSteps] = WeakKeyDictionary()

    def on_options(self, instance: Any = None, options: Mapping[str, Any] | None = None, **_: Any) -> None:
        self.options[instance] = dict(options or {})

    def on_init(self, sender: Any = None, **_: Any) -> None:
        if any(sender.app.steps.values()):
            self.steps[sender] = OwnSteps(sender, self.options.get(sender, {}))

    def on_ready(self, sender: Any = None, **_: Any) -> None:
        if sender in self.steps:
            self.steps[sender].start()

    def on_ending(self, sender: Any = None, how: str = "", **_: Any) -> None:
        for steps in self.steps.values():
            steps.warn(how)

    def on_shutdown(self, sender: Any = None, **_: Any) -> None:
        if sender in self.steps:
            self.steps.pop(sender).stop()


def listen() -> None:
    """Have the steps of applications run with their workers from now on. Safe twice."""
    running = _Running()
    for signal, receiver in (
        (signals.celeryd_init, running.on_options),
        (signals.worker_init, running.on_init),
        (signals.worker_ready, running.on_ready),
        (signals.worker_shutting_down, running.on_ending),
        (signals.worker_shutdown, running.on_shutdown),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"{__name__}.{receiver.__name__}")
