"""What a worker says of itself when it starts, in Celery's blocks."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from umbel.worker.options import WorkerOptions


def banner(
    *,
    version: str,
    app: str,
    broker: str,
    results: str,
    options: WorkerOptions,
    queues: Sequence[str],
    tasks: Iterable[str],
    notes: Sequence[str] = (),
) -> str:
    """The start-up text: name and version, ``[config]``, ``[queues]``, ``[tasks]``, and what there is to note.

    ``tasks`` are those to show; none below the level INFO, as Celery's worker.
    """
    shown = sorted(tasks)
    events = "ON" if options.task_events else "OFF (enable -E to monitor tasks in this worker)"
    lines = [
        "",
        f" {options.hostname} umbel v{version}",
        "",
        f" {platform.platform()}",
        "",
        " [config]",
        f" .> app:         {app}",
        f" .> transport:   {broker}",
        f" .> results:     {results}",
        f" .> concurrency: {_concurrency(options)} ({options.pool})",
        f" .> task events: {events}",
        "",
        " [queues]",
        *(f" .> {queue}" for queue in queues),
        "",
        *([" [tasks]", *(f"   . {task}" for task in shown), ""] if shown else []),
        *(f" {note}" for note in notes),
    ]
    return "\n".join(lines)


def _concurrency(options: WorkerOptions) -> str:
    if options.autoscale is not None:
        most, fewest = options.autoscale
        return f"{{min={fewest}, max={most}}}"
    if options.pool == "asyncio":
        return f"{options.concurrency} x {options.slots}"
    return str(options.concurrency)
