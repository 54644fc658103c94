"""Replies: results that are sent to a queue of their caller's instead of being stored, and who carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Reply(NamedTuple):
    """One state of one task on its way to its caller, or arrived there."""

    queue: str  #: the caller's queue, from the task's ``reply_to``
    task_id: str
    body: bytes
    content_type: str
    content_encoding: str
    compression: str = ""  #: content type of the compression; empty: none


class ReplyPost(Protocol):
    """Carries replies. Safe for use by several threads, and after a fork."""

    #: URL without its password, for banners and logs.
    display_url: str

    def declare(self, queue: str) -> None:
        """Make a queue for replies unless it is there. Raises OperationalError without a connection."""

    def send(self, replies: Sequence[Reply]) -> None:
        """Send replies; those whose queue is gone are dropped, for nobody waits for them.

        Returns when the server has them. Raises OperationalError without a connection.
        """

    async def asend(self, replies: Sequence[Reply]) -> None:
        """As ``send``."""

    def collect(self, queues: Sequence[str], receiver: ReplyReceiver) -> Collection:
        """Begin to take what arrives in these queues; connections are made as they are needed, by a thread."""

    def delete(self, queues: Sequence[str]) -> None:
        """Delete queues, and what is in them. Raises OperationalError without a connection."""

    def close(self) -> None:
        """Close every connection but those of collections. Safe twice; the post may be used again."""


class ReplyReceiver(Protocol):
    """Who takes replies; called from a thread of the post's."""

    def arrived(self, replies: Sequence[Reply]) -> None:
        """Replies have arrived."""

    def failed(self, error: Exception) -> None:
        """There has been no connection for so long that the collection has ended."""


class Collection(Protocol):
    """Replies being taken from queues by a thread that makes its connection again when it is lost."""

    @property
    def is_open(self) -> bool:
        """Whether it goes on."""

    def add(self, queue: str) -> None:
        """Take what arrives in one more queue."""

    def flush(self) -> None:
        """Return when all that is in the queues by now has been received.

        Raises OperationalError when there is no connection for long.
        """

    def close(self) -> None:
        """Stop; what has not arrived stays in the queues. Safe twice."""
