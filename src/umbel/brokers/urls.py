"""From a URL to a broker; the adapter and its client library are imported when a URL asks for them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, Protocol, cast

from umbel.brokers.options import BrokerOptions
from umbel.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.brokers.base import Broker
    from umbel.core.clock import Clock

_AMQP: Final = ("umbel.brokers.amqp", "AmqpBroker")
_REDIS: Final = ("umbel.brokers.redis", "RedisBroker")
_REDIS_CLUSTER: Final = ("umbel.brokers.redis.cluster.broker", "RedisClusterBroker")

#: Where the adapter of each scheme is.
_ADAPTERS: Final = {
    "memory": ("umbel.brokers.memory", "MemoryBroker"),
    "sqlite": ("umbel.brokers.sqlite", "SqliteBroker"),
    "amqp": _AMQP,
    "amqps": _AMQP,
    "pyamqp": _AMQP,
    "librabbitmq": _AMQP,
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
}
#: Schemes whose adapters fail over between several addresses, given with ``;`` between them.
FAILING_OVER: Final = frozenset(
    scheme for scheme, adapter in _ADAPTERS.items() if adapter in (_AMQP, _REDIS, _REDIS_CLUSTER)
)
#: Adapters whose clock is the process's own and may be given.
_CLOCKED: Final = frozenset({"memory", "sqlite"})
#: Schemes that Celery users have and this version does not serve.
_LATER: Final = frozenset({"postgresql", "sqs", "filesystem"})


class _Adapter(Protocol):
    def from_url(self, url: str, options: BrokerOptions, *, clock: Clock | None = ...) -> Broker: ...


def broker_from_url(url: str, options: BrokerOptions | None = None, *, clock: Clock | None = None) -> Broker:
    """The broker that a URL names (RabbitMQ and Redis take several, with ``;`` between them); nothing is connected yet.

    ``clock`` replaces the machine's for brokers that live on this machine (``memory``, ``sqlite``); the others go by
    their server's. Raises ImproperlyConfigured for a scheme that no adapter serves.
    """
    scheme = url.partition("://")[0]
    if scheme not in _ADAPTERS:
        raise ImproperlyConfigured(_explain(scheme))
    module, name = _ADAPTERS[scheme]
    adapter = cast("_Adapter", getattr(importlib.import_module(module), name))
    if scheme in _CLOCKED:
        return adapter.from_url(url, options or BrokerOptions(), clock=clock)
    return adapter.from_url(url, options or BrokerOptions())


def _explain(scheme: str) -> str:
    """What is wrong with a scheme; the rest of the URL may hold a password and is not shown."""
    known = ", ".join(f"{name}://" for name in sorted(_ADAPTERS))
    if scheme in _LATER:
        return f"broker_url: {scheme}:// brokers are not in this version; it has {known}"
    if not scheme.replace("+", "").isalnum():
        return f"broker_url: expected a URL that begins with one of {known}"
    return f"broker_url: unknown scheme {scheme!r}; expected one of {known}"
