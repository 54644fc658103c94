"""``Beat``: the service as a program, with its banner, its log and the signals that end it."""

from __future__ import annotations

import logging
import signal
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from umbel import __version__, logs
from umbel.scheduler.pidbox import beat_nodename
from umbel.scheduler.service import Service
from umbel.scheduler.timing import humanize
from umbel.state import get_current_app

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Beat"]

logger: Final = logging.getLogger("celery.beat")

_BANNER: Final = """\
__    -    ... __   -        _
LocalTime -> {now}
Configuration ->
    . broker -> {broker}
    . loader -> {loader}
    . scheduler -> {scheduler}
{info}
    . logfile -> {logfile}@%{level}
    . maxinterval -> {interval_text} ({interval}s){node}"""


class Beat:
    """Runs beat in this process until a signal ends it.

    Args:
        app: the application; None: the class's own, or the current one.
        max_interval: longest sleep in seconds.
        loglevel: a level or its name.
        logfile: where the log goes; None: standard error.
        schedule: the schedule's file; None: ``beat_schedule_filename``.
        scheduler: the scheduler's class; None: ``beat_scheduler``.
        scheduler_cls: another name of ``scheduler``.
        redirect_stdouts, redirect_stdouts_level: whether, and at which level, what is printed goes to the log; None:
            the settings ``worker_redirect_stdouts`` and ``worker_redirect_stdouts_level``.
        quiet: without a banner.
        no_color: without colours.
        remote_control: whether it answers ``inspect ping``; None: ``beat_enable_remote_control``.
        hostname: the name by which it answers; None: ``celerybeat@<host>``.
        options: what Celery's takes besides; not needed here.
    """

    Service: ClassVar[Any] = Service
    app: Any = None

    def __init__(
        self,
        max_interval: float | None = None,
        app: Any = None,
        loglevel: str | int = "WARN",
        logfile: str | None = None,
        schedule: str | None = None,
        scheduler: Any = None,
        scheduler_cls: Any = None,
        redirect_stdouts: bool | None = None,
        redirect_stdouts_level: str | None = None,
        quiet: bool = False,
        no_color: bool | None = None,
        remote_control: bool | None = None,
        hostname: str | None = None,
        **options: Any,
    ) -> None:
        self.app = app = app or self.app or get_current_app()
        self.loglevel = logs.level_number(loglevel)
        self.logfile = logfile
        self.schedule = app.either("beat_schedule_filename", schedule)
        self.scheduler_cls = app.either("beat_scheduler", scheduler, scheduler_cls)
        self.redirect_stdouts = app.either("worker_redirect_stdouts", redirect_stdouts)
        self.redirect_stdouts_level = app.either("worker_redirect_stdouts_level", redirect_stdouts_level)
        self.max_interval = max_interval
        self.quiet = quiet
        self.no_color = no_color
        self.remote_control = remote_control
        self.hostname = hostname
        self._told = False

    def run(self) -> None:
        """Import the tasks, show the banner and send what is due, until SIGTERM or SIGINT.

        The schedule is stored then. A second signal does not wait for a task that is being sent.
        """
        if not self.quiet:
            print(f"umbel beat v{__version__} is starting.", flush=True)  # noqa: T201 - what a program prints
        self.app.loader.import_default_modules()
        self.app.finalize()
        service = self.Service(
            app=self.app,
            max_interval=self.max_interval,
            scheduler_cls=self.scheduler_cls,
            schedule_filename=self.schedule,
            remote_control=self.remote_control,
            hostname=self.hostname,
        )
        if not self.quiet:
            print(self.startup_info(service), flush=True)  # noqa: T201 - what a program prints
        self.setup_logging()
        self.install_sync_handler(service)
        try:
            service.start()
        except Exception as error:
            logger.critical("beat raised exception %s: %r", type(error), error, exc_info=True)
            raise
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

    def setup_logging(self) -> None:
        """Set up the log as the settings of workers say."""
        conf = self.app.conf
        options = logs.LogOptions(
            level=self.loglevel,
            logfile=self.logfile,
            format=conf.worker_log_format,
            task_format=conf.worker_task_log_format,
            datefmt=conf.worker_log_datefmt,
            task_datefmt=conf.worker_task_log_datefmt,
            color=False if self.no_color else conf.worker_log_color,
            hijack_root=bool(conf.worker_hijack_root_logger)
            and conf.value_set_for("worker_hijack_root_logger"),
        )
        if logs.setup(options, _no_job) and self.redirect_stdouts:
            logs.redirect_stdouts(logs.level_number(self.redirect_stdouts_level))

    def startup_info(self, service: Any) -> str:
        """The banner."""
        scheduler = service.get_scheduler(lazy=True)
        return _BANNER.format(
            now=datetime.now().astimezone().replace(microsecond=0, tzinfo=None),
            broker=self.app.broker.display_url,
            loader=_path(type(self.app.loader)),
            scheduler=_path(type(scheduler)),
            info=scheduler.info,
            logfile=self.logfile or "[stderr]",
            level=logging.getLevelName(self.loglevel),
            interval_text=humanize(scheduler.max_interval),
            interval=scheduler.max_interval,
            node=f"\n    . remote control -> {beat_nodename(service.hostname)}"
            if service.remote_control
            else "",
        )

    def install_sync_handler(self, service: Any) -> None:
        """Let SIGTERM and SIGINT end the service."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._told:
                raise SystemExit
            self._told = True
            service.stop()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _no_job() -> None:
    """Beat runs no tasks; its log lines never name one."""
