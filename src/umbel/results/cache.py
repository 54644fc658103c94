"""``cache+memcached://host:port;host:port/``: results in memcached, under Celery's keys."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from contextlib import contextmanager
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Final

from umbel.core.states import SUCCESS
from umbel.errors import BackendError, BackendStoreError, ImproperlyConfigured, OperationalError
from umbel.results.keyvalue import KeyValueResults, TooLarge
from umbel.results.retrying import Retries
from umbel.stores.forks import renew_in_children

try:
    from pymemcache.client.base import PooledClient
    from pymemcache.client.hash import HashClient
    from pymemcache.client.retrying import RetryingClient
    from pymemcache.exceptions import MemcacheError
except ImportError as error:
    raise ImproperlyConfigured(
        "a result backend of cache+memcached:// needs pymemcache: install umbel[memcache]"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from umbel.results.options import ResultOptions

logger: Final = logging.getLogger("celery.backends.cache")

#: What may stand after ``cache+``: names of clients that Celery knew; pymemcache does the work of each.
_CLIENTS: Final = frozenset({"memcache", "memcached", "pylibmc", "pymemcache"})
#: Options that pylibmc alone understood.
_OF_PYLIBMC: Final = ("behaviors", "binary")
_RETRYING: Final = ("retry_attempts", "retry_delay", "retry_for", "do_not_retry_for")
#: As Celery sets them: wait for the reply, so that a refused write is noticed, and not for ever.
_DEFAULTS: Final = {"default_noreply": False, "connect_timeout": 5.0, "timeout": 5.0}
#: memcached takes a longer expiry for a date.
_LONGEST_RELATIVE: Final = 30 * 86400
#: What memcached takes for a key.
_KEY: Final = re.compile(r"[!-~]{1,250}")


class CacheResultBackend(KeyValueResults):
    """Results in one or several memcached servers.

    Args:
        servers: ``host:port`` of each.
        options: the application's; ``cache_options`` go to pymemcache's clients.
    """

    def __init__(self, servers: Sequence[str], options: ResultOptions) -> None:
        super().__init__(options)
        self._servers = servers
        self.store = self.display_url = f"cache+memcached://{';'.join(servers)}/"
        self._client_options = dict(options.cache_options)
        self._retries = Retries(options.retry, passing=(OperationalError,), renew=self.close)
        self._lock = threading.Lock()
        renew_in_children(self, _lock=threading.Lock)
        self._client: Any = None
        self._client_pid = 0

    @classmethod
    def from_url(cls, url: str, options: ResultOptions) -> CacheResultBackend:
        """The backend of ``cache+memcached://host:port``. Raises ImproperlyConfigured for another cache."""
        client, _, rest = url.removeprefix("cache+").partition("://")
        if client not in _CLIENTS:
            known = ", ".join(sorted({*_CLIENTS, "memory"}))
            raise ImproperlyConfigured(f"result_backend: no cache is called {client!r}; there are {known}")
        servers = [server for server in rest.rstrip("/").split(";") if server]
        if not servers:
            raise ImproperlyConfigured(
                "result_backend: expected cache+memcached://host:port, with ; between servers"
            )
        return cls(servers, options)

    def _key(self, prefix: str, name: str) -> str:
        key = prefix + name
        if _KEY.fullmatch(key):
            return key
        return prefix + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()

    def _read(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        return self._try(lambda client: client.get_many(keys)) if keys else {}

    def _store(self, key: str, document: bytes, state: str) -> None:
        expire = self._expire(state)

        def store(client: Any) -> None:
            if client.add(key, document, expire):
                return
            while True:
                known, token = client.gets(key)
                if known is not None and self._is_final(known):
                    return
                # Gone or changed in between: look again.
                written = client.add(key, document, expire) if token is None else None
                if written or (token is not None and client.cas(key, document, token, expire)):
                    return

        self._try(store, BackendStoreError)

    def _replace(self, key: str, document: bytes) -> None:
        self._try(lambda client: client.set(key, document, self._expire(SUCCESS)), BackendStoreError)

    def _delete(self, keys: Sequence[str]) -> None:
        if keys:
            self._try(lambda client: client.delete_many(keys))

    def _expire(self, state: str) -> int:
        lifetime = self.options.lifetime(state)
        if lifetime == inf:
            return 0
        return ceil(lifetime if lifetime <= _LONGEST_RELATIVE else time.time() + lifetime)

    def _try(self, work: Any, refused: type[BackendError] = BackendError) -> Any:
        def attempt() -> Any:
            with _errors(refused):
                return work(self._own_client())

        return self._retries.run(attempt)

    def _own_client(self) -> Any:
        """This process's client: a child must not read its parent's replies."""
        with self._lock:
            if self._client is None or self._client_pid != os.getpid():
                self._client, self._client_pid = (
                    _make_client(self._servers, self._client_options),
                    os.getpid(),
                )
            return self._client

    def close(self) -> None:
        """Close every connection. Safe twice; the backend may be used again."""
        with self._lock:
            client, self._client = self._client, None
            if client is not None and self._client_pid == os.getpid():
                client.close()


def _make_client(servers: Sequence[str], options: Mapping[str, Any]) -> Any:
    given = {**_DEFAULTS, **options}
    for name in _OF_PYLIBMC:
        if given.pop(name, None) is not None:
            logger.warning("cache_backend_options: %s is for pylibmc alone, and is passed over", name)
    retrying = {name: given.pop(name) for name in _RETRYING if name in given}
    client: Any
    try:
        client = (
            PooledClient(servers[0], **given)
            if len(servers) == 1
            else HashClient(servers, use_pooling=True, **given)
        )
        if "retry_attempts" in retrying:
            attempts = retrying.pop("retry_attempts")
            client = RetryingClient(client, attempts=attempts, **retrying)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"cache_backend_options: {error}") from error
    return client


@contextmanager
def _errors(refused: type[BackendError]) -> Iterator[None]:
    try:
        yield
    except MemcacheError as error:
        if "too large" in str(error):
            raise TooLarge(f"memcached takes no item of that size: {error}") from error
        raise refused(f"memcached refused: {error!r}") from error
    except OSError as error:
        raise OperationalError(f"memcached cannot be reached: {error!r}") from error
