"""The application under fault, counting what becomes of messages that nobody can keep a record of by their ids."""

from __future__ import annotations

from typing import Any

from chaos import journal
from tests.integration.faults.app import DIRECTORY, app
from umbel import signals


@app.task(name="add")
def add(x: Any, y: Any = 1) -> Any:
    """A task with a signature that strange arguments do not fit."""
    return x + y


@signals.task_postrun.connect
def _ran(**_: Any) -> None:
    journal.write(DIRECTORY, "counted ran")


@signals.task_revoked.connect
def _revoked(**_: Any) -> None:
    journal.write(DIRECTORY, "counted revoked")
