"""``Service``: a scheduler that runs until it is told to stop."""

from __future__ import annotations

import logging
import threading
import time
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, Final

from umbel.config.sources import import_path
from umbel.errors import ImproperlyConfigured, OperationalError
from umbel.scheduler.leader import Leadership, beat_identity
from umbel.scheduler.persistent import PersistentScheduler, ScheduleFileHeldError
from umbel.scheduler.pidbox import BeatPidbox
from umbel.scheduler.scheduler import Scheduler
from umbel.scheduler.sharing import SharedSchedule, role_of
from umbel.scheduler.stores.urls import open_store
from umbel.scheduler.timing import humanize
from umbel.signals import beat_embedded_init, beat_init

__all__ = ["Service", "scheduler_class"]

logger: Final = logging.getLogger("celery.beat")

#: Seconds before the store or the broker is tried again.
_RETRY_INTERVAL: Final = 1.0
#: Packages that bring schedulers name them in these.
_PLUGIN_GROUPS: Final = ("umbel.beat_schedulers", "celery.beat_schedulers")
#: Celery's own schedulers, by every way of naming them.
_CELERYS: Final = {
    f"celery.beat{separator}{cls.__name__}": cls
    for cls in (Scheduler, PersistentScheduler)
    for separator in ":."
}


def scheduler_class(named: Any) -> Any:
    """The scheduler class of a path, or of a name that a package has registered; a class as it is.

    Raises ImproperlyConfigured when there is none.
    """
    if not isinstance(named, str):
        return named
    if named in _CELERYS:
        return _CELERYS[named]
    for group in _PLUGIN_GROUPS:
        for point in entry_points(group=group, name=named):
            return point.load()
    try:
        return import_path(named)
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(
            f"the scheduler class {named!r} cannot be imported: {error}; give it as module:Class"
        ) from error


