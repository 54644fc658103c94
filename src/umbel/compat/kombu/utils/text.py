"""Text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any

from umbel.compat.helpers.versions import version_string_as_tuple


def escape_regex(p: str, white: str = "") -> str:
    """A text as a pattern that matches itself."""
    return "".join(c if c.isalnum() or c in white else ("\\000" if c == "\000" else "\\" + c) for c in p)


def fmatch_iter(needle: str, haystack: Iterable[str], min_ratio: float = 0.6) -> Iterator[tuple[float, str]]:
    """Texts that are like another, and how much."""
    for key in haystack:
        ratio = SequenceMatcher(None, needle, key).ratio()
        if ratio >= min_ratio:
            yield ratio, key


def fmatch_best(needle: str, haystack: Iterable[str], min_ratio: float = 0.6) -> Any:
    """The text that is most like another; None if none is."""
    found = sorted(fmatch_iter(needle, haystack, min_ratio), reverse=True)
    return found[0][1] if found else None
