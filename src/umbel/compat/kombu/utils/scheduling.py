"""Whose turn it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ("FairCycle", "priority_cycle", "round_robin_cycle", "sorted_cycle")


class FairCycle:
    """Asks resources in turn."""

    def __init__(self, fun: Callable[..., Any], resources: Iterable[Any], predicate: Any = Exception) -> None:
        self.fun = fun
        self.resources = resources
        self.predicate = predicate
        self.pos = 0

    def _next(self) -> Any:
        resources = list(self.resources)
        if not resources:
            raise self.predicate
        self.pos %= len(resources)
        found = resources[self.pos]
        self.pos += 1
        return found

    def get(self, callback: Any, **kwargs: Any) -> Any:
        """What the next resource gives that has something."""
        for _ in range(len(list(self.resources)) or 1):
            try:
                return self.fun(self._next(), callback, **kwargs)
            except self.predicate:
                continue
        raise self.predicate

    def close(self) -> None:
        """Nothing is open."""

    def __repr__(self) -> str:
        return f"<FairCycle: {self.pos}/{len(list(self.resources))} {self.resources}>"


class round_robin_cycle:
    """Each in turn: who was used goes to the end."""

    def __init__(self, it: Iterable[Any] | None = None) -> None:
        self.items = list(it or ())

    def update(self, it: Iterable[Any]) -> None:
        """Change who takes part."""
        self.items[:] = it

    def consume(self, n: int) -> list[Any]:
        """The first ``n``."""
        return self.items[:n]

    def rotate(self, last_used: Any) -> Any:
        """Put one at the end."""
        if last_used in self.items:
            self.items.remove(last_used)
            self.items.append(last_used)
        return last_used


class priority_cycle(round_robin_cycle):
    """The first always first."""

    def rotate(self, last_used: Any) -> Any:
        """Nobody goes to the end."""


class sorted_cycle(priority_cycle):
    """In alphabetical order."""

    def consume(self, n: int) -> list[Any]:
        """The first ``n``."""
        return sorted(self.items[:n])
