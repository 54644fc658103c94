"""Results in Redis."""

from __future__ import annotations

from typing import Any, ClassVar

from umbel.app.backend import Backend
from umbel.compat.lazily import lazily as _lazily
from umbel.results.redis import RedisResultBackend

from .._state import app_or_default
from .base import Kind

__all__ = ("RedisBackend", "SentinelBackend")

E_REDIS_MISSING = "You need to install the redis library in order to use the Redis result store backend."


class RedisBackend(Backend, metaclass=Kind):
    """The result backend of an application in Redis, for programs that make one or derive from it.

    Args:
        host, port, password, db: where, if there is no URL.
        max_connections: accepted; see ``result_backend_transport_options``.
        url: the URL.
        app: None: the current application.
    """

    stands_for: ClassVar[tuple[type, ...]] = (RedisResultBackend,)

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        password: str | None = None,
        db: int | str | None = None,
        max_connections: int | None = None,
        url: str | None = None,
        app: Any = None,
        **kwargs: Any,
    ) -> None:
        app = app_or_default(app)
        if url is None:
            login = f":{password}@" if password else ""
            url = f"redis://{login}{host or 'localhost'}:{port or 6379}/{db or 0}"
        super().__init__(app, app._connections.adapter_of(url))
        self.url = url


__getattr__ = _lazily(__name__, {"SentinelBackend": f"{__name__}:RedisBackend"})
