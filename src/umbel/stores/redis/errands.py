"""Commands for many slots of a cluster, brought to the nodes that have them, and there again where they were not taken.

A node that does not have a slot (any more, or yet) refuses before anything happens, so what was refused may be sent
again elsewhere. ``Errands`` decides who is asked what; ``ClusterPool`` does so for threads, ``ClusterLinks`` in an
event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from umbel.errors import BrokerConnectionError
from umbel.stores.redis.blocking import LinkPool, open_blocking
from umbel.stores.redis.cluster import read_redirection
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.link import Link, open_link
from umbel.stores.redis.replies import ReplyError, check, is_elsewhere, is_unknown_script, is_wrong_node
from umbel.stores.redis.scripts import Script, pack_script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from umbel.stores.redis.cluster import Cluster, Node

    Tail = Callable[[float], bytes]

__all__ = ["ClusterLinks", "ClusterPool", "Errands", "Step", "Trip", "script_step"]

_ASKING: Final = pack_command((b"ASKING",))
#: Seconds between attempts at what nobody takes just now: from, to.
_PAUSES: Final = (0.01, 0.5)
#: Redirections that are followed at once; more of them mean that the nodes do not agree.
_AT_ONCE: Final = 4
#: Bytes sent in one go, so that a big batch does not fill every buffer.
_PIECE: Final = 4 * 1024 * 1024


class Step(msgspec.Struct):
    """Packed commands whose keys are all in one slot. ``script``: they are one command, which runs this script."""

    slot: int
    packed: bytes
    replies: int = 1
    script: Script | None = None


def script_step(
    slot: int, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | float]
) -> Step:
    """The step that runs a script."""
    return Step(slot, pack_script(script, keys, arguments), script=script)


class Trip(NamedTuple):
    """What is sent to one node in one go: for each step its number, and how many replies come before its own."""

    node: Node
    numbers: list[tuple[int, int]]
    packed: bytes
    replies: int


class Errands:
    """Steps on their way. ``answers`` has for each step the replies to it, errors among them, once ``done``.

    ``refuses`` says which replies mean that a step is to be sent once more, beside those of nodes that do not have it.
    """

    def __init__(self, cluster: Cluster, steps: Sequence[Step], deadline: float) -> None:
        self._cluster = cluster
        self._steps = steps
        self._deadline = deadline
        self._open = list(range(len(steps)))
        self._asked: dict[int, Node] = {}
        self._unknown: set[int] = set()
        self._attempts = 0
        self._hurry = True
        self._pause = _PAUSES[0]
        self.why = ""  #: the last refusal
        self.answers: list[list[Any]] = [[] for _ in steps]

    @property
    def done(self) -> bool:
        """Whether everything is answered."""
        return not self._open

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(self._deadline - time.monotonic(), 0.001)

    def unplaced(self) -> int | None:
        """A slot of which nobody knows who has it."""
        for number in self._open:
            slot = self._steps[number].slot
            if number not in self._asked and self._cluster.owner(slot) is None:
                return slot
        return None

    def trips(self) -> list[Trip]:
        """What to send where, once every slot is placed. Each is to be noted."""
        loads: dict[Node, list[tuple[int, int, bytes]]] = {}
        for number in self._open:
            step = self._steps[number]
            before, extra = b"", 0
            node = self._asked.pop(number, None)
            if node is not None:
                before, extra = _ASKING, 1
            node = node or self._cluster.owner(step.slot)
            assert node is not None, "the caller has placed every slot"
            if number in self._unknown and step.script is not None:
                before, extra = pack_command((b"SCRIPT", b"LOAD", step.script.text)) + before, extra + 1
            loads.setdefault(node, []).append((number, extra, before + step.packed))
        self._open = []
        self._attempts += 1
        return [
            Trip(
                node,
                [(number, extra) for number, extra, _ in load],
                b"".join([packed for _, _, packed in load]),
                sum([extra + self._steps[number].replies for number, extra, _ in load]),
            )
            for node, load in loads.items()
        ]

    def note(self, trip: Trip, replies: Sequence[Any]) -> None:
        """Take the replies to a trip."""
        at = 0
        for number, extra in trip.numbers:
            end = at + extra + self._steps[number].replies
            answers = list(replies[at + extra : end])
            at = end
            refused = next((each for each in answers if type(each) is ReplyError), None)
            if refused is None or not self._again(number, refused, trip.node):
                self.answers[number] = answers

    def _again(self, number: int, refused: ReplyError, asked: Node) -> bool:
        """Whether a refused step goes out once more, and where to."""
        text = str(refused)
        if is_unknown_script(refused) and number not in self._unknown:
            self._unknown.add(number)
        elif text.startswith("MOVED "):
            self._cluster.moved(*read_redirection(text, asked))
        elif text.startswith("ASK "):
            self._asked[number] = read_redirection(text, asked)[1]
        elif is_elsewhere(refused):
            self._hurry = False
        else:
            return False
        self.why = text
        self._open.append(number)
        return True

    def pause(self) -> float:
        """Seconds to wait before the next trips. Raises TimeoutError when there is no time for that."""
        if self._hurry and self._attempts <= _AT_ONCE:
            return 0.0
        self._hurry = True
        pause, self._pause = self._pause, min(self._pause * 2, _PAUSES[1])
        if time.monotonic() + pause >= self._deadline:
            raise TimeoutError(f"the cluster refuses: {self.why}")
        return pause


def _pieces(steps: Sequence[Step]) -> Iterable[Sequence[Step]]:
    first = size = 0
    for number, step in enumerate(steps):
        size += len(step.packed)
        if size > _PIECE:
            yield steps[first : number + 1]
            first, size = number + 1, 0
    if first < len(steps):
        yield steps[first:]


class ClusterPool:
    """The connections of threads to the nodes of a cluster, some to each."""

    def __init__(self, cluster: Cluster, limit: int | None) -> None:
        self._cluster = cluster
        self._limit = limit
        self._pools: dict[Node, LinkPool] = {}

    @property
    def store(self) -> str:
        """The identity of the cluster."""
        return self._cluster.identity

    def run(self, steps: Sequence[Step], timeout: float, tail: Tail | None = None) -> list[list[Any]]:
        """The replies to each step, errors among them.

        ``tail`` makes one command, out of the seconds that are left, that is sent to each node after the others; its
        reply is put after those of each step that went there. Raises TimeoutError when ``timeout`` seconds pass,
        BrokerConnectionError when a connection is lost or cannot be made: then some of the steps may have been taken.
        """
        deadline = time.monotonic() + timeout
        return [answers for piece in _pieces(steps) for answers in self._run(piece, deadline, tail)]

    def _run(self, steps: Sequence[Step], deadline: float, tail: Tail | None) -> list[list[Any]]:
        errands = Errands(self._cluster, steps, deadline)
        while True:
            while (slot := errands.unplaced()) is not None:
                open_blocking(self._cluster.at(slot), deadline=deadline).close()
            for trip in errands.trips():
                try:
                    packed, replies = _with_tail(trip, tail, errands.left)
                    answers = self._pool(trip.node).call(packed, replies, errands.left)
                except (BrokerConnectionError, TimeoutError):
                    self._cluster.forget(trip.node)
                    raise
                errands.note(trip, answers)
                if tail is not None:
                    _add_tail(errands, trip, answers[-1])
            if errands.done:
                return errands.answers
            time.sleep(errands.pause())

    def _pool(self, node: Node) -> LinkPool:
        pool = self._pools.get(node)
        if pool is None:
            pool = LinkPool(self._cluster.node_address(node), self._limit, gives_up=is_wrong_node)
            # Another thread may have made one meanwhile; there must be one, or ``close`` misses the other.
            pool = self._pools.setdefault(node, pool)
        return pool

    def ask(self, slot: int, *command: bytes | str | float, timeout: float) -> Any:
        """The reply to one command. Raises BrokerError when it is an error."""
        return check(self.run([Step(slot, pack_command(command))], timeout)[0][0])

    def close(self) -> None:
        """Close the connections that nobody uses. Safe twice; the pool may be used again."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()


