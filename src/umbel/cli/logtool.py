"""``umbel logtool``: what the logs of workers tell about tasks. It reads Umbel's and Celery's."""

from __future__ import annotations

import fileinput
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

import click

from umbel.cli.command import command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.cli.context import CliContext

__all__ = ["Audit", "logtool"]

#: A line that begins a record; all others belong to the record before.
_START: Final = re.compile(r"\[\d{4}-\d\d-\d\d ")
#: A record about a task: its name, its id, and what is said of it. Until 5.0 Celery wrote ``Received task: name[id]``.
_TASK: Final = re.compile(
    r".+?\] (?P<what>Received task:|Task|Discarding revoked task:) (?P<name>[^\s\[]+)\[(?P<id>.+?)\] ?(?P<rest>.*)"
)


class Audit:
    """Reads log lines one after another and remembers what they say.

    Args:
        on_error: called with each line that tells of a task that did not succeed.
        on_trace: called with each line that is no record, after the record that it follows.
        on_debug: called with each record that is about no task.
    """

    def __init__(
        self,
        *,
        on_error: Callable[[str], object] | None = None,
        on_trace: Callable[[str], object] | None = None,
        on_debug: Callable[[str], object] | None = None,
    ) -> None:
        self.received: dict[str, str] = {}  #: id → name
        self.ended: dict[str, str] = {}  #: id → what became of it
        self.names: Counter[str] = Counter()
        self.errors = 0
        self._on_error = on_error
        self._on_trace = on_trace
        self._on_debug = on_debug
        self._record = ""

    def run(self, files: Sequence[str]) -> Audit:
        """Read files, or what comes in where there is none. Raises OSError."""
        with fileinput.input(files, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                self.feed(line.rstrip("\n"))
        return self

    def feed(self, line: str) -> None:
        """Read one line."""
        if _START.match(line) is None:
            if self._on_trace is not None:
                self._on_trace("\n".join(filter(None, (self._record, line))))
            self._record = ""
            return
        self._record = line
        found = _TASK.match(line)
        if found is None:
            if self._on_debug is not None:
                self._on_debug(line)
        elif found["what"] == "Received task:" or found["rest"].startswith("received"):
            self.received[found["id"]] = found["name"]
            self.names[found["name"]] += 1
        else:
            self._end(line, found["id"], found["rest"])

    def _end(self, line: str, task_id: str, rest: str) -> None:
        self.ended[task_id] = rest
        if "succeeded" not in rest:
            self.errors += 1
            if self._on_error is not None:
                self._on_error(line)

    @property
    def incomplete(self) -> list[str]:
        """The ids of tasks that were received and of whose end nothing was read."""
        return [task_id for task_id in self.received if task_id not in self.ended]

    def report(self) -> str:
        """The counts, as text."""
        lines = [
            "",
            "Report",
            "======",
            f"Task total: {len(self.received)}",
            f"Task errors: {self.errors}",
            f"Task success: {len(self.ended) - self.errors}",
            f"Task completed: {len(self.ended)}",
            "Tasks",
            "=====",
            *(f"{name}: {count}" for name, count in self.names.most_common()),
        ]
        return "\n".join(lines) + "\n"


@click.group("logtool", short_help="Read the logs of workers.")
def logtool() -> None:
    """Read the logs of workers: files, or what comes in on standard input."""


def _files() -> click.Argument:
    return click.Argument(["files"], nargs=-1)


@command("stats", _files(), short_help="Count tasks.")
def _stats(context: CliContext, /, files: tuple[str, ...]) -> None:
    """Count tasks: received, ended, failed, and of each name."""
    context.echo(Audit().run(files).report())


@command("traces", _files(), short_help="Show tracebacks.")
def _traces(context: CliContext, /, files: tuple[str, ...]) -> None:
    """Show tracebacks, and every other text of several lines, with the record that it follows."""
    Audit(on_trace=context.echo).run(files)


@command("errors", _files(), short_help="Show what did not succeed.")
def _errors(context: CliContext, /, files: tuple[str, ...]) -> None:
    """Show the records of tasks that did not succeed: failures, retries, revocations."""
    Audit(on_error=context.echo).run(files)


@command("incomplete", _files(), short_help="Show what did not end.")
def _incomplete(context: CliContext, /, files: tuple[str, ...]) -> None:
    """Show the ids of tasks that were received and whose end is not told."""
    for task_id in Audit().run(files).incomplete:
        context.echo(f"Did not complete: {task_id}")


@command("debug", _files(), short_help="Show what is about no task.")
def _debug(context: CliContext, /, files: tuple[str, ...]) -> None:
    """Show the records that are about no task."""
    Audit(on_debug=context.echo).run(files)


for _subcommand in (_stats, _traces, _errors, _incomplete, _debug):
    logtool.add_command(_subcommand)
