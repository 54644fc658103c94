"""What differs between Pythons."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from importlib.metadata import entry_points
from typing import Any

from umbel.compat.helpers.imports import symbol_by_name

__all__ = (
    "coro",
    "detect_environment",
    "entrypoints",
    "fileno",
    "maybe_fileno",
    "nested",
    "register_after_fork",
)

FILENO_ERRORS = (AttributeError, ValueError)


def coro(gen: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a generator so that it has begun."""

    @wraps(gen)
    def begun(*args: Any, **kwargs: Any) -> Any:
        made = gen(*args, **kwargs)
        next(made)
        return made

    return begun


def detect_environment() -> str:
    """``default``: Umbel patches nothing."""
    return "default"


def entrypoints(namespace: str) -> Any:
    """The entry points of a group, and what each gives."""
    return ((entry, symbol_by_name(entry.value)) for entry in entry_points(group=namespace))


def fileno(f: Any) -> int:
    """The number of an open file."""
    return f if isinstance(f, int) else int(f.fileno())


def maybe_fileno(f: Any) -> int | None:
    """The number of an open file; None for what has none."""
    try:
        return fileno(f)
    except FILENO_ERRORS:
        return None


@contextmanager
def nested(*managers: Any) -> Iterator[list[Any]]:
    """Several context managers as one."""
    with ExitStack() as stack:
        yield [stack.enter_context(each) for each in managers]


def register_after_fork(*args: Any, **kwargs: Any) -> Any:
    """Have a function called with an object in each process that is forked."""
    from multiprocessing.util import register_after_fork as register

    return register(*args, **kwargs)


def get_errno(exc: BaseException) -> int:
    """The number of an error."""
    return exc.errno if isinstance(exc, OSError) and exc.errno is not None else errno.EINVAL


def get_gevent_concurrent_error() -> Any:
    """None: Umbel patches nothing."""
    return os.environ.get("UMBEL_NO_SUCH_ERROR")
