"""Starting a worker, step by step, in Celery's order."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from umbel import __version__, logs
from umbel.app.connections import EMBEDDED_URL
from umbel.cli.daemon import Pidfile, detach, is_detached, read_umask, run_again
from umbel.cli.privileges import check_privileges, drop_privileges
from umbel.errors import ImproperlyConfigured
from umbel.execution.context import current, current_task
from umbel.signals import worker_process_init
from umbel.worker.banner import banner
from umbel.worker.options import expand, node_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.app import Umbel
    from umbel.cli.context import CliContext
    from umbel.config import Settings
    from umbel.worker.worker import Worker

__all__ = ["start_worker"]

logger = logging.getLogger("celery.worker")

#: Options of the command that are arguments of the worker, by their names there.
_WORKER_ARGUMENTS = {
    "autoscale": "autoscale",
    "concurrency": "concurrency",
    "exclude_queues": "exclude_queues",
    "heartbeat_interval": "heartbeat_interval",
    "max_memory_per_child": "max_memory_per_child",
    "max_tasks_per_child": "max_tasks_per_child",
    "pool": "pool",
    "pool_start_method": "start_method",
    "prefetch_multiplier": "prefetch_multiplier",
    "purge": "purge",
    "queues": "queues",
    "slots": "slots",
    "soft_time_limit": "soft_time_limit",
    "statedb": "state_db",
    "task_events": "task_events",
    "time_limit": "time_limit",
    "without_gossip": "without_gossip",
    "without_heartbeat": "without_heartbeat",
}
#: Options that mean nothing here, and whose absence nobody would notice.
_SILENT = frozenset(
    {
        "detach",
        "executable",
        "optimization",
        "without_mingle",
    }
)


def start_worker(context: CliContext, options: dict[str, Any]) -> int:
    """Run a worker to its end, or start one in the background; the exit status."""
    app = context.app
    detached = is_detached()
    _change_settings(app, options)
    warning = check_privileges(app.conf.accept_content)
    hostname = node_name(options.pop("hostname"))
    logfile, pidfile = options.pop("logfile"), options.pop("pidfile")
    pidfile = pidfile and expand(pidfile, hostname)
    drop_privileges(options.pop("uid"), options.pop("gid"))
    umask = options.pop("umask")
    if umask is not None:
        os.umask(read_umask(umask))
    if options["detach"] and not detached:
        detach(
            executable=options["executable"],
            logfile=logfile and expand(logfile, hostname),
            pidfile=pidfile,
            start_directory=context.start_directory,
        )
        return 0
    with Pidfile(pidfile) if pidfile else contextlib.nullcontext():
        status, restart = _run(context, app, hostname, logfile, warning, options)
    if restart:
        run_again(options["executable"] if detached else None, context.start_directory, detached=detached)
    return status


def _change_settings(app: Umbel, options: dict[str, Any]) -> None:
    """Take the words after the options as settings."""
    try:
        app.config_from_cmdline(options.pop("settings"), namespace="worker")
    except ImproperlyConfigured as error:
        raise click.UsageError(f"Unable to parse extra configuration from command line: {error}") from error
    if options.pop("disable_prefetch"):
        app.conf.worker_disable_prefetch = True


def _run(
    context: CliContext,
    app: Umbel,
    hostname: str,
    logfile: str | None,
    warning: str | None,
    options: dict[str, Any],
) -> tuple[int, bool]:
    """Import the tasks, make the worker, set up logging, show the banner, run; exit status, and whether to restart."""
    level = options.pop("loglevel")
    remarks = [warning] if warning else []
    beat = _beat(app, options)
    _import_tasks(app, options.pop("include"))
    automatic = (options["concurrency"] or app.conf.worker_concurrency) == "auto"
    worker = _make_worker(app, hostname, options, remarks)
    log_options = _log_options(app.conf, level, logfile, worker.hostname, no_color=context.no_color)
    redirect = app.conf.worker_redirect_stdouts
    level_of_prints = logs.level_number(app.conf.worker_redirect_stdouts_level) if redirect else None
    custom = not _set_up_logging(log_options, logfile, worker.hostname)
    worker.set_up_spawned = partial(
        _set_up_pool_process, log_options, logfile, worker.hostname, level_of_prints
    )
    for remark in (*remarks, *_settings_remarks(app.conf)):
        logger.warning("%s", remark)
    if automatic:
        _tell_concurrency(worker)
    worker.prepare()
    if not context.quiet:
        _show_banner(app, worker, level)
    if not custom and level_of_prints is not None:
        logs.redirect_stdouts(level_of_prints)
    try:
        with beat:
            return worker.start(), worker.restart_wanted
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__


def _tell_concurrency(worker: Worker) -> None:
    """Say what ``auto`` came to, and why, in Celery's words."""
    from umbel.worker.options import cgroup_cpus

    quota = cgroup_cpus()
    logger.info(
        "worker_concurrency='auto' resolved to %d (pool=%s, %s, available cpus=%d).",
        worker.options.concurrency,
        worker.options.pool,
        "no cgroup cpu quota found" if quota is None else f"cgroup cpu quota={quota:.2f}",
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def _beat(app: Umbel, options: dict[str, Any]) -> contextlib.AbstractContextManager[object]:
    """What runs beat beside the worker, with ``--beat``."""
    wanted, filename, scheduler = (options.pop(name) for name in ("beat", "schedule_filename", "scheduler"))
    if not wanted:
        return contextlib.nullcontext()
    from umbel.scheduler.embedded import EmbeddedBeat

    scheduler = scheduler or app.conf.beat_scheduler
    return EmbeddedBeat(app, schedule_filename=filename, scheduler_cls=scheduler)


def _import_tasks(app: Umbel, include: list[str] | None) -> None:
    if include:
        app.conf.include = (*app.conf.include, *include)
    app.loader.import_default_modules()
    app.finalize()


def _make_worker(app: Umbel, hostname: str, options: dict[str, Any], remarks: list[str]) -> Worker:
    """Make the worker of the options that it has, and note those that it does not."""
    # The loop and all that runs in it; only here is the time for its import spent.
    from umbel.worker.worker import Worker

    arguments = {ours: options.pop(theirs) for theirs, ours in _WORKER_ARGUMENTS.items()}
    own = {name: value for name, value in options.items() if name not in _SILENT}
    worker = Worker(app, hostname=hostname, user_options=own, **arguments)
    if arguments["autoscale"] and worker.options.autoscale is None:
        remarks.append(f"--autoscale does not serve the pool {worker.options.pool}: it has one size")
    return worker


def _settings_remarks(conf: Settings) -> list[str]:
    remarks = conf.notes()
    if conf.deprecated_settings:
        remarks.append(
            f"old names of settings: {', '.join(sorted(conf.deprecated_settings))}; they are understood"
        )
    return remarks


def _log_options(
    conf: Settings, level: int, logfile: str | None, hostname: str, *, no_color: bool
) -> logs.LogOptions:
    return logs.LogOptions(
        level=level,
        logfile=logfile and expand(logfile, hostname),
        format=conf.worker_log_format,
        task_format=conf.worker_task_log_format,
        datefmt=conf.worker_log_datefmt,
        task_datefmt=conf.worker_task_log_datefmt,
        color=False if no_color else conf.worker_log_color,
        # True is the default of Celery's, which takes the root logger from the application; here only who says so.
        hijack_root=bool(conf.worker_hijack_root_logger) and conf.value_set_for("worker_hijack_root_logger"),
    )


def _set_up_logging(options: logs.LogOptions, logfile: str | None, hostname: str) -> bool:
    """Set up the worker's logging; false when the application did it."""
    done = logs.setup(options, _current_job)
    if done and logfile and ("%i" in logfile.lower()):
        _give_each_process_a_logfile(logfile, hostname)
    return done


def _set_up_pool_process(
    options: logs.LogOptions, logfile: str | None, hostname: str, level_of_prints: int | None
) -> None:
    """Set up the logging of a pool process that started from nothing."""
    if _set_up_logging(options, logfile, hostname) and level_of_prints is not None:
        logs.redirect_stdouts(level_of_prints)


def _current_job() -> tuple[str, str] | None:
    context, task = current(), current_task()
    return None if context is None or task is None or not context.id else (task.name, context.id)


def _give_each_process_a_logfile(template: str, hostname: str) -> None:
    parent = expand(template, hostname)

    def reopen(**_: object) -> None:
        # The name of a pool process ends in its number; nothing else knows it here.
        import multiprocessing.process

        number = multiprocessing.process.current_process().name.rpartition("-")[2]
        logs.move_logfile(parent, expand(template, hostname, int(number) if number.isdigit() else 0))

    worker_process_init.connect(reopen, weak=False)


def _show_banner(app: Umbel, worker: Worker, level: int) -> None:
    stdout = sys.__stdout__
    if stdout is None:
        return
    text = banner(
        version=__version__,
        app=f"{app.main or '__main__'}:{id(app):#x}",
        broker=app.broker.display_url,
        results=app.backend.display_url,
        options=worker.options,
        queues=[_queue_line(app.amqp.queues, name) for name in worker.queues],
        tasks=_shown_tasks(app, level),
        notes=_banner_notes(app.conf),
    )
    print(text, file=stdout, flush=True)


def _queue_line(queues: Mapping[str, Any], name: str) -> str:
    queue = queues[name]
    return f"{name:<16} exchange={queue.exchange.name}({queue.exchange.type}) key={queue.routing_key}"


def _shown_tasks(app: Umbel, level: int) -> list[str]:
    if level > logging.INFO:
        return []
    return [name for name in app.tasks if level <= logging.DEBUG or not name.startswith("celery.")]


def _banner_notes(conf: Settings) -> list[str]:
    if conf.broker_read_url:
        return []
    path = EMBEDDED_URL.removeprefix("sqlite:///")
    return [f"No broker is configured: messages and results are kept in ./{path} of this directory."]
