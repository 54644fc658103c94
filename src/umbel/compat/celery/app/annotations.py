"""``task_annotations``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from umbel.app.definition import annotations_for, prepare_annotations

__all__ = ("MapAnnotation", "prepare", "resolve_all")


class MapAnnotation(dict[str, Any]):
    """Annotations by task name; ``*`` is for all tasks."""

    def annotate_any(self) -> dict[str, Any] | None:
        """Those for all tasks."""
        found = self.get("*")
        return None if found is None else dict(found)

    def annotate(self, task: Any) -> dict[str, Any] | None:
        """Those for one task."""
        found = self.get(task.name)
        return None if found is None else dict(found)


def prepare(annotations: Any) -> Any:
    """Annotations as a list of objects that annotate."""
    if annotations is None:
        return ()
    prepared = prepare_annotations(annotations)
    return [MapAnnotation(each) if isinstance(each, dict) else each for each in prepared]


def resolve_all(anno: Any, task: Any) -> Iterator[Any]:
    """What the annotations say of one task."""
    return iter(list(annotations_for(anno, task)))
