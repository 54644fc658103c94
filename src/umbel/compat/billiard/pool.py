"""The pool; Umbel's workers have pools of their own, which never call this."""

from __future__ import annotations

from multiprocessing.pool import Pool, ThreadPool
from typing import Any


class Worker:
    """The patch point of monitoring agents."""

    def workloop(self, debug: Any = None, now: Any = None, pid: Any = None) -> Any:
        """Never called."""
        raise NotImplementedError("Umbel's pool processes run no such loop")

    def _do_exit(self, pid: Any, exitcode: Any, exc: Any = None) -> None:
        raise NotImplementedError("Umbel's pool processes end by themselves")
