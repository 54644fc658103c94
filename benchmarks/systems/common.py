"""What the systems' files share: addresses, the stamp, an event loop. Imported in their environments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from benchmarks.stamps import Recorder

BROKER_URL = os.environ.get("BENCH_BROKER_URL", "")
RESULT_URL = os.environ.get("BENCH_RESULT_URL", "")
#: Async tasks at a time in each process; 0: as many as the library does of itself.
SLOTS = int(os.environ.get("BENCH_SLOTS", "0"))
#: Whether tasks that do nothing store what they return.
STORES_RESULTS = os.environ.get("BENCH_RESULTS", "1") != "0"

stamp = Recorder()


def timed(once: Callable[[int], object], first: int, count: int) -> list[float]:
    """Seconds of each call, one after the other."""
    seconds = []
    for number in range(first, first + count):
        started = time.perf_counter()
        once(number)
        seconds.append(time.perf_counter() - started)
    return seconds


async def timed_async(once: Callable[[int], Awaitable[object]], first: int, count: int) -> list[float]:
    """Seconds of each call, one after the other."""
    seconds = []
    for number in range(first, first + count):
        started = time.perf_counter()
        await once(number)
        seconds.append(time.perf_counter() - started)
    return seconds


class Loop:
    """One event loop for the whole process, made on the first use: workers bring their own."""

    def __init__(self, opening: Callable[[], Awaitable[Any]] | None = None) -> None:
        self._opening = opening
        self._runner: asyncio.Runner | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end."""
        if self._runner is None:
            self._runner = asyncio.Runner(loop_factory=_fastest_loop())
            if self._opening is not None:
                self._runner.run(_awaited(self._opening()))
        return self._runner.run(work)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def count_keys(pattern: str, wanted: bytes = b"") -> int:
    """How many Redis keys match whose value holds ``wanted``; needs redis-py."""
    import redis

    with redis.Redis.from_url(RESULT_URL) as client:
        keys = list(client.scan_iter(match=pattern, count=5000))
        if not wanted:
            return len(keys)
        found = 0
        for at in range(0, len(keys), 5000):
            found += sum(wanted in (value or b"") for value in client.mget(keys[at : at + 5000]))
        return found


def count_rows(query: str) -> int:
    """What a counting query gives on the SQLite file."""
    path = RESULT_URL.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return int(connection.execute(query).fetchone()[0])
