"""The broker suite on a Redis Cluster of three masters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_cluster_world import RedisClusterWorld
from umbel.testing.contracts.broker import BrokerContract

pytestmark = pytest.mark.redis


class TestRedisClusterBroker(BrokerContract):
    """Each queue in a slot of its own."""

    model_examples = 5  # the scripts are those of one server, where there are more

    @pytest.fixture
    def make_world(self, redis_cluster: RedisCluster) -> Callable[[], RedisClusterWorld]:
        return lambda: RedisClusterWorld(redis_cluster)
