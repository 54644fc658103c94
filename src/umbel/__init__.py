"""Umbel: a distributed task queue that a Celery user moves to without changing code.

::

    from umbel import Umbel

    app = Umbel("proj", broker="redis://localhost/0", backend="redis://localhost/1")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 2).get(timeout=10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from umbel.app import Celery, Umbel, shared_task
from umbel.canvas.signature import Signature, maybe_signature, signature
from umbel.config.sources import import_path
from umbel.core.ids import new_id as uuid
from umbel.core.queues import Broadcast, Exchange, Queue
from umbel.execution.context import current_task as _find_current_task
from umbel.state import Proxy, get_current_app
from umbel.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.canvas.chains import chain
    from umbel.canvas.chords import chord
    from umbel.canvas.groups import group
    from umbel.canvas.maps import chunks, xmap, xstarmap
    from umbel.worker.embedded import EmbeddedWorker

__all__ = [
    "Broadcast",
    "Celery",
    "Exchange",
    "Queue",
    "Signature",
    "Task",
    "Umbel",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "install_as_celery",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "xmap",
    "xstarmap",
]

__version__ = "0.1.0"

#: The application that is current where it is used.
current_app: Umbel = Proxy(get_current_app)  # type: ignore[assignment]

#: The task that runs where it is used; false outside tasks.
current_task: Task[..., Any] = Proxy(_find_current_task)  # type: ignore[assignment]

subtask = signature

#: What is loaded when it is first used: programs without workflows need not have them.
_LATER = frozenset({"chain", "chord", "chunks", "group", "xmap", "xstarmap"})


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = import_path(f"umbel.canvas.workflows:{name}")
    return found


def _run_command_line(app: Umbel, argv: Sequence[str]) -> int | None:
    # By name, as adapters are: only programs that run a command line pay for click.
    run = cast("Callable[[Umbel, Sequence[str]], int | None]", import_path("umbel.cli:run_with_app"))
    return run(app, argv)


def _make_embedded_worker(app: Umbel, **options: Any) -> EmbeddedWorker:
    make = cast("Callable[..., EmbeddedWorker]", import_path("umbel.worker.embedded:EmbeddedWorker"))
    return make(app, **options)


Umbel.command_line = staticmethod(_run_command_line)
Umbel.embedded_worker = staticmethod(_make_embedded_worker)


def install_as_celery() -> None:
    """Make ``import celery`` and ``import kombu`` give Umbel, for the rest of this process. Safe twice.

    Call it before anything imports Celery. Raises AliasConflict, an ImportError, when that happened already.
    """
    cast("Callable[[], None]", import_path("umbel.compat:install_as_celery"))()
