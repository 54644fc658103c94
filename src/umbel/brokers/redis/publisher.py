"""Publishers: one write for a batch, exactly one LPUSH for a message whose queue is known."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from umbel.brokers.redis.routing import queue_of
from umbel.core.bindings import Binding, Bindings
from umbel.errors import PublishTimeout
from umbel.stores.redis.commands import pack_command, pack_with_values
from umbel.stores.redis.link import Link, open_link
from umbel.stores.redis.replies import FullError, ReplyError, check, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from umbel.brokers.redis.layout import Layout
    from umbel.brokers.redis.routing import Routes, Tables
    from umbel.core.records import Publication
    from umbel.stores.redis.address import Address
    from umbel.stores.redis.blocking import LinkPool

#: Publications are written in pieces of about this many bytes, so that a big batch does not fill every buffer.
_PIECE = 4 * 1024 * 1024
#: Messages in one command: other clients of the server wait while it runs.
_RUN = 1000
_MULTI, _EXEC = pack_command((b"MULTI",)), pack_command((b"EXEC",))
#: Seconds between attempts while Redis is out of memory: from, to.
_PRESS = (0.05, 1.0)

#: A packed command, or a transaction, that is taken whole or not at all; and how many replies it has.
Step = tuple[bytes, int]
#: Packed steps, how many replies they have, and the steps one by one (none where there is only one).
Piece = tuple[bytes, int, "Sequence[Step]"]


class Composer:
    """Turns publications into packed commands. Declares each queue before its first message, as kombu does.

    ``bindings`` are those that have to be in place before anything goes to their exchanges.
    """

    def __init__(self, layout: Layout, routes: Routes, bindings: Bindings | None = None) -> None:
        self._layout = layout
        self._routes = routes
        self._bindings = Bindings() if bindings is None else bindings
        self._declared: set[str] = set()
        self.replicas = layout.wait_for_replicas  #: how many must have a message before it counts as sent

    def forget_declared(self) -> None:
        """Declare again: the server may be another one, or empty."""
        self._declared.clear()

    def table_commands(self, publications: Sequence[Publication]) -> tuple[list[str], bytes]:
        """The exchanges to ask about, and the commands that ask."""
        exchanges = self._routes.tables_needed(publications)
        if not exchanges:
            return exchanges, b""
        keys = (self._layout.binding_key(exchange) for exchange in exchanges)
        return exchanges, b"".join(pack_command((b"SMEMBERS", key)) for key in keys)

    def complete(self, tables: dict[str, set[bytes]]) -> list[bytes]:
        """Add to tables, as they are in Redis, the bindings they lack; the commands that do so there."""
        commands = []
        for exchange, table in tables.items():
            missing = {self._layout.member(each) for each in self._bindings.to(exchange)} - table
            if missing:
                table.update(missing)
                commands += bind(self._layout, exchange, missing)
        return commands

    def all_bindings(self) -> list[bytes]:
        """The commands that put all bindings in place."""
        return [
            command
            for exchange in {each.exchange for each in self._bindings}
            for command in bind(self._layout, exchange, map(self._layout.member, self._bindings.to(exchange)))
        ]

    def pieces(self, publications: Sequence[Publication], tables: Tables) -> list[Piece]:
        """What to write for publications, in pieces of moderate size."""
        if len(publications) == 1 and (push := self._push(publications[0])):
            return [(push, 1, ())]
        pieces: list[Piece] = []
        steps: list[Step] = []
        size = 0
        for run in runs_of(publications):
            steps += self._steps(run, tables)
            size += sum([len(publication.payload) for publication in run])
            if size > _PIECE:
                pieces.append(_piece(steps))
                steps, size = [], 0
        if steps:
            pieces.append(_piece(steps))
        return pieces

    def _push(self, publication: Publication) -> bytes | None:
        """The command of a message that needs one only."""
        to = publication.destination
        queue = queue_of(to)
        if queue is None or queue not in self._declared:
            return None
        return pack_command((b"LPUSH", self._routes.queue_key(queue, to.priority), publication.payload))

    def _steps(self, run: Sequence[Publication], tables: Tables) -> list[Step]:
        """The steps of messages with one destination."""
        to = run[0].destination
        queue = queue_of(to)
        if queue is not None:
            payloads = [publication.payload for publication in run]
            push = pack_with_values((b"LPUSH", self._routes.queue_key(queue, to.priority)), payloads)
            return [(command, 1) for command in (*self._declarations(queue), push)]
        return [step for publication in run for step in self._deliver(publication, tables)]

    def _deliver(self, publication: Publication, tables: Tables) -> list[Step]:
        """The steps of one message: its queues all get it, or none."""
        commands = [pack_command(command) for command in self._routes.commands(publication, tables)]
        if len(commands) == 1:
            return [(commands[0], 1)]
        return [(b"".join([_MULTI, *commands, _EXEC]), len(commands) + 2)]

    def _declarations(self, queue: str) -> list[bytes]:
        if queue in self._declared:
            return []
        if len(self._declared) > 10_000:  # names may be made up by the application
            self._declared.clear()
        self._declared.add(queue)
        return declaration(self._layout, queue)


def _piece(steps: Sequence[Step]) -> Piece:
    return b"".join([packed for packed, _ in steps]), sum([replies for _, replies in steps]), steps


def runs_of(publications: Sequence[Publication]) -> Iterator[Sequence[Publication]]:
    """Neighbours that go to the same place; Redis puts a run of moderate size on its list by one command."""
    if not publications:
        return
    first, size, to = 0, 0, publications[0].destination
    for index, publication in enumerate(publications):
        there = publication.destination
        if (there is not to and there != to) or size > _PIECE or index - first == _RUN:
            yield publications[first:index]
            first, size, to = index, 0, there
        size += len(publication.payload)
    yield publications[first:]


def declaration(layout: Layout, queue: str) -> list[bytes]:
    """The commands that bind a queue to the direct exchange of its own name, where Celery looks for it."""
    return bind(layout, queue, [layout.member(Binding(queue, queue, routing_key=queue))])


def bind(layout: Layout, exchange: str, members: Iterable[bytes]) -> list[bytes]:
    """The commands that add members to an exchange's binding table."""
    keys = (layout.binding_key(exchange), layout.permanent_binding_key(exchange))
    members = sorted(members)
    return [pack_command((b"SADD", key, *members)) for key in keys]


