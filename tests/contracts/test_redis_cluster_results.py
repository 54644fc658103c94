"""The result suite on a Redis Cluster of three masters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.redis_cluster import RedisCluster
from tests.support.redis_cluster_world import RedisClusterResultWorld
from umbel.testing.contracts.chords import ChordContract
from umbel.testing.contracts.results import ResultContract

pytestmark = pytest.mark.redis


class TestRedisClusterResults(ResultContract):
    """Results on all nodes."""

    @pytest.fixture
    def make_world(self, redis_cluster: RedisCluster) -> Callable[[], RedisClusterResultWorld]:
        return lambda: RedisClusterResultWorld(redis_cluster)


class TestRedisClusterChords(ChordContract):
    """Chords in their slots."""

    @pytest.fixture
    def make_world(self, redis_cluster: RedisCluster) -> Callable[[], RedisClusterResultWorld]:
        return lambda: RedisClusterResultWorld(redis_cluster)
