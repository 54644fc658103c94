"""``app.Worker``: a worker as an object of a program, by Celery's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from umbel.errors import WorkerLostError
from umbel.pools.prefork import PreforkPool
from umbel.pools.solo import SoloPool
from umbel.pools.threads import ThreadsPool
from umbel.state import get_current_app, shutdown_flags
from umbel.worker.embedded import EmbeddedWorker

if TYPE_CHECKING:
    from umbel.app import Umbel

__all__ = ["WorkController"]

_POOLS: Final[dict[str, type]] = {
    "prefork": PreforkPool,
    "processes": PreforkPool,
    "solo": SoloPool,
    "threads": ThreadsPool,
}
#: What Celery's workers take that this one decides for itself, or has no use for.
_UNUSED: Final = frozenset(
    {
        "beat",
        "heartbeat_interval",
        "logfile",
        "no_color",
        "pidfile",
        "quiet",
        "ready_callback",
        "redirect_stdouts",
        "redirect_stdouts_level",
        "schedule_filename",
        "scheduler",
        "setup_defaults",
        "use_eventloop",
        "without_heartbeat",
        "without_mingle",
    }
)
#: How often it is looked whether the worker has ended by itself, in seconds.
_LOOK_AGAIN: Final = 0.25


class WorkController:
    """A worker that ``start`` runs until it is stopped: from another thread, by remote control, or by
    ``celery.worker.state.should_stop``.

    Args:
        app: the application; None: that of the class, or the current one.
        pool: the kind of pool: a name, or a pool class that stands for one.
        loglevel: the level from which the log of pool processes is handled in this process.
        kwargs: options of the worker; those of Celery's that mean nothing here are accepted.
    """

    app: Any = None

    def __init__(
        self,
        app: Umbel | None = None,
        hostname: str | None = None,
        concurrency: Any = None,
        pool: Any = None,
        loglevel: Any = None,
        **kwargs: Any,
    ) -> None:
        self.app = app or self.app or get_current_app()
        self.loglevel = loglevel
        name = pool or self.app.conf.worker_pool
        #: The class of its pool.
        self.pool_cls: Any = _POOLS.get(name, name) if isinstance(name, str) else name
        self.exitcode: int | None = None
        self._worker = EmbeddedWorker(
            self.app,
            pool=name if isinstance(name, str) else None,
            concurrency=concurrency or self.app.conf.worker_concurrency or 1,
            hostname=hostname,
            forward_logs=True,
            loglevel=loglevel or "INFO",
            **{option: value for option, value in kwargs.items() if option not in _UNUSED},
        )
        self.hostname = self._worker.hostname

    def start(self) -> None:
        """Run until stopped. Raises WorkerLostError when it ended of itself, for a reason that is in its log."""
        self._worker.start()
        self.on_consumer_ready(self)
        while self._worker.state == "running" and not shutdown_flags().wait(_LOOK_AGAIN):
            pass
        if self._worker.state == "failed":
            raise WorkerLostError(f"{self.hostname} ended: {self._worker.failure!r}")
        self.exitcode = self._worker.stop(0.0 if shutdown_flags().terminate is not None else 10.0)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called when it takes tasks; for subclasses."""

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
        """Let the running tasks end, and stop."""
        self._worker.stop()

    def terminate(self, in_sighandler: bool = False) -> None:
        """Stop at once."""
        self._worker.stop(timeout=0)

    @property
    def pids(self) -> list[int]:
        """Its pool processes."""
        return self._worker.pids

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self._worker.state})>"
