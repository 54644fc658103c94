"""Celery's top level: every name is Umbel's."""

from __future__ import annotations

import os as _os
import sys as _sys
from typing import Any, NamedTuple

from umbel.compat.lazily import lazily as _lazily

__umbel_alias__ = True

#: The version of Celery whose surface this is; ``umbel.__version__`` is the version of what runs.
__version__ = "5.7.0"
__author__ = "The Umbel authors"
__contact__ = "https://umbel.readthedocs.io"
__homepage__ = "https://umbel.readthedocs.io"
__docformat__ = "restructuredtext"
__keywords__ = "task job queue distributed messaging actor"
SERIES = "umbel"
VERSION_BANNER = f"{__version__} ({SERIES})"


class version_info_t(NamedTuple):
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


VERSION = version_info = version_info_t(5, 7, 0, "", "")

__all__ = (
    "Celery",
    "Signature",
    "Task",
    "bugreport",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "uuid",
    "xmap",
    "xstarmap",
)

_original_os_write = _os.write


def _find_option_with_arg(argv: list[str], short_opts: Any = None, long_opts: Any = None) -> str:
    """The value of an option on a command line. Raises KeyError with the options when it is not there."""
    for index, word in enumerate(argv):
        if word.startswith("--"):
            name, given, value = word.partition("=")
            if name in (long_opts or ()):
                return value if given else argv[index + 1]
        elif word.startswith("-") and word in (short_opts or ()):
            return argv[index + 1]
    raise KeyError("|".join((*(short_opts or ()), *(long_opts or ()))))


def maybe_patch_concurrency(
    argv: list[str] | None = None, short_opts: Any = None, long_opts: Any = None, patches: Any = None
) -> None:
    """Apply the patch for the pool that a command line asks for.

    ``patches`` maps pools to functions. Umbel patches nothing in the worker's own process: without ``patches``
    there is nothing to do.
    """
    try:
        pool = _find_option_with_arg(argv or _sys.argv, short_opts or ["-P"], long_opts or ["--pool"])
    except KeyError:
        return
    patch = (patches or {}).get(pool)
    if patch is not None:
        patch()


__getattr__ = _lazily(
    __name__,
    {
        "Celery": "celery.app.base:Celery",
        "Signature": "celery.canvas:Signature",
        "Task": "celery.app.task:Task",
        "bugreport": "celery.app:bugreport",
        "chain": "celery.canvas:chain",
        "chord": "celery.canvas:chord",
        "chunks": "celery.canvas:chunks",
        "current_app": "celery._state:current_app",
        "current_task": "celery._state:current_task",
        "execute": "celery.execute",
        "group": "celery.canvas:group",
        "local": "celery.local",
        "log": "celery.log",
        "maybe_signature": "celery.canvas:maybe_signature",
        "messaging": "celery.messaging",
        "registry": "celery.registry",
        "shared_task": "celery.app:shared_task",
        "signature": "celery.canvas:signature",
        "subtask": "celery.canvas:subtask",
        "uuid": "celery.utils:uuid",
        "xmap": "celery.canvas:xmap",
        "xstarmap": "celery.canvas:xstarmap",
        # Celery's lazy top level has these as attributes without an import of theirs.
        "app": "celery.app",
        "canvas": "celery.canvas",
        "exceptions": "celery.exceptions",
        "result": "celery.result",
        "schedules": "celery.schedules",
        "signals": "celery.signals",
        "states": "celery.states",
        "utils": "celery.utils",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
