"""``app.add_periodic_task``: lines of the schedule made by the program."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

from umbel.canvas.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from umbel.app.application import Umbel

__all__ = ["PeriodicTasks"]

logger = logging.getLogger("celery.app.base")


class PeriodicTasks:
    """Part of ``Umbel``."""

    _periodic: list[tuple[str, dict[str, Any], bool]] | None = None

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Add a line to ``beat_schedule``; beat must not have started.

        Args:
            schedule: when: a schedule such as ``crontab``, a timedelta, or seconds.
            sig: the task, or a signature of it.
            args, kwargs: arguments, added to those of a signature.
            name: the line's name; None: the call's text. A line of the same name is replaced.
            opts: options of ``apply_async``.

        Returns:
            The line's name.
        """
        app = cast("Umbel", self)
        keywords = dict(kwargs or {})
        made = (
            sig.clone(args, keywords)
            if isinstance(sig, Signature)
            else app.signature(sig.name, args, keywords)
        )
        key = name or repr(made)
        entry = {
            "schedule": schedule,
            "task": made["task"],
            "args": made["args"],
            "kwargs": made["kwargs"],
            "options": {**made["options"], **opts},
        }
        if app.configured:
            self._add_line(key, entry, named=name is not None)
        else:
            self._periodic = [*(self._periodic or ()), (key, entry, name is not None)]
        return key

    def _add_waiting_lines(self) -> None:
        """Add the lines that were made before the settings were read."""
        waiting, self._periodic = self._periodic or (), None
        for key, entry, named in waiting:
            self._add_line(key, entry, named=named)

    def _add_line(self, key: str, entry: dict[str, Any], *, named: bool) -> None:
        lines = dict(cast("Umbel", self).conf.beat_schedule or {})
        if not named and key in lines:
            logger.warning(
                "Periodic task key='%s' shadowed a previous unnamed periodic task."
                " Pass a name kwarg to add_periodic_task to silence this warning.",
                key,
            )
        lines[key] = entry
        cast("Umbel", self).conf.beat_schedule = lines
