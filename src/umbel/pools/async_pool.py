"""``--pool asyncio``: async tasks run natively, many at once in each of several processes."""

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

#: Jobs at a time in each process, where nothing was said.
DEFAULT_SLOTS = 100


class AsyncioPool(ProcessPool):
    """Runs jobs on the event loops of ``processes`` processes, ``slots`` at a time on each.

    Async tasks are tasks of the loop, plain ones run in threads of the process. A soft limit is raised in an async
    body where it awaits, and a terminated one is cancelled there. A hard limit ends the process: jobs that had begun
    beside the one that overran are reported as ``bystander``.

    Args:
        runner_factory: as ``PreforkPool``'s, and so are the arguments that are not named here.
        processes: pool processes.
        slots: jobs at a time in each.
        block_timeout: seconds after which a loop that does not turn is reported with its stack; 0: never.
    """

    def __init__(
        self,
        runner_factory: Callable[[], JobRunner] | str,
        processes: int,
        *,
        slots: int = DEFAULT_SLOTS,
        block_timeout: float = 1.0,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        log_level: int | None = None,
        start_method: StartMethod = "fork",
        factory_argument: Callable[[], bytes] | None = None,
        start_timeout: float = 60.0,
        brief_seconds: float = 0.002,
    ) -> None:
        options = PoolOptions(
            processes=processes,
            slots=slots,
            threads=True,
            loop=True,
            block_timeout=block_timeout,
            name="AsyncPoolWorker",
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
