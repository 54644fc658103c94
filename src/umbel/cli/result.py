"""``umbel result``: what became of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from umbel.cli.command import UmbelOption, command

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["result"]

_GROUP = "Result Options"


@command(
    "result",
    click.Argument(["task_id"]),
    UmbelOption(
        ["-t", "--task"],
        help_group=_GROUP,
        help="Name of the task, where it has a result backend of its own.",
    ),
    UmbelOption(
        ["--traceback"], help_group=_GROUP, is_flag=True, help="Print the traceback instead, at once."
    ),
)
def result(context: CliContext, /, task_id: str, task: str | None, traceback: bool) -> None:
    """Wait for the result of a task, and print it. A failed task fails this command too."""
    handle = _handle(context, task_id, task)
    context.echo(handle.traceback if traceback else handle.get())


def _handle(context: CliContext, task_id: str, task: str | None) -> Any:
    app = context.app
    if task is None:
        return app.AsyncResult(task_id)
    app.loader.import_default_modules()
    return app.tasks[task].AsyncResult(task_id)
