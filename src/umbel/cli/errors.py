"""How commands fail: one clear line on standard error and an exit status, a traceback only with ``--traceback``."""

from __future__ import annotations

import sys
import traceback
from typing import IO, Any, Final

import click

from umbel.errors import BackendError, ImproperlyConfigured, OperationalError, SecurityError

__all__ = [
    "EX_CANTCREAT",
    "EX_FAILURE",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "CommandFailed",
    "misplaced_app",
    "one_line",
]

#: Exit statuses, as Celery's.
EX_FAILURE: Final = 1
EX_USAGE: Final = 2  #: click's own
EX_UNAVAILABLE: Final = 69
EX_CANTCREAT: Final = 73


class CommandFailed(click.ClickException):
    """A command could not do what was asked. ``cause`` is what ``--traceback`` shows."""

    def __init__(
        self,
        message: str,
        *,
        exit_code: int = EX_FAILURE,
        cause: BaseException | None = None,
        show_traceback: bool = False,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click reads the exception's own
        self.cause = cause
        self.show_traceback = show_traceback

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, and before it the traceback if it is wanted."""
        if self.show_traceback and self.cause is not None:
            traceback.print_exception(self.cause, file=file or sys.stderr)
        super().show(file)

    @classmethod
    def of(cls, error: BaseException) -> CommandFailed:
        """The failure that an exception stands for."""
        if isinstance(error, CommandFailed):
            return error
        message, exit_code = _explain(error)
        return cls(message, exit_code=exit_code, cause=error)


def _explain(error: BaseException) -> tuple[str, int]:
    match error:
        case OperationalError():
            return (
                f"Cannot reach the broker: {one_line(error)} (is it running, and is its address right?)",
                EX_UNAVAILABLE,
            )
        case BackendError():
            return f"The result backend failed: {one_line(error)}", EX_UNAVAILABLE
        case ImproperlyConfigured() | SecurityError():
            return str(error), EX_FAILURE
    return f"{describe(error)} (umbel --traceback shows where)", EX_FAILURE


def describe(error: BaseException) -> str:
    """The class and text of an exception."""
    text = one_line(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(error: BaseException) -> str:
    """The text of an exception in one line."""
    # KeyError shows the repr of its key.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())


def misplaced_app(option: str, ctx: click.Context) -> click.UsageError:
    """What to say to ``celery worker -A proj``, as it was written before Celery 5."""
    name = ctx.info_name
    return click.UsageError(
        f"You are using `{option}` as an option of the {name} sub-command:\n"
        f"umbel {name} {option} celeryapp <...>\n\n"
        f"Since Celery 5.0 `{option}` is a global option and comes before the command:\n"
        f"umbel {option} celeryapp {name} <...>",
        ctx,
    )
