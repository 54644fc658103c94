"""Beat inside a worker (``-B``): a process of its own beside the worker's, which ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from multiprocessing.process import current_process
from typing import TYPE_CHECKING, Any, Final, NoReturn

from umbel.scheduler.service import Service

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["EmbeddedBeat", "EmbeddedService"]

logger: Final = logging.getLogger("celery.beat")

#: How long it may take to store the schedule at the end, in seconds.
_PATIENCE: Final = 10.0
#: How often a thread of a worker looks whether it is to stop, in seconds.
_THREAD_INTERVAL: Final = 1


class EmbeddedBeat:
    """Runs beat in a child process while the ``with`` block runs.

    The child is forked before the worker has an event loop, threads or connections. It stops when the worker tells it
    to and when the worker is gone, however that ended.

    Args:
        app: the application; its modules are imported by now.
        options: those of Service.
    """

    def __init__(self, app: Any, **options: Any) -> None:
        self._app = app
        self._options = options
        self._pid = 0
        self._lifeline = -1

    def __enter__(self) -> Self:
        sys.stdout.flush()
        sys.stderr.flush()
        ours, self._lifeline = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._lifeline)
            self._run(ours)
        os.close(ours)
        return self

    def _run(self, lifeline: int) -> NoReturn:
        """The child: run beat until the worker tells it to stop, or closes its end of the pipe by dying."""
        status = 1
        try:
            current_process().name = "Beat"
            service = Service(self._app, remote_control=False, **self._options)
            for number in (signal.SIGTERM, signal.SIGINT):
                # The worker decides when to end: Ctrl-C at the terminal reaches both.
                signal.signal(number, signal.SIG_IGN)
            watcher = threading.Thread(target=_stop_at_end, args=(lifeline, service), daemon=True)
            watcher.start()
            service.start(embedded_process=True)
            status = 0
        except Exception as error:
            logger.critical("beat raised exception %s: %r", type(error), error, exc_info=True)
        finally:
            logging.shutdown()
            os._exit(status)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A word, too: pool processes have the pipe's end as well, and may outlive the worker by a moment.
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            os.write(self._lifeline, b".")
        os.close(self._lifeline)
        with contextlib.suppress(ChildProcessError):  # whoever waits for any child has seen its end
            self._wait_for_its_end(time.monotonic() + _PATIENCE)

    def _wait_for_its_end(self, deadline: float) -> None:
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                logger.warning("beat did not end within %d seconds and is killed", _PATIENCE)
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                return
            time.sleep(0.01)


def _stop_at_end(lifeline: int, service: Service) -> None:
    os.read(lifeline, 1)
    service.stop()


class EmbeddedService(threading.Thread):
    """Beat in a thread of this program, for those who start it themselves."""

    def __init__(
        self, app: Any, max_interval: float | None = None, thread: bool = True, **options: Any
    ) -> None:
        super().__init__(name="Beat", daemon=True)
        # The worker around it is a node already.
        options.setdefault("remote_control", False)
        self.app = app
        self.service = Service(app, max_interval=max_interval or _THREAD_INTERVAL, **options)

    def run(self) -> None:
        """Run beat."""
        self.app.set_current()
        self.service.start()

    def stop(self) -> None:
        """Stop it and wait until the schedule is stored."""
        self.service.stop(wait=True)
