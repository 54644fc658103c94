"""Dispositions written as the steps that settle.lua takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from umbel.brokers.base import records_of, spend
from umbel.brokers.lost import tell_lost
from umbel.brokers.redis.routing import Routes
from umbel.core.causes import Cause, write_cause
from umbel.core.header import peek
from umbel.core.ids import new_id
from umbel.core.states import SUCCESS
from umbel.errors import BrokerError, DecodeError
from umbel.stores.redis.results import FUNCTIONS, RESULT_PREFIX, ChordSteps, Expiries
from umbel.stores.redis.scripts import load_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from umbel.brokers.base import Delivery, Disposition
    from umbel.brokers.options import BrokerOptions
    from umbel.brokers.redis.layout import Layout
    from umbel.brokers.redis.routing import Tables
    from umbel.core.records import Publication, ResultRecord
    from umbel.stores.redis.scripts import Script

    Argument = bytes | str | float

_SETTLE: Final = load_script(*FUNCTIONS, ("umbel.brokers.redis", "settle.lua"))
#: One script call takes about this many bytes and deliveries at the most: other clients wait while it runs.
_MOST_BYTES = 1024 * 1024
_MOST_DELIVERIES = 1000


def name_unheld(batch: Sequence[Disposition]) -> None:
    """Give names to those that would do something twice, should their answer be lost and they be tried again."""
    for disposition in batch:
        does_more = disposition.publish or disposition.action == "dead_letter"
        if disposition.unheld and does_more and not disposition.name:
            disposition.name = new_id()


class Piece(NamedTuple):
    """One call of the script, and the dispositions it is for, in the order in which it counts them."""

    script: Script
    arguments: list[Argument]
    dispositions: list[Disposition]

    @property
    def has_names(self) -> bool:
        """Whether any of them is known by a name."""
        return any(disposition.name for disposition in self.dispositions)

    def see(self, failures: Sequence[Any]) -> list[str]:
        """Take note of what has happened; why Redis refused the rest."""
        refused = {number - 1 for number in failures[::2]}
        for place, disposition in enumerate(self.dispositions):
            if place not in refused:
                spend(disposition)
        return [text.decode("utf-8", "replace") for text in failures[1::2]]


class Steps:
    """Writes batches of dispositions for one consumer."""

    def __init__(self, layout: Layout, options: BrokerOptions) -> None:
        self._layout = layout
        self._routes = Routes(layout)
        self._unique = new_id()
        self._count = 0
        expires, limit = options.dead_letter_expires, options.dead_letter_limit
        self._keep = f"{'' if expires is None else expires}:{'' if limit is None else limit}"
        self._expiries = Expiries(options.result_lifetime)
        # A result backend with a prefix of its own is another store.
        self._chords = ChordSteps("", options.chord_lifetime(), options.result_chord_ordered)
        #: How many messages the consumer has taken so far; orders what it holds.
        self.taken = 0
        #: What a script's reply says of chords.
        self.read_due = self._chords.read_due

    def pieces(
        self, batch: Sequence[Disposition], held: Mapping[bytes, tuple[str, int]], tables: Tables
    ) -> Iterator[Piece]:
        """The calls that settle a batch, several where it is big; no disposition is divided."""
        steps: list[Argument] = []
        written: list[Disposition] = []
        successes = Successes(self._expiries)
        size = count = 0
        for disposition in batch:
            if not (disposition.unheld or disposition.tag in held):
                continue
            if not successes.take(disposition):
                successes.write_to(steps)
                self._write(steps, disposition, held, tables)
            written.append(disposition)
            count += 1
            size += _size(disposition)
            if size > _MOST_BYTES or count >= _MOST_DELIVERIES:
                successes.write_to(steps)
                yield Piece(_SETTLE, steps, written)
                steps, written, size, count = [], [], 0, 0
        successes.write_to(steps)
        if steps:
            yield Piece(_SETTLE, steps, written)

    def _write(
        self,
        steps: list[Argument],
        disposition: Disposition,
        held: Mapping[bytes, tuple[str, int]],
        tables: Tables,
    ) -> None:
        if disposition.unheld:
            steps += (b"V", disposition.name) if disposition.name else (b"U",)
            if disposition.ends is not None:
                steps += (b"c", *self._chords.end(disposition.ends))
        else:
            steps += (b"D", disposition.tag)
        for publication in disposition.publish:
            queue = disposition.queue if disposition.unheld else held[disposition.tag][0]
            self._write_publication(steps, publication, queue, tables)
        for record in records_of(disposition):
            self._write_result(steps, record)
        if disposition.keeps is not None:
            self._write_keep(steps, disposition.keeps, held)
        if disposition.unheld:
            if disposition.ends is not None:
                steps += (b"C", *self._chords.end(disposition.ends))
            elif disposition.action == "dead_letter":
                self._write_end(steps, disposition, disposition.queue, 0)
        elif disposition.action == "ack":
            steps.append(b"A")
        else:
            self._write_end(steps, disposition, *held[disposition.tag])

    def _write_publication(
        self, steps: list[Argument], publication: Publication, queue: str, tables: Tables
    ) -> None:
        try:
            commands = self._routes.commands(publication, tables)
        except BrokerError as error:
            if tell_lost(str(error), queue):
                key, unique = self._layout.dead_key(queue), self._next_unique()
                reason = write_cause(str(error), Cause("unroutable"))
                steps += (b"K", key, self._keep, unique, reason, publication.payload)
            return
        for name, key, payload in commands:
            steps += (b"P" if name == b"LPUSH" else b"F", key, payload)

    def _write_keep(
        self, steps: list[Argument], kept: Delivery, held: Mapping[bytes, tuple[str, int]]
    ) -> None:
        trailer = trailer_of(kept.queue)
        self.taken += 1
        value = b"%d:%d:%b" % (self.taken, len(trailer), self._layout.list_key(*held[kept.tag]))
        steps += (b"H", kept.tag, b"[" + kept.payload + trailer, value)

    def place_of(self, kept: Delivery) -> tuple[str, int]:
        """Queue and priority step to which a message goes back that its consumer keeps."""
        return kept.queue, self._step_of(kept.payload, 0)

    def _next_unique(self) -> str:
        self._count += 1
        return f"{self._unique}-{self._count}"

    def _write_result(self, steps: list[Argument], record: ResultRecord) -> None:
        if record.document:
            expires = self._expiries.get(record.state)
            steps += (b"R", RESULT_PREFIX + record.task_id, record.document, record.state, expires)
        if record.chord is not None:
            steps += (b"N", *self._chords.count(record.task_id, record.chord))

    def _write_end(self, steps: list[Argument], disposition: Disposition, queue: str, step: int) -> None:
        payload = disposition.payload
        if payload is not None:
            step = self._step_of(payload, step)
        if disposition.action == "requeue":
            assert payload is not None, "the consumer fills in the payloads of requeued messages"
            key = self._layout.list_key(queue, step)
            steps += (b"q" if disposition.front else b"Q", key, payload)
            return
        unique = self._next_unique()
        if disposition.action == "retry_later":
            key = self._layout.delayed_key(queue)
            steps += (b"L", key, disposition.due, step, unique, payload or b"")
        else:
            key = self._layout.dead_key(queue)
            reason = write_cause(disposition.reason, disposition.cause)
            steps += (b"X", key, self._keep, unique, reason, payload or b"")

    def _step_of(self, payload: bytes, default: int) -> int:
        """A changed message may have changed its priority."""
        try:
            return self._layout.step_of(peek(payload).priority)
        except DecodeError:
            return default


class Successes:
    """Gathers neighbours that end the usual way, with a result and nothing else: one step for all of them."""

    def __init__(self, expiries: Expiries) -> None:
        self._expires = expiries.get(SUCCESS)
        self._tags: list[Argument] = []
        self._results: list[Argument] = []

    def take(self, disposition: Disposition) -> bool:
        """Take this one, if it ends so."""
        record = disposition.result
        if (
            record is None
            or record.state != SUCCESS
            or record.chord is not None
            or disposition.action != "ack"
            or disposition.unheld
            or disposition.publish
            or disposition.followers
            or disposition.keeps is not None
        ):
            return False
        self._tags.append(disposition.tag)
        self._results += (RESULT_PREFIX + record.task_id, record.document)
        return True

    def write_to(self, steps: list[Argument]) -> None:
        """Write the step, and begin again."""
        if self._tags:
            steps += (b"S", self._expires, len(self._tags), *self._tags, *self._results)
            self._tags, self._results = [], []


def trailer_of(queue: str) -> bytes:
    """What follows a message in kombu's table of the unacknowledged: exchange and routing key."""
    return b', "", ' + msgspec.json.encode(queue) + b"]"


def _size(disposition: Disposition) -> int:
    """Roughly how many bytes a disposition's steps have."""
    size = 0 if disposition.result is None else _record_size(disposition.result)
    for record in disposition.followers:
        size += _record_size(record)
    for publication in disposition.publish:
        size += len(publication.payload)
    if disposition.keeps is not None:
        size += len(disposition.keeps.payload)
    return size + len(disposition.payload or b"")


def _record_size(record: ResultRecord) -> int:
    part = record.chord
    return len(record.document) + (0 if part is None else len(part.entry) + len(part.body))
