"""Publishers for a cluster: what goes to queues of one node goes there in one round trip."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from umbel.brokers.redis.publisher import (
    Composer,
    check_all,
    check_replicas,
    out_of_memory,
    runs_of,
    wait_command,
)
from umbel.brokers.redis.routing import queue_of
from umbel.errors import BrokerError, PublishTimeout
from umbel.stores.redis.cluster import slot_of
from umbel.stores.redis.commands import pack_command, pack_with_values
from umbel.stores.redis.errands import ClusterLinks, ClusterPool, Step
from umbel.stores.redis.replies import FullError, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from umbel.brokers.redis.cluster.layout import ClusterLayout
    from umbel.brokers.redis.routing import Routes, Tables
    from umbel.core.bindings import Bindings
    from umbel.core.destination import Destination
    from umbel.core.records import Publication
    from umbel.stores.redis.cluster import Cluster

#: Seconds between attempts while a node is out of memory: from, to.
_PRESS: Final = (0.05, 1.0)


class ClusterComposer(Composer):
    """Turns publications into steps. What a message's queues have in common is not one step here."""

    def __init__(self, layout: ClusterLayout, routes: Routes, bindings: Bindings | None = None) -> None:
        super().__init__(layout, routes, bindings)
        self._home = layout.home

    def steps(self, publications: Sequence[Publication], tables: Tables) -> list[Step]:
        """What to send for publications, in order. Raises BrokerError when there is one that no queue is bound for."""
        steps: list[Step] = []
        for run in runs_of(publications):
            to = run[0].destination
            queue = queue_of(to)
            if queue is None:
                steps += [step for publication in run for step in self._spread(publication, tables)]
                continue
            steps += self.home_steps(self._declarations(queue))
            key = self._routes.queue_key(queue, to.priority)
            payloads = [publication.payload for publication in run]
            steps.append(Step(slot_of(key), pack_with_values((b"LPUSH", key), payloads)))
        return steps

    def _spread(self, publication: Publication, tables: Tables) -> Iterator[Step]:
        for command in self._routes.commands(publication, tables):
            yield Step(slot_of(command[1]), pack_command(command))

    def queues_of(self, to: Destination, tables: Tables) -> list[str]:
        """The queues that are bound for a destination that names none."""
        try:
            return self._routes.bound_queues(to.exchange, to.routing_key, to.exchange_type, tables)
        except BrokerError:  # the exchange is of a type that Redis does not have
            return []

    def home_steps(self, commands: Iterable[bytes]) -> list[Step]:
        """Commands for what concerns no queue."""
        return [Step(self._home, command) for command in commands]

    def questions(self, publications: Sequence[Publication]) -> tuple[list[str], list[Step]]:
        """The exchanges to ask about, and the step that asks."""
        exchanges, packed = self.table_commands(publications)
        return exchanges, [Step(self._home, packed, len(exchanges))] if exchanges else []


class Sending:
    """Steps being published until all are taken: what a node refused for want of memory is sent again."""

    def __init__(self, steps: Sequence[Step], replicas: int, timeout: float) -> None:
        self.steps = steps
        self._replicas = replicas
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._pause = _PRESS[0]

    @property
    def left(self) -> float:
        """Seconds left."""
        return max(self._deadline - time.monotonic(), 0.001)

    @property
    def tail(self) -> Callable[[float], bytes] | None:
        """What each node is asked after it has taken its steps."""
        return partial(wait_command, self._replicas) if self._replicas else None

    def note(self, answers: Sequence[list[Any]]) -> float | None:
        """Seconds to wait before what is left is sent again; None when all was taken.

        Raises BrokerError for other refusals, PublishTimeout when too few replicas have something, or the time is up.
        """
        refused: list[Step] = []
        why: FullError | None = None
        for step, replies in zip(self.steps, answers, strict=True):
            if self._replicas:
                check_replicas(replies[:-1], replies[-1], self._replicas)
            try:
                check_all(replies)
            except FullError as error:
                refused.append(step)
                why = error
        self.steps = refused
        if why is None:
            return None
        pause, self._pause = self._pause, min(self._pause * 2, _PRESS[1])
        if time.monotonic() + pause >= self._deadline:
            raise out_of_memory(self._timeout, why)
        return pause


class RedisClusterPublisher:
    """A blocking publisher. Safe for use by several threads, and after a fork."""

    def __init__(self, pool: ClusterPool, composer: ClusterComposer) -> None:
        self._pool = pool
        self._composer = composer

    def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send."""
        if not publications:
            return
        with _errors(self._composer, len(publications), timeout):
            tables = self._tables(publications, timeout)
            sending = Sending(self._composer.steps(publications, tables), self._composer.replicas, timeout)
            while (
                pause := sending.note(self._pool.run(sending.steps, sending.left, sending.tail))
            ) is not None:
                time.sleep(pause)

    def _tables(self, publications: Sequence[Publication], timeout: float) -> Tables:
        exchanges, steps = self._composer.questions(publications)
        if not exchanges:
            return {}
        tables = read_tables(exchanges, self._pool.run(steps, timeout)[0])
        check_all(self._pool.run(self._composer.home_steps(self._composer.complete(tables)), timeout))
        return tables

    def close(self) -> None:
        """Give the connections back. Safe twice; the publisher may be used again."""
        self._pool.close()


class RedisClusterAsyncPublisher:
    """A publisher for one event loop; coroutines share its connections."""

    def __init__(self, cluster: Cluster, composer: ClusterComposer) -> None:
        self._links = ClusterLinks(cluster)
        self._composer = composer

    async def send(self, publications: Sequence[Publication], *, timeout: float) -> None:
        """As Publisher.send."""
        if not publications:
            return
        with _errors(self._composer, len(publications), timeout):
            tables = await fetch_tables(self._links, self._composer, publications, timeout)
            sending = Sending(self._composer.steps(publications, tables), self._composer.replicas, timeout)
            await self._send(sending)

    async def _send(self, sending: Sending) -> None:
        while True:
            pause = sending.note(await self._links.run(sending.steps, sending.left, sending.tail))
            if pause is None:
                return
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Give the connections back. Safe twice; the publisher may be used again."""
        self._links.close()


async def fetch_tables(
    links: ClusterLinks, composer: ClusterComposer, publications: Sequence[Publication], timeout: float
) -> Tables:
    """The binding tables that publications to named exchanges need; what they lack is put in place."""
    exchanges, steps = composer.questions(publications)
    if not exchanges:
        return {}
    tables = read_tables(exchanges, (await links.run(steps, timeout))[0])
    check_all(await links.run(composer.home_steps(composer.complete(tables)), timeout))
    return tables


def read_tables(exchanges: Sequence[str], replies: Sequence[Any]) -> dict[str, set[bytes]]:
    """The replies to what ``ClusterComposer.questions`` asks."""
    return {exchange: set(check(reply)) for exchange, reply in zip(exchanges, replies, strict=True)}


@contextmanager
def _errors(composer: Composer, count: int, timeout: float) -> Iterator[None]:
    """Say what was not confirmed in time. After an error queues are declared again."""
    try:
        yield
    except TimeoutError as error:
        composer.forget_declared()
        told = f": {error}" if str(error) else ""
        raise PublishTimeout(
            f"Redis did not confirm {count} message(s) within {timeout:g} seconds{told}"
        ) from error
    except Exception:
        composer.forget_declared()
        raise
