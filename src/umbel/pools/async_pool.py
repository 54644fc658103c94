"""``--pool asyncio``: async tasks run natively, many at once in each of several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from umbel.pools.dispatch import ProcessPool
from umbel.pools.launching import with_processes
from umbel.pools.options import ChildOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner

#: Jobs at a time in each process, where nothing was said.
DEFAULT_SLOTS = 100


class AsyncioPool(ProcessPool):
    """Runs jobs on the event loops of ``processes`` processes, ``slots`` at a time on each.

    Async tasks are tasks of the loop, plain ones run in threads of the process. A soft limit is raised in an async
    body where it awaits, and a terminated one is cancelled there. A hard limit ends the process: jobs that had begun
    beside the one that overran are reported as ``bystander``.

    Args:
        runner_factory: as ``PreforkPool``'s.
        processes: pool processes.
        slots: jobs at a time in each.
        block_timeout: seconds after which a loop that does not turn is reported with its stack; 0: never.
        children: see ``ChildOptions``.
    """

    def __init__(
        self,
        runner_factory: Callable[[], JobRunner] | str,
        processes: int,
        *,
        slots: int = DEFAULT_SLOTS,
        block_timeout: float = 1.0,
        **children: Unpack[ChildOptions],
    ) -> None:
        super().__init__(
            *with_processes(
                runner_factory,
                children,
                processes=processes,
                slots=slots,
                threads=True,
                loop=True,
                block_timeout=block_timeout,
                name="AsyncPoolWorker",
            )
        )
