"""Logging as Celery's worker sets it up: logger names, formats, colours and the redirection of standard output.

Loggers named ``celery.*`` belong to the worker; ``get_task_logger`` puts a logger under ``celery.task``, whose lines
carry the task's name and id. The root logger belongs to the application: if it has handlers already they stay as they
are, unless ``worker_hijack_root_logger`` is set. Only when nobody has configured it does it get the worker's handler,
so that the lines of ordinary modules are not lost.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Final, TextIO, cast

import msgspec

from umbel.signals import after_setup_logger, after_setup_task_logger, setup_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

PROCESS_FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
TASK_FORMAT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"

_RESERVED: Final = frozenset({"celery", "celery.task"})
_COLORS: Final = {
    logging.DEBUG: "\033[1;34m",
    logging.WARNING: "\033[1;33m",
    logging.ERROR: "\033[1;31m",
    logging.CRITICAL: "\033[1;35m",
}
_RESET: Final = "\033[0m"


class LogOptions(msgspec.Struct, frozen=True):
    """What the worker's log looks like and where it goes.

    ``logfile`` None is standard error; ``color`` None is: on a terminal.
    """

    level: int = logging.WARNING
    logfile: str | None = None
    format: str = PROCESS_FORMAT
    task_format: str = TASK_FORMAT
    datefmt: str | None = None
    task_datefmt: str | None = None
    color: bool | None = None
    hijack_root: bool = False


def level_number(level: str | int) -> int:
    """The number of a level given as a name (any case) or number. Raises ValueError that lists the names."""
    if isinstance(level, int):
        return level
    if level.isdigit():
        return int(level)
    names = logging.getLevelNamesMapping()
    try:
        return names[level.upper()]
    except KeyError:
        known = ", ".join(sorted(names, key=names.__getitem__))
        raise ValueError(f"log level: expected one of {known} or a number, got {level!r}") from None


def get_logger(name: str) -> logging.Logger:
    """The logger of this name; one that has no parent but the root is put under ``celery``."""
    logger = logging.getLogger(name)
    celery = logging.getLogger("celery")
    if logger not in (celery, logging.root) and not _descends(logger, celery):
        logger.parent = celery
    return logger


def get_task_logger(name: str) -> logging.Logger:
    """The logger for a module of tasks: a child of ``celery.task``, whose lines carry the task's name and id.

    Raises RuntimeError for the two names that the worker keeps to itself.
    """
    if name in _RESERVED:
        raise RuntimeError(f"Logger name {name!r} is reserved!")
    task_logger = logging.getLogger("celery.task")
    logger = logging.getLogger(name)
    if not _descends(logger, task_logger):
        logger.parent = task_logger
    return logger


def _descends(logger: logging.Logger, ancestor: logging.Logger) -> bool:
    current: logging.Logger | None = logger
    while current is not None:
        if current is ancestor:
            return True
        current = current.parent
    return False


class ColorFormatter(logging.Formatter):
    """Colours lines by severity when the terminal can."""

    def __init__(self, fmt: str, datefmt: str | None = None, use_color: bool = False) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color
        self._second = -1
        self._second_text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The time of a line; of the usual form only the milliseconds are new each time."""
        if datefmt:
            return super().formatTime(record, datefmt)
        second = int(record.created)
        if second != self._second:
            self._second_text = time.strftime(self.default_time_format, self.converter(second))
            self._second = second
        return f"{self._second_text},{int(record.msecs):03d}"

    def format(self, record: logging.LogRecord) -> str:
        """The line, coloured as a whole."""
        text = super().format(record)
        color = _COLORS.get(record.levelno) if self.use_color else None
        return f"{color}{text}{_RESET}" if color else text


class TaskFormatter(ColorFormatter):
    """Adds ``task_name`` and ``task_id`` of the job that runs in the thread that logs, ``???`` outside of one."""

    def __init__(
        self,
        fmt: str,
        current_job: Callable[[], tuple[str, str] | None],
        datefmt: str | None = None,
        use_color: bool = False,
    ) -> None:
        super().__init__(fmt, datefmt, use_color)
        self._current_job = current_job

    def format(self, record: logging.LogRecord) -> str:
        """The line with the running task's name and id."""
        name, task_id = self._current_job() or ("???", "???")
        record.__dict__.setdefault("task_name", name)
        record.__dict__.setdefault("task_id", task_id)
        return super().format(record)


def setup(options: LogOptions, current_job: Callable[[], tuple[str, str] | None]) -> bool:
    """Set up the worker's logging; false when a receiver of the ``setup_logging`` signal did it instead.

    Raises what such a receiver raised: a worker must not start with half a logging configuration.
    """
    color = _use_color(options)
    responses = setup_logging.send(
        sender=None,
        loglevel=options.level,
        logfile=options.logfile,
        format=options.format,
        colorize=color,
    )
    for _, response in responses:
        if isinstance(response, Exception):
            raise response
    if responses:
        return False
    logging.captureWarnings(capture=True)
    _setup_process_logger(options, color)
    _setup_task_logger(options, color, current_job)
    return True


