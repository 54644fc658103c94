"""Stamps: headers of the user's own that are put on every task of a workflow, and travel with it.

A stamp is an option of a signature, named in its option ``stamped_headers``; the message has it among its ``stamps``.
A visitor is asked for the stamps of each signature, group, chain, chord, callback and errback as they are reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from umbel.canvas.lazy import as_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.canvas.signature import Signature

__all__ = ["GroupStampingVisitor", "StampingVisitor", "merge_dictionaries", "merged_stamps"]

Stamps = dict[str, Any]


class StampingVisitor(ABC):
    """Decides the stamps of a workflow: override what is of interest; each hook returns the stamps to add."""

    def on_group_start(self, group: Any, **headers: Any) -> Stamps:
        """A group is reached, before its tasks."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:  # noqa: B027 -- a hook
        """The tasks of a group were stamped."""

    def on_chain_start(self, chain: Any, **headers: Any) -> Stamps:
        """A chain is reached, before its steps."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:  # noqa: B027 -- a hook
        """The steps of a chain were stamped."""

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> Stamps:
        """A single task is reached."""

    def on_chord_header_start(self, sig: Any, **header: Any) -> Stamps:
        """The header of a chord is reached; it is made a group, if it is not, and told of as one."""
        sig.as_group()
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: Any, **header: Any) -> None:
        """The header of a chord was stamped."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: Any, **header: Any) -> Stamps:
        """The body of a chord is reached; ``sig`` is the chord."""
        return {}

    def on_callback(self, callback: Any, **header: Any) -> Stamps:
        """What is linked to a signature is reached."""
        return {}

    def on_errback(self, errback: Any, **header: Any) -> Stamps:
        """What is linked to a signature's failure is reached."""
        return {}


class GroupStampingVisitor(StampingVisitor):
    """Stamps every task with ``groups``: the ids of the groups it is in, the outermost first."""

    def __init__(self, groups: list[str] | None = None) -> None:
        self.groups = list(groups or ())

    def on_group_start(self, group: Any, **headers: Any) -> Stamps:
        """Enter the group; it is frozen, so that it has an id."""
        if group.id is None:
            group.freeze()
        self.groups.append(group.id)
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """Leave the group."""
        self.groups.pop()

    def on_signature(self, sig: Any, **headers: Any) -> Stamps:
        """The groups that are open."""
        return {"groups": list(self.groups), "stamped_headers": ["groups"]}


def merge_dictionaries(
    d1: dict[str, Any], d2: Mapping[str, Any] | None, aggregate_duplicates: bool = True
) -> None:
    """Add what ``d2`` says to ``d1``, in place and at every depth.

    Where both have a value, mappings are merged and lists joined. Another value of ``d1`` stays, unless
    ``aggregate_duplicates``: then the two become a list.
    """
    for key, new in (d2 or {}).items():
        if key not in d1:
            d1[key] = new
            continue
        old = d1[key]
        if isinstance(old, dict):
            merge_dictionaries(old, new, aggregate_duplicates)
            continue
        if aggregate_duplicates and isinstance(old, (int, float, str)):
            old = [old]
        if isinstance(old, list) and isinstance(new, list):
            d1[key] = [*old, *new]
        elif aggregate_duplicates:
            d1[key] = [*(old or ()), new]


def merged_stamps(
    signature: Signature,
    visited: Stamps | None,
    append: bool,
    headers: Stamps,
    own: bool = True,
) -> Stamps:
    """The stamps of a signature: those given, then what the visitor said, then (``own``) those it has already.

    The first to name a stamp decides its value, or all do, as a list, with ``append``.
    """
    merged = dict(headers)
    merged["stamped_headers"] = list(merged.get("stamped_headers", merged))
    if visited is not None:
        visited = {**visited, "stamped_headers": list(visited.get("stamped_headers", visited))}
        merge_dictionaries(merged, visited, append)
    if own:
        options = signature.options
        names = {*merged["stamped_headers"], *(options.get("stamped_headers") or ())}
        merged["stamped_headers"] = list(names)
        merge_dictionaries(merged, {name: options[name] for name in names if name in options}, append)
    merged["stamped_headers"] = sorted(set(merged["stamped_headers"]))
    return merged


def stamp_links(signature: Signature, visitor: StampingVisitor | None, append: bool, headers: Stamps) -> None:
    """Stamp what is linked to a signature, and to its failure; not with the signature's own stamps."""
    for option, hook in (("link", "on_callback"), ("link_error", "on_errback")):
        stamps = {name: _copied(value) for name, value in headers.items()}
        links = as_list(signature.options.get(option)) or []
        links = [
            signature.from_dict(link, app=signature.app) if type(link) is dict else link for link in links
        ]
        for link in links:
            visited = None if visitor is None else getattr(visitor, hook)(link, **stamps) or {}
            stamps = merged_stamps(link, visited, append, stamps, own=False)
            link.stamp(visitor, append, **stamps)
        if links:
            signature.options[option] = links


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
