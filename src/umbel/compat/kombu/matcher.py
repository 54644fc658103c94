"""Patterns of names."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

__all__ = (
    "MatcherNotInstalled",
    "MatcherRegistry",
    "match",
    "register",
    "register_glob",
    "register_pcre",
    "registry",
    "unregister",
)


class MatcherNotInstalled(Exception):
    """There is no such kind of pattern."""


class MatcherRegistry:
    """Kinds of patterns by name."""

    MatcherNotInstalled = MatcherNotInstalled

    def __init__(self) -> None:
        self._matchers: dict[str, Callable[[str, str], Any]] = {}
        self._default = "glob"
        self.matcher_pattern_first = ["pcre"]

    def register(self, name: str, matcher: Callable[[str, str], Any]) -> None:
        """Add a kind."""
        self._matchers[name] = matcher

    def unregister(self, name: str) -> None:
        """Take a kind away."""
        try:
            del self._matchers[name]
        except KeyError:
            raise MatcherNotInstalled(f"No matcher installed for {name}") from None

    def match(self, data: str, pattern: str, matcher: str | None = None, matcher_kwargs: Any = None) -> Any:
        """Whether a name matches a pattern."""
        name = matcher or self._default
        if name not in self._matchers:
            raise MatcherNotInstalled(f"No matcher installed for {name}")
        order = (pattern, data) if name in self.matcher_pattern_first else (data, pattern)
        return self._matchers[name](*order, **(matcher_kwargs or {}))


registry = MatcherRegistry()
match = registry.match
register = registry.register
unregister = registry.unregister


def register_glob() -> None:
    """Add shell patterns."""
    registry.register("glob", fnmatch)


def register_pcre() -> None:
    """Add regular expressions."""
    registry.register("pcre", re.match)


register_glob()
register_pcre()
