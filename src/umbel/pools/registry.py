"""Pools by the names that ``--pool`` and ``worker_pool`` take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Unpack

from umbel.errors import ImproperlyConfigured
from umbel.pools.async_pool import DEFAULT_SLOTS, AsyncioPool
from umbel.pools.green_pools import EventletPool, GeventPool
from umbel.pools.prefork import PreforkPool
from umbel.pools.solo import SoloPool
from umbel.pools.threads import ThreadsPool

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.dispatch import ProcessPool
    from umbel.pools.options import ChildOptions

#: The pools there are; ``processes`` is an old name that Celery keeps.
POOLS = ("prefork", "processes", "threads", "solo", "asyncio", "gevent", "eventlet")
_GREEN: Final[dict[str, type[GeventPool | EventletPool]]] = {"gevent": GeventPool, "eventlet": EventletPool}
#: Those that can run in the worker's own process.
INLINE = ("threads", "solo")
#: Celery's names for pools that Umbel does not have yet.
LATER = ("custom",)


def make_pool(
    name: str,
    runner_factory: Callable[[], JobRunner] | str,
    size: int,
    *,
    inline: bool = False,
    slots: int = DEFAULT_SLOTS,
    block_timeout: float = 1.0,
    **children: Unpack[ChildOptions],
) -> ProcessPool:
    """The pool called ``name``, with ``size`` slots, not started; ``asyncio`` has ``size`` processes of ``slots`` each.

    ``solo`` has one slot whatever ``size`` says, as in Celery, and no limits per child. ``runner_factory`` is the
    ``module:name`` of something importable where processes start from nothing, something to call otherwise. ``inline``:
    the broker is in the memory of this very process, where pool processes could send nothing to it; ``threads`` are
    threads of this process then. ``block_timeout``: seconds after which a loop of tasks that does not turn is reported;
    0: never. ``children``: see ``ChildOptions``.

    Raises:
        ImproperlyConfigured: there is no such pool, it cannot be inline, or the factory does not fit the start method.
    """
    if name not in POOLS:
        raise ImproperlyConfigured(_unknown(name))
    if inline or name == "solo":
        return _inline_pool(name, runner_factory, size, children.get("start_timeout", 60.0))
    if name in _GREEN:
        return _GREEN[name](runner_factory, size, **children)
    if name == "asyncio":
        return AsyncioPool(runner_factory, size, slots=slots, block_timeout=block_timeout, **children)
    kind = ThreadsPool if name == "threads" else PreforkPool
    return kind(runner_factory, size, **children)


def _inline_pool(
    name: str, runner_factory: Callable[[], JobRunner] | str, size: int, start_timeout: float
) -> ProcessPool:
    """The pool in this process that stands for the one of this name."""
    if name not in INLINE:
        raise ImproperlyConfigured(
            f"memory:// is in the memory of one process, and the {name} pool has others, which could send nothing to "
            f"it: choose the pool {' or '.join(INLINE)}, or another broker"
        )
    if isinstance(runner_factory, str):
        raise ImproperlyConfigured(
            f"the {name} pool runs in this process and calls its runner factory; {runner_factory!r} is a name"
        )
    return SoloPool(runner_factory, 1 if name == "solo" else size, start_timeout=start_timeout)


def _unknown(name: str) -> str:
    choice = ", ".join(POOLS)
    if name in LATER:
        return f"the {name} pool is not available in this version of Umbel; choose one of {choice}"
    return f"there is no pool called {name!r}; choose one of {choice}"
