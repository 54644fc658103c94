"""How the processes of a pool are started, by what it is to be."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from umbel.errors import ImproperlyConfigured
from umbel.pools.forking import ForkLauncher
from umbel.pools.options import PoolOptions
from umbel.pools.spawning import SpawnLauncher

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.options import ChildOptions, StartMethod
    from umbel.pools.process import Launcher


def with_processes(
    runner_factory: Callable[[], JobRunner] | str, given: ChildOptions, **kind: Any
) -> tuple[PoolOptions, Launcher]:
    """The options of a pool that has processes, and how these are started.

    Args:
        runner_factory: makes the runner; with ``spawn`` it is the ``module:name`` of something importable.
        given: the options that all such pools have.
        kind: those that make the difference between them.

    Raises:
        ImproperlyConfigured: the factory does not fit the start method.
    """
    rest: dict[str, Any] = dict(given)
    start_method: StartMethod = rest.pop("start_method", "fork")
    options = PoolOptions(
        factory=runner_factory if isinstance(runner_factory, str) else "",
        argument=rest.pop("factory_argument", None),
        path=sys.path if start_method == "spawn" else [],
        **rest,
        **kind,
    )
    return options, make_launcher(runner_factory, start_method)


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
