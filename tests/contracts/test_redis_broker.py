"""The broker suite on a real Redis server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.redis_world import RedisWorld
from tests.support.servers import RedisServer
from umbel.brokers.options import BrokerOptions
from umbel.testing.contracts.broker import BrokerContract

pytestmark = pytest.mark.redis


class TestRedisBroker(BrokerContract):
    """kombu's default layout."""

    @pytest.fixture
    def make_world(self, redis_server: RedisServer) -> Callable[[], RedisWorld]:
        return lambda: RedisWorld(redis_server)


class TestRedisBrokerOfAnotherLayout(BrokerContract):
    """Every name and order that transport options can change, changed."""

    model_examples = 5

    @pytest.fixture
    def make_world(self, redis_server: RedisServer) -> Callable[[], RedisWorld]:
        transport = {
            "global_keyprefix": "pre:",
            "sep": ":",
            "priority_steps": [0, 5],
            "unacked_key": "un",
            "unacked_index_key": "unacked_index",
            "max_connections": 2,
        }
        return lambda: RedisWorld(redis_server, BrokerOptions(transport=transport), prefix="pre:")
