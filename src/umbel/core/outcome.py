"""How one attempt at a task ended, as a value.

User code may raise anything; ``execution.run.classify`` turns that into one of these, and from then on code matches
on the outcome. There is nothing to fall through and nothing to remember to return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from umbel.errors import Retry


class Succeeded(msgspec.Struct, frozen=True):
    """The task returned ``value``."""

    value: Any


class Failed(msgspec.Struct, frozen=True):
    """The task raised ``error``.

    ``expected`` is true for the classes in the task's ``throws``: logged at INFO, without a traceback.
    """

    error: BaseException
    traceback: str
    expected: bool = False


class RetryAt(msgspec.Struct, frozen=True):
    """The task asked for another attempt; ``retry.sig`` holds its message, and ``due`` is epoch seconds."""

    retry: Retry
    due: float
    traceback: str


class Rejected(msgspec.Struct, frozen=True):
    """The task refused its message: back on the queue, or to the dead letters with the reason."""

    reason: str
    requeue: bool


class Ignored(msgspec.Struct, frozen=True):
    """The task asked that no state be stored."""


class Revoked(msgspec.Struct, frozen=True):
    """The task was revoked, expired or terminated before it could end by itself."""

    reason: str


Outcome = Succeeded | Failed | RetryAt | Rejected | Ignored | Revoked
