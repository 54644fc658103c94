"""``SharedSchedule``: what a scheduler does when it is one of several: claims, and entries of run time.

A tick is claimed before its task is sent, and confirmed afterwards. The task's id derives from the tick, so a beat that
finds a tick claimed and not confirmed, because its sender died, sends it again under the same id; not so where RabbitMQ
has a receipt for it.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from umbel.errors import OperationalError
from umbel.scheduler.stores.base import Run
from umbel.scheduler.words import schedule_from_words

if TYPE_CHECKING:
    from umbel.brokers.amqp.receipts import Receipts
    from umbel.scheduler.entries import ScheduleEntry
    from umbel.scheduler.missed import Tick
    from umbel.scheduler.scheduler import Scheduler
    from umbel.scheduler.stores.base import ScheduleStore, StoredEntry

__all__ = ["DUE_HEADER", "SharedSchedule", "make_entry", "role_of", "tick_id"]

logger: Final = logging.getLogger("celery.beat")

#: The message's header with the instant for which the task was due, epoch seconds.
DUE_HEADER: Final = "umbel_beat_due"


def role_of(schedule: Any) -> str:
    """What beats with these entries in their settings lead; beats with other entries lead something else."""
    lines = sorted(f"{name}\0{_task_of(entry)}" for name, entry in dict(schedule).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _task_of(entry: Any) -> str:
    return str(entry["task"] if isinstance(entry, dict) else entry.task)


def tick_id(scope: str, name: str, run: Run) -> str:
    """The id of the task of a tick, in the form of a UUID."""
    digest = hashlib.sha256(f"{scope}\0{name}\0{run.serial}\0{run.due!r}".encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:32]}"


def make_entry(scheduler_entry: type[ScheduleEntry], stored: StoredEntry, app: Any) -> ScheduleEntry:
    """The entry of a scheduler that a stored one means."""
    entry = scheduler_entry(
        name=stored.name,
        task=stored.task,
        schedule=schedule_from_words(stored.schedule, app),
        args=tuple(stored.args),
        kwargs=dict(stored.kwargs),
        options=dict(stored.options),
        app=app,
    )
    if stored.missed:
        entry.missed = stored.missed
    return entry


def _receipts_of(app: Any, scope: str) -> Receipts | None:
    """Who notes in the broker what was sent; None where that is noted in the same step anyway, or cannot be."""
    if not app.broker.capabilities.receipts:
        return None
    # Only beats on RabbitMQ need it.
    from umbel.brokers.amqp.receipts import Receipts

    return Receipts(app.sender.client.publisher, f"beat.{scope}")


class SharedSchedule:
    """The part of a scheduler that is in a store.

    Args:
        app: the application.
        store: the store.
        identity: of this beat.
    """

    def __init__(self, app: Any, store: ScheduleStore, identity: str) -> None:
        self.app = app
        self.store = store
        self.identity = identity
        self._runs: dict[str, Run] = {}
        #: Names of entries whose last tick is claimed here and not sent yet.
        self._unsent: set[str] = set()
        #: The same, claimed by the beat before this one; they come before any other.
        self.inherited: set[str] = set()
        self._receipts = _receipts_of(app, store.scope)
        self._own: dict[str, ScheduleEntry] = {}
        self._changed: set[str] = set()

    # Entries.

    def attach(self, scheduler: Scheduler) -> None:
        """Have a scheduler that was just made go on where the beat before it ended. Raises OperationalError."""
        self._own = dict(scheduler.schedule)
        self._runs = dict(self.store.runs())
        self._note_beginnings(scheduler)
        self.inherited = {name for name, run in self._runs.items() if run.serial and not run.sent}
        self._believe_receipts()
        self._unsent = set(self.inherited)
        for name, run in self._runs.items():
            self._go_on_from(scheduler.schedule.get(name), run)
        self.refresh(scheduler)
        scheduler.shared = self

    def _believe_receipts(self) -> None:
        """Confirm the ticks that were sent by a beat that did not come to note it."""
        if self._receipts is None:
            return
        sent = self._receipts.read()
        for name in sorted(self.inherited):
            if tick_id(self.store.scope, name, self._runs[name]) in sent:
                self._confirm(name)
                self.inherited.discard(name)

    def _note_beginnings(self, scheduler: Scheduler) -> None:
        """Note for entries that never ran since when they are there: a beat without the file goes on from that."""
        for name, entry in scheduler.schedule.items():
            at = self._epoch(entry.last_run_at)
            if name not in self._runs and self.store.claim(name, Run(0, at, at), self.identity):
                self._runs[name] = Run(0, at, at)

    def _go_on_from(self, entry: ScheduleEntry | None, run: Run) -> None:
        """Let an entry's next tick count from its last one, if that is later than what the entry remembers.

        One that remembers no run was just made, or never came to run; then that it is there means nothing.
        """
        if entry is None:
            return
        if not entry.total_run_count or self._epoch(entry.last_run_at) < run.at:
            entry.last_run_at = self._instant(run.at)
        entry.total_run_count = max(entry.total_run_count, run.serial)

    def _instant(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, UTC).astimezone(self.app.timezone)

    def _epoch(self, instant: datetime) -> float:
        return (instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)).timestamp()

    def refresh(self, scheduler: Scheduler) -> None:
        """Take over what was changed of the entries. Raises OperationalError."""
        stored = self.store.entries()
        for name in self._changed | set(stored):
            entry = self._as_changed(scheduler, name, stored.get(name))
            if entry is None:
                scheduler.schedule.pop(name, None)
            else:
                scheduler.schedule[name] = entry
        self._changed = set(stored)
        scheduler.forget_order()

    def _as_changed(
        self, scheduler: Scheduler, name: str, stored: StoredEntry | None
    ) -> ScheduleEntry | None:
        """An entry as it is to be now; None: it is not to be."""
        if stored is not None and stored.paused:
            return None
        own = self._own.get(name)
        if stored is None or not stored.task:
            made = None if own is None else type(own)(**dict(own))
        else:
            made = self._made(scheduler, stored)
        if made is not None:
            self._remember(made, scheduler.schedule.get(name) or own, stored.since if stored else 0.0)
        return made

    def _remember(self, made: ScheduleEntry, before: ScheduleEntry | None, since: float) -> None:
        """Let an entry count from the last tick of the one that it replaces; from when it was made, without one."""
        if before is not None:
            made.last_run_at, made.total_run_count = before.last_run_at, before.total_run_count
        elif since:
            made.last_run_at = self._instant(since)
        if made.name in self._runs:
            self._go_on_from(made, self._runs[made.name])
        if since > self._epoch(made.last_run_at):
            made.last_run_at = self._instant(since)

    def _made(self, scheduler: Scheduler, stored: StoredEntry) -> ScheduleEntry | None:
        try:
            return make_entry(scheduler.Entry, stored, self.app)
        except Exception:
            logger.exception("beat: The stored entry %r cannot be used", stored.name)
            return None

    # Ticks.

    def claim(self, name: str, tick: Tick) -> bool:
        """Whether a tick is this beat's to send. Raises OperationalError; then it may be claimed again."""
        if name in self._unsent:
            return True
        known = self._runs.get(name)
        serial = 1 if known is None else known.serial + 1
        run = Run(serial, round(tick.due.timestamp(), 6), round(tick.ran_at.timestamp(), 6))
        if not self.store.claim(name, run, self.identity):
            self._runs = {**self._runs, **self.store.runs()}
            return False
        self._runs[name] = run
        self._unsent.add(name)
        return True

    def catch_up(self, name: str, entry: ScheduleEntry) -> None:
        """Let an entry know the tick that another beat has claimed."""
        if name in self._runs:
            entry.last_run_at = self._instant(self._runs[name].at)

    def send(self, scheduler: Scheduler, entry: ScheduleEntry) -> bool | None:
        """Send the task of a tick that was claimed, and note that; as ``Scheduler.apply_entry``."""
        name = entry.name or ""
        run = self._runs[name]
        publisher = self.app.sender.client.publisher
        task_id = tick_id(self.store.scope, name, run)
        receipt = nullcontext() if self._receipts is None else self._receipts.given(task_id)
        with self.store.confirming(publisher, name, run.serial, task_id) as is_confirmed, receipt:
            sent = scheduler.apply_entry(entry, producer=scheduler.producer)
        if sent is not False:
            self._unsent.discard(name)
            if not is_confirmed():
                self._confirm(name)
        return sent

    def _confirm(self, name: str) -> None:
        try:
            self.store.confirm(name, self._runs[name].serial)
        except OperationalError as error:
            logger.warning("beat: %s was sent, but that could not be noted: %s", name, error)

    def options_of(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """The options with which the task of a claimed tick is sent."""
        run = self._runs.get(name)
        if run is None or name not in self._unsent:
            return options
        headers = {**options["headers"], DUE_HEADER: run.due}
        return {"task_id": tick_id(self.store.scope, name, run), **options, "headers": headers}

    def repair(self, scheduler: Scheduler) -> None:
        """Send what the beat before this one has claimed and perhaps not sent; what the broker takes is done with."""
        for name in sorted(self.inherited):
            entry = scheduler.schedule.get(name)
            if entry is None:
                self._unsent.discard(name)
                self._confirm(name)
            elif self.send(scheduler, entry) is False:
                continue
            self.inherited.discard(name)