def _setup_process_logger(options: LogOptions, color: bool) -> None:
    celery = logging.getLogger("celery")
    formatter = ColorFormatter(options.format, options.datefmt, color)
    if options.hijack_root:
        _replace_handlers([logging.root], [])
    target = celery if logging.root.handlers else logging.root
    _replace_handlers([celery, logging.getLogger("celery.redirected")], [])
    _replace_handlers([target], [_handler(options.logfile, formatter)])
    target.setLevel(options.level)
    # Where the application has its own root handlers, the worker's lines go to the worker's log only, once.
    celery.propagate = target is logging.root
    after_setup_logger.send(
        sender=None,
        logger=target,
        loglevel=options.level,
        logfile=options.logfile,
        format=options.format,
        colorize=color,
    )


def _setup_task_logger(
    options: LogOptions, color: bool, current_job: Callable[[], tuple[str, str] | None]
) -> None:
    logger = logging.getLogger("celery.task")
    formatter = TaskFormatter(
        options.task_format, current_job, options.task_datefmt or options.datefmt, color
    )
    _replace_handlers([logger], [_handler(options.logfile, formatter)])
    logger.setLevel(options.level)
    logger.propagate = False
    after_setup_task_logger.send(
        sender=None,
        logger=logger,
        loglevel=options.level,
        logfile=options.logfile,
        format=options.task_format,
        colorize=color,
    )


def _replace_handlers(loggers: Iterable[logging.Logger], handlers: list[logging.Handler]) -> None:
    for logger in loggers:
        logger.handlers[:] = handlers


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler


class _Batching(_StreamHandler):
    """Writes each line out at once, or a batch of lines together (see ``batch``)."""

    _held = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        try:
            stream = self.stream
            stream.write(self.format(record) + self.terminator)
            if not self._held:
                stream.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def hold(self) -> None:
        """Keep lines back until ``let_go``."""
        self._held = True

    def let_go(self) -> None:
        """Write out what was kept back."""
        self._held = False
        self.flush()


class _LogFile(_Batching, WatchedFileHandler):
    """A log file; one that is moved away by rotation is opened anew, within half a second."""

    _looked = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to the file that has the name now."""
        if not 0 <= record.created - self._looked < _LOOK_AGAIN:
            self._looked = record.created
            self.reopenIfNeeded()
        if self.stream is None:
            self.stream = self._open()
        super().emit(record)


#: Seconds after which it is looked again whether a log file is still the one that was opened.
_LOOK_AGAIN: Final = 0.5


def batch(logger: logging.Logger) -> AbstractContextManager[None]:
    """Within it, lines of this logger that go to the worker's own handlers are written out together, at its end.

    For lines written in one go by the thread that holds the event loop; none is kept back longer than that.
    """
    handlers: list[_Batching] = []
    current: logging.Logger | None = logger
    while current is not None:
        handlers += [handler for handler in current.handlers if isinstance(handler, _Batching)]
        current = current.parent if current.propagate else None
    return _batch(handlers)


@contextmanager
def _batch(handlers: list[_Batching]) -> Iterator[None]:
    for handler in handlers:
        handler.hold()
    try:
        yield
    finally:
        for handler in handlers:
            handler.let_go()


def _handler(logfile: str | None, formatter: logging.Formatter) -> logging.Handler:
    handler: logging.Handler
    handler = _Batching(sys.__stderr__) if logfile is None else _LogFile(logfile, encoding="utf-8")
    handler.setFormatter(formatter)
    return handler


def move_logfile(old: str, new: str) -> None:
    """Have this process go on in another log file; for pool processes that have one each (``%i`` in its name)."""
    where = os.path.abspath(old)  # noqa: PTH100 - as the handlers name theirs
    for logger in (logging.root, logging.getLogger("celery"), logging.getLogger("celery.task")):
        for handler in logger.handlers:
            if isinstance(handler, _LogFile) and handler.baseFilename == where:
                handler.close()
                handler.baseFilename = os.path.abspath(new)  # noqa: PTH100
                handler.dev = handler.ino = -1  # not the file that was watched


def _use_color(options: LogOptions) -> bool:
    if options.color is not None:
        return options.color
    if options.logfile is not None or "NO_COLOR" in os.environ:
        return False
    return sys.__stderr__ is not None and sys.__stderr__.isatty()


class LogStream:
    """Stands in for standard output or error: every line written becomes a log record."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    closed = False

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._busy = False

    def write(self, text: str) -> int:
        """Log the text, unless it is written while a record of ours is being handled (a handler that prints)."""
        line = text.rstrip()
        if line and not self._busy:
            self._busy = True
            try:
                self._logger.log(self._level, line)
            finally:
                self._busy = False
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log every line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        """Never: colours and prompts do not belong in a log."""
        return False

    def fileno(self) -> int:
        """The real standard error's, for those who insist on a descriptor."""
        return 2


def redirect_stdouts(level: int) -> None:
    """Send what tasks print to the logger ``celery.redirected``."""
    stream = cast("TextIO", LogStream(get_logger("celery.redirected"), level))
    sys.stdout = stream
    sys.stderr = stream
