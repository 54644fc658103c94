"""Workflows: signatures, and chains, groups and chords of them. Its names are loaded when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PLACES = {
    "Signature": "signature",
    "maybe_signature": "signature",
    "signature": "signature",
    "GroupStampingVisitor": "stamping",
    "StampingVisitor": "stamping",
    "_chain": "chains",
    "chain": "chains",
    "_chord": "chords",
    "chord": "chords",
    "group": "groups",
    "_basemap": "maps",
    "chunks": "maps",
    "xmap": "maps",
    "xstarmap": "maps",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{place}"), name)
