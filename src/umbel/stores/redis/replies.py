"""What Redis answers with when it refuses, and what that means here."""

from __future__ import annotations

from typing import Any, Final

from hiredis import ReplyError

from umbel.errors import BrokerConnectionError, BrokerError

__all__ = ["ReplyError", "check", "is_unknown_script", "refusal"]

#: Refusals of a server that is not (or not any more) the one to talk to: connecting again may find the right one.
_WRONG_SERVER: Final = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED",
    "UNBLOCKED",
    "NOREPLICAS",
)


def refusal(error: Exception) -> BrokerError:
    """The error to raise for an error reply."""
    text = str(error)
    if text.startswith(_WRONG_SERVER):
        return BrokerConnectionError(f"Redis cannot serve now: {text}")
    return BrokerError(f"Redis refused: {text}")


def is_unknown_script(reply: Any) -> bool:
    """Whether the server has forgotten the script (it was restarted, or SCRIPT FLUSH was called)."""
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def check(reply: Any) -> Any:
    """The reply itself, unless it is an error."""
    if isinstance(reply, ReplyError):
        raise refusal(reply)
    return reply
