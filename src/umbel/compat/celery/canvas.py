"""Workflows: signatures, chains, groups, chords."""

from __future__ import annotations

from umbel.canvas.signature import Signature, maybe_signature, signature
from umbel.compat.lazily import lazily as _lazily

from .utils.abstract import CallableSignature

__all__ = (
    "Signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "xmap",
    "xstarmap",
)

subtask = signature
maybe_subtask = maybe_signature

__getattr__ = _lazily(
    __name__,
    {
        "GroupStampingVisitor": "umbel.canvas.stamping:GroupStampingVisitor",
        "StampingVisitor": "umbel.canvas.stamping:StampingVisitor",
        "_basemap": "umbel.canvas.maps:_basemap",
        "_chain": "umbel.canvas.chains:_chain",
        "_chord": "umbel.canvas.chords:_chord",
        "_clear_chord_option": "umbel.canvas.chains:clear_chord",
        "_fold_chain": "umbel.canvas.chains:fold",
        "_maybe_group": "umbel.canvas.chords:header_tasks",
        "_merge_chain_step": "umbel.canvas.chains:merge_step",
        "_merge_dictionaries": "umbel.canvas.stamping:merge_dictionaries",
        "_strip_chord_header_links": "umbel.canvas.chains:strip_header_links",
        "chain": "umbel.canvas.chains:chain",
        "chord": "umbel.canvas.chords:chord",
        "chunks": "umbel.canvas.maps:chunks",
        "group": "umbel.canvas.groups:group",
        "maybe_unroll_group": "umbel.canvas.signature:unrolled",
        "task_name_from": "umbel.canvas.maps:name_of",
        "uuid": "umbel.core.ids:new_id",
        "xmap": "umbel.canvas.maps:xmap",
        "xstarmap": "umbel.canvas.maps:xstarmap",
    },
)
