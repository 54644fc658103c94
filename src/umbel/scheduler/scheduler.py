"""``Scheduler``: sends what is due, and says how long there is nothing to do. It sleeps and stores nothing itself."""

from __future__ import annotations

import copy
import heapq
import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from umbel.errors import OperationalError
from umbel.scheduler.entries import ScheduleEntry, evaluated
from umbel.scheduler.missed import Tick, decide
from umbel.scheduler.schedules import crontab
from umbel.scheduler.timing import aware, humanize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, MutableMapping
    from datetime import datetime

    from umbel.scheduler.sharing import SharedSchedule

__all__ = ["DEFAULT_MAX_INTERVAL", "Scheduler", "SchedulingError", "event_t", "logger"]

logger: Final = logging.getLogger("celery.beat")

#: Longest sleep between two looks at the schedule, in seconds.
DEFAULT_MAX_INTERVAL: Final = 300
#: First and longest wait before a task is sent again that the broker did not take, in seconds.
_FIRST_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 32.0
#: All entries have the same; kept in the events for Celery's sake.
_PRIORITY: Final = 5


class SchedulingError(Exception):
    """A due task could not be sent."""


class event_t(NamedTuple):  # noqa: N801 - Celery's name
    """When an entry is to be looked at, in epoch seconds."""

    time: float
    priority: int
    entry: ScheduleEntry


