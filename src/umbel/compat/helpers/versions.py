"""Versions in parts, by kombu's names."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["version_info_t", "version_string_as_tuple"]


class version_info_t(NamedTuple):
    """A version in parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


def version_string_as_tuple(version: str) -> version_info_t:
    """The parts of a version."""
    parts = version.split(".", 2)
    numbers = [int(part) for part in parts[:2]] + [0] * (2 - len(parts[:2]))
    micro, rest = re.match(r"(\d*)(.*)", parts[2] if len(parts) > 2 else "").groups()  # type: ignore[union-attr]
    level, _, serial = rest.lstrip(".").partition("-")
    return version_info_t(numbers[0], numbers[1], int(micro or 0), level, serial)
