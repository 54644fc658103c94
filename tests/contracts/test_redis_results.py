"""The result suite on a real Redis server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.redis_world import RedisResultWorld
from tests.support.servers import RedisServer
from umbel.results.base import ResultBackend
from umbel.testing.contracts.chords import ChordContract, entry, part
from umbel.testing.contracts.results import ResultContract

pytestmark = pytest.mark.redis


class TestRedisResults(ResultContract):
    """Celery's default keys."""

    @pytest.fixture
    def make_world(self, redis_server: RedisServer) -> Callable[[], RedisResultWorld]:
        return lambda: RedisResultWorld(redis_server)


class TestRedisChords(ChordContract):
    """Counted in a zset, in order."""

    @pytest.fixture
    def make_world(self, redis_server: RedisServer) -> Callable[[], RedisResultWorld]:
        return lambda: RedisResultWorld(redis_server)


class TestRedisChordsUnordered(ChordContract):
    """Counted in a list, in the order of arrival: ``result_chord_ordered`` is off, and a global prefix is on."""

    @pytest.fixture
    def make_world(self, redis_server: RedisServer) -> Callable[[], RedisResultWorld]:
        return lambda: RedisResultWorld(redis_server, result_chord_ordered=False, global_keyprefix="mine")

    def test_the_last_part_makes_the_chord_due_and_no_other(
        self, backend: ResultBackend, group_id: str
    ) -> None:
        backend.open_chord(group_id, 2)
        assert not backend.save([part(group_id, 1)])
        assert backend.save([part(group_id, 0)])
        assert backend.chord_entries(group_id) == [entry(group_id, 1), entry(group_id, 0)]

    def test_parts_without_a_place_come_last(self, backend: ResultBackend, group_id: str) -> None:
        pytest.skip("nothing has a place")
