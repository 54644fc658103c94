"""Rates."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

__all__ = ("TokenBucket",)


class TokenBucket:
    """Lets through so much a second, and ``capacity`` at once."""

    def __init__(self, fill_rate: float, capacity: float = 1) -> None:
        self.capacity = float(capacity)
        self._tokens = float(capacity)
        self.fill_rate = float(fill_rate)
        self.timestamp = monotonic()
        self.contents: deque[Any] = deque()

    def add(self, item: Any) -> None:
        """Put something into the queue."""
        self.contents.append(item)

    def pop(self) -> Any:
        """Take something out."""
        return self.contents.popleft()

    def clear_pending(self) -> None:
        """Empty the queue."""
        self.contents.clear()

    def can_consume(self, tokens: int = 1) -> bool:
        """Whether so much may pass now; it is taken then."""
        if tokens <= self._get_tokens():
            self._tokens -= tokens
            return True
        return False

    def expected_time(self, tokens: int = 1) -> float:
        """Seconds until so much may pass."""
        present = self._get_tokens()
        return (max(tokens, present) - present) / self.fill_rate

    def _get_tokens(self) -> float:
        now = monotonic()
        self._tokens = min(self.capacity, self._tokens + self.fill_rate * (now - self.timestamp))
        self.timestamp = now
        return self._tokens
