"""``app.log``: the set-up of logging for programs that are no worker, by Celery's names.

A worker sets up its own log, see ``umbel.logs``. This is for scripts, notebooks and tests that call ``app.log.setup``,
and for those who call the parts from receivers of signals. A root logger that has handlers keeps them.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

from umbel import logs
from umbel.config.sources import import_path
from umbel.execution.context import current, current_task
from umbel.signals import after_setup_logger, after_setup_task_logger, setup_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.app.application import Umbel

__all__ = ["Logging", "TaskFormatter"]


def _current_job() -> tuple[str, str] | None:
    context, task = current(), current_task()
    return None if context is None or task is None or not context.id else (task.name, context.id)


class TaskFormatter(logs.TaskFormatter):
    """Adds ``task_name`` and ``task_id`` of the task that runs, ``???`` outside of one."""

    def __init__(self, fmt: str, datefmt: str | None = None, use_color: bool = False) -> None:
        super().__init__(fmt, _current_job, datefmt, use_color)


class Logging:
    """The logging of one application's programs; it is set up once in a process."""

    #: Whether it was set up, in this process, by any application.
    _setup = False

    def __init__(self, app: Umbel) -> None:
        conf = app.conf
        self.app = app
        self.loglevel: int = logging.WARNING
        self.format: str = conf.worker_log_format
        self.datefmt: str | None = conf.worker_log_datefmt
        self.task_format: str = conf.worker_task_log_format
        self.task_datefmt: str | None = conf.worker_task_log_datefmt
        self.colorize: bool | None = conf.worker_log_color

    @property
    def already_setup(self) -> bool:
        """Whether it was set up. Setting it false lets ``setup`` do it again."""
        return self._setup

    @already_setup.setter
    def already_setup(self, was: bool) -> None:
        self._setup = was

    def setup(
        self,
        loglevel: str | int | None = None,
        logfile: str | None = None,
        redirect_stdouts: bool = False,
        redirect_level: str | int = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """Set up the log, and with ``redirect_stdouts`` send what is printed there too.

        Returns what receivers of ``setup_logging`` answered, who then have done it instead.
        """
        handled = self.setup_logging_subsystem(loglevel, logfile, colorize=colorize, hostname=hostname)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        logging.captureWarnings(capture=True)
        return handled

    def setup_logging_subsystem(
        self,
        loglevel: str | int | None = None,
        logfile: str | None = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Set up the root logger and that of tasks, unless that was done before or a receiver does it."""
        if self.already_setup:
            return None
        type(self)._setup = True
        level = self._level(loglevel)
        if logfile and hostname:
            # What the parts of a worker's name are is known above.
            logfile = cast("Callable[[str, str], str]", import_path("umbel.worker.options:expand"))(
                logfile, hostname
            )
        format = format or self.format
        color = self.supports_color(colorize, logfile)
        told: dict[str, Any] = {
            "loglevel": level,
            "logfile": logfile,
            "format": format,
            "colorize": color,
        }
        responses = setup_logging.send(sender=None, **told)
        for _, response in responses:
            if isinstance(response, Exception):
                type(self)._setup = False
                raise response
        if not responses:
            root = logging.getLogger()
            if self.app.conf.worker_hijack_root_logger:
                for name in ("", "celery", "celery.task", "celery.redirected"):
                    logging.getLogger(name).handlers.clear()
            self.setup_handlers(root, logfile, format, color, datefmt=datefmt or self.datefmt)
            root.setLevel(level)
            after_setup_logger.send(sender=None, logger=root, **told)
            self.setup_task_loggers(level, logfile, colorize=color)
        return responses

    def setup_task_loggers(
        self,
        loglevel: str | int | None = None,
        logfile: str | None = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Set up the logger of tasks, and return it."""
        level = self._level(loglevel)
        format = format or self.task_format
        color = self.supports_color(colorize, logfile)
        logger = logs.get_logger("celery.task")
        self.setup_handlers(logger, logfile, format, color, TaskFormatter, datefmt or self.task_datefmt)
        logger.setLevel(level)
        logger.propagate = bool(propagate)
        after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=level, logfile=logfile, format=format, colorize=color
        )
        return logger

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: str | None,
        format: str,
        colorize: bool | None,
        formatter: Callable[..., logging.Formatter] = logs.ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give a logger that has no handler one that writes to a file, or to standard error."""
        if not any(not isinstance(each, logging.NullHandler) for each in logger.handlers):
            made = formatter(format, datefmt=datefmt, use_color=bool(colorize))
            logger.addHandler(logs._handler(logfile, made))
        return logger

    def redirect_stdouts(self, loglevel: str | int | None = None, name: str = "celery.redirected") -> None:
        """Send what is printed to a logger."""
        self.redirect_stdouts_to_logger(logs.get_logger(name), loglevel)

    def redirect_stdouts_to_logger(
        self,
        logger: logging.Logger,
        loglevel: str | int | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> logs.LogStream:
        """Send what is printed to a logger; returns the stream that does it."""
        stream = logs.LogStream(logger, self._level(loglevel))
        if stdout:
            sys.stdout = cast("TextIO", stream)
        if stderr:
            sys.stderr = cast("TextIO", stream)
        return stream

    def supports_color(self, colorize: bool | None = None, logfile: str | None = None) -> bool:
        """Whether lines are to be coloured: as asked for, and never in a file or where there is no terminal."""
        wanted = self.colorize if colorize is None else colorize
        if wanted is False:
            return False
        return logfile is None and sys.stderr is not None and sys.stderr.isatty()

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        """The logger of this name."""
        return logs.get_logger(name)

    def _level(self, level: str | int | None) -> int:
        return logs.level_number(level) if level else self.loglevel
