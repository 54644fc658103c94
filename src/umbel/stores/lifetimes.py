"""How long results are kept."""

from __future__ import annotations

from math import inf

from umbel.core.states import FAILURE


def lifetime(state: str, expires: float | None, failure_expires: float | None) -> float:
    """Seconds that a result of this state is kept; infinity for ever, which None and, as in Celery, 0 mean."""
    if state == FAILURE and failure_expires is not None:
        return failure_expires or inf
    return expires or inf
