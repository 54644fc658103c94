"""Connections of Umbel's own in a pool of redis-py's, for programs that look after a backend's by its client.

``app.backend.client.connection_pool`` is where Celery's result backend has its connections: programs count them there,
and disconnect them. Umbel does not use that pool; what it uses instead is shown in it among those that are in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis import ConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from umbel.stores.redis.blocking import BlockingLink


class _Shown:
    """One of Umbel's connections, with as much of redis-py's as a pool and its visitors ask for."""

    def __init__(self, link: BlockingLink) -> None:
        self._link = link

    @property
    def _sock(self) -> Any:
        return self._link.connected_by

    def disconnect(self, *args: Any) -> None:
        """End the conversation; who needs the connection finds it closed and makes another."""
        self._link.shut()


class _InUse(set[Any]):
    """redis-py's set of the connections in use; going through it gives Umbel's too."""

    def __init__(self, links: Callable[[], Sequence[BlockingLink]]) -> None:
        super().__init__()
        self._links = links

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield from map(_Shown, self._links())


def show(pool: Any, links: Callable[[], Sequence[BlockingLink]]) -> None:
    """Have a new pool show connections that it does not hold."""
    # Other pools of redis-py's, a sentinel's for one, keep theirs in ways of their own.
    if type(pool) is ConnectionPool:
        pool._in_use_connections = _InUse(links)
