"""Elections among the workers of a fleet, Celery's among them (``app.control.election``): one of them acts.

Celery's way: an order tells every worker to hold an election. Each stands by an event ``worker-elect``, each
acknowledges whoever stands by a ``worker-elect-ack``, and when as many acknowledgements were heard as there are other
workers, each takes of those that it has heard of by then the one with the lowest clock, and of these the one whose name
is first. Who finds itself does what is to be done.

Problem: Celery's workers know how many they are because they hear each other's heartbeats, which is what makes a large
fleet expensive, and decide so early that who stands late may be counted by some and not by others.

Solution: nobody is listened to while nothing is elected. Who stands says so at once, as Celery's workers expect. The
decision is made when nothing more has come for a while: then it is known how many stand, and how many acknowledgements
came before each of them, so that it is known too whom Celery's workers had heard of when they decided. Umbel's workers
need no acknowledgements; they send theirs when all have stood, and only where a worker of Celery's takes part.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel.core.destination import Destination
from umbel.core.events import routing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from umbel.worker.events import Events

__all__ = ["ACK", "ELECT", "Elections", "addresses", "elected"]

logger = logging.getLogger("celery.worker.consumer.gossip")

#: Types of the events that are heard.
ELECT: Final = "worker-elect"
ACK: Final = "worker-elect-ack"
#: The version of Celery's protocol that is spoken.
_VERSION: Final = 1
#: By this field of its event Umbel's workers know that who stands is one of them, and waits for no acknowledgement.
_OURS: Final = "umbel"
#: By this field of an acknowledgement the leader tells one who stands after the decision who it is.
_LEADER: Final = "elected"

#: Seconds of silence after which Celery's workers are sent their acknowledgements, and after which is decided.
_SETTLED: Final = 0.3
_SILENCE: Final = 1.0
#: Elections that are open at a time; of more than these nothing is heard.
_MOST: Final = 1000
#: Elections that this worker has won and remembers.
_REMEMBERED: Final = 100


def addresses(exchange: str) -> list[Destination]:
    """What has to be listened to; ``exchange`` is that of events."""
    return [Destination(exchange, routing_key(type_), None, "broadcast") for type_ in (ELECT, ACK)]


class Candidate(NamedTuple):
    """Who stands, in the order in which Celery's workers choose."""

    clock: int
    node: str  #: name and process: ``celery@host.123``
    acks_before: int = 0  #: how many acknowledgements had been heard by then
    topic: str = ""
    action: Any = None


class Race:
    """What was heard of one election."""

    def __init__(self) -> None:
        #: Those who stand, by node.
        self.candidates: dict[str, Candidate] = {}
        self.acks = 0
        #: Whether one of Celery's workers stands.
        self.foreign = False
        #: Whether this worker does, and so may act.
        self.stands = False
        self.acknowledged = 0  #: how many this worker has acknowledged
        self.leader = ""  #: who says that it was elected already
        self.timer: asyncio.TimerHandle | None = None


def elected(candidates: Mapping[str, Candidate]) -> Candidate | None:
    """The leader: of those who had stood when the acknowledgements were as many as there are others, the first."""
    enough = max(len(candidates) - 1, 1)
    return min((each for each in candidates.values() if each.acks_before < enough), default=None)


class Elections:
    """One worker's part in them.

    Args:
        hostname: the node's name.
        events: sends its own events; None: it does not stand, but hears who is elected.
        handlers: by topic what the leader does, given the action, in a thread of its own; programs may add some.
    """

    def __init__(
        self, hostname: str, events: Events | None, handlers: Mapping[str, Callable[[Any], object]]
    ) -> None:
        self.election_handlers = dict(handlers)
        self._hostname = hostname
        self._events = events
        self._races: dict[str, Race] = {}
        self._won: deque[str] = deque(maxlen=_REMEMBERED)
        self._acting: set[asyncio.Task[None]] = set()

    def stand(self, id_: str, topic: str, action: Any) -> None:
        """An election was ordered; one of the same id has been decided by then."""
        if id_ in self._won:
            self._won.remove(id_)
        race = self._race(id_)
        if race is None or self._events is None:
            return
        race.stands = True
        # Celery's workers count those from whom they have heard lately: the first of these is to be known to all.
        self._events.beat()
        self._events.worker(ELECT, id=id_, topic=topic, action=action, cver=_VERSION, **{_OURS: True})

    def hear(self, event: Mapping[str, Any]) -> None:
        """Somebody stands, or acknowledges that somebody does. Raises nothing for what is neither."""
        id_ = event.get("id")
        if isinstance(id_, str) and id_ in self._won:
            self._say_who_won(id_, event)
            return
        race = self._race(id_) if isinstance(id_, str) else None
        if race is None:
            return
        if event.get("type") == ACK:
            race.acks += 1
            race.leader = race.leader or str(event.get(_LEADER) or "")
            return
        clock, hostname, pid = event.get("clock"), event.get("hostname"), event.get("pid")
        if not (isinstance(clock, int) and isinstance(hostname, str)):
            logger.error("election request missing field: %r", event)
            return
        node = f"{hostname}.{pid}"
        race.foreign = race.foreign or not event.get(_OURS)
        race.candidates[node] = Candidate(
            clock, node, race.acks, str(event.get("topic")), event.get("action")
        )

    def _say_who_won(self, id_: str, event: Mapping[str, Any]) -> None:
        """Somebody who was held up stands for what was decided long ago: it must not act too."""
        if event.get("type") == ELECT and event.get(_OURS) and self._events is not None:
            self._events.worker(ACK, id=id_, **{_LEADER: self._node})

    def close(self) -> None:
        """Take part no more."""
        for race in self._races.values():
            if race.timer is not None:
                race.timer.cancel()
        self._races.clear()

    def _race(self, id_: str) -> Race | None:
        """An election, in which something has just happened; None: there are too many."""
        race = self._races.get(id_)
        if race is None:
            if len(self._races) >= _MOST:
                return None
            race = self._races[id_] = Race()
        if race.timer is not None:
            race.timer.cancel()
        race.timer = asyncio.get_running_loop().call_later(_SETTLED, self._settled, id_, race)
        return race

    def _settled(self, id_: str, race: Race) -> None:
        """Nothing more has come for a moment."""
        unacknowledged = len(race.candidates) - race.acknowledged
        if race.foreign and race.stands and self._events is not None and unacknowledged:
            race.acknowledged += unacknowledged
            for _ in range(unacknowledged):
                self._events.worker(ACK, id=id_)
        left = _SILENCE - _SETTLED
        race.timer = asyncio.get_running_loop().call_later(left, self._decide, id_, race)

    def _decide(self, id_: str, race: Race) -> None:
        del self._races[id_]
        leader = elected(race.candidates)
        if leader is None:
            logger.warning("nobody stood for %r", id_)
        elif not race.stands or (race.leader or leader.node) != self._node:
            logger.info("node %s elected for %r", race.leader or leader.node, id_)
        else:
            logger.info("I won the election %r", id_)
            self._won.append(id_)
            acting = asyncio.create_task(self._act(leader))
            self._acting.add(acting)
            acting.add_done_callback(self._acting.discard)

    @property
    def _node(self) -> str:
        return f"{self._hostname}.{self._events.pid if self._events is not None else ''}"

    async def _act(self, leader: Candidate) -> None:
        handler = self.election_handlers.get(leader.topic)
        if handler is None:
            logger.error("Unknown election topic %r", leader.topic)
            return
        try:
            await asyncio.to_thread(handler, leader.action)
        except Exception:
            # An action is whatever the order brought: the worker has other things to do.
            logger.exception("Could not call task: %r", leader.action)
