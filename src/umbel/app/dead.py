"""``app.dead_letters``: what was given up, looked through, put back on its queue, or thrown away."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from contextlib import closing
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

import msgspec

from umbel.core.causes import KINDS, forget_losses, losses_of
from umbel.core.destination import Destination
from umbel.core.header import Header, peek
from umbel.core.json_types import dumps_json
from umbel.core.protocol import read_envelope
from umbel.core.records import Publication
from umbel.core.times import parse_timestamp
from umbel.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import IO

    from umbel.app.application import Umbel
    from umbel.brokers.base import DeadLetter, DeadReader
    from umbel.core.causes import Losses

__all__ = ["DeadLetters", "Letter", "Which"]

#: Letters read from the broker at a time.
_PAGE: Final = 200


class Which(TypedDict, total=False):
    """Which letters are meant; every condition that is given has to hold.

    ``queues``: of these queues; by default of every queue that the application or the broker knows. ``task``: of tasks
    whose name matches this pattern, in which ``*`` stands for any text. ``kinds``: given up for one of these reasons,
    see ``umbel.core.causes``. ``ids``: with one of these task ids. ``older_than``, ``newer_than``: given up longer, or
    less long, ago than so many seconds. ``limit``: no more than so many in all, of each queue the oldest first.
    """

    queues: Collection[str] | None
    task: str | None
    kinds: Collection[str] | None
    ids: Collection[str] | None
    older_than: float | None
    newer_than: float | None
    limit: int | None


class Letter:
    """A message that was given up, and what is known of that."""

    def __init__(self, found: DeadLetter) -> None:
        self._found = found
        self.queue = found.queue
        self.kind = found.cause.kind  #: why, as one of ``umbel.core.causes.KINDS``
        self.reason = found.reason  #: why, as a sentence
        self.exception = found.cause.exception  #: name of the exception's class; empty where there was none
        self.message = found.cause.message  #: its text
        self.traceback = found.cause.traceback
        self.worker = found.cause.worker  #: the node that gave it up
        self.at = datetime.fromtimestamp(found.at, UTC)
        try:
            self.header = peek(found.payload)
        except DecodeError:
            self.header = Header()

    @property
    def id(self) -> str:
        """The task's id; empty where it is no message of a task."""
        return self.header.id

    @property
    def task(self) -> str:
        """The task's name; empty where there is none."""
        return self.header.task

    @property
    def payload(self) -> bytes:
        """The message in the broker's own form, as it was."""
        return self._found.payload

    @property
    def losses(self) -> Losses:
        """How often it was lost with its worker, and the last times of it."""
        return losses_of(self.payload)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON: headers, properties and the body (base64) of the message, and why it was given up."""
        told: dict[str, Any] = {
            "id": self.id,
            "task": self.task,
            "queue": self.queue,
            "kind": self.kind,
            "reason": self.reason,
            "at": self.at.isoformat(),
            "worker": self.worker,
            "exception": self.exception,
            "message": self.message,
            "traceback": self.traceback,
            "losses": msgspec.to_builtins(self.losses),
        }
        try:
            envelope = read_envelope(self.payload)
        except DecodeError:
            return {**told, "payload": b64encode(self.payload).decode()}
        return {
            **told,
            "headers": envelope.headers,
            "properties": envelope.properties,
            "content_type": envelope.content_type,
            "content_encoding": envelope.content_encoding,
            "body": b64encode(envelope.body).decode(),
        }

    def as_json(self) -> str:
        """The same as one line."""
        return dumps_json(self.as_dict()).decode()

    def again(self) -> Publication:
        """The message for another start: the same id, never lost, and not expired."""
        past = _is_past(self.header.expires)
        payload = forget_losses(self.payload, without=("expires",) if past else ())
        return Publication(Destination("", self.queue, self.queue, priority=self.header.priority), payload)

    def __repr__(self) -> str:
        return f"<Letter: {self.task or 'no task'}[{self.id}] of {self.queue}, {self.kind}: {self.reason}>"


class DeadLetters:
    """The dead letters of one application's broker. Methods raise OperationalError when it cannot be reached."""

    def __init__(self, app: Umbel) -> None:
        self._app = app

    def queues(self) -> list[str]:
        """The queues that have dead letters; on RabbitMQ of those that the application knows."""
        return self._app.broker.dead_queues(list(self._app.amqp.queues))

    def walk(self, **which: Unpack[Which]) -> Iterator[Letter]:
        """Letters one after another, read from the broker page by page; of each queue the oldest first."""
        for _, letter in self._walk(which):
            yield letter

    def list(self, **which: Unpack[Which]) -> list[Letter]:
        """Letters; without a ``limit`` all of them."""
        return [letter for _, letter in self._walk(which)]

    def count(self, **which: Unpack[Which]) -> int:
        """How many there are."""
        if not any(value is not None for name, value in which.items() if name != "queues"):
            broker = self._app.broker
            return sum(broker.dead_count(queue) for queue in self._queues(which))
        return sum(1 for _ in self._walk(which))

    def get(self, task_id: str, queues: Collection[str] | None = None) -> Letter | None:
        """The first letter of a task, by its id; None if there is none."""
        return next(self.walk(ids=(task_id,), queues=queues, limit=1), None)

    def replay(self, *, rate: float | None = None, dry_run: bool = False, **which: Unpack[Which]) -> int:
        """Put messages back on their queues, under the same ids and as if they had never been lost; says how many.

        What has expired meanwhile does not expire again. Each is moved in one step; on RabbitMQ it is published first,
        and a crash in between leaves it among the dead letters too, so that at worst it is replayed twice under one id.
        Letters that come while this runs are not replayed.

        Args:
            rate: messages a second at the most; None: as fast as it goes.
            dry_run: only count.

        Raises BrokerError when a message's queue does not take it; it stays a dead letter.
        """
        if dry_run:
            return self.count(**which)
        pause = 1 / rate if rate else 0.0
        replayed, due = 0, time.monotonic()
        for reader, letter in self._walk(which):
            time.sleep(max(due - time.monotonic(), 0.0))
            due = max(due, time.monotonic() - 1.0) + pause  # a little of what was missed is made up for
            replayed += reader.replay(letter._found, letter.again())
        return replayed

    def purge(self, *, dry_run: bool = False, **which: Unpack[Which]) -> int:
        """Delete letters for good; says how many."""
        if dry_run:
            return self.count(**which)
        return sum(reader.discard([letter._found]) for reader, letter in self._walk(which))

    def export(self, file: IO[str], **which: Unpack[Which]) -> int:
        """Write letters to a file, one JSON object a line; says how many. They stay where they are."""
        written = 0
        for letter in self.walk(**which):
            file.write(letter.as_json() + "\n")
            written += 1
        return written

    async def acount(self, **which: Unpack[Which]) -> int:
        """As ``count``, in a thread."""
        return await asyncio.to_thread(self.count, **which)

    async def alist(self, **which: Unpack[Which]) -> Sequence[Letter]:
        """As ``list``, in a thread."""
        return await asyncio.to_thread(self.list, **which)

    async def aget(self, task_id: str, queues: Collection[str] | None = None) -> Letter | None:
        """As ``get``, in a thread."""
        return await asyncio.to_thread(self.get, task_id, queues)

    async def areplay(
        self, *, rate: float | None = None, dry_run: bool = False, **which: Unpack[Which]
    ) -> int:
        """As ``replay``, in a thread."""
        return await asyncio.to_thread(self.replay, rate=rate, dry_run=dry_run, **which)

    async def apurge(self, *, dry_run: bool = False, **which: Unpack[Which]) -> int:
        """As ``purge``, in a thread."""
        return await asyncio.to_thread(self.purge, dry_run=dry_run, **which)

    def _queues(self, which: Which) -> Iterable[str]:
        chosen = which.get("queues")
        return self.queues() if chosen is None else dict.fromkeys(chosen)

    def _walk(self, which: Which) -> Iterator[tuple[DeadReader, Letter]]:
        """The letters that are meant, each with the reader that found it."""
        _check_kinds(which.get("kinds"))
        left = which.get("limit")
        broker = self._app.broker
        for queue in self._queues(which):
            # What is replayed may fail again at once, and comes to stand behind the others.
            bound = broker.dead_count(queue)
            with closing(broker.dead_reader(queue)) as reader:
                for letter in _read(reader, bound):
                    if left is not None and left <= 0:
                        return
                    if _is_meant(letter, which):
                        left = None if left is None else left - 1
                        yield reader, letter


def _is_past(instant: str | None) -> bool:
    try:
        return instant is not None and parse_timestamp(instant) < time.time()
    except ValueError:
        return False  # whoever takes it says so again


def _read(reader: DeadReader, bound: int) -> Iterator[Letter]:
    while bound > 0 and (found := reader.page(min(bound, _PAGE))):
        bound -= len(found)
        yield from map(Letter, found)


def _is_meant(letter: Letter, which: Which) -> bool:
    task, kinds, ids = which.get("task"), which.get("kinds"), which.get("ids")
    if task is not None and not fnmatchcase(letter.task, task):
        return False
    if (kinds is not None and letter.kind not in kinds) or (ids is not None and letter.id not in ids):
        return False
    older, newer = which.get("older_than"), which.get("newer_than")
    age = (datetime.now(UTC) - letter.at).total_seconds()
    return (older is None or age > older) and (newer is None or age < newer)


def _check_kinds(kinds: Collection[str] | None) -> None:
    unknown = sorted(set(kinds or ()) - set(KINDS))
    if unknown:
        raise ValueError(f"kinds: expected some of {', '.join(KINDS)}, got {unknown[0]!r}")
