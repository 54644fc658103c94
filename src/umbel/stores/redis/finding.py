"""Which server to connect to where that is not always the same: one of several, or the one that Sentinel names.

A ``Search`` says where to look next and judges what was answered there; whoever holds the sockets, blocking or in an
event loop, does the looking (``open_blocking``, ``open_link``). A server counts as found when it says that it is no
replica: what is written to a replica is refused, and what a former primary takes is lost when it becomes one.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from hiredis import ReplyError
from msgspec.structs import replace

from umbel.errors import BrokerConnectionError
from umbel.stores.failover import Failover
from umbel.stores.forks import renew_in_children
from umbel.stores.redis.commands import pack_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from umbel.stores.redis.address import Address

#: Without arguments it changes nothing and tells, among other things, the server's role; every user may ask it.
_WHO_ARE_YOU: Final = pack_command((b"HELLO",))


class Place(NamedTuple):
    """Where to connect, and what to ask there first."""

    address: Address
    question: bytes
    replies: int


class Search(Protocol):
    """One attempt to find a server. Iterating gives the places in their order; each is to be answered for."""

    def __iter__(self) -> Iterator[Place]: ...

    def accepts(self, place: Place, answers: Sequence[Any]) -> bool:
        """Whether this is the server that was looked for."""

    def failed(self, place: Place, why: object) -> None:
        """Nothing is to be had there."""

    def error(self) -> BrokerConnectionError:
        """What to raise when there is no place left."""


class Way(Protocol):
    """How to find the server of an address. ``identity`` and ``display_url`` are as those of the address."""

    identity: str
    display_url: str

    def search(self) -> Search:
        """Begin a search."""


class Findings:
    """What a search has come to so far. ``whole`` names what is searched."""

    def __init__(self, whole: str) -> None:
        self._whole = whole
        self._failures: dict[str, str] = {}

    def note(self, address: Address, why: object) -> None:
        """Remember why a place is not the one."""
        text = str(why) or type(why).__name__
        self._failures[f"{address.host}:{address.port}"] = text.removeprefix(
            f"cannot connect to {address.display_url}: "
        )

    def error(self) -> BrokerConnectionError:
        """All of that in one error."""
        told = "; ".join(f"{where}: {why}" for where, why in self._failures.items())
        return BrokerConnectionError(f"cannot connect to {self._whole}: {told or 'there is nowhere to look'}")


class Servers:
    """Several servers, of which one is the primary at a time. All connections go there until one fails.

    Args:
        addresses: of the servers.
        strategy: as ``broker_failover_strategy``.
    """

    def __init__(self, addresses: Sequence[Address], strategy: Any = None) -> None:
        self.addresses = tuple(addresses)
        self._failover: Failover[Address] = Failover(self.addresses, strategy)
        self.identity = ";".join(sorted(address.identity for address in self.addresses))
        self.display_url = ";".join(address.display_url for address in self.addresses)

    @property
    def current(self) -> Address:
        """Where the next connection goes first."""
        return self._failover.current

    def search(self) -> Search:
        """Begin a search."""
        return _ServerSearch(self._failover, self.display_url)


class _ServerSearch:
    def __init__(self, failover: Failover[Address], whole: str) -> None:
        self._failover = failover
        self._findings = Findings(whole)

    def __iter__(self) -> Iterator[Place]:
        for _ in self._failover.addresses:
            yield Place(self._failover.current, _WHO_ARE_YOU, 1)

    def accepts(self, place: Place, answers: Sequence[Any]) -> bool:
        if not _is_replica(answers[0]):
            return True
        self.failed(place, "it is a replica")
        return False

    def failed(self, place: Place, why: object) -> None:
        self._findings.note(place.address, why)
        self._failover.failed(place.address)

    def error(self) -> BrokerConnectionError:
        return self._findings.error()


class Sentinels:
    """Sentinels that know which server is the primary. The one that answered last is asked first.

    Args:
        addresses: of the sentinels.
        master: the name under which they watch the primary.
        others: how many other sentinels one has to know to be believed (``min_other_sentinels``).
        server: how to log in at the primary; its host and port are what the sentinels say.
    """

    def __init__(self, addresses: Sequence[Address], master: str, others: int, server: Address) -> None:
        self.master = master
        self.others = others
        self.server = server
        self._order = list(addresses)
        self._lock = threading.Lock()
        renew_in_children(self, _lock=threading.Lock)
        places = ";".join(sorted(f"{address.host}:{address.port}" for address in addresses))
        self.identity = f"redis://{master}@{places}/{server.db}"
        self.display_url = (
            ";".join(f"sentinel://{address.host}:{address.port}" for address in addresses) + f"/{server.db}"
        )

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The sentinels in the order in which they are asked."""
        return tuple(self._order)

    def search(self) -> Search:
        """Begin a search."""
        return _SentinelSearch(self)

    def put_first(self, sentinel: Address) -> None:
        """Ask this one first from now on."""
        with self._lock:
            self._order.sort(key=lambda address: address is not sentinel)


class _SentinelSearch:
    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        self._findings = Findings(f"{sentinels.master} by way of {sentinels.display_url}")
        self._named: Address | None = None
        self._tried: set[tuple[str, int]] = set()

    def __iter__(self) -> Iterator[Place]:
        question = pack_command((b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._sentinels.master))
        replies = 1
        if self._sentinels.others:
            question += pack_command((b"SENTINEL", b"SENTINELS", self._sentinels.master))
            replies = 2
        for sentinel in self._sentinels.addresses:
            self._named = None
            yield Place(sentinel, question, replies)
            # Several sentinels may name the same server; once it was not there it need not be waited for again.
            if self._named is not None and (self._named.host, self._named.port) not in self._tried:
                self._tried.add((self._named.host, self._named.port))
                yield Place(self._named, _WHO_ARE_YOU, 1)

    def accepts(self, place: Place, answers: Sequence[Any]) -> bool:
        if place.question is not _WHO_ARE_YOU:
            self._hear(place, answers)
            return False
        if _is_replica(answers[0]):
            self.failed(place, "it is a replica by now, or still")
            return False
        return True

    def _hear(self, place: Place, answers: Sequence[Any]) -> None:
        """Take the server that a sentinel names."""
        refused = next((answer for answer in answers if isinstance(answer, ReplyError)), None)
        name = self._sentinels.master
        if refused is not None:
            self.failed(place, f"the sentinel refused: {refused}")
        elif answers[0] is None:
            self.failed(place, f"the sentinel watches no {name!r} (master_name)")
        elif self._sentinels.others > (known := len(answers[-1])):
            self.failed(place, f"the sentinel knows of {known} others, not {self._sentinels.others}")
        else:
            host, port = answers[0]
            self._named = replace(self._sentinels.server, host=host.decode(), port=int(port))
            self._sentinels.put_first(place.address)

    def failed(self, place: Place, why: object) -> None:
        self._findings.note(place.address, why)

    def error(self) -> BrokerConnectionError:
        return self._findings.error()


def _is_replica(answer: Any) -> bool:
    """What HELLO tells of a server's role; whoever does not know the command (a proxy) is taken as it is."""
    if isinstance(answer, dict):
        return answer.get(b"role") == b"replica"
    if isinstance(answer, list) and b"role" in answer:
        return bool(answer[answer.index(b"role") + 1] == b"replica")
    return False
