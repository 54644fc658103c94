"""What one channel takes from its queues: exactly what is asked for, or a stream of it.

Messages are asked for one by one (``basic.get``) while demand is small: that takes as many as were asked for, from
whichever queues have them, and says when there are none. RabbitMQ is told to push them (``basic.consume``) while there
is nothing to get, so that somebody waits without asking, and while much is wanted, because pushing is much cheaper. A
consumer's prefetch is then what is wanted; it is made anew with more when that is used up.

What was pushed and nobody asked for goes back to its queue as soon as demand ends. Quorum queues count that as a failed
delivery, and RabbitMQ 4 drops what has failed twenty times, unless told otherwise: they are asked for no more than is
wanted.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.amqp.delayed import due_here
from umbel.brokers.amqp.messages import DUE
from umbel.brokers.turns import take_turns
from umbel.stores.amqp import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from umbel.stores.amqp.link import Channel, Delivered

#: Messages asked for in one go: the answers come in one piece.
_GETS: Final = 100
#: What is wanted at once from which it is worth being pushed to rather than asking, and how often in a row.
_MUCH: Final = 8
_OFTEN: Final = 2
#: Up to here a stream gets precisely what is wanted; above, twice that, so that it need not be made anew so often.
_EXACT: Final = 32
_DUE: Final = DUE.encode()
#: The biggest prefetch that AMQP can express.
_MOST: Final = 65_535


class Stream:
    """One consumer: ``out`` of its ``prefetch`` messages are here and not settled."""

    __slots__ = ("out", "prefetch", "tag")

    def __init__(self, tag: str, prefetch: int) -> None:
        self.tag = tag
        self.prefetch = prefetch
        self.out = 0

    @property
    def is_spent(self) -> bool:
        """Whether the server will push nothing more for now."""
        return self.out >= self.prefetch


class Taken:
    """A message that came and is not settled."""

    __slots__ = ("delivered", "due", "queue", "stream")

    def __init__(self, queue: str, delivered: Delivered, stream: Stream | None) -> None:
        #: The instant before which it must not run, where we wrote that beside its ``eta``.
        self.due: float | None = None
        self.queue = queue
        self.delivered = delivered
        self.stream = stream


class OpenTags:
    """The delivery tags of a channel that are not acknowledged, in order.

    Acknowledging all up to one takes a single frame, and can be done as far as nothing in between is still open. What
    has ended beyond that is kept for a moment: mostly what is in between ends soon.
    """

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._open: set[int] = set()
        self._unsaid: set[int] = set()

    def add(self, number: int) -> None:
        """One more was delivered."""
        order = self._order
        if order and number < order[-1]:  # what was asked for and what was pushed come by different ways
            order.insert(bisect(order, number), number)
        else:
            order.append(number)
        self._open.add(number)

    def end(self, number: int) -> None:
        """This one was given back, or refused."""
        self._open.discard(number)

    def end_all(self, ended: Sequence[int]) -> int | None:
        """Strike out some; gives the tag up to which all can be acknowledged now, if there is one."""
        order, still_open = self._order, self._open
        still_open.difference_update(ended)
        self._unsaid.update(ended)
        last = 0
        while order and order[0] not in still_open:
            last = order.popleft()
        covered = [number for number in self._unsaid if number <= last]
        if not covered:
            return None
        self._unsaid.difference_update(covered)
        # It has to be one that the server still waits for: it closes the channel for any other.
        return max(covered)

    @property
    def has_unsaid(self) -> bool:
        """Whether some have ended and are not acknowledged."""
        return bool(self._unsaid)

    def take_unsaid(self) -> list[int]:
        """Those, to be acknowledged one by one."""
        unsaid, self._unsaid = self._unsaid, set()
        return sorted(unsaid)


class Supply:
    """The arrivals of one channel. One fetch at a time; ``taken`` messages are the caller's to settle.

    ``counts`` says of a queue whether it counts what goes back to it.
    """

    def __init__(
        self, channel: Channel, tags: OpenTags, now: Callable[[], float], counts: Callable[[str], bool]
    ) -> None:
        self._channel = channel
        self._now = now
        self._counts = counts
        self._tags = tags
        self._loop = asyncio.get_running_loop()
        self._arrived: dict[str, deque[Taken]] = {}
        self._count = 0  #: in all of ``_arrived``
        self._early: list[tuple[float, int, Taken]] = []
        self._streams: dict[str, Stream] = {}
        self._kept: set[str] = set()
        self._resting: dict[str, Stream] = {}  #: streams of kept queues while nobody asks
        self._lost_streams: set[str] = set()
        self._made = 0
        self._asked: asyncio.Future[None] | None = None
        self._unanswered = 0
        self._empty: set[str] = set()
        self._sleeper: asyncio.Future[None] | None = None
        self._full = 0
        #: Whether the server was told to stop pushing, and has not answered.
        self._stopping: asyncio.Future[Any] | None = None

    def keep(self, queue: str) -> None:
        """Let this queue push for good: it is one listener's own, and gone when nobody consumes from it."""
        self._kept.add(queue)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is here, and nothing comes, that was not asked for."""
        return not (self._streams or self._count or self._early or self._unanswered or self._stopping)

    @property
    def has_arrived(self) -> bool:
        """Whether there is something to take."""
        return self._count > 0

    @property
    def streams(self) -> bool:
        """Whether the server pushes."""
        return bool(self._streams)

    @property
    def takes_much(self) -> bool:
        """Whether the server pushes more than a few at a time."""
        return any(stream.prefetch > _EXACT for stream in self._streams.values())

    def take(self, queues: Sequence[str], limit: int) -> list[Taken]:
        """Up to ``limit`` of what has arrived: higher priority first, then in turns, then in order."""
        if self._early:
            self._bring_due()
        if not self._count or limit <= 0:
            return []
        lines = [line for queue in queues if (line := self._arrived.get(queue))]
        if len(lines) == 1:
            line = lines[0]
            taken = [line.popleft() for _ in range(min(limit, len(line)))]
            self._count -= len(taken)
            return taken
        chosen = take_turns([[(-_priority(each), line) for each in line] for line in lines], limit)
        self._count -= len(chosen)
        return [line.popleft() for line in chosen]

    def _bring_due(self) -> None:
        """What came early and is due now goes before what has arrived."""
        now = self._now()
        due = []
        while self._early and self._early[0][0] <= now:
            due.append(heapq.heappop(self._early)[2])
        for taken in reversed(due):
            self._arrived.setdefault(taken.queue, deque()).appendleft(taken)
            self._count += 1

    def until_due(self) -> float:
        """Seconds until something that is here becomes due; infinity when nothing does."""
        return max(self._early[0][0] - self._now(), 0.0) if self._early else float("inf")

    def _arrive(self, queue: str, stream: Stream | None, delivered: Delivered) -> None:
        taken = Taken(queue, delivered, stream)
        self._tags.add(delivered.tag)
        if stream is not None:
            stream.out += 1
        is_early = False
        if delivered.may_have(_DUE):
            headers, now = delivered.properties["headers"], self._now()
            taken.due = due_here(headers, now)
            # What was not sent to wait goes on at once, to be held where the worker can be asked for it.
            is_early = taken.due is not None and taken.due > now and DUE in headers
        if taken.due is not None and is_early:
            heapq.heappush(self._early, (taken.due, delivered.tag, taken))
        else:
            line = self._arrived.get(queue)
            if line is None:
                line = self._arrived[queue] = deque()
            line.append(taken)
            self._count += 1
        self.wake()

    # Asking.

    async def get(self, queues: Sequence[str], limit: int) -> None:
        """Ask for ``limit`` messages, of each queue in turn. What comes is here even if the caller does not wait."""
        wanted = limit - self._count
        self._empty = set()
        while wanted > 0:
            some = [queue for queue in queues if queue not in self._empty]
            if not some:
                break
            before = self._count + len(self._early)
            await self._get_round(some, min(wanted, _GETS))
            wanted -= self._count + len(self._early) - before
        self._full = self._full + 1 if wanted <= 0 and limit >= _MUCH else 0

    async def _get_round(self, queues: Sequence[str], number: int) -> None:
        self._asked = self._loop.create_future()
        for place in range(number):
            queue = queues[place % len(queues)]
            self._unanswered += 1
            self._channel.ask_soon(requests.get(queue)).add_done_callback(partial(self._answered, queue))
        await asyncio.shield(self._asked)

    def _answered(self, queue: str, answer: asyncio.Future[tuple[Any, ...]]) -> None:
        self._unanswered -= 1
        error = None if answer.cancelled() else answer.exception()
        if error is None and not answer.cancelled():
            fields = answer.result()
            # The message comes last; a queue that is empty answers with fewer fields.
            if len(fields) > 1:
                self._arrive(queue, None, fields[-1])
            else:
                self._empty.add(queue)
        asked = self._asked
        if asked is not None and not asked.done() and (error is not None or not self._unanswered):
            if error is None:
                asked.set_result(None)
            else:
                asked.set_exception(error)
                asked.exception()  # who asked may have left

    @property
    def wants_stream(self) -> bool:
        """Whether so much was taken so often that it is better pushed."""
        return self._full >= _OFTEN

    # Being pushed to.

    async def stream(self, queues: Sequence[str], limit: int, held: int) -> None:
        """Have each queue push: all together about ``limit`` messages more than are ``held``, each one at least."""
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
        for queue in self._resting.keys() & set(queues):
            self._streams[queue] = self._resting.pop(queue)
        spent = [queue for queue in queues if (each := self._streams.get(queue)) is None or each.is_spent]
        if not spent:
            return
        share = self._share(limit, held, len(spent), exactly=any(map(self._counts, spent)))
        ended = [old.tag for queue in spent if (old := self._streams.pop(queue, None)) is not None]
        answers = [self._channel.ask_soon(requests.set_prefetch(share))]
        for queue in spent:
            self._made += 1
            stream = self._streams[queue] = Stream(f"umbel-{self._made}", share)
            answers.append(
                self._channel.consume_soon(
                    queue,
                    partial(self._arrive, queue, stream),
                    tag=stream.tag,
                    on_cancel=partial(self._cancelled, queue, stream),
                )
            )
        # The new consumer is there before the old one goes: some queues do not outlive their last.
        answers += [self._channel.cancel_soon(tag) for tag in ended]
        await asyncio.shield(asyncio.gather(*answers))

    def _share(self, limit: int, held: int, among: int, *, exactly: bool) -> int:
        """The prefetch of each of some new consumers."""
        wanted = 2 * (limit + held) if limit >= _EXACT and not exactly else limit
        open_credit = sum(each.prefetch - each.out for each in self._streams.values())
        return min(max((wanted - open_credit) // among, 1), _MOST)

    def _cancelled(self, queue: str, stream: Stream) -> None:
        """The server has ended a consumer: its queue is gone, or moves to another node."""
        for streams in (self._streams, self._resting):
            if streams.get(queue) is stream:
                del streams[queue]
        self._lost_streams.add(queue)
        self.wake()

    def take_lost(self) -> set[str]:
        """The queues whose consumers the server has ended since it was asked last."""
        lost, self._lost_streams = self._lost_streams, set()
        return lost

    def stop(self) -> asyncio.Future[Any]:
        """Have nothing pushed any more; when the future is done nothing comes."""
        if self._stopping is None:
            streams, self._streams = self._streams, {}
            for queue in streams.keys() & self._kept:
                self._resting[queue] = streams.pop(queue)
            self._full = 0
            answers: list[asyncio.Future[Any]] = [
                self._channel.cancel_soon(each.tag) for each in streams.values()
            ]
            if self._unanswered and self._asked is not None:
                answers.append(self._asked)  # who asked may have left; what comes is nobody's then
            self._stopping = asyncio.gather(*answers, return_exceptions=True)
            self._stopping.add_done_callback(self._stopped)
        return asyncio.shield(self._stopping)

    def _stopped(self, _: object) -> None:
        self._stopping = None

    def drain(self) -> list[Taken]:
        """Everything that is here and nobody asked for, except for what is nobody else's."""
        own = {queue: line for queue, line in self._arrived.items() if queue in self._kept}
        rest = [taken for queue, line in self._arrived.items() if queue not in own for taken in line]
        rest += [taken for _, _, taken in self._early if taken.queue not in self._kept]
        for taken in rest:
            self._tags.end(taken.delivered.tag)
        self._arrived = own
        self._early = [each for each in self._early if each[2].queue in self._kept]
        heapq.heapify(self._early)
        self._count = sum(map(len, own.values()))
        return rest

    # Waiting.

    async def wait(self, seconds: float) -> None:
        """Until something arrives or happens, or some seconds pass."""
        self._sleeper = self._loop.create_future()
        timer = self._loop.call_later(seconds, self.wake)
        try:
            await self._sleeper
        finally:
            timer.cancel()
            self._sleeper = None

    def wake(self) -> None:
        """Have whoever waits look again."""
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)


def _priority(taken: Taken) -> int:
    priority = taken.delivered.properties.get("priority")
    return priority if isinstance(priority, int) else 0
