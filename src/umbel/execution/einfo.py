"""An exception with its traceback as text, for the handlers and receivers that Celery gives one to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class ExceptionInfo:
    """What ended an attempt: the ``einfo`` of ``on_failure``, ``on_retry`` and their signals.

    ``exception`` is the exception, ``type`` its class and ``traceback`` the formatted text, which ``str()`` gives too.
    ``internal`` is true when it was raised outside of the task's own code.
    """

    __slots__ = ("exception", "internal", "traceback", "type")

    def __init__(self, exception: BaseException, traceback: str, internal: bool = False) -> None:
        self.exception = exception
        self.type = type(exception)
        self.traceback = traceback
        self.internal = internal

    @property
    def tb(self) -> TracebackType | None:
        """The traceback itself, while the exception still has it."""
        return self.exception.__traceback__

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """The triple that ``logging`` takes."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"
