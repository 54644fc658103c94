"""What has arrived at a subscription and was not read yet: bounded, the oldest goes first."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from umbel.errors import BrokerConnectionError

#: Payloads and bytes that are kept for a reader who is slow.
_MOST: Final = 1000
_MOST_BYTES: Final = 16 * 1024 * 1024


class Arrivals:
    """Filled by callbacks, read by one coroutine, in one event loop."""

    def __init__(self) -> None:
        self._payloads: deque[bytes] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()
        self._end: str | None = "the subscription is not open"

    def clear(self) -> None:
        """Begin anew."""
        self._payloads.clear()
        self._bytes = 0
        self._woken.clear()
        self._end = None

    def put(self, payload: bytes) -> None:
        """Add a payload; what is oldest makes room."""
        self._payloads.append(payload)
        self._bytes += len(payload)
        while len(self._payloads) > 1 and (len(self._payloads) > _MOST or self._bytes > _MOST_BYTES):
            self._bytes -= len(self._payloads.popleft())
        self._woken.set()

    def end(self, why: str) -> None:
        """No more will come."""
        self._end = why
        self._woken.set()

    def __bool__(self) -> bool:
        return bool(self._payloads)

    async def get(self) -> bytes:
        """The oldest payload, when there is one. Raises BrokerConnectionError when no more will come."""
        while not self._payloads:
            if self._end is not None:
                raise BrokerConnectionError(self._end)
            self._woken.clear()
            await self._woken.wait()
        payload = self._payloads.popleft()
        self._bytes -= len(payload)
        return payload
