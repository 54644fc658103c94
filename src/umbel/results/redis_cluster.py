"""Results in a Redis Cluster: Celery's keys and documents, each on the node that has its slot.

A result's key is Celery's, so results are spread over all nodes. What is counted of chords, and which of them are due,
is one step, so it has to be in one slot: chords are spread over some slots by their ids. A part's result is stored
before the part is counted.

What is published on one node reaches the subscribers of all, so one connection hears of every result. Nodes pass it on
without confirmation; whoever waits therefore looks again now and then.
"""

from __future__ import annotations

from binascii import crc_hqx
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from umbel.core.states import SUCCESS
from umbel.errors import BrokerConnectionError
from umbel.results.redis import RedisResultBackend, errors
from umbel.stores.redis.cluster import has_tag, parse_cluster, slot_of
from umbel.stores.redis.clusterside import ClusterInbox, ClusterSide
from umbel.stores.redis.commands import pack_command
from umbel.stores.redis.errands import ClusterPool, Step, script_step
from umbel.stores.redis.replies import check
from umbel.stores.redis.results import CLAIM_CHORDS, OPEN_CHORD, SAVE_RESULTS, ChordSteps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from umbel.core.records import ChordEnd, DueChord, ResultRecord
    from umbel.results.options import ResultOptions

    Argument = bytes | str | float

#: Slots that chords are spread over. It must not change: parts of one chord would be counted in two places.
_SPREAD: Final = 16
#: Where the connection that hears of results is made; any slot would do.
_ANYWHERE: Final = slot_of(b"umbel")