def check_all(replies: Sequence[Any]) -> None:
    """Raise for the first error among replies, and among those that EXEC gathered."""
    for reply in replies:
        if type(reply) is ReplyError:
            raise refusal(reply)
        if type(reply) is list:
            check_all(reply)


def wait_command(replicas: int, timeout: float) -> bytes:
    """Have Redis answer when so many replicas have what this connection has written, or shortly before ``timeout``."""
    return pack_command((b"WAIT", replicas, max(int((timeout - min(0.5 * timeout, 1.0)) * 1000), 1)))


def check_replicas(answers: Sequence[Any], reached: Any, wanted: int) -> None:
    """Raise PublishTimeout where fewer replicas than wanted have what was written; ``reached`` answers WAIT."""
    if any(type(answer) is ReplyError for answer in answers):
        return  # nothing was written, and its own answers say why
    if check(reached) < wanted:
        raise PublishTimeout(
            f"Redis has taken the message(s), but only {reached} of the {wanted} replicas that wait_for_replicas asks "
            "for have them: a failover now would lose them"
        )


class Pressure:
    """Redis is out of memory: what it refused is sent again, with growing pauses, until the time is up."""

    def __init__(self, piece: Piece, answers: Sequence[Any], timeout: float) -> None:
        packed, replies, steps = piece
        self._steps: Sequence[Step] = steps or [(packed, replies)]
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = _PRESS[0]
        self.note(answers)

    def note(self, answers: Sequence[Any]) -> None:
        """Keep the steps that were refused for want of memory. Raises for any other refusal."""
        refused, at = [], 0
        for step in self._steps:
            replies = answers[at : at + step[1]]
            at += step[1]
            try:
                check_all(replies)
            except FullError as error:
                refused.append(step)
                self._why = error
        self._steps = refused

    def next_piece(self) -> Piece | None:
        """What is left to send; None when all was taken."""
        return _piece(self._steps) if self._steps else None

    def pause(self) -> float:
        """Seconds to wait before the next attempt. Raises PublishTimeout when there is no time for it."""
        pause, self._pause = self._pause * random.uniform(0.8, 1.0), min(self._pause * 2, _PRESS[1])
        if time.monotonic() + pause >= self._deadline:
            raise out_of_memory(self._timeout, self._why)
        return pause

    @property
    def left(self) -> float:
        """Seconds left."""
        return max(self._deadline - time.monotonic(), 0.001)


