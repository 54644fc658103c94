"""The result suite on a real memcached."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.datastores import MemcachedServer
from umbel.results.options import ResultOptions
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld

pytest.importorskip("pymemcache")

from umbel.results.cache import CacheResultBackend


class Noting(CacheResultBackend):
    """Notes until when the server keeps each item, for it cannot be asked reliably."""

    ends: dict[str, float]

    def _store(self, key: str, document: bytes, state: str) -> None:
        super()._store(key, document, state)
        self.ends[key] = time.time() + self.options.lifetime(state)


class CacheResultWorld(ResultWorld):
    wake_within = 0.1  # nobody wakes; see results.polling

    def __init__(self, server: MemcachedServer) -> None:
        server.flush()
        self.server = server
        self.url = server.url()
        self.ends: dict[str, float] = {}
        self.made: list[Noting] = []

    def connect(self) -> Noting:
        self.made.append(Noting([self.server.address], ResultOptions(expires=EXPIRES)))
        self.made[-1].ends = self.ends
        return self.made[-1]

    def pass_time(self, seconds: float) -> None:
        """The clock is the server's: what it keeps is made to end so much earlier."""
        for key in self.ends:
            self.ends[key] -= seconds
            left = self.ends[key] - time.time()
            order = f"touch {key} {int(left)}\r\n" if left > 0 else f"delete {key}\r\n"
            self.server.ask(order.encode(), b"\r\n")

    def close(self) -> None:
        for backend in self.made:
            backend.close()


class TestCacheResults(ResultContract):
    @pytest.fixture
    def make_world(self, memcached_server: MemcachedServer) -> Callable[[], CacheResultWorld]:
        return lambda: CacheResultWorld(memcached_server)
