"""Ids that a repeated attempt gives again."""

from __future__ import annotations

import hashlib

__all__ = ["derived_id"]


def derived_id(parent_id: str, what: str) -> str:
    """A task id that is the same whenever the same parent is followed by the same thing; in the form of a UUID."""
    digits = hashlib.sha1(f"{parent_id}/{what}".encode(), usedforsecurity=False).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"
