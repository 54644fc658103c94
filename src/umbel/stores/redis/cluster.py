"""Redis Cluster: which node has which of the 16384 hash slots, and how that is found out.

Nothing here holds a socket. A ``Cluster`` remembers what nodes have told; ``Cluster.at`` is the address of one slot,
whose server ``open_link`` and ``open_blocking`` look for as they look for a primary behind sentinels.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from hiredis import ReplyError
from msgspec.structs import replace

from umbel.errors import ImproperlyConfigured
from umbel.stores.redis.address import parse_address
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.finding import Findings, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from umbel.errors import BrokerConnectionError
    from umbel.stores.redis.address import Address

__all__ = [
    "SCHEMES",
    "Cluster",
    "Node",
    "has_tag",
    "is_cluster",
    "parse_cluster",
    "parse_place",
    "slot_of",
    "tagged",
]

SLOTS: Final = 16384
#: The schemes of a cluster, and what they are for one server. ``rediscluster`` is what kombu's users know.
_SCHEMES: Final = {
    "redis+cluster": "redis",
    "rediss+cluster": "rediss",
    "rediscluster": "redis",
    "redisscluster": "rediss",
    "valkey+cluster": "valkey",
    "valkeys+cluster": "valkeys",
}
SCHEMES: Final = frozenset(_SCHEMES)
#: Who has what, and who is asked.
_QUESTION: Final = pack_command((b"CLUSTER", b"SLOTS")) + pack_command((b"CLUSTER", b"MYID"))


class Node(NamedTuple):
    """Where a node is reached by clients."""

    host: str
    port: int


def slot_of(key: bytes) -> int:
    """The hash slot of a key: of its hash tag, where it has one."""
    begin = key.find(b"{")
    if begin >= 0 and (end := key.find(b"}", begin + 1)) > begin + 1:
        key = key[begin + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def has_tag(text: str) -> bool:
    """Whether whatever begins with this text is in one slot."""
    begin = text.find("{")
    return begin >= 0 and text.find("}", begin + 1) > begin + 1


def tagged(name: str) -> str:
    """A name as a hash tag that no other name has."""
    return "{" + (name.replace("%", "%25").replace("}", "%7D") or "%") + "}"


class Cluster:
    """What is known of one cluster. Safe for use by several threads: what is learned replaces what was known.

    Args:
        seeds: addresses of some of its nodes, any of which tells of the others; how to log in is the first one's.
    """

    def __init__(self, seeds: Sequence[Address]) -> None:
        self.login = seeds[0]
        self._seeds = tuple(dict.fromkeys(Node(each.host, each.port) for each in seeds))
        self._owners: list[Node | None] = [None] * SLOTS
        self._known: tuple[Node, ...] = ()
        places = ",".join(sorted(f"{host}:{port}" for host, port in self._seeds))
        self.identity = f"redis+cluster://{places}"
        scheme = "redis+cluster" if self.login.tls is None else "rediss+cluster"
        self.display_url = f"{scheme}://{','.join(f'{host}:{port}' for host, port in self._seeds)}"

    def at(self, slot: int) -> Address:
        """The address of whichever node has a slot."""
        return replace(self.login, way=SlotWay(self, slot))

    def node_address(self, node: Node) -> Address:
        """The address of one node."""
        return replace(self.login, host=node.host, port=node.port)

    def owner(self, slot: int) -> Node | None:
        """The node that has a slot, as far as is known."""
        return self._owners[slot]

    def candidates(self, slot: int) -> list[Node]:
        """Whom to ask about a slot, in this order: who should have it, everybody who was heard of, the seeds."""
        owner = self._owners[slot]
        return list(dict.fromkeys([*([owner] if owner else ()), *self._known, *self._seeds]))

    def learn(self, asked: Node, ranges: Any) -> dict[int, tuple[bytes, Node]]:
        """Take in an answer to CLUSTER SLOTS; gives the masters by the first slot of each of their ranges."""
        owners: list[Node | None] = [None] * SLOTS
        masters: dict[int, tuple[bytes, Node]] = {}
        known: dict[Node, None] = {}
        for first, last, *members in ranges:
            nodes = [_node(member, asked) for member in members]
            owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
            masters[first] = (members[0][2], nodes[0])
            known.update(dict.fromkeys(nodes))
        self._owners, self._known = owners, tuple(known)
        return masters

    def moved(self, slot: int, node: Node) -> None:
        """A node said that another has this slot."""
        self._owners[slot] = node
        if node not in self._known:
            self._known = (*self._known, node)

    def forget(self, node: Node) -> None:
        """A node does not answer: what it had somebody else may have by now."""
        self._owners = [None if owner == node else owner for owner in self._owners]


def _node(member: Sequence[Any], asked: Node) -> Node:
    """A member of an answer to CLUSTER SLOTS; one without a name is to be reached where the answer came from."""
    host = (member[0] or b"").decode()
    return Node(asked.host if host in {"", "?"} else host, int(member[1]))


def read_redirection(text: str, asked: Node) -> tuple[int, Node]:
    """The slot and the node of a MOVED or ASK reply; without a host it is the one that was asked."""
    _, slot, place = text.split(" ")[:3]
    host, _, port = place.rpartition(":")
    return int(slot), Node(host or asked.host, int(port))


class SlotWay:
    """How to find the node that has a slot. Every node is asked who has it until one says that it has itself."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self.cluster = cluster
        self.slot = slot
        self.identity = cluster.identity
        self.display_url = cluster.display_url

    def search(self) -> _OwnerSearch:
        """Begin a search."""
        return _OwnerSearch(self.cluster, self.slot)


