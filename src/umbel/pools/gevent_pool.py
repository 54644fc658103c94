"""``--pool gevent``: jobs are greenlets of a pool process whose blocking calls gevent has replaced."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from umbel.errors import ImproperlyConfigured
from umbel.pools.dispatch import ProcessPool
from umbel.pools.options import PoolOptions
from umbel.pools.prefork import make_launcher

if TYPE_CHECKING:
    from collections.abc import Callable


class GeventPool(ProcessPool):
    """Runs jobs in the greenlets of pool processes that start from nothing, patched before the application is imported.

    Limits and cancellation reach a body where it waits. A hard limit ends the process: jobs that had begun beside the
    one that overran are reported as ``bystander``. The worker itself is not patched.

    Args:
        runner_factory: ``module:name`` of what makes the runner.
        size: greenlets in each process.
        processes: pool processes; the other arguments are ``PreforkPool``'s.

    Raises:
        ImproperlyConfigured: gevent is not installed.
    """

    def __init__(
        self,
        runner_factory: str,
        size: int,
        *,
        processes: int = 1,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        log_level: int | None = None,
        factory_argument: Callable[[], bytes] | None = None,
        start_timeout: float = 60.0,
        brief_seconds: float = 0.002,
    ) -> None:
        if importlib.util.find_spec("gevent") is None:
            raise ImproperlyConfigured("the gevent pool needs gevent: pip install umbel[gevent]")
        options = PoolOptions(
            processes=processes,
            slots=size,
            threads=True,
            loop=True,
            patch="gevent",
            name="GeventPoolWorker",
            max_tasks_per_child=max_tasks_per_child,
            max_memory_per_child=max_memory_per_child,
            log_level=log_level,
            start_timeout=start_timeout,
            brief_seconds=brief_seconds,
            factory=runner_factory,
            argument=factory_argument,
            path=sys.path,
        )
        super().__init__(options, make_launcher(runner_factory, "spawn"))
