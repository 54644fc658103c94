"""What a pool is to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """The options of a pool, whatever its kind.

    Attributes:
        processes: pool processes.
        slots: jobs at a time in each.
        threads: slots are threads, or tasks of a loop; else a process has one slot, its main thread.
        loop: slots are tasks of an event loop, and jobs can be cancelled one by one.
        patch: the library whose greenlets its slots are, ``gevent``; empty: none.
        block_timeout: seconds after which a loop that does not turn is reported; 0: never.
        name: what processes are called in logs, before their number.
        max_tasks_per_child: jobs a process may begin before it is replaced; None for any number.
        max_memory_per_child: KiB of its own a process may use before it is replaced; None for any.
        log_level: log records of pool processes from this level on are handled by the supervisor; None: by themselves.
        start_timeout: seconds in which a process has to come up.
        brief_seconds: seconds of work that may wait in a busy process.
        factory: ``module:name`` of what makes the runner, for processes that start from nothing.
        argument: gives the argument of that, as bytes; None: it takes none.
        path: their ``sys.path``.
    """

    processes: int
    name: str
    slots: int = 1
    threads: bool = False
    loop: bool = False
    patch: str = ""
    block_timeout: float = 0.0
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    log_level: int | None = None
    start_timeout: float = 60.0
    brief_seconds: float = 0.002
    factory: str = ""
    argument: Callable[[], bytes] | None = None
    path: list[str] = field(default_factory=list)
