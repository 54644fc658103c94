"""Every kind of workflow: importing this registers them all, so that any mapping becomes what it was."""

from __future__ import annotations

from umbel.canvas.chains import _chain, chain
from umbel.canvas.chords import _chord, chord
from umbel.canvas.groups import group
from umbel.canvas.maps import _basemap, chunks, xmap, xstarmap
from umbel.canvas.signature import Signature, maybe_signature, signature
from umbel.canvas.stamping import GroupStampingVisitor, StampingVisitor

__all__ = [
    "GroupStampingVisitor",
    "Signature",
    "StampingVisitor",
    "_basemap",
    "_chain",
    "_chord",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "xmap",
    "xstarmap",
]
