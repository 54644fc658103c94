"""What Redis answers with when it refuses, and what that means here."""

from __future__ import annotations

from typing import Any, Final

from hiredis import ReplyError

from umbel.errors import BrokerConnectionError, BrokerError

__all__ = ["FullError", "ReplyError", "check", "is_unknown_script", "is_wrong_server", "refusal"]

#: Refusals of a server that is not (or not any more, or not now) the one to talk to: connecting again may find the
#: right one, or find this one well again.
_WRONG_SERVER: Final = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED",
    "UNBLOCKED",
    "NOREPLICAS",
    "MISCONF",
    "BUSY ",
)


class FullError(BrokerError):
    """Redis has no memory left (``maxmemory``) and refused to take more; nothing was changed."""


def is_wrong_server(error: Exception) -> bool:
    """Whether an error reply means that the connection is of no use now."""
    return str(error).startswith(_WRONG_SERVER)


def refusal(error: Exception) -> BrokerError:
    """The error to raise for an error reply."""
    text = str(error)
    if is_wrong_server(error):
        return BrokerConnectionError(f"Redis cannot serve now: {text}")
    if text.startswith("OOM"):
        return FullError(f"Redis refused: {text}")
    return BrokerError(f"Redis refused: {text}")


def is_unknown_script(reply: Any) -> bool:
    """Whether the server has forgotten the script (it was restarted, or SCRIPT FLUSH was called)."""
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def check(reply: Any) -> Any:
    """The reply itself, unless it is an error."""
    if isinstance(reply, ReplyError):
        raise refusal(reply)
    return reply
