"""With what a pool process ends when a job has ended more than itself."""

from __future__ import annotations

import sys
import traceback


def crash_code(error: BaseException) -> int:
    """The exit status for what a job has raised past its runner; tells of it, unless it asked for just that."""
    if isinstance(error, SystemExit):
        return exit_code(error)
    report_crash(error)
    return 1


def exit_code(error: SystemExit) -> int:
    """The exit status that ``sys.exit`` was called for."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def report_crash(error: BaseException) -> None:
    """Errors that are nobody's job: to standard error, for there is nothing else left."""
    if sys.stderr is not None:
        traceback.print_exception(error)
