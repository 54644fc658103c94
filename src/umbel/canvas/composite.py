"""What chains, groups and chords have in common: signatures made of signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from umbel.canvas.signature import Signature
from umbel.state import get_current_app

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Composite"]


class Composite(Signature):
    """A signature that holds others, and is of their application where it has none of its own."""

    #: Under which of its arguments it holds them, as Celery does.
    holds_as: ClassVar[str] = "tasks"

    @property
    def tasks(self) -> Any:
        """Those it holds: a list, which for a group may be one that is filled when it is read."""
        return self["kwargs"][self.holds_as]

    @tasks.setter
    def tasks(self, value: Any) -> None:
        self["kwargs"][self.holds_as] = value

    @property
    def app(self) -> Any:
        """The application: its own, else that of its first task, else the current one."""
        if self._app is not None:
            return self._app
        first = self.tasks[0] if self.tasks else None
        app = first.app if first is not None and type(first) is not dict else None
        return app if app is not None else get_current_app()

    def __bool__(self) -> bool:
        return True

    @classmethod
    def _restored(cls, tasks: Any, mapping: Mapping[str, Any], app: Any) -> Self:
        made = cls(tasks, app=app, **mapping["options"])
        made["args"], made["immutable"] = tuple(mapping.get("args") or ()), bool(mapping.get("immutable"))
        return made
