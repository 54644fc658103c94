"""Why a message is given up, and what is known of those that were lost with their workers.

A loss is written into the message itself, as the header ``umbel-losses``, by whoever puts it back on its queue. So it
is counted on every broker, survives whatever dies, and Celery's workers carry it along without looking at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import msgspec

from umbel.core.envelope import is_kombu, read_envelope, repack
from umbel.core.textrepr import utf8_text
from umbel.errors import ContentDisallowed, DecodeError, EncodeError, InvalidTaskError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "KINDS",
    "LOSSES",
    "Cause",
    "Kind",
    "Loss",
    "Losses",
    "add_losses",
    "cause_of",
    "forget_losses",
    "kind_of_refusal",
    "losses_of",
    "read_cause",
    "with_losses",
    "write_cause",
]

#: Why a message is a dead letter:
#:
#: - ``rejected``: its task, or who consumed it, refused it.
#: - ``failed``: its task has failed for good.
#: - ``quarantined``: it was lost with its worker too often.
#: - ``expired``: nobody began it in time.
#: - ``unknown``: no such task is registered.
#: - ``undecodable``, ``unaccepted``: its body cannot be read, or must not be.
#: - ``invalid``: it does not ask for a task as it should.
#: - ``unroutable``: what a task sent on, and no queue was bound for.
#: - ``internal``: the worker's own code failed on it.
#: - ``broker``: the broker itself gave it up: a delivery limit, a time to live, a full queue.
Kind = Literal[
    "rejected",
    "failed",
    "quarantined",
    "expired",
    "unknown",
    "undecodable",
    "unaccepted",
    "invalid",
    "unroutable",
    "internal",
    "broker",
]
KINDS: Final[tuple[str, ...]] = get_args(Kind)

#: The header that tells how often a message was lost with its worker: ``{"count": n, "last": [[worker, at], …]}``.
LOSSES: Final = "umbel-losses"
_REMEMBERED: Final = 10  #: losses of which it is kept who and when
_LONGEST_TRACEBACK: Final = (
    16_000  #: characters; on RabbitMQ it travels in a header, and those share one frame
)
_LONGEST_TEXT: Final = 2_000


class Cause(msgspec.Struct, omit_defaults=True, gc=False):
    """What led to a dead letter, beside the sentence that is its reason.

    ``exception`` is the name of its class, ``message`` its text; empty where there was none. ``worker`` is the node
    that gave the message up.
    """

    kind: str
    exception: str = ""
    message: str = ""
    traceback: str = ""
    worker: str = ""


class Loss(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """That a message was in the hands of ``worker`` when that was lost; noticed ``at`` (epoch seconds)."""

    worker: str
    at: float


class Losses(msgspec.Struct, frozen=True):
    """How often a message was lost with its worker, and the last times of it."""

    count: int = 0
    last: tuple[Loss, ...] = ()

    def plus(self, *losses: Loss) -> Losses:
        """With more of them."""
        return Losses(self.count + len(losses), (*self.last, *losses)[-_REMEMBERED:])


class _Written(msgspec.Struct, omit_defaults=True):
    """The form in which a cause is stored: JSON, with the reason that stood there alone in earlier versions."""

    reason: str
    cause: Cause


_NONE: Final = Losses()
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Written).decode


def cause_of(kind: Kind, error: BaseException | None = None, traceback: str | None = None) -> Cause:
    """The cause that an exception is, as text that every broker can keep."""
    if error is None:
        return Cause(kind)
    try:
        message = str(error)
    except Exception as failure:
        message = f"<unprintable: {type(failure).__name__}>"
    return Cause(
        kind,
        type(error).__qualname__,
        utf8_text(message)[:_LONGEST_TEXT],
        utf8_text(traceback or "")[-_LONGEST_TRACEBACK:],
    )


def kind_of_refusal(error: BaseException) -> Kind:
    """The kind of a message that could not be read."""
    match error:
        case ContentDisallowed():
            return "unaccepted"
        case InvalidTaskError():
            return "invalid"
        case _:
            return "undecodable"


def write_cause(reason: str, cause: Cause | None) -> str:
    """Reason and cause as one text."""
    return _encode(_Written(utf8_text(reason), cause or Cause("rejected"))).decode()


def read_cause(text: str) -> tuple[str, Cause]:
    """Reason and cause out of one text; plain text is a reason alone, as earlier versions wrote it."""
    if text.startswith('{"reason":'):
        try:
            written = _decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError):
            return text, Cause("rejected")
        return written.reason, written.cause
    return text, Cause("rejected")


def losses_of(payload: bytes) -> Losses:
    """What a message says of its losses; what is no message, or says something else, was never lost."""
    try:
        told = read_envelope(payload).headers.get(LOSSES)
    except DecodeError:
        return _NONE
    return _read_losses(told)


def _read_losses(told: Any) -> Losses:
    if told is None:
        return _NONE
    try:
        return msgspec.convert(told, Losses, strict=False)
    except msgspec.ValidationError:
        return _NONE


def add_losses(payload: bytes, losses: Sequence[Loss]) -> bytes:
    """The payload with more losses, marked as redelivered; what is no message stays as it is."""
    return with_losses(payload, losses_of(payload).plus(*losses))


def with_losses(payload: bytes, losses: Losses) -> bytes:
    """The payload with these losses instead of those that it tells of, marked as redelivered."""
    header = {"count": losses.count, "last": [[loss.worker, loss.at] for loss in losses.last]}
    try:
        return repack(payload, redelivered=True, headers={LOSSES: header})
    except (DecodeError, EncodeError):
        return payload


def forget_losses(payload: bytes, *, without: Sequence[str] = ()) -> bytes:
    """The payload as it was before it was lost or refused, for a fresh start; ``without`` names more headers to drop.

    It has a delivery tag of its own, where tags travel with the message. What is no message stays as it is.
    """
    try:
        return repack(payload, fresh=True, without=(LOSSES, *without), new_tag=is_kombu(payload))
    except (DecodeError, EncodeError):
        return payload
