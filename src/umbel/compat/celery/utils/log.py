"""Loggers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

from umbel.logs import ColorFormatter, LogStream, get_logger, get_task_logger, level_number

__all__ = (
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
)

LOG_LEVELS: dict[Any, Any] = {
    **logging.getLevelNamesMapping(),
    **{number: name for name, number in logging.getLevelNamesMapping().items() if name != "WARN"},
    "FATAL": logging.FATAL,
}
RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

base_logger = logger = get_logger("celery")
worker_logger = get_logger("celery.worker")
task_logger = get_logger("celery.task")

_in_sighandler = [False]


class LoggingProxy(LogStream):
    """A stream whose lines go to a logger."""

    def __init__(self, logger: logging.Logger, loglevel: Any = None) -> None:
        super().__init__(logger, mlevel(loglevel) or logger.level or logging.ERROR)
        self.loglevel = mlevel(loglevel) or logger.level or logging.ERROR
        self.closed = False

    def close(self) -> None:
        """Take no more."""
        self.closed = True


def mlevel(level: Any) -> Any:
    """The number of a level."""
    return level_number(level) if level else level


def set_in_sighandler(value: bool) -> None:
    """Say whether this code runs in a signal handler."""
    _in_sighandler[0] = value


class in_sighandler:
    """Runs its body as a signal handler's."""

    def __enter__(self) -> None:
        set_in_sighandler(True)

    def __exit__(self, *exc_info: object) -> None:
        set_in_sighandler(False)


def logger_isa(l: Any, p: logging.Logger, max: int = 1000) -> bool:  # noqa: E741 - Celery's name
    """Whether a logger is another's descendant, or it itself."""
    for _ in range(max):
        if l is p:
            return True
        if l is None:
            return False
        l = l.parent  # noqa: E741
    raise RuntimeError(f"Logger hierarchy exceeds {max}")


def iter_open_logger_fds() -> Iterator[Any]:
    """The streams of all handlers."""
    loggers = [*logging.Logger.manager.loggerDict.values(), logging.getLogger()]
    handlers = {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}
    for handler in handlers:
        if isinstance(handler, logging.StreamHandler):
            yield handler.stream


def get_multiprocessing_logger() -> logging.Logger:
    """The logger of ``multiprocessing``."""
    from multiprocessing.util import get_logger as found

    return found()


def reset_multiprocessing_logger() -> None:
    """Accepted; the logger of ``multiprocessing`` is not replaced here."""


def current_process() -> Any:
    """This process."""
    from multiprocessing.process import current_process as found

    return found()


def current_process_index(base: int = 1) -> int | None:
    """The number of this pool process; None outside of one."""
    number = str(current_process().name).rpartition("-")[2]
    return int(number) - 1 + base if number.isdigit() else None


def get_multiprocessing_stream() -> Any:
    """Where ``multiprocessing`` logs."""
    return sys.__stderr__