def _with_tail(trip: Trip, tail: Tail | None, left: float) -> tuple[bytes, int]:
    """What to write for a trip, and how many replies that has."""
    return (trip.packed, trip.replies) if tail is None else (trip.packed + tail(left), trip.replies + 1)


def _add_tail(errands: Errands, trip: Trip, reply: Any) -> None:
    for number, _ in trip.numbers:
        if errands.answers[number]:
            errands.answers[number].append(reply)


class ClusterLinks:
    """The connections of one event loop to the nodes of a cluster, one to each, which coroutines share."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._links: dict[Node, asyncio.Future[Link]] = {}

    async def run(self, steps: Sequence[Step], timeout: float, tail: Tail | None = None) -> list[list[Any]]:
        """As ClusterPool.run."""
        deadline = time.monotonic() + timeout
        answers: list[list[Any]] = []
        for piece in _pieces(steps):
            answers += await self._run(piece, deadline, tail)
        return answers

    async def _run(self, steps: Sequence[Step], deadline: float, tail: Tail | None) -> list[list[Any]]:
        errands = Errands(self._cluster, steps, deadline)
        while True:
            async with asyncio.timeout(errands.left):
                while (slot := errands.unplaced()) is not None:
                    (await open_link(self._cluster.at(slot))).close()
                await asyncio.gather(*(self._go(errands, trip, tail) for trip in errands.trips()))
            if errands.done:
                return errands.answers
            await asyncio.sleep(errands.pause())

    async def _go(self, errands: Errands, trip: Trip, tail: Tail | None) -> None:
        try:
            link = await self._link(trip.node)
            replies = await link.send(*_with_tail(trip, tail, errands.left))
        except (BrokerConnectionError, TimeoutError):
            self._cluster.forget(trip.node)
            raise
        errands.note(trip, replies)
        if tail is not None:
            _add_tail(errands, trip, replies[-1])

    async def _link(self, node: Node) -> Link:
        opening = self._links.get(node)
        if opening is not None and opening.done() and (opening.cancelled() or _is_lost(opening)):
            opening = None
        if opening is None:
            opening = asyncio.ensure_future(self._open(node))
            self._links[node] = opening
        # Many coroutines may wait for the one connection; a cancelled one must not take it from the others.
        return await asyncio.shield(opening)

    async def _open(self, node: Node) -> Link:
        link = await open_link(self._cluster.node_address(node))
        link.gives_up = is_wrong_node
        return link

    def close(self) -> None:
        """Close the connections. Safe twice; to be called in the event loop."""
        links, self._links = self._links, {}
        for opening in links.values():
            if not opening.done():
                opening.cancel()
            elif not opening.cancelled() and opening.exception() is None:
                opening.result().close()


def _is_lost(opening: asyncio.Future[Link]) -> bool:
    return opening.exception() is not None or opening.result().lost is not None