class _OwnerSearch:
    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot
        self._findings = Findings(cluster.display_url)
        self._named: Node | None = None

    def __iter__(self) -> Iterator[Place]:
        tried: set[Node] = set()
        waiting = deque(self._cluster.candidates(self._slot))
        while waiting:
            node = waiting.popleft()
            if node in tried:
                continue
            tried.add(node)
            self._named = None
            yield Place(self._cluster.node_address(node), _QUESTION, 2)
            if self._named is not None:
                waiting.appendleft(self._named)

    def accepts(self, place: Place, answers: Sequence[Any]) -> bool:
        ranges, identity = answers
        if isinstance(ranges, ReplyError) or isinstance(identity, ReplyError):
            refused = ranges if isinstance(ranges, ReplyError) else identity
            self.failed(place, f"it is no node of a cluster, or does not tell: {refused}")
            return False
        masters = self._cluster.learn(Node(place.address.host, place.address.port), ranges)
        firsts = [first for first in masters if first <= self._slot]
        owner = self._cluster.owner(self._slot)
        if owner is None or not firsts:
            self.failed(place, f"it knows of no node that has slot {self._slot}")
            return False
        name, node = masters[max(firsts)]
        if name == identity:
            # It may be known by another name than the one that it was found by.
            self._cluster.moved(self._slot, node)
            return True
        self._named = node
        self._findings.note(place.address, f"it says that {node.host}:{node.port} has slot {self._slot}")
        return False

    def failed(self, place: Place, why: object) -> None:
        self._findings.note(place.address, why)

    def error(self) -> BrokerConnectionError:
        return self._findings.error()


def parse_cluster(
    url: str,
    options: Mapping[str, Any],
    use_ssl: bool | Mapping[str, Any] | None,
    connect_timeout: float | None,
) -> tuple[Cluster, dict[str, Any]]:
    """The cluster of a URL (``redis+cluster://user:password@host:port,host:port``), and the options it did not use.

    Several URLs may stand with ``;`` between them. ``startup_nodes`` of the options, as redis-py and others have them
    (mappings with ``host`` and ``port``), are more seeds. Raises ImproperlyConfigured for what it cannot read.
    """
    seeds: list[Address] = []
    rest: dict[str, Any] = {}
    given = {**options}
    nodes = given.pop("startup_nodes", None) or ()
    for each in _single_urls(url):
        address, rest = parse_address(each, given, use_ssl, connect_timeout)
        seeds.append(address)
    if seeds[0].db:
        raise ImproperlyConfigured(f"a Redis Cluster has no databases but 0, not {seeds[0].db}")
    seeds += [replace(seeds[0], host=str(node["host"]), port=int(node["port"])) for node in nodes]
    return Cluster(seeds), rest


def _single_urls(url: str) -> list[str]:
    """One URL of one server for each seed; who stands before the first ``@`` logs in everywhere."""
    singles = []
    for part in url.split(";"):
        parts = urlsplit(part.strip())
        if parts.scheme not in _SCHEMES:
            known = ", ".join(sorted(SCHEMES))
            raise ImproperlyConfigured(
                f"{parts.scheme!r} is not a scheme of Redis Cluster; expected one of {known}"
            )
        login, at, places = parts.netloc.rpartition("@")
        tail = parts.path + (f"?{parts.query}" if parts.query else "")
        singles += [f"{_SCHEMES[parts.scheme]}://{login}{at}{place}{tail}" for place in places.split(",")]
    return singles


def parse_place(
    url: str,
    options: Mapping[str, Any],
    use_ssl: bool | Mapping[str, Any] | None,
    connect_timeout: float | None,
    strategy: Any = None,
    *,
    key: str | None = None,
) -> tuple[Address, dict[str, Any]]:
    """As ``parse_address``; a cluster's URL too, for who has all keys in one slot.

    ``key`` is such a key, or how all of them begin: ``global_keyprefix`` where it is not given. Raises
    ImproperlyConfigured where that has no hash tag.
    """
    if not is_cluster(url):
        return parse_address(url, options, use_ssl, connect_timeout, strategy)
    cluster, rest = parse_cluster(url, options, use_ssl, connect_timeout)
    prefix = str(rest.get("global_keyprefix") or "")
    begins = prefix if has_tag(prefix) or key is None else key
    if not has_tag(begins):
        raise ImproperlyConfigured(
            "what is asked of this Redis Cluster needs all keys in one hash slot: set global_keyprefix to a hash tag, "
            "such as '{shop}:'"
        )
    return cluster.at(slot_of(begins.encode())), rest


def is_cluster(url: str) -> bool:
    """Whether a URL has a scheme of Redis Cluster."""
    return url.partition("://")[0] in SCHEMES