def out_of_memory(timeout: float, why: FullError) -> PublishTimeout:
    """The error of who has sent something again and again."""
    return PublishTimeout(
        f"Redis has been out of memory for {timeout:g} seconds and takes no messages ({why}): let "
        "workers catch up, raise maxmemory, or delete what is not needed"
    )


class Companion:
    """A packed command that takes effect together with the message of one task, or not at all.

    Args:
        task_id: of the task.
        command: one command; a refusal leaves ``done`` false and the message sent.
    """

    def __init__(self, task_id: str, command: bytes) -> None:
        self._task_id = task_id.encode()
        self.command = command
        self.done = False

    def belongs_to(self, publications: Sequence[Publication], packed: bytes) -> bool:
        """Whether these are the one message, in commands that are no transaction by themselves."""
        return (
            len(publications) == 1
            and self._task_id in publications[0].payload
            and not packed.startswith(_MULTI)
        )


class RedisPublisher:
    """A blocking publisher. Safe for use by several threads, and after a fork."""

    def __init__(self, pool: LinkPool, composer: Composer) -> None:
        self._pool = pool
        self._composer = composer
        #: What goes into the same step as one certain message; for a program of one sending thread, as beat is.
        self.companion: Companion | None = None

    @property
    def store(self) -> str:
        """The identity of the database it sends to."""
        return self._pool.store

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send. A pooled connection that died while nobody used it is replaced without a word."""
        if not publications:
            return
        try:
            tables = self._tables(publications, timeout)
            for piece in self._composer.pieces(publications, tables):
                packed, replies, _ = piece
                if self.companion is not None and self.companion.belongs_to(publications, packed):
                    self._send_together(self.companion, packed, replies, timeout)
                    continue
                answers = self._put(packed, replies, timeout)
                try:
                    check_all(answers)
                except FullError:
                    self._press(Pressure(piece, answers, timeout))
        except TimeoutError as error:
            raise PublishTimeout(
                f"Redis did not confirm {len(publications)} message(s) within {timeout:g} seconds"
            ) from error
        except Exception:
            self._composer.forget_declared()
            raise

    def _put(self, packed: bytes, replies: int, timeout: float) -> list[Any]:
        """The answers to what is written, once as many replicas have it as are asked for."""
        wanted = self._composer.replicas
        if not wanted:
            return self._pool.call(packed, replies, timeout)
        *answers, reached = self._pool.call(packed + wait_command(wanted, timeout), replies + 1, timeout)
        check_replicas(answers, reached, wanted)
        return answers

    def _press(self, pressure: Pressure) -> None:
        while (piece := pressure.next_piece()) is not None:
            time.sleep(pressure.pause())
            pressure.note(self._put(piece[0], piece[1], pressure.left))

    def _send_together(self, companion: Companion, packed: bytes, replies: int, timeout: float) -> None:
        together = b"".join((_MULTI, packed, companion.command, _EXEC))
        *queued, answers = self._put(together, replies + 3, timeout)
        # The companion's own answer comes last. Whether it was refused is no matter of the message.
        check_all([*queued[:-1], check(answers)[:-1]])
        companion.done = type(queued[-1]) is not ReplyError and type(answers[-1]) is not ReplyError

    def _tables(self, publications: Sequence[Publication], timeout: float) -> Tables:
        exchanges, packed = self._composer.table_commands(publications)
        if not exchanges:
            return {}
        replies = self._pool.call(packed, len(exchanges), timeout)
        tables = _read_tables(exchanges, replies)
        if missing := self._composer.complete(tables):
            check_all(self._pool.call(b"".join(missing), len(missing), timeout))
        return tables

    def close(self) -> None:
        """Give the connections back. Safe twice; the publisher may be used again."""
        self._pool.close()


class RedisAsyncPublisher:
    """A publisher for one event loop; coroutines share its one connection."""

    def __init__(self, address: Address, composer: Composer) -> None:
        self._address = address
        self._composer = composer
        self._link: Link | None = None
        self._opening: asyncio.Task[Link] | None = None

    async def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send."""
        if not publications:
            return
        try:
            async with asyncio.timeout(timeout):
                full = await self._send(publications, timeout)
        except TimeoutError as error:
            raise PublishTimeout(
                f"Redis did not confirm {len(publications)} message(s) within {timeout:g} seconds"
            ) from error

        for piece, answers in full:
            await self._press(Pressure(piece, answers, timeout))

    async def _send(
        self, publications: Sequence[Publication], timeout: float
    ) -> list[tuple[Piece, list[Any]]]:
        """Send; gives the pieces of which Redis refused something for want of memory, and the answers to them."""
        link = await self._connected()
        tables = await fetch_tables(link, self._composer, publications)
        pieces = self._composer.pieces(publications, tables)
        full = []
        for piece, replies in [(piece, self._put(link, piece, timeout)) for piece in pieces]:
            answers = self._confirmed(await replies)
            try:
                check_all(answers)
            except FullError:
                full.append((piece, answers))
        return full

    def _put(self, link: Link, piece: Piece, timeout: float) -> asyncio.Future[list[Any]]:
        packed, replies, _ = piece
        wanted = self._composer.replicas
        if not wanted:
            return link.send(packed, replies)
        return link.send(packed + wait_command(wanted, timeout), replies + 1)

    def _confirmed(self, answers: list[Any]) -> list[Any]:
        wanted = self._composer.replicas
        if wanted:
            reached = answers.pop()
            check_replicas(answers, reached, wanted)
        return answers

    async def _press(self, pressure: Pressure) -> None:
        while (piece := pressure.next_piece()) is not None:
            await asyncio.sleep(pressure.pause())
            link = await self._connected()
            pressure.note(self._confirmed(await self._put(link, piece, pressure.left)))

    async def _connected(self) -> Link:
        link = self._link
        if link is not None and link.lost is None:
            return link
        if self._opening is None:
            self._composer.forget_declared()
            self._opening = asyncio.create_task(open_link(self._address))
            self._opening.add_done_callback(self._opened)
        # Many coroutines may wait for the one connection; a cancelled one must not take it from the others.
        return await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[Link]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._link = opening.result()

    async def close(self) -> None:
        """Give the connection back. Safe twice; the publisher may be used again."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self._link is not None:
            self._link.close()
            self._link = None


async def fetch_tables(link: Link, composer: Composer, publications: Sequence[Publication]) -> Tables:
    """The binding tables that publications to named exchanges need; what they lack is put in place."""
    exchanges, packed = composer.table_commands(publications)
    if not exchanges:
        return {}
    tables = _read_tables(exchanges, await link.send(packed, len(exchanges)))
    if missing := composer.complete(tables):
        check_all(await link.send(b"".join(missing), len(missing)))
    return tables


def _read_tables(exchanges: Sequence[str], replies: Sequence[Any]) -> dict[str, set[bytes]]:
    return {exchange: set(check(reply)) for exchange, reply in zip(exchanges, replies, strict=True)}
