"""What Redis answers with when it refuses, and what that means here."""

from __future__ import annotations

from typing import Any, Final

from hiredis import ReplyError

from umbel.errors import BrokerConnectionError, BrokerError

__all__ = [
    "FullError",
    "ReplyError",
    "check",
    "is_elsewhere",
    "is_unknown_script",
    "is_wrong_node",
    "is_wrong_server",
    "refusal",
]

#: Refusals of a server that is not (or not any more, or not now) the one to talk to: connecting again may find the
#: right one, or find this one well again.
_WRONG_SERVER: Final = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED ",
    "ASK ",
    "TRYAGAIN",
    "UNBLOCKED",
    "NOREPLICAS",
    "MISCONF",
    "BUSY ",
)
#: Refusals of a cluster's node that cannot serve a slot, or not now: nothing has happened, another node may do it.
_ELSEWHERE: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN")


class FullError(BrokerError):
    """Redis has no memory left (``maxmemory``) and refused to take more; nothing was changed."""


def is_wrong_server(error: Exception) -> bool:
    """Whether an error reply means that the connection is of no use now."""
    return str(error).startswith(_WRONG_SERVER)


def is_elsewhere(error: Exception) -> bool:
    """Whether a node of a cluster refused something that is not its own, or not now; it did nothing of it."""
    return str(error).startswith(_ELSEWHERE)


def is_wrong_node(error: Exception) -> bool:
    """As ``is_wrong_server``, for a connection to one node of a cluster: it is of use though a slot has left it."""
    return is_wrong_server(error) and not is_elsewhere(error)


def refusal(error: Exception) -> BrokerError:
    """The error to raise for an error reply."""
    text = str(error)
    if is_wrong_server(error):
        return BrokerConnectionError(f"Redis cannot serve now: {text}")
    if text.startswith("OOM"):
        return FullError(f"Redis refused: {text}")
    if text.startswith("CROSSSLOT"):
        return BrokerError(f"Redis refused: {text} (a Redis Cluster has the scheme redis+cluster://)")
    return BrokerError(f"Redis refused: {text}")


def is_unknown_script(reply: Any) -> bool:
    """Whether the server has forgotten the script (it was restarted, or SCRIPT FLUSH was called)."""
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def check(reply: Any) -> Any:
    """The reply itself, unless it is an error."""
    if isinstance(reply, ReplyError):
        raise refusal(reply)
    return reply
