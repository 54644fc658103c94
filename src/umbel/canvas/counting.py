"""How many tasks end as parts of a chord: its size."""

from __future__ import annotations

from typing import Any

from umbel.canvas.signature import Signature, kind_of

__all__ = ["parts_of"]


def parts_of(member: Any) -> int:
    """The number of tasks whose ends are that of a member of a chord's header.

    A group counts with all its tasks, a chain with its last step that has any, a chord with its body.
    """
    if not isinstance(member, Signature) and isinstance(member, dict):
        member = Signature.from_dict(member)
    match kind_of(member):
        case "group":
            return sum(parts_of(task) for task in member.tasks)
        case "chain":
            return next((parts for step in reversed(list(member.tasks)) if (parts := parts_of(step))), 0)
        case "chord":
            return parts_of(member.body)
        case "task":
            return 1
        case _:
            return len(member)
