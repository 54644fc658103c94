"""What a pool is to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypedDict

StartMethod = Literal["fork", "spawn"]


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """The options of a pool, whatever its kind.

    Attributes:
        processes: pool processes.
        slots: jobs at a time in each.
        threads: slots are threads, or tasks of a loop; else a process has one slot, its main thread.
        loop: slots are tasks of an event loop, and jobs can be cancelled one by one.
        patch: the library whose greenlets its slots are, ``gevent`` or ``eventlet``; empty: none.
        block_timeout: seconds after which a loop that does not turn is reported; 0: never.
        name: what processes are called in logs, before their number.
        factory: ``module:name`` of what makes the runner, for processes that start from nothing.
        argument: gives the argument of that, as bytes; None: it takes none.
        path: their ``sys.path``.

    The others are those of ``ChildOptions``.
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
    max_age_per_child: float | None = None
    age_jitter: float = 0.2
    log_level: int | None = None
    start_timeout: float = 60.0
    brief_seconds: float = 0.002
    factory: str = ""
    argument: Callable[[], bytes] | None = None
    path: list[str] = field(default_factory=list)


class ChildOptions(TypedDict, total=False):
    """The options of every pool that has processes of its own.

    ``max_tasks_per_child``: jobs a process may begin before it is replaced; None for any number.
    ``max_memory_per_child``: KiB of its own a process may use before it is replaced; None for any.
    ``max_age_per_child``: seconds after which it is replaced; None: never. ``age_jitter``: a part of one; each
    process's time is shorter by up to that part, at random. In every case its replacement is up before it takes no
    more jobs, and what it runs goes on to its end.

    ``log_level``: log records of the processes from this level on are handled by the supervisor; None: by themselves.
    ``start_method``: ``fork``, from a template; or ``spawn``, from nothing. ``factory_argument``: gives the argument of
    a factory that is named; None: it takes none. ``start_timeout``: seconds in which a process has to come up.
    ``brief_seconds``: seconds of work that may wait in a busy process.
    """

    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    max_age_per_child: float | None
    age_jitter: float
    log_level: int | None
    start_method: StartMethod
    factory_argument: Callable[[], bytes] | None
    start_timeout: float
    brief_seconds: float
