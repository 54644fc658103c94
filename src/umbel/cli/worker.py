"""``umbel worker``: Celery's options, all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from umbel.cli.command import UmbelOption, command
from umbel.cli.params import LOG_LEVEL, NAMES, ParamType

if TYPE_CHECKING:
    from umbel.cli.context import CliContext

__all__ = ["worker"]

_WORKER, _POOL, _QUEUES = "Worker Options", "Pool Options", "Queue Options"
_FEATURES, _BEAT, _DAEMON = "Features", "Embedded Beat Options", "Daemonization Options"

#: Pools that this version has, by the names that Celery takes.
POOLS: Final = {
    "prefork": "prefork",
    "processes": "prefork",
    "solo": "solo",
    "threads": "threads",
    "asyncio": "asyncio",
    "gevent": "gevent",
    "eventlet": "eventlet",
}


class _Pool(ParamType):
    """The name of a pool, or the path of a class."""

    name = "|".join(POOLS)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value == "custom" and "CELERY_CUSTOM_WORKER_POOL" in os.environ:
            return os.environ["CELERY_CUSTOM_WORKER_POOL"]
        if value not in POOLS and "." not in value and ":" not in value:
            self.fail(f"expected one of {', '.join(POOLS)}, got {value!r}", param, ctx)
        return POOLS.get(value) or str(value)


class _Concurrency(ParamType):
    """A number of slots, or ``auto``."""

    name = "number or auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | int | None:
        if value == "auto":
            return "auto"
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            self.fail(f"must be a non-negative integer or 'auto', got {value!r}", param, ctx)
        return number or None


class _Autoscale(ParamType):
    """``MAX,MIN``, in any order, or ``MAX``."""

    name = "max[,min]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        try:
            numbers = sorted(int(part) for part in value.split(","))
        except ValueError:
            numbers = []
        if len(numbers) not in {1, 2} or numbers[-1] < 1:
            self.fail(f"expected MAX or MAX,MIN, got {value!r}", param, ctx)
        return numbers[-1], numbers[0] if len(numbers) == 2 else 0


class _DaemonOption(UmbelOption):
    """An option that the setting ``worker_<name>`` stands in for."""

    def __init__(self, *names: str, **attributes: Any) -> None:
        super().__init__(names, help_group=_DAEMON, callback=_or_setting, **attributes)


def _or_setting(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    return value or ctx.obj.app.conf.get(f"worker_{param.name}")


def _option(group: str, *names: str, **attributes: Any) -> UmbelOption:
    return UmbelOption(names, help_group=group, **attributes)


def _flag(group: str, *names: str, **attributes: Any) -> UmbelOption:
    return UmbelOption(names, help_group=group, is_flag=True, **attributes)


_OPTIONS: Final = (
    _option(
        _WORKER,
        "-n",
        "--hostname",
        help="Name of this worker, such as w1@%h. %h is the host, %n the name, %d the domain.",
    ),
    _flag(_WORKER, "-D", "--detach", help="Run in the background."),
    _option(_WORKER, "-S", "--statedb", metavar="PATH", help="File that keeps revoked ids over restarts."),
    _option(
        _WORKER, "-l", "--loglevel", type=LOG_LEVEL, default="WARNING", show_default=True, help="Log level."
    ),
    _option(
        _WORKER,
        "-O",
        "--optimization",
        type=click.Choice(["default", "fair"]),
        default="default",
        help="Accepted; every worker is fair: no task waits behind another while a slot is free.",
    ),
    _option(
        _WORKER,
        "--prefetch-multiplier",
        type=click.IntRange(0),
        help="Messages held for each slot; 0: any number.",
    ),
    _flag(_WORKER, "--disable-prefetch", default=None, help="Hold no more messages than there are slots."),
    _option(
        _POOL,
        "-c",
        "--concurrency",
        type=_Concurrency(),
        help="Slots: tasks that run at a time (processes, with asyncio); auto: what the control group allows. "
        "Default: the number of CPUs.",
    ),
    _option(
        _POOL,
        "--slots",
        type=click.IntRange(1),
        help="Tasks that run at a time in each process of the asyncio pool; default: the setting worker_slots (100).",
    ),
    _option(_POOL, "-P", "--pool", type=_Pool(), help="Kind of pool; default: the setting worker_pool."),
    _flag(_POOL, "-E", "--task-events", "--events", default=None, help="Accepted; no events are sent yet."),
    _option(_POOL, "--time-limit", type=float, help="Hard time limit of tasks, in seconds."),
    _option(_POOL, "--soft-time-limit", type=float, help="Soft time limit of tasks, in seconds."),
    _option(
        _POOL, "--max-tasks-per-child", type=int, help="Tasks a pool process runs before another replaces it."
    ),
    _option(
        _POOL,
        "--max-memory-per-child",
        type=int,
        help="KiB of memory a pool process may use before another replaces it.",
    ),
    _option(
        _POOL,
        "--pool-start-method",
        type=click.Choice(["fork", "spawn"]),
        help="How prefork starts its processes; default: the setting worker_pool_start_method.",
    ),
    _flag(_QUEUES, "--purge", "--discard", help="Delete all waiting messages of its queues first."),
    _option(
        _QUEUES, "-Q", "--queues", type=NAMES, help="Queues to take tasks from; default: all of task_queues."
    ),
    _option(_QUEUES, "-X", "--exclude-queues", type=NAMES, help="Queues not to take tasks from."),
    _option(_QUEUES, "-I", "--include", type=NAMES, help="More modules to import."),
    _flag(_FEATURES, "--without-gossip", help="Take no part in elections among workers."),
    _flag(_FEATURES, "--without-mingle", help="Accepted; there is none."),
    _flag(_FEATURES, "--without-heartbeat", help="Send no heartbeat events."),
    _option(_FEATURES, "--heartbeat-interval", type=float, help="Seconds between heartbeat events."),
    _option(
        _FEATURES,
        "--autoscale",
        type=_Autoscale(),
        help="The pool has the larger number of slots; it does not change yet.",
    ),
    _flag(_BEAT, "-B", "--beat", help="Send periodic tasks too; for one worker of a fleet."),
    _option(
        _BEAT, "-s", "--schedule-filename", "--schedule", metavar="PATH", help="As umbel beat --schedule."
    ),
    _option(_BEAT, "--scheduler", metavar="CLASS", help="As umbel beat --scheduler."),
    _DaemonOption("-f", "--logfile", metavar="PATH", help="Where the log goes; default: standard error."),
    _DaemonOption("--pidfile", metavar="PATH", help="File for the process id; held by one worker at a time."),
    _DaemonOption("--uid", help="User to become."),
    _DaemonOption("--gid", help="Group to become."),
    _DaemonOption("--umask", help="Mask of the rights of files made: octal with a leading zero."),
    _DaemonOption("--executable", metavar="PATH", help="Python interpreter for --detach."),
    click.Argument(["settings"], nargs=-1, metavar="[NAME=VALUE]..."),
)


@command("worker", *_OPTIONS, short_help="Start a worker.")
def worker(context: CliContext, /, **options: Any) -> None:
    """Start a worker: take tasks from queues and run them until told to stop.

    \b
    umbel -A proj worker -l INFO
    umbel -A proj worker -Q hipri,lopri --concurrency=4
    umbel -A proj worker --pool threads -c 100
    umbel -A proj worker --pool asyncio -c 2 --slots 1000
    umbel -A proj worker -- worker.prefetch_multiplier=1

    SIGTERM ends it when the running tasks have ended, SIGQUIT at once.
    """  # noqa: D301 - \b keeps click from joining the lines
    # What runs a worker takes 60 ms to import; showing the help and finding mistakes does not need it.
    from umbel.cli.starting import start_worker

    click.get_current_context().exit(start_worker(context, options))
