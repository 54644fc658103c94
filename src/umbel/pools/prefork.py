"""``--pool prefork``: one slot in each of many processes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from umbel.errors import ImproperlyConfigured
from umbel.pools.dispatch import ProcessPool
from umbel.pools.forking import ForkLauncher
from umbel.pools.options import PoolOptions
from umbel.pools.spawning import SpawnLauncher

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.process import Launcher

StartMethod = Literal["fork", "spawn"]


class PreforkPool(ProcessPool):
    """Runs each job in a process of its own, with nothing else in it.

    Args:
        runner_factory: makes the runner; with ``spawn`` it is the ``module:name`` of something importable.
        size: processes.
        max_tasks_per_child: jobs a process may begin before it is replaced.
        max_memory_per_child: KiB of its own a process may use before it is replaced after its job.
        log_level: log records of the processes from this level on are handled by the supervisor.
        start_method: ``fork``, from a template; or ``spawn``, from nothing.
        factory_argument: gives the argument of a factory that is named; None: it takes none.
        start_timeout: seconds in which a process has to come up.
        brief_seconds: seconds of work that may wait in a busy process.
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
            processes=size,
            name="ForkPoolWorker" if start_method == "fork" else "SpawnPoolWorker",
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


def make_launcher(runner_factory: Callable[[], JobRunner] | str, start_method: StartMethod) -> Launcher:
    """The way to start processes by its name."""
    if start_method == "spawn":
        if not isinstance(runner_factory, str):
            raise ImproperlyConfigured(
                f"start_method='spawn' needs an importable runner factory as 'module:name', not {runner_factory!r}"
            )
        return SpawnLauncher()
    if isinstance(runner_factory, str):
        raise ImproperlyConfigured(
            f"start_method='fork' needs a runner factory that can be called, not {runner_factory!r}"
        )
    return ForkLauncher(runner_factory)