class RedisClusterResultBackend(RedisResultBackend):
    """Documents in a Redis Cluster.

    Args:
        url: ``redis+cluster://`` or ``rediss+cluster://`` with one node or several; ``rediscluster://`` is the same.
        options: as of RedisResultBackend.

    Raises ImproperlyConfigured for what it cannot read.
    """

    def __init__(self, url: str, options: ResultOptions) -> None:
        self._cluster, rest = parse_cluster(url, *self.parsing(options))
        self._set_up(options, self._cluster.at(_ANYWHERE), rest)
        # No broker shares it, nor one that has everything in one slot.
        self.store = f"{self._cluster.identity}#results{self._prefix}"
        lifetime, ordered = options.chord_lifetime(), self._chords.ordered
        prefixes = [f"{self._prefix}{{%chords-{number:02}}}:" for number in range(_SPREAD)]
        self._shards = [ChordSteps(prefix, lifetime, ordered) for prefix in prefixes]
        self._slots = [slot_of(prefix.encode()) for prefix in prefixes]
        self._nodes = ClusterPool(self._cluster, self._limit)
        self._inbox = self._new_inbox()

    @classmethod
    def from_url(cls, url: str, options: ResultOptions) -> RedisResultBackend:
        """The backend of a URL; nothing is connected yet."""
        _, rest = parse_cluster(url, *cls.parsing(options))
        if has_tag(str(rest.get("global_keyprefix") or "")):
            return RedisResultBackend(url, options)
        return cls(url, options)

    def _new_inbox(self) -> ClusterInbox:
        return ClusterInbox(self._address, self._read)

    def _new_side(self) -> ClusterSide:
        return ClusterSide(self._address, self._cluster)

    def save(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        """As ResultBackend.save. Raises OperationalError without a connection, BackendStoreError when Redis refuses."""
        with errors(f"{len(records)} results were not confirmed within {self._timeout:g} seconds"):
            self._saved(self._nodes.run(self._result_steps(records), self._timeout))
            return self._saved(self._nodes.run(self._part_steps(records), self._timeout))

    async def asave(self, records: Sequence[ResultRecord]) -> list[DueChord]:
        """As ``save``."""
        self._saved(await self._arun(self._result_steps(records)))
        return self._saved(await self._arun(self._part_steps(records)))

    async def _arun(self, steps: Sequence[Step]) -> list[list[Any]]:
        """The answers to steps that may be taken twice."""
        side = self._cluster_side()
        with errors(f"Redis did not answer within {self._timeout:g} seconds"):
            try:
                return await side.links.run(steps, self._timeout)
            except BrokerConnectionError:
                return await side.links.run(steps, self._timeout)

    def _cluster_side(self) -> ClusterSide:
        side = self._side()
        assert isinstance(side, ClusterSide), "made by _new_side"
        return side

    def _saved(self, answers: Iterable[list[Any]]) -> list[DueChord]:
        return [due for (reply,) in answers for due in self._check_saved(check(reply))]

    def _result_steps(self, records: Sequence[ResultRecord]) -> list[Step]:
        steps = []
        for record in records:
            if record.document:
                key = self._key(record.task_id)
                expires = self._expiries.get(record.state)
                arguments = (b"R", key, record.document, record.state, expires)
                steps.append(script_step(slot_of(key), SAVE_RESULTS, (key,), arguments))
        return steps

    def _part_steps(self, records: Sequence[ResultRecord]) -> list[Step]:
        counts: dict[int, list[Argument]] = {}
        for record in records:
            if (part := record.chord) is not None:
                shard = _shard(part.group_id)
                operands = self._shards[shard].count(record.task_id, part)
                counts.setdefault(shard, []).extend((b"N", *operands))
        return [self._chord_step(shard, arguments) for shard, arguments in counts.items()]

    def _chord_step(self, shard: int, arguments: Sequence[Argument]) -> Step:
        key = self._shards[shard].group_key("").encode()
        return script_step(self._slots[shard], SAVE_RESULTS, (key,), arguments)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ResultBackend.load. Raises OperationalError without a connection."""
        with errors(f"{len(task_ids)} results could not be read within {self._timeout:g} seconds"):
            return self._read(list(map(self._key, task_ids)))

    def _read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return _values(self._nodes.run(_gets(keys), self._timeout))

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """As ``load``."""
        return _values(await self._arun(_gets(list(map(self._key, task_ids)))))

    def forget(self, task_ids: Sequence[str]) -> None:
        """As ResultBackend.forget. Raises OperationalError without a connection."""
        keys = list(map(self._key, task_ids))
        steps = [Step(slot_of(key), pack_command((b"DEL", key))) for key in keys]
        with errors(f"{len(task_ids)} results could not be deleted within {self._timeout:g} seconds"):
            for (reply,) in self._nodes.run(steps, self._timeout):
                check(reply)

    def save_group(self, group_id: str, document: bytes) -> None:
        """As ResultBackend.save_group; published like a result, as Celery does."""
        key = self._group_key(group_id)
        expires = self._expiries.get(SUCCESS)
        store = (b"SETEX", key, expires, document) if expires else (b"SET", key, document)
        packed = pack_command(store) + pack_command((b"PUBLISH", key, document))
        with errors(f"group {group_id} was not confirmed within {self._timeout:g} seconds"):
            for reply in self._nodes.run([Step(slot_of(key), packed, 2)], self._timeout)[0]:
                check(reply)

    def open_chord(self, group_id: str, size: int) -> None:
        """As ResultBackend.open_chord."""
        key = self._group_key(group_id)
        step = script_step(slot_of(key), OPEN_CHORD, (key,), (size, self._chords.expires))
        with errors(f"the size of chord {group_id} was not confirmed within {self._timeout:g} seconds"):
            check(self._nodes.run([step], self._timeout)[0][0])

    async def aclaim_chords(self, realms: Sequence[str], patience: float) -> list[DueChord]:
        """As ResultBackend.aclaim_chords."""
        seconds = max(ceil(patience), 1)
        steps = []
        for shard, slot in zip(self._shards, self._slots, strict=True):
            keys = [key.encode() for realm in realms for key in shard.due_keys(realm)]
            steps.append(script_step(slot, CLAIM_CHORDS, keys, (seconds,)))
        return [due for (reply,) in await self._arun(steps) for due in self._shards[0].read_due(check(reply))]

    async def aend_chords(self, ends: Sequence[ChordEnd]) -> None:
        """As ResultBackend.aend_chords."""
        endings: dict[int, list[Argument]] = {}
        for end in ends:
            shard = _shard(end.group_id)
            endings.setdefault(shard, []).extend((b"C", *self._shards[shard].end(end)))
        self._saved(await self._arun([self._chord_step(*ending) for ending in endings.items()]))

    def _read_due(self, flat: Sequence[Any]) -> list[DueChord]:
        return self._shards[0].read_due(flat)  # the prefixes are of one length

    def _ask(self, command: tuple[Argument, ...]) -> Any:
        key = command[1]
        assert isinstance(key, bytes), "commands begin with their one key"
        with errors(f"Redis did not answer within {self._timeout:g} seconds"):
            return self._nodes.ask(slot_of(key), *command, timeout=self._timeout)

    def _group_key(self, group_id: str) -> bytes:
        return self._shards[_shard(group_id)].group_key(group_id).encode()

    def _new_client(self) -> Any:
        from redis import cluster  # takes long to import

        theirs: Any = cluster
        login = self._cluster.login.connection_arguments(protocol=2)
        nodes = [theirs.ClusterNode(node.host, node.port) for node in self._cluster.candidates(0)]
        options = {name: value for name, value in login.items() if name not in {"host", "port", "db"}}
        ssl = self._cluster.login.tls is not None
        return theirs.RedisCluster(startup_nodes=nodes, decode_responses=self._gives_text, ssl=ssl, **options)

    def close(self) -> None:
        """Close every connection. Safe twice; the backend may be used again."""
        super().close()
        self._nodes.close()


def _shard(group_id: str) -> int:
    return crc_hqx(group_id.encode(), 0) % _SPREAD


def _gets(keys: Sequence[bytes]) -> list[Step]:
    return [Step(slot_of(key), pack_command((b"GET", key))) for key in keys]


def _values(answers: Iterable[list[Any]]) -> list[bytes | None]:
    return [check(reply) for (reply,) in answers]
