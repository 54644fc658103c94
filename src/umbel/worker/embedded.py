"""A worker inside another program: a web application, a script, a test.

::

    with app.worker(concurrency=2):
        assert add.delay(2, 2).get(timeout=10) == 4

    async with app.worker(pool="threads", concurrency=8):   # a FastAPI lifespan, say
        yield

Problem: the program has threads, signal handlers, a log and perhaps an event loop of its own, and a loop that it holds
up must not cost the worker its leases.

Solution: the worker's loop has a thread to itself, and nothing else of the process is touched. The thread's first act
is to fork the template of the pool processes, before it has a loop or a connection; what was defined by then, in the
body of a test if need be, is there in the pool processes. The program's own threads are not copied, but locks that
they hold just then stay locked in the copies: a program with busy threads takes ``start_method="spawn"``, which copies
nothing and needs an application that can be imported.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import secrets
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, Self

from umbel import logs
from umbel.worker.options import node_name
from umbel.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from umbel.app import Umbel
    from umbel.worker.os_signals import Shutdown

logger = logging.getLogger("celery.worker")

State = Literal["new", "starting", "running", "stopping", "stopped", "failed"]

#: Seconds that a worker is waited for after a cold shutdown was asked for.
_COLD_GRACE = 15.0
#: Seconds for running tasks to end when the program ends without having stopped its worker.
_EXIT_GRACE = 5.0


class EmbeddedWorker:
    """A whole worker in a thread of this process, with pool processes of its own; it can be started again.

    Args:
        app: the application whose tasks it runs.
        pool: ``prefork``, ``threads`` (in one process), ``solo`` (a thread of this process). By default ``prefork``;
            where the broker is in this process's memory ``threads``, which are threads of it then.
        concurrency: tasks at a time.
        hostname: its name; by default one that no other worker has.
        queues: the queues it takes tasks from; None: those of the settings.
        forward_logs: handle the log records of pool processes in this process, as if the tasks ran here; otherwise
            they go where the handlers that the pool processes have inherited send them.
        loglevel: the level from which they are forwarded. The loggers of this process decide once more.
        options: the other arguments of ``Worker``: ``start_method``, ``prefetch_multiplier``, ``time_limit``, ….
    """

    def __init__(
        self,
        app: Umbel,
        *,
        pool: str | None = None,
        concurrency: int = 1,
        hostname: str | None = None,
        queues: str | Iterable[str] | None = None,
        forward_logs: bool = False,
        loglevel: str | int = "INFO",
        **options: Any,
    ) -> None:
        self.app = app
        self.hostname = node_name(hostname or f"embedded-{os.getpid()}-{secrets.token_hex(3)}@%h")
        self._options = {
            "pool": pool or ("prefork" if app.broker.capabilities.durable else "threads"),
            "concurrency": concurrency,
            "queues": queues,
            "log_level": logs.level_number(loglevel) if forward_logs else None,
            **options,
        }
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._at_exit_known = False
        self._changed = threading.Event()
        self._state: State = "new"
        self._error: BaseException | None = None
        self._exitcode = 0

    # What it is and does

    @property
    def state(self) -> State:
        """``new``, ``starting``, ``running``, ``stopping``, ``stopped``, or ``failed``: see ``failure``."""
        return self._state

    @property
    def failure(self) -> BaseException | None:
        """What ended it without being asked to; None as long as nothing has."""
        return self._error or (self._worker.failure if self._worker is not None else None)

    @property
    def pids(self) -> list[int]:
        """The ids of its pool processes; this process's own for ``solo``."""
        parts = self._worker.parts if self._worker is not None else None
        return parts.pool.pids() if parts is not None else []

    @property
    def counts(self) -> Counter[str]:
        """The tasks that ended here since its start, by state; those lost with their process by cause."""
        parts = self._worker.parts if self._worker is not None else None
        return Counter(parts.completion.counts) if parts is not None else Counter()

    @property
    def totals(self) -> Counter[str]:
        """The tasks that ended here since its start, by name."""
        parts = self._worker.parts if self._worker is not None else None
        return Counter(parts.completion.totals) if parts is not None else Counter()

    @property
    def held(self) -> int:
        """The tasks it has in hand: taken from a queue and not yet ended."""
        parts = self._worker.parts if self._worker is not None else None
        return len(parts.ledger) if parts is not None else 0

    def __repr__(self) -> str:
        return f"<EmbeddedWorker {self.hostname} {self.state}>"

    # Starting and stopping

    def start(self, timeout: float = 60.0) -> Self:
        """Start it; returns when it takes tasks.

        Raises:
            RuntimeError: it runs already.
            TimeoutError: it was not up in ``timeout`` seconds, as when the broker cannot be reached.
            Exception: whatever keeps it from starting.
        """
        if self._thread is not None:
            raise RuntimeError(f"{self!r} was started already")
        self.app.loader.import_default_modules()
        self.app.finalize()
        worker = Worker(
            self.app, hostname=self.hostname, on_ready=self._on_ready, os_signals=False, **self._options
        )
        worker.prepare()
        # Imports what the template is about to need: a module that another thread is importing while it is forked
        # would never be done there.
        self.app.make_runner(self.hostname)
        self._worker, self._error, self._state, self._pid = worker, None, "starting", os.getpid()
        self._changed.clear()
        # A daemon, or a program that ends without stopping it would wait for ever.
        self._thread = threading.Thread(target=self._run, args=(worker,), name="umbel-worker", daemon=True)
        if not self._at_exit_known:
            self._at_exit_known = True
            _call_at_exit(self._at_exit)
        self._thread.start()
        try:
            self._await_ready(timeout)
        except BaseException:
            self._end("cold")
            raise
        return self

    def stop(self, timeout: float = 10.0) -> int:
        """Let the running tasks end and stop; the exit status. Does nothing when it is not running.

        Tasks that take longer than ``timeout`` seconds are ended; those that are acknowledged late go back to their
        queues, and the exit status is 1.

        Raises:
            RuntimeError: it cannot be ended.
        """
        if self._thread is None:
            return self._exitcode
        if self._state == "running":
            self._state = "stopping"
        self._ask("warm")
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.warning("%s: tasks still run after %g seconds; ending them", self.hostname, timeout)
        return self._end("cold")

    def reload(self, timeout: float = 10.0) -> None:
        """Stop it and start it again, so that its pool processes know what was defined since."""
        self.stop(timeout)
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # Inside

    def _run(self, worker: Worker) -> None:
        """The thread: the template is forked here, for its end is the end of what it forked."""
        try:
            self._exitcode = worker.start()
        except BaseException as error:
            self._error, self._exitcode = error, 1
        finally:
            asked = self._state == "stopping" and self.failure is None
            self._state = "stopped" if asked or not self._exitcode else "failed"
            self._changed.set()

    def _on_ready(self) -> None:
        if self._state == "starting":
            self._state = "running"
        self._changed.set()

    def _await_ready(self, timeout: float) -> None:
        if not self._changed.wait(timeout):
            raise TimeoutError(f"{self.hostname} did not take tasks within {timeout:g} seconds")
        if self.failure is not None:
            raise self.failure
        if self._state != "running":
            raise RuntimeError(f"{self.hostname} was stopped before it took tasks")

    def _ask(self, how: Shutdown) -> None:
        assert self._worker is not None
        # Its loop may be closed by now: then there is nothing to ask.
        with contextlib.suppress(RuntimeError):
            self._worker.stop(how)

    def _end(self, how: Shutdown) -> int:
        """Wait for the thread's end; where it has not come, hurry it, then do not wait even for the broker."""
        assert self._thread is not None
        for _ in range(2):
            if self._thread.is_alive():
                self._ask(how)
                self._thread.join(_COLD_GRACE)
        if self._thread.is_alive():
            raise RuntimeError(f"{self!r} does not end")
        self._thread = None
        return self._exitcode

    def _at_exit(self) -> None:
        # A forked copy of this program has no such thread.
        if self._thread is not None and os.getpid() == self._pid:
            self.stop(_EXIT_GRACE)


def _call_at_exit(method: Callable[[], None]) -> None:
    """Have a method called when the program ends, unless its object is gone by then."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        found = reference()
        if found is not None:
            found()

    # At the time of atexit a loop cannot ask its helper threads for anything any more; threading has an earlier one.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(call)