class Scheduler:
    """Keeps the entries of a schedule and sends the tasks of those that are due.

    A subclass stores the entries elsewhere: it overrides ``setup_schedule``, ``get_schedule`` and ``set_schedule``,
    ``reserve``, ``sync`` or ``close``.

    Args:
        app: the application.
        schedule: the entries, or a function that gives them.
        max_interval: longest sleep in seconds; None: ``beat_max_loop_interval``, or the class's own.
        Producer: accepted for Celery's sake.
        lazy: to be looked at only: nothing is set up.
        sync_every_tasks: how many tasks are sent between two ``sync``; None: ``beat_sync_every``; 0 goes by time.
    """

    Entry: type[ScheduleEntry] = ScheduleEntry
    max_interval: float = DEFAULT_MAX_INTERVAL
    #: Seconds between two ``sync``.
    sync_every: float = 3 * 60
    sync_every_tasks: int | None = None
    logger = logger
    #: What it shares with other beats; None where it is the only one.
    shared: SharedSchedule | None = None
    _last_sync: float | None = None
    _tasks_since_sync = 0

    def __init__(
        self,
        app: Any,
        schedule: Any = None,
        max_interval: float | None = None,
        Producer: Any = None,  # noqa: N803 - Celery's name
        lazy: bool = False,
        sync_every_tasks: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        self.data: Any = {} if schedule is None else schedule() if callable(schedule) else schedule
        self.max_interval = max_interval or app.conf.beat_max_loop_interval or self.max_interval
        self.Producer = Producer
        self._heap: list[event_t] | None = None
        self._retry_delay = _FIRST_RETRY
        self.old_schedulers: MutableMapping[str, Any] | None = None
        self.sync_every_tasks = app.conf.beat_sync_every if sync_every_tasks is None else sync_every_tasks
        if not lazy:
            self.setup_schedule()

    # The entries.

    def get_schedule(self) -> MutableMapping[str, Any]:
        """The entries by name."""
        entries: MutableMapping[str, Any] = self.data
        return entries

    def set_schedule(self, schedule: Any) -> None:
        """Replace the entries."""
        self.data = schedule

    @property
    def schedule(self) -> MutableMapping[str, Any]:
        """The entries by name."""
        return self.get_schedule()

    @schedule.setter
    def schedule(self, schedule: Any) -> None:
        self.set_schedule(schedule)

    def setup_schedule(self) -> None:
        """Fill the schedule: from the settings, and with what every application needs."""
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)

    def install_default_entries(self, data: Mapping[str, Any]) -> None:
        """Add the daily clean-up of expired results, where the result backend does none itself."""
        name, backend = "celery.backend_cleanup", self.app.backend
        if self.app.conf.result_expires and not backend.supports_autoexpire and name not in data:
            entry = {"task": name, "schedule": crontab("0", "4", "*"), "options": {"expires": 12 * 3600}}
            self.update_from_dict({name: entry})

    def add(self, **kwargs: Any) -> ScheduleEntry:
        """Add an entry, or replace that of its name; the arguments are those of ScheduleEntry."""
        entry = self.Entry(app=self.app, **kwargs)
        self.schedule[entry.name or ""] = entry
        return entry

    def _maybe_entry(self, name: str, entry: Any) -> ScheduleEntry:
        if isinstance(entry, self.Entry):
            entry.app = self.app
            return entry
        return self.Entry(**{**dict(entry), "name": name, "app": self.app})

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Add entries, given as mappings, or replace those of the same names."""
        self.schedule.update({name: self._maybe_entry(name, entry) for name, entry in dict_.items()})

    def merge_inplace(self, b: Mapping[str, Any]) -> None:
        """Make the schedule say what ``b`` says; entries that stay remember their last runs."""
        schedule = self.schedule
        for name in set(schedule) - set(b):
            schedule.pop(name, None)
        for name, fields in b.items():
            entry = self._maybe_entry(name, fields)
            if schedule.get(name):
                schedule[name].update(entry)
                schedule[name].app = self.app
            else:
                schedule[name] = entry

    def schedules_equal(self, old_schedules: Any, new_schedules: Any) -> bool:
        """Whether two schedules say the same."""
        if old_schedules is None or new_schedules is None:
            return old_schedules is new_schedules
        return bool(old_schedules == new_schedules)

    # What is due.

    def adjust(self, n: float | None, drift: float = -0.010) -> float | None:
        """A delay, shortened by what it takes to wake up."""
        return n + drift if n and n > 0 else n

    def is_due(self, entry: ScheduleEntry) -> tuple[bool, float]:
        """Whether an entry is due, and in how many seconds to ask again."""
        return entry.is_due()

    def _ask(self, ask: Callable[[], tuple[bool, float]], entry: ScheduleEntry) -> tuple[bool, float]:
        """The answer; an entry that cannot tell when it is due must not keep the others waiting."""
        try:
            is_due, delay = ask()
        except Exception:
            logger.exception(
                "beat: Cannot calculate the next run of %r, trying again in %s.",
                *(entry.name, humanize(self.max_interval)),
            )
            return False, self.max_interval
        return is_due, delay if isinstance(delay, (int, float)) else self.max_interval

    def _when(
        self, entry: ScheduleEntry, next_time_to_run: float, mktime: Callable[[Any], float] | None = None
    ) -> float:
        """Epoch seconds ``next_time_to_run`` seconds from now, by the entry's clock."""
        now = aware(entry.default_now(), "UTC")
        return now.timestamp() + (self.adjust(next_time_to_run) or 0)

    def populate_heap(self) -> None:
        """Put all entries in the order in which they are due."""
        heap = []
        for entry in self.schedule.values():
            is_due, delay = self._ask(entry.is_due, entry)
            heap.append(event_t(self._when(entry, 0 if is_due else delay), _PRIORITY, entry))
        heapq.heapify(heap)
        self._heap = heap

    def tick(self) -> float:
        """Send the task of one entry, if one is due; gives the seconds until there may be more to do."""
        if self._heap is None or not self.schedules_equal(self.old_schedulers, self.schedule):
            self.old_schedulers = copy.copy(self.schedule)
            self.populate_heap()
        heap = self._heap
        if not heap:
            return self.max_interval
        event = heap[0]
        left = self._left(event)
        if left > 0:
            return left
        is_due, delay = self._ask(lambda: self.is_due(event.entry), event.entry)
        if not heap or heap[0] is not event:  # what was asked has put the heap in another order
            return self._left(heap[0]) if heap else self.max_interval
        heapq.heappop(heap)
        if is_due:
            return self._send_due(event.entry, delay)
        # To the instant: woken a little before that it would be asked again and again until then.
        heapq.heappush(heap, event_t(self._when(event.entry, 0) + delay, _PRIORITY, event.entry))
        return max(self._left(heap[0]), 0)

    def _left(self, event: event_t) -> float:
        """Seconds until an event, the longest sleep at the most."""
        return min(event.time - self._when(event.entry, 0), self.max_interval)

    def _send_due(self, entry: ScheduleEntry, delay: float) -> float:
        """Send a due task and put the entry where it belongs next."""
        assert self._heap is not None
        tick = self._tick_of(entry)
        # The run is noted before it is sent, so that a task that cannot be sent at all is not tried for ever.
        following = self.reserve(entry)
        if self._policy_of(entry) == "all":
            following.last_run_at = aware(tick.ran_at, "UTC").astimezone(self.app.timezone)
            is_due, delay = self._ask(following.is_due, following)
            delay = 0 if is_due else delay
        if tick.send and self._send_claimed(entry, following, tick) is False:
            self.schedule[entry.name or ""] = entry
            retry, self._retry_delay = self._retry_delay, min(self._retry_delay * 2, _LONGEST_RETRY)
            heapq.heappush(self._heap, event_t(self._when(entry, 0) + retry, _PRIORITY, entry))
            return 0
        self._retry_delay = _FIRST_RETRY
        if self.old_schedulers is not None:
            # The same line, so no change; comparing one object with itself is what makes a large schedule quick.
            self.old_schedulers[entry.name or ""] = following
        heapq.heappush(self._heap, event_t(self._when(following, delay), _PRIORITY, following))
        return 0

    def _policy_of(self, entry: ScheduleEntry) -> str:
        policy: str = getattr(entry, "missed", None) or self.app.conf.beat_missed
        return policy

    def _tick_of(self, entry: ScheduleEntry) -> Tick:
        """The tick for which an entry is due, as the policy for missed ones has it."""
        now, policy = aware(entry.default_now(), "UTC"), self._policy_of(entry)
        if policy == "once" and self.shared is None:
            return Tick(now, now, send=True)  # nobody asks when it was due
        return decide(policy, self.due_at(entry), now, lambda after: self._run_after(entry, after))

    def _send_claimed(self, entry: ScheduleEntry, following: ScheduleEntry, tick: Tick) -> bool | None:
        """Send the task of a tick that is this scheduler's to send. False when that is to be tried again."""
        name = entry.name or ""
        try:
            is_ours = self.claim(entry) and (self.shared is None or self.shared.claim(name, tick))
        except OperationalError as error:
            message = "beat: Connection error: %s. Trying again in %s seconds..."
            logger.error(message, error, self._retry_delay)  # noqa: TRY400 - the cause is named
            return False
        if not is_ours:
            if self.shared is not None:
                self.shared.catch_up(name, following)
            return None
        if self.shared is not None:
            return self.shared.send(self, entry)
        return self.apply_entry(entry, producer=self.producer)

    def due_at(self, entry: ScheduleEntry) -> datetime:
        """The instant for which an entry is due: the first after its last run, however late it is by now.

        A schedule that cannot tell is due now.
        """
        return self._run_after(entry, entry.last_run_at)

    def _run_after(self, entry: ScheduleEntry, instant: datetime) -> datetime:
        try:
            run: datetime = entry.schedule.run_after(instant)
        except (AttributeError, NotImplementedError):  # it has only the one method that it needs to have
            return aware(entry.default_now(), "UTC")
        return run

    def claim(self, entry: ScheduleEntry) -> bool:
        """Whether this scheduler is the one to send the entry's task for ``due_at``; for subclasses to say no."""
        return True

    def forget_order(self) -> None:
        """The entries have changed: look anew at when each is due."""
        self._heap = self.old_schedulers = None

    def reserve(self, entry: ScheduleEntry) -> ScheduleEntry:
        """Note that an entry runs now; gives the entry as it is afterwards."""
        new_entry: ScheduleEntry = next(entry)
        self.schedule[entry.name or ""] = new_entry
        return new_entry

    # Sending.

    def apply_entry(self, entry: ScheduleEntry, producer: Any = None) -> bool | None:
        """Send an entry's task. False when the broker did not take it; other failures are logged and left at that."""
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        try:
            result = self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:
            if isinstance(error.__cause__, OperationalError):
                message = "beat: Connection error: %s. Trying again in %s seconds..."
                logger.error(message, error.__cause__, self._retry_delay)  # noqa: TRY400 - the cause is named
                return False
            logger.exception("Message Error: %s", error)  # noqa: TRY401 - Celery's line begins so
            return None
        if result is not None and hasattr(result, "id"):
            logger.debug("%s sent. id->%s", entry.task, result.id)
        else:
            logger.debug("%s sent.", entry.task)
        return True

    def apply_async(
        self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        """Send an entry's task; gives its result. Raises SchedulingError, caused by what went wrong."""
        entry = self.reserve(entry) if advance else entry
        task = self.app.tasks.get(entry.task)
        try:
            args = [evaluated(value) for value in entry.args or ()]
            keywords = {name: evaluated(value) for name, value in (entry.kwargs or {}).items()}
            options = _with_header(entry.options)
            if self.shared is not None:
                options = self.shared.options_of(entry.name or "", options)
            if task is not None:
                return task.apply_async(args, keywords, producer=producer, **options)
            return self.send_task(entry.task, args, keywords, producer=producer, **options)
        except Exception as error:
            raise SchedulingError(f"Couldn't apply scheduled task {entry.name}: {error}") from error
        finally:
            self._tasks_since_sync += 1
            if self.should_sync():
                self._do_sync()

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Send a task by its name."""
        return self.app.send_task(*args, **kwargs)

    @cached_property
    def connection(self) -> Any:
        """The broker."""
        return self.app.broker

    @property
    def producer(self) -> Any:
        """Celery's schedulers send through one; here the application's own connections are used."""
        return None

    # Keeping.

    def should_sync(self) -> bool:
        """Whether the schedule should be stored now: it is time, or enough tasks were sent."""
        if self._last_sync is None or time.monotonic() - self._last_sync > self.sync_every:
            return True
        return bool(self.sync_every_tasks and self._tasks_since_sync >= self.sync_every_tasks)

    def _do_sync(self) -> None:
        try:
            logger.debug("beat: Synchronizing schedule...")
            self.sync()
        finally:
            self._last_sync = time.monotonic()
            self._tasks_since_sync = 0

    def sync(self) -> None:
        """Store the schedule. This one has nowhere to store it."""

    def close(self) -> None:
        """Store the schedule and let go of what holds it."""
        self.sync()

    @property
    def info(self) -> str:
        """A line for the banner."""
        return ""


def _with_header(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """An entry's options, which say in a header that beat sends the task."""
    headers: Iterable[tuple[str, Any]] = ((options or {}).get("headers") or {}).items()
    return {**(options or {}), "headers": {**dict(headers), "celery_beat_task": True}}
