"""The pool suite over every pool and start method."""

from __future__ import annotations

from umbel.pools.async_pool import AsyncioPool
from umbel.pools.prefork import PreforkPool
from umbel.pools.solo import SoloPool
from umbel.pools.threads import ThreadsPool
from umbel.testing.contracts.pool import PoolContract
from umbel.testing.contracts.pool_jobs import ScriptedRunner

FACTORY = "umbel.testing.contracts.pool_jobs:ScriptedRunner"


class TestPrefork(PoolContract):
    def make_pool(self, size: int) -> PreforkPool:
        return PreforkPool(ScriptedRunner, size)


class TestPreforkSpawned(PoolContract):
    def make_pool(self, size: int) -> PreforkPool:
        return PreforkPool(FACTORY, size, start_method="spawn")


class TestThreads(PoolContract):
    process_per_slot = False

    def make_pool(self, size: int) -> ThreadsPool:
        return ThreadsPool(ScriptedRunner, size)


class TestAsyncio(PoolContract):
    process_per_slot = False

    def make_pool(self, size: int) -> AsyncioPool:
        return AsyncioPool(ScriptedRunner, 1, slots=size)


class TestAsyncioSpawned(PoolContract):
    process_per_slot = False

    def make_pool(self, size: int) -> AsyncioPool:
        return AsyncioPool(FACTORY, 1, slots=size, start_method="spawn")


class TestSolo(PoolContract):
    can_kill = False
    process_per_slot = False

    def make_pool(self, size: int) -> SoloPool:
        return SoloPool(ScriptedRunner, size)
