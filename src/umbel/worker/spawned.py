"""Pool processes that start from nothing (``worker_pool_start_method = 'spawn'``): how they come by the application.

They import it. So it has to be the value of a global name in a module; one that is the program's own file is imported
under another name, as ``multiprocessing`` does, so that what stands under ``if __name__ == "__main__"`` does not run
again. What was changed since its import, by the command line for instance, is sent along.
"""

from __future__ import annotations

import multiprocessing.process
import multiprocessing.spawn
import os
import pickle
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.app import Umbel
    from umbel.pools.base import JobRunner

#: ``module:name`` of ``make_runner``.
FACTORY = f"{__name__}:make_runner"


class Origin(msgspec.Struct):
    """Where a pool process finds its application: ``module`` and ``name``, and the program's ``main`` module if needed.

    ``main`` is as ``multiprocessing`` prepares it. ``set_up`` is called when the application has been imported.
    """

    module: str
    name: str
    main: dict[str, str]
    hostname: str
    changes: dict[str, Any]
    set_up: Callable[[], None] | None = None


def describe(app: Umbel, hostname: str, set_up: Callable[[], None] | None = None) -> bytes:
    """The argument of ``make_runner`` for an application.

    Raises:
        ImproperlyConfigured: no module has it.
    """
    module, name = _find(app)
    main = _main_module() if module == "__main__" else {}
    known = app.conf.defaults[-1]
    changes = {key: value for key, value in app.conf.changes.items() if key in known and _travels(value)}
    return pickle.dumps(Origin(module, name, main, hostname, changes, set_up))


def make_runner(argument: bytes) -> JobRunner:
    """In the pool process: import the application and make its runner."""
    origin: Origin = pickle.loads(argument)
    if origin.main:
        multiprocessing.spawn.prepare(dict(origin.main))
    app: Umbel = vars(import_module(origin.module))[origin.name]
    app.conf.update(origin.changes)
    app.loader.import_default_modules()
    app.finalize()
    app.set_current()
    if origin.set_up is not None:
        origin.set_up()
    return app.make_runner(origin.hostname)


def _find(app: Umbel) -> tuple[str, str]:
    """The module and the name there whose value the application is."""
    in_main = None
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is app:
                if module_name not in ("__main__", "__mp_main__"):
                    return module_name, name
                in_main = ("__main__", name)
    if in_main is None:
        raise ImproperlyConfigured(
            f"worker_pool_start_method='spawn' needs an application that pool processes can import: a global name in a "
            f"module has to have it, and none has {app!r}; otherwise take 'fork'"
        )
    return in_main


def _main_module() -> dict[str, str]:
    """How to import the program's own module elsewhere."""
    main = sys.modules["__main__"]
    spec = main.__spec__
    if spec is not None:
        return {"init_main_from_name": spec.name}
    if not getattr(main, "__file__", None):
        raise ImproperlyConfigured(
            "worker_pool_start_method='spawn' needs an application in a file, and this program has none; put it into a "
            "module, or take 'fork'"
        )
    return {"init_main_from_path": os.path.abspath(str(main.__file__))}  # noqa: PTH100 - resolves no links


def _travels(value: object) -> bool:
    """Whether a changed setting can be sent; what cannot was made by a module, which makes it again when imported."""
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True
