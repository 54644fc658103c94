"""Loggers."""

from __future__ import annotations

import logging
from typing import Any

from umbel.logs import level_number

__all__ = ("LOG_LEVELS", "LogMixin", "get_loglevel", "setup_logging")

LOG_LEVELS: dict[Any, Any] = {
    **logging.getLevelNamesMapping(),
    **{number: name for name, number in logging.getLevelNamesMapping().items() if name != "WARN"},
    "FATAL": logging.FATAL,
}


def get_logger(logger: Any) -> logging.Logger:
    """A logger by name, that says nothing where nobody set it up."""
    found: logging.Logger = logging.getLogger(logger) if isinstance(logger, str) else logger
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


def get_loglevel(level: Any) -> int:
    """The number of a level."""
    return level_number(level)


def setup_logging(loglevel: Any = None, loggers: Any = None) -> None:
    """Show logs on standard error."""
    for each in loggers or (logging.getLogger(),):
        get_logger(each).addHandler(logging.StreamHandler())
        get_logger(each).setLevel(get_loglevel(loglevel or "ERROR"))


class LogMixin:
    """A logger named as the class is."""

    @property
    def logger_name(self) -> str:
        """The logger's name."""
        return type(self).__name__

    @property
    def logger(self) -> logging.Logger:
        """The logger."""
        return get_logger(self.logger_name)

    def log(self, severity: Any, *args: Any, **kwargs: Any) -> None:
        """Log a line."""
        self.logger.log(get_loglevel(severity), *args, **kwargs)

    def debug(self, *args: Any, **kwargs: Any) -> None:
        """Log a line."""
        self.log(logging.DEBUG, *args, **kwargs)

    def info(self, *args: Any, **kwargs: Any) -> None:
        """Log a line."""
        self.log(logging.INFO, *args, **kwargs)

    def warn(self, *args: Any, **kwargs: Any) -> None:
        """Log a line."""
        self.log(logging.WARNING, *args, **kwargs)

    def error(self, *args: Any, **kwargs: Any) -> None:
        """Log a line."""
        self.log(logging.ERROR, *args, **kwargs)

    def critical(self, *args: Any, **kwargs: Any) -> None:
        """Log a line."""
        self.log(logging.CRITICAL, *args, **kwargs)
