"""The task that shows that a worker answers."""

from __future__ import annotations

from umbel.app.shared import shared_task


@shared_task(name="celery.ping")
def ping() -> str:
    """Answer."""
    return "pong"
