"""Connections and producers to borrow, by connection."""

from __future__ import annotations

from typing import Any

from umbel.client.connection import Connection, ConnectionPool, ProducerPool

__all__ = (
    "PoolGroup",
    "ProducerPool",
    "connections",
    "get_limit",
    "producers",
    "register_group",
    "reset",
    "set_limit",
)

_limit = [10]


class PoolGroup(dict[Any, Any]):
    """A pool for each connection, made when it is first asked for."""

    def __init__(self, limit: int | None = None, close_after_fork: bool = True) -> None:
        super().__init__()
        self.limit = limit

    def create(self, resource: Any, limit: int | None) -> Any:
        """Make a pool. Subclasses define it."""
        raise NotImplementedError("PoolGroups must define ``create``")

    def __missing__(self, resource: Any) -> Any:
        pool = self[resource] = self.create(resource, self.limit or get_limit())
        return pool


class Connections(PoolGroup):
    """Connections to borrow."""

    def create(self, connection: Connection, limit: int | None) -> ConnectionPool:
        """Make a pool of such connections."""
        return ConnectionPool(connection.clone, limit)


class Producers(PoolGroup):
    """Producers to borrow."""

    def create(self, connection: Connection, limit: int | None) -> ProducerPool:
        """Make a pool of producers on such connections."""
        return ProducerPool(connections[connection])


connections = Connections()
producers = Producers()
_groups: list[PoolGroup] = [connections, producers]


def register_group(group: PoolGroup) -> PoolGroup:
    """Have ``reset`` close a group too."""
    _groups.append(group)
    return group


def get_limit() -> int:
    """How many may be lent of each."""
    return _limit[0]


def set_limit(
    limit: int | None, force: bool = False, reset_after: bool = False, ignore_errors: bool = False
) -> int:
    """Change how many may be lent of each, of pools made from now on."""
    _limit[0] = limit or 0
    if reset_after:
        reset()
    return _limit[0]


def reset(*args: Any, **kwargs: Any) -> None:
    """Close everything that is not lent."""
    for group in _groups:
        for pool in group.values():
            pool.force_close_all()
        group.clear()
