"""Logging of an application."""

from umbel.app.log import Logging, TaskFormatter

from ..utils.log import ColorFormatter, LoggingProxy, get_logger, mlevel

__all__ = ("Logging", "TaskFormatter")
