"""Exceptions with their tracebacks."""

from __future__ import annotations

import sys
import traceback as _traceback
from typing import Any

from umbel.execution.einfo import ExceptionInfo as _ExceptionInfo


class ExceptionInfo(_ExceptionInfo):
    """The exception that is being handled, or that of a triple; see ``umbel.execution.einfo``."""

    __slots__ = ()

    def __init__(self, exc_info: Any = None, internal: bool = False) -> None:
        kind, error, trace = exc_info or sys.exc_info()
        text = "".join(_traceback.format_exception(kind, error, trace))
        super().__init__(error or Exception(text), text, internal)


Traceback = type


class ExceptionWithTraceback(Exception):
    """An exception and the text of its traceback."""

    def __init__(self, exc: BaseException, tb: object = None) -> None:
        super().__init__(exc)
        self.exc = exc
        self.tb = str(tb or "")

    def __str__(self) -> str:
        return self.tb