class Service:
    """Runs a scheduler.

    Args:
        app: the application.
        max_interval: longest sleep in seconds; None: ``beat_max_loop_interval``.
        schedule_filename: for schedulers that keep a file; None: ``beat_schedule_filename``.
        scheduler_cls: the scheduler's class, its path, or its registered name.
        remote_control: whether it answers ``inspect ping``; None: ``beat_enable_remote_control``.
        hostname: the name by which it answers; None: ``celerybeat@<host>``.
    """

    scheduler_cls: Any = PersistentScheduler

    def __init__(
        self,
        app: Any,
        max_interval: float | None = None,
        schedule_filename: str | None = None,
        scheduler_cls: Any = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
    ) -> None:
        self.app = app
        self.max_interval = max_interval or app.conf.beat_max_loop_interval
        self.scheduler_cls = scheduler_cls or self.scheduler_cls
        self.schedule_filename = schedule_filename or app.conf.beat_schedule_filename
        self.remote_control = (
            app.conf.beat_enable_remote_control if remote_control is None else remote_control
        )
        self.hostname = hostname
        #: Longest sleep of the scheduler, once there is one.
        self.effective_max_interval: float | None = None
        self._last_tick: float | None = None
        self._pidbox: BeatPidbox | None = None
        self._leadership: Leadership | None = None
        self._revision = -1
        self._is_shutdown = threading.Event()
        self._is_stopped = threading.Event()

    def __reduce__(self) -> Any:
        return self.__class__, (
            self.app,
            self.max_interval,
            self.schedule_filename,
            self.scheduler_cls,
            self.remote_control,
            self.hostname,
        )

    def start(self, embedded_process: bool = False) -> None:
        """Send what is due until told to stop; the schedule is stored at the end, whatever ends it.

        Of several beats that share a store one sends; the others stand by, without a scheduler.
        """
        logger.info("beat: Starting...")
        self._leadership = self._make_leadership()
        if self.remote_control:
            self._pidbox = BeatPidbox(self)
            self._pidbox.start()
        try:
            if self._stand_by():
                self._begin(embedded_process)
            while not self._is_shutdown.is_set():
                if self._may_tick():
                    interval = self.scheduler.tick()
                    self._last_tick = time.monotonic()
                    self._wait(interval)
        except (KeyboardInterrupt, SystemExit):
            self._is_shutdown.set()
        finally:
            # What was sent is the state worth keeping, should whoever told it to stop lose patience.
            self._end()

    def _begin(self, embedded_process: bool) -> None:
        logger.debug("beat: Ticking with max interval->%s", humanize(self.scheduler.max_interval))
        beat_init.send(sender=self)
        if embedded_process:
            beat_embedded_init.send(sender=self)
        self.effective_max_interval = self.scheduler.max_interval
        self._last_tick = time.monotonic()

    def _end(self) -> None:
        try:
            self.sync()
        finally:
            if self._leadership is not None:
                self._leadership.stop()
                self._leadership.store.close()
            if self._pidbox is not None:
                self._pidbox.stop()

    # Several beats.

    def _make_leadership(self) -> Leadership | None:
        """What takes part in the choice of the leader; None for a beat that shares nothing.

        A scheduler of one's own has its own ways to be one of several, or none: it shares when the setting says where.
        """
        conf = self.app.conf
        is_plain = scheduler_class(self.scheduler_cls) is PersistentScheduler
        store = open_store(self.app) if is_plain or conf.beat_store_url is not None else None
        if store is None:
            return None
        return Leadership(store, role_of(conf.beat_schedule), beat_identity())

    def _stand_by(self) -> bool:
        """Wait until this beat leads; false when it is told to stop before. One that shares nothing leads always."""
        leadership = self._leadership
        if leadership is None:
            return True
        leadership.start()
        told = False
        while not leadership.leads:
            if self._is_shutdown.is_set():
                return False
            if leadership.leader and not told:
                logger.info("beat: Standing by for %s.", leadership.leader)
                told = True
            self._last_tick = time.monotonic()  # it is well
            leadership.wait(1.0)
        if told:
            logger.info("beat: Leading now.")
        return not self._is_shutdown.is_set()

    def _may_tick(self) -> bool:
        """Whether this beat leads and knows the entries; otherwise does what is needed for that."""
        leadership = self._leadership
        if leadership is None:
            return True
        if not leadership.leads:
            logger.warning("beat: No longer leading.")
            self._let_go()
            self._stand_by()
            return False
        try:
            return self._has_entries(leadership)
        except OperationalError as error:
            logger.error("beat: Connection error: %s. Trying again.", error)  # noqa: TRY400 - the cause is named
            leadership.wait(_RETRY_INTERVAL)
            return False

    def _has_entries(self, leadership: Leadership) -> bool:
        scheduler = self.scheduler
        if not isinstance(scheduler, Scheduler):
            return True
        shared = scheduler.shared
        if shared is None:
            shared = SharedSchedule(self.app, leadership.store, leadership.identity)
            self._revision = leadership.revision
            shared.attach(scheduler)
        elif self._revision != leadership.revision:
            self._revision = leadership.revision
            shared.refresh(scheduler)
        if shared.inherited:
            shared.repair(scheduler)
        if shared.inherited:
            leadership.wait(_RETRY_INTERVAL)
        return not shared.inherited

    def _let_go(self) -> None:
        """Store the schedule and forget the scheduler: another beat goes on from here."""
        scheduler = self.__dict__.pop("scheduler", None)
        if scheduler is not None:
            scheduler.close()

    def _wait(self, interval: float | None) -> None:
        if interval and interval > 0.0:
            logger.debug("beat: Waking up %s.", humanize(interval, prefix="in "))
            if self._leadership is None:
                self._is_shutdown.wait(interval)
            else:
                self._leadership.wait(interval)
            if self.scheduler.should_sync():
                self.scheduler._do_sync()

    def sync(self) -> None:
        """Store the schedule, for good."""
        if self._leadership is None:
            self.scheduler.close()
        else:
            self._let_go()
        self._is_stopped.set()

    def stop(self, wait: bool = False) -> None:
        """Tell it to stop, from another thread or a signal handler; with ``wait`` until the schedule is stored."""
        logger.info("beat: Shutting down...")
        self._is_shutdown.set()
        if self._leadership is not None:
            self._leadership.wake()
        if wait:
            self._is_stopped.wait()

    def get_scheduler(self, lazy: bool = False) -> Any:
        """A scheduler of the service's class; a lazy one is only to be looked at."""
        return scheduler_class(self.scheduler_cls)(
            app=self.app,
            schedule_filename=self.schedule_filename,
            max_interval=self.max_interval,
            lazy=lazy,
        )

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler."""
        try:
            return self.get_scheduler()
        except ScheduleFileHeldError as error:
            if self._leadership is None:
                raise
            # The leader before this one is not dead, only stuck. What the file would tell is in the store, too.
            logger.warning("beat: Going on without the schedule file: %s", error)
            return Scheduler(app=self.app, max_interval=self.max_interval)
