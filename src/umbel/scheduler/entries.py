"""One line of a schedule: which task, with what, and when."""

from __future__ import annotations

from functools import total_ordering
from typing import TYPE_CHECKING, Any

from umbel.core.textrepr import safe_repr
from umbel.scheduler.missed import POLICIES
from umbel.scheduler.schedules import maybe_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

__all__ = ["BeatLazyFunc", "ScheduleEntry", "evaluated"]

#: What makes two entries the same line; the rest is how often and when it ran.
_EDITABLE = ("task", "args", "kwargs", "options", "schedule")


class BeatLazyFunc:
    """An argument that is made when its task is sent: ``kwargs={"now": BeatLazyFunc(datetime.now)}``."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._func_params = {"args": args, "kwargs": kwargs}

    def __call__(self) -> Any:
        """The value as it is now."""
        return self.delay()

    def delay(self) -> Any:
        """The value as it is now."""
        return self._func(*self._func_params["args"], **self._func_params["kwargs"])  # type: ignore[arg-type]


def evaluated(value: Any) -> Any:
    """The value of an argument: made now, if it is one of those."""
    return value() if isinstance(value, BeatLazyFunc) else value


@total_ordering
class ScheduleEntry:
    """A periodic task in a scheduler.

    Args:
        name: of the entry.
        task: name of the task.
        last_run_at: when it was sent last; None: now, so that it is not due at once.
        total_run_count: how often it was sent.
        schedule: when it is due: a schedule, a timedelta or seconds.
        args, kwargs: the task's arguments.
        options: those of ``apply_async``.
        relative: whether an interval ends with the clock, see ``scheduler.schedules``.
        app: the application.
        missed: what becomes of ticks that nobody sent in time: ``skip``, ``once`` or ``all``; None: ``beat_missed``.

    Raises ValueError for another word in ``missed``.
    """

    name: str | None = None
    schedule: Any = None
    args: Any = None
    kwargs: Any = None
    options: Any = None
    last_run_at: Any = None
    total_run_count: int = 0
    missed: str | None = None

    def __init__(
        self,
        name: str | None = None,
        task: str | None = None,
        last_run_at: datetime | None = None,
        total_run_count: int | None = None,
        schedule: Any = None,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        relative: bool = False,
        app: Any = None,
        missed: str | None = None,
    ) -> None:
        self.app = app
        self.name = name
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.schedule = maybe_schedule(schedule, relative, app=app)
        self.last_run_at = last_run_at or self.default_now()
        self.total_run_count = total_run_count or 0
        if missed is not None:
            if missed not in POLICIES:
                raise ValueError(f"{name}: missed must be one of {', '.join(POLICIES)}, not {missed!r}")
            # Only then: entries of classes of their own are made anew from their fields, which they need not know.
            self.missed = missed

    def default_now(self) -> datetime:
        """The present instant, by the schedule's clock."""
        now: datetime = self.schedule.now() if self.schedule else self.app.now()
        return now

    _default_now = default_now

    def _next_instance(self, last_run_at: datetime | None = None) -> ScheduleEntry:
        """The entry after one more run."""
        fields = dict(self)
        fields["last_run_at"] = last_run_at or self.default_now()
        fields["total_run_count"] = self.total_run_count + 1
        return self.__class__(**fields)

    __next__ = next = _next_instance

    def __reduce__(self) -> Any:
        return self.__class__, (
            self.name,
            self.task,
            self.last_run_at,
            self.total_run_count,
            self.schedule,
            self.args,
            self.kwargs,
            self.options,
        )

    def update(self, other: ScheduleEntry) -> None:
        """Take from another entry what people edit: task, schedule, arguments and options."""
        for name in _EDITABLE:
            self.__dict__[name] = getattr(other, name)
        if other.missed != self.missed:
            self.missed = other.missed

    def is_due(self) -> tuple[bool, float]:
        """Whether it is due, and in how many seconds to ask again."""
        due: tuple[bool, float] = self.schedule.is_due(self.last_run_at)
        return due

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(vars(self).items())

    def __repr__(self) -> str:
        given = [safe_repr(value) for value in self.args or ()]
        given += [f"{name}={safe_repr(value)}" for name, value in (self.kwargs or {}).items()]
        return f"<{type(self).__name__}: {self.name} {self.task}({', '.join(given)}) {self.schedule!r}>"

    def __lt__(self, other: object) -> bool:
        # Two entries that are due at the same instant; any order will do.
        return id(self) < id(other) if isinstance(other, ScheduleEntry) else NotImplemented

    def editable_fields_equal(self, other: Any) -> bool:
        """Whether the other one is the same line."""
        return all(getattr(self, name) == getattr(other, name) for name in _EDITABLE)

    def __eq__(self, other: object) -> bool:
        """Entries are equal that say the same; when they ran last is no matter."""
        return self.editable_fields_equal(other) if isinstance(other, ScheduleEntry) else NotImplemented
