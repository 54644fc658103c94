"""From an application's settings to its schedule store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.scheduler.stores.base import ScheduleStore

__all__ = ["open_store"]

_REDIS: Final = frozenset(
    {
        *("redis", "rediss", "redis+socket", "valkey", "valkeys"),
        *(
            "redis+cluster",
            "rediss+cluster",
            "rediscluster",
            "redisscluster",
            "valkey+cluster",
            "valkeys+cluster",
        ),
    }
)
_SQLITE: Final = frozenset({"sqlite"})
#: What stands for none at all.
_NONE: Final = frozenset({"", "none", "disabled", "disabled://"})


class _Place(NamedTuple):
    """Where a store may be, and how to connect to it."""

    url: str
    transport: Mapping[str, Any]
    use_ssl: Any

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]


def open_store(app: Any) -> ScheduleStore | None:
    """The store of ``beat_store_url``; where that says nothing, the broker's own or else the result backend's.

    Nothing is connected yet. None where neither is Redis or SQLite, or the setting is ``disabled://``; an SQL database
    gets tables of ours only where the setting names it. Raises
    ImproperlyConfigured for a URL that no store has.
    """
    named = app.conf.beat_store_url
    broker, backend = _broker(app), _backend(app)
    scope = app.conf.beat_store_scope or app.main or "celery"
    if named is None:
        for place in (broker, backend):
            if place.scheme in _REDIS | _SQLITE:
                return _make(place, scope)
        return None
    if named in _NONE:
        return None
    for place in (broker, backend):
        if place.url == named:
            return _make(place, scope)
    return _make(_Place(named, {}, None), scope)


def _broker(app: Any) -> _Place:
    # The broker's own URL, which failing over and the embedded default have a part in.
    conf = app.conf
    urls = conf.broker_write_url or conf.broker_url or app.broker.store
    first = urls[0] if isinstance(urls, (list, tuple)) else str(urls).partition(";")[0]
    return _Place(first, conf.broker_transport_options or {}, conf.broker_use_ssl)


def _backend(app: Any) -> _Place:
    conf = app.conf
    url = conf.result_backend if isinstance(conf.result_backend, str) else ""
    return _Place(url, conf.result_backend_transport_options or {}, conf.redis_backend_use_ssl)


def _make(place: _Place, scope: str) -> ScheduleStore:
    # Each is imported by who uses it.
    if place.scheme in _REDIS:
        from umbel.scheduler.stores.redis import RedisScheduleStore

        return RedisScheduleStore(place.url, scope, place.transport, use_ssl=place.use_ssl)
    if place.scheme in _SQLITE:
        from umbel.scheduler.stores.sqlite import SqliteScheduleStore

        return SqliteScheduleStore(place.url, scope, place.transport)
    if place.scheme.startswith("db+"):
        from umbel.scheduler.stores.database import DatabaseScheduleStore

        return DatabaseScheduleStore(place.url, scope)
    raise ImproperlyConfigured(
        "beat_store_url: expected redis://…, sqlite:///path, db+… or disabled://, got a URL that begins with "
        f"{place.scheme!r}"
    )
