"""``--pool threads``: many slots in one process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from umbel.pools.dispatch import ProcessPool
from umbel.pools.options import PoolOptions
from umbel.pools.prefork import make_launcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.prefork import StartMethod


class ThreadsPool(ProcessPool):
    """Runs jobs in the threads of one pool process, beside the worker's, so that they never hold up its loop.

    A hard limit ends the process: jobs that had begun beside the one that overran are reported as ``bystander``.
    The arguments are ``PreforkPool``'s, with ``size`` the number of threads; limits per child count for the process.
    """

    def __init__(
        self,
        runner_factory: Callable[[], JobRunner] | str,
        size: int,
        *,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        log_level: int | None = None,
        start_method: StartMethod = "fork",
        factory_argument: Callable[[], bytes] | None = None,
        start_timeout: float = 60.0,
        brief_seconds: float = 0.002,
    ) -> None:
        options = PoolOptions(
            processes=1,
            slots=size,
            threads=True,
            name="ThreadPoolWorker",
            max_tasks_per_child=max_tasks_per_child,
            max_memory_per_child=max_memory_per_child,
            log_level=log_level,
            start_timeout=start_timeout,
            brief_seconds=brief_seconds,
            factory=runner_factory if isinstance(runner_factory, str) else "",
            argument=factory_argument,
            path=sys.path if start_method == "spawn" else [],
        )
        super().__init__(options, make_launcher(runner_factory, start_method))
