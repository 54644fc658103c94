"""From a URL to a result backend; the adapter and its client library are imported when a URL asks for them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, Protocol, cast

from umbel.errors import ImproperlyConfigured
from umbel.results.options import ResultOptions

if TYPE_CHECKING:
    from umbel.core.clock import Clock
    from umbel.results.base import ResultBackend

_REDIS: Final = ("umbel.results.redis", "RedisResultBackend")
_REDIS_CLUSTER: Final = ("umbel.results.redis_cluster", "RedisClusterResultBackend")
_DATABASE: Final = ("umbel.results.database", "DatabaseResultBackend")
_CACHE: Final = ("umbel.results.cache", "CacheResultBackend")
_MEMORY: Final = ("umbel.results.memory", "MemoryResultBackend")

#: Where the adapter of each scheme is; a scheme with a ``+`` is looked for by what is before it, too.
_ADAPTERS: Final = {
    "disabled": ("umbel.results.disabled", "DisabledResultBackend"),
    "memory": _MEMORY,
    "sqlite": ("umbel.results.sqlite", "SqliteResultBackend"),
    "redis": _REDIS,
    "rediss": _REDIS,
    "redis+socket": _REDIS,
    "valkey": _REDIS,
    "valkeys": _REDIS,
    "sentinel": _REDIS,
    "redis+cluster": _REDIS_CLUSTER,
    "rediss+cluster": _REDIS_CLUSTER,
    "rediscluster": _REDIS_CLUSTER,
    "redisscluster": _REDIS_CLUSTER,
    "valkey+cluster": _REDIS_CLUSTER,
    "valkeys+cluster": _REDIS_CLUSTER,
    "db": _DATABASE,
    "database": _DATABASE,
    "file": ("umbel.results.filesystem", "FilesystemResultBackend"),
    "cache": _CACHE,
    "rpc": ("umbel.results.rpc", "RpcResultBackend"),
    "cache+memory": _MEMORY,
}
#: Adapters whose clock is the process's own and may be given.
_CLOCKED: Final = frozenset({"disabled", "memory", "cache+memory", "sqlite", "db", "database", "file"})
#: Schemes that Celery users have and this version does not serve, with what comes nearest.
_LATER: Final = {
    "amqp": "rpc://, which sends results through the broker, or rpc://user:password@host/vhost for another RabbitMQ",
    "filesystem": "file:///directory",
    "mongodb": "redis:// or sqlite:///",
    "s3": "redis:// or sqlite:///",
}


class _Adapter(Protocol):
    def from_url(self, url: str, options: ResultOptions, *, clock: Clock | None = ...) -> ResultBackend: ...


def backend_from_url(
    url: str, options: ResultOptions | None = None, *, clock: Clock | None = None
) -> ResultBackend:
    """The result backend that a URL names; nothing is connected yet. ``disabled`` or an empty URL stores nothing.

    ``clock`` replaces the machine's for backends that decide by it what has expired. Raises
    ImproperlyConfigured for a scheme that no adapter serves.
    """
    options = options or ResultOptions()
    if url in {"cache", "cache://"}:
        url = f"cache+{_as_url(options.cache_backend or '')}"
    if url == "rpc://" and (beside := _memory_broker(options.sending.urls)):
        url = beside
    scheme = url.partition("://")[0] or "disabled"
    if scheme not in _ADAPTERS:
        scheme = scheme.partition("+")[0]  # db+postgresql, cache+memcached
    if scheme not in _ADAPTERS:
        raise ImproperlyConfigured(_explain(scheme))
    module, name = _ADAPTERS[scheme]
    adapter = cast("_Adapter", getattr(importlib.import_module(module), name))
    if scheme in _CLOCKED:
        return adapter.from_url(url, options, clock=clock)
    return adapter.from_url(url, options)


def is_served(name: str) -> bool:
    """Whether an adapter serves a scheme, or had better not be looked for elsewhere: the name is Celery's."""
    return name in _ADAPTERS or name.partition("+")[0] in _ADAPTERS or name in _LATER


def _memory_broker(urls: str | tuple[str, ...]) -> str:
    """The broker in this process's memory, if it is one: its messages and their results are in one place there."""
    url = urls if isinstance(urls, str) else next(iter(urls), "")
    return url if url.startswith("memory://") else ""


def _as_url(name: str) -> str:
    return name if "://" in name else f"{name}://"


def _explain(scheme: str) -> str:
    """What is wrong with a scheme; the rest of the URL may hold a password and is not shown."""
    known = ", ".join(f"{name}://" for name in sorted(_ADAPTERS))
    if scheme in _LATER:
        nearest = _LATER[scheme]
        return f"result_backend: {scheme}:// is not in this version; use {nearest} (it has {known})"
    if not scheme.replace("+", "").isalnum():
        return f"result_backend: expected a URL that begins with one of {known}"
    return f"result_backend: unknown scheme {scheme!r}; expected one of {known}"
