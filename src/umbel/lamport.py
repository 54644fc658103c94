"""A logical clock, by which Celery's nodes order what they hear of each other."""

from __future__ import annotations

import threading


class LogicalClock:
    """Counts events; what is heard from others moves it beyond theirs. Safe for use by several threads."""

    def __init__(self, initial_value: int = 0) -> None:
        self.value = initial_value
        self._lock = threading.Lock()

    def forward(self) -> int:
        """One event here; the new value."""
        with self._lock:
            self.value += 1
            return self.value

    def adjust(self, other: object) -> int:
        """A message from a node whose clock was ``other``; anything but a number counts as 0. The new value."""
        with self._lock:
            told = other if isinstance(other, int) else 0
            self.value = max(self.value, told) + 1
            return self.value
