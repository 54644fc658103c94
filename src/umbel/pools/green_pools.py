"""``--pool gevent`` and ``--pool eventlet``: jobs are greenlets of a process whose blocking calls are replaced."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, ClassVar, Unpack

from umbel.errors import ImproperlyConfigured
from umbel.pools.dispatch import ProcessPool
from umbel.pools.launching import with_processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.pools.base import JobRunner
    from umbel.pools.options import ChildOptions


class _GreenPool(ProcessPool):
    """Runs jobs in the greenlets of pool processes that start from nothing, patched before the application is imported.

    Limits and cancellation reach a body where it waits. A hard limit ends the process: jobs that had begun beside the
    one that overran are reported as ``bystander``. The worker itself is not patched.

    Args:
        runner_factory: ``module:name`` of what makes the runner.
        size: greenlets in each process.
        processes: pool processes.
        children: see ``ChildOptions``; they are started by ``spawn`` whatever is said.

    Raises:
        ImproperlyConfigured: the library is not installed, or the factory has no name.
    """

    library: ClassVar[str]

    def __init__(
        self,
        runner_factory: Callable[[], JobRunner] | str,
        size: int,
        *,
        processes: int = 1,
        **children: Unpack[ChildOptions],
    ) -> None:
        library = self.library
        if importlib.util.find_spec(library) is None:
            raise ImproperlyConfigured(f"the {library} pool needs {library}: pip install umbel[{library}]")
        if not isinstance(runner_factory, str):
            raise ImproperlyConfigured(
                f"the {library} pool starts its processes from nothing and needs an importable runner factory as "
                f"'module:name', not {runner_factory!r}"
            )
        children["start_method"] = "spawn"
        super().__init__(
            *with_processes(
                runner_factory,
                children,
                processes=processes,
                slots=size,
                threads=True,
                loop=True,
                patch=library,
                name=f"{library.capitalize()}PoolWorker",
            )
        )


class GeventPool(_GreenPool):
    """The pool of gevent."""

    __doc__ = _GreenPool.__doc__
    library = "gevent"


class EventletPool(_GreenPool):
    """The pool of eventlet, for applications that have it; its own maintainers advise against beginning with it."""

    library = "eventlet"
