"""Workers for tests: a whole one, in a thread of the test's process."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from socket import gethostname
from threading import Event
from typing import TYPE_CHECKING, Any

from umbel import logs, state
from umbel.results.waiting import allow_join_result, set_join_will_block
from umbel.signals import Signal
from umbel.worker.embedded import EmbeddedWorker

if TYPE_CHECKING:
    from umbel.app.application import Umbel

__all__ = [
    "WORKER_LOGLEVEL",
    "TestWorkController",
    "setup_app_for_worker",
    "start_worker",
    "test_worker_started",
    "test_worker_starting",
    "test_worker_stopped",
]

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting = Signal(name="test_worker_starting")
test_worker_started = Signal({"worker", "consumer"}, name="test_worker_started")
test_worker_stopped = Signal({"worker"}, name="test_worker_stopped")
for _signal in (test_worker_starting, test_worker_started, test_worker_stopped):
    vars(_signal)["__test__"] = False  # pytest would take them for tests

#: What Celery's workers take and an embedded one decides for itself.
_UNUSED = frozenset(
    {"heartbeat_interval", "ready_callback", "without_gossip", "without_heartbeat", "without_mingle"}
)


class TestWorkController(EmbeddedWorker):
    """A worker whose start can be waited for. Subclasses may override ``on_consumer_ready``."""

    __test__ = False
    logger_queue = None

    def __init__(
        self, app: Umbel, *args: Any, loglevel: Any = None, logfile: Any = None, **kwargs: Any
    ) -> None:
        options = {name: value for name, value in kwargs.items() if name not in _UNUSED}
        super().__init__(app, *args, forward_logs=True, loglevel=loglevel or "INFO", **options)
        self._on_started = Event()

    def start(self, timeout: float = 60.0) -> Any:
        """Start it; returns when it takes tasks."""
        super().start(timeout)
        self.on_consumer_ready(self)
        return self

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called when it takes tasks."""
        self._on_started.set()
        test_worker_started.send(sender=self.app, worker=self, consumer=consumer)

    def ensure_started(self) -> None:
        """Wait until it takes tasks."""
        self._on_started.wait()


#: The loggers that a worker sets up.
_LOGGERS = ("", "celery", "celery.task", "celery.redirected")


@contextmanager
def start_worker(
    app: Umbel,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    WorkController: Any = TestWorkController,  # noqa: N803 -- Celery's name
    **kwargs: Any,
) -> Iterator[Any]:
    """A worker for the time of the block, whose tasks run in pool processes, or for ``solo`` in a thread.

    Afterwards the log is as it was before. Celery leaves it at the worker's level, which hides what later tests log.

    Args:
        loglevel: the level of the log, where it was not set up before.
        perform_ping_check: have it run a task first, and wait ``ping_task_timeout`` seconds for the answer.
        shutdown_timeout: seconds for running tasks at the end; then they are ended.
        kwargs: options of the worker.
    """
    test_worker_starting.send(sender=app)
    worker = None
    with _log_left_as_it_was():
        try:
            setup_app_for_worker(app, loglevel, logfile)
            if perform_ping_check:
                assert "celery.ping" in app.tasks, (
                    "import umbel.testing.tasks before the application is finalized"
                )
            kwargs.setdefault("hostname", f"gen{os.getpid()}@{gethostname()}")
            worker = WorkController(
                app=app, concurrency=concurrency, pool=pool, loglevel=loglevel, logfile=logfile, **kwargs
            )
            worker.start()
            set_join_will_block(False)
            try:
                if perform_ping_check:
                    with allow_join_result():
                        answer = app.tasks["celery.ping"].delay().get(timeout=ping_task_timeout)
                        assert answer == "pong", answer
                yield worker
            finally:
                worker.stop(shutdown_timeout)
        finally:
            test_worker_stopped.send(sender=app, worker=worker)


@contextmanager
def _log_left_as_it_was() -> Iterator[None]:
    """Undo at the end of the block what it did to levels and handlers."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger, logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    show = warnings.showwarning
    try:
        yield
    finally:
        for logger, level, propagate, handlers in before:
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers[:] = handlers
        if warnings.showwarning is not show:
            logging.captureWarnings(capture=False)


def setup_app_for_worker(app: Umbel, loglevel: str | int, logfile: str | None = None) -> None:
    """Make an application ready for a worker of this process: finalized, current, its log set up."""
    app.finalize()
    state.set_current_app(app)
    state.set_default_app(app)
    app.log.already_setup = False
    type(app.log)._setup = False
    app.log.setup(loglevel=logs.level_number(loglevel), logfile=logfile)
