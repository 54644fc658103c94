"""``--pool prefork``: one slot in each of many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from umbel.pools.dispatch import ProcessPool
from umbel.pools.launching import with_processes
from umbel.pools.options import ChildOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner


class PreforkPool(ProcessPool):
    """Runs each job in a process of its own, with nothing else in it.

    Args:
        runner_factory: makes the runner; with ``spawn`` it is the ``module:name`` of something importable.
        size: processes.
        children: see ``ChildOptions``.
    """

    def __init__(
        self, runner_factory: Callable[[], JobRunner] | str, size: int, **children: Unpack[ChildOptions]
    ) -> None:
        spawned = children.get("start_method") == "spawn"
        name = "SpawnPoolWorker" if spawned else "ForkPoolWorker"
        super().__init__(*with_processes(runner_factory, children, processes=size, name=name))
