"""What carries results that are sent to their caller: RabbitMQ or Redis, by the URL of the broker."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from umbel.errors import ImproperlyConfigured
from umbel.stores.amqp.address import SCHEMES as AMQP_SCHEMES
from umbel.stores.amqp.address import parse_addresses
from umbel.stores.redis.address import SCHEMES as REDIS_SCHEMES
from umbel.stores.redis.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from umbel.results.options import ResultOptions
    from umbel.stores.replies import ReplyPost

__all__ = ["post_for"]


def post_for(url: str, options: ResultOptions) -> Callable[[], ReplyPost]:
    """Makes the carrier for a result URL: ``rpc://`` is the broker's own, ``rpc://host`` another RabbitMQ.

    Raises ImproperlyConfigured for a broker that cannot carry results.
    """
    sending, named = options.sending, url.partition("://")[2]
    if named:
        return _amqp_post(f"amqp://{named}", options)
    urls = [each.strip() for part in _listed(sending.urls) for each in part.split(";") if each.strip()]
    schemes = {each.partition("://")[0] for each in urls}
    if schemes <= REDIS_SCHEMES and urls:
        return _redis_post(";".join(urls), options)
    if schemes <= AMQP_SCHEMES and urls:
        return _amqp_post(";".join(urls), options)
    raise ImproperlyConfigured(
        "result_backend: rpc:// sends results through the broker, which must be RabbitMQ or Redis; it is "
        f"{', '.join(sorted(schemes)) or 'not set'}. Use another result backend, or name a RabbitMQ: "
        "rpc://user:password@host/vhost"
    )


def _listed(urls: str | tuple[str, ...]) -> tuple[str, ...]:
    return (urls,) if isinstance(urls, str) else urls


def _amqp_post(urls: str, options: ResultOptions) -> Callable[[], ReplyPost]:
    from umbel.stores.amqp.failover import Failover  # each store's client library takes long to import
    from umbel.stores.amqp.post import AmqpPost

    sending = options.sending
    addresses, _ = parse_addresses(
        urls,
        sending.transport,
        use_ssl=sending.use_ssl,
        connect_timeout=sending.connect_timeout,
        heartbeat=sending.heartbeat,
        login_method=sending.login_method,
    )

    def make() -> ReplyPost:
        failover = Failover(addresses, sending.failover_strategy)
        return AmqpPost(failover, options.expires, persistent=sending.persistent)

    return make


def _redis_post(url: str, options: ResultOptions) -> Callable[[], ReplyPost]:
    from umbel.stores.redis.post import RedisPost

    sending = options.sending
    address, rest = parse_address(
        url, sending.transport, sending.use_ssl, sending.connect_timeout, sending.failover_strategy
    )
    prefix = str(rest.get("global_keyprefix") or "")
    return partial(RedisPost, address, prefix, options.expires, persistent=sending.persistent)
