"""``--pool threads``: many slots in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from umbel.pools.dispatch import ProcessPool
from umbel.pools.launching import with_processes
from umbel.pools.options import ChildOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner


class ThreadsPool(ProcessPool):
    """Runs jobs in the threads of one pool process, beside the worker's, so that they never hold up its loop.

    Soft limits and terminations are exceptions in the job's thread, which a body that is blocked in C sees when it
    comes back. A hard limit, and a termination by SIGKILL, end the process: jobs that had begun beside that one are
    reported as ``bystander``. Limits per child count for the process.

    Args:
        runner_factory: as ``PreforkPool``'s.
        size: threads.
        children: see ``ChildOptions``.
    """

    def __init__(
        self, runner_factory: Callable[[], JobRunner] | str, size: int, **children: Unpack[ChildOptions]
    ) -> None:
        super().__init__(
            *with_processes(
                runner_factory, children, processes=1, slots=size, threads=True, name="ThreadPoolWorker"
            )
        )
