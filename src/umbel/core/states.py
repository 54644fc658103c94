"""The states of a task, as Celery names and orders them."""

from __future__ import annotations

from typing import Final

PENDING: Final = "PENDING"  #: unknown, or waiting in a queue
RECEIVED: Final = "RECEIVED"  #: a worker has it (events only)
STARTED: Final = "STARTED"  #: running (stored only with ``task_track_started``)
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
REJECTED: Final = "REJECTED"  #: events only
RETRY: Final = "RETRY"  #: waiting for its next attempt
IGNORED: Final = "IGNORED"

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
ALL_STATES: Final = READY_STATES | UNREADY_STATES

#: From most to least telling; ``None`` stands where a custom state belongs.
_PRECEDENCE: Final = (SUCCESS, FAILURE, None, REVOKED, STARTED, RECEIVED, REJECTED, RETRY, PENDING)
_RANKS: Final = {name: rank for rank, name in enumerate(_PRECEDENCE)}
_CUSTOM_RANK: Final = _RANKS[None]


def precedence(name: str) -> int:
    """The rank of a state: the lower, the more it says. A custom state stands between FAILURE and REVOKED."""
    return _RANKS.get(name, _CUSTOM_RANK)


class state(str):
    """A state name that compares by precedence, so that ``state(SUCCESS) > state(PENDING)`` as in Celery."""

    __slots__ = ()

    def __gt__(self, other: str) -> bool:
        return precedence(self) < precedence(other)

    def __ge__(self, other: str) -> bool:
        return precedence(self) <= precedence(other)

    def __lt__(self, other: str) -> bool:
        return precedence(self) > precedence(other)

    def __le__(self, other: str) -> bool:
        return precedence(self) >= precedence(other)
