"""Commands that ask: what a worker is, what it has in hand, and what it knows."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from umbel.core.times import format_iso, parse_iso
from umbel.worker.commands.panel import builtin, ok

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from umbel.worker.commands.commander import Commander
    from umbel.worker.ledger import Job

logger = logging.getLogger("celery.worker.control")

#: What ``registered`` tells of each task when it is not said.
_TASK_ITEMS: Final = ("exchange", "routing_key", "rate_limit")
#: The priority that Celery's timer gives to jobs that wait for their time.
_HOLDING_PRIORITY: Final = 6

_QUEUE_FIELDS: Final = [
    "alias",
    "auto_delete",
    "binding_arguments",
    "consumer_arguments",
    "durable",
    "exclusive",
    "expires",
    "max_length",
    "max_length_bytes",
    "max_priority",
    "message_ttl",
    "name",
    "no_ack",
    "no_declare",
    "queue_arguments",
    "routing_key",
]
_EXCHANGE_FIELDS: Final = [
    "arguments",
    "auto_delete",
    "delivery_mode",
    "durable",
    "name",
    "no_declare",
    "passive",
    "type",
]


@builtin("inspect", default_timeout=0.2)
async def ping(worker: Commander, **_: Any) -> dict[str, object]:
    """Ask who is there."""
    return ok("pong")


@builtin("inspect")
async def clock(worker: Commander, **_: Any) -> dict[str, object]:
    """Tell the logical clock."""
    return {"clock": worker.clock.value}


@builtin("inspect", visible=False)
async def hello(worker: Commander, from_node: str, revoked: Any = None, **_: Any) -> dict[str, object] | None:
    """Exchange revoked ids and clocks with a worker that starts."""
    if from_node == worker.hostname:
        return None
    logger.info("sync with %s", from_node)
    if revoked:
        worker.revoked.update(task_id for task_id in revoked if isinstance(task_id, str))
    return {"revoked": list(worker.revoked), "clock": worker.clock.forward()}


@builtin("inspect")
async def report(worker: Commander, **_: Any) -> dict[str, object]:
    """Tell what a bug report should."""
    return ok(worker.app.bugreport())


@builtin("inspect", alias="dump_conf", signature="[include_defaults=False]", args=(("with_defaults", bool),))
async def conf(worker: Commander, with_defaults: bool = False, **_: Any) -> dict[str, Any]:
    """Tell the settings, without their secrets."""
    table = worker.app.conf.table(with_defaults=with_defaults, censored=True)
    # Celery's workers tell this too, by accident, and tools have come to look for it.
    table["deprecated_settings"] = sorted(worker.app.conf.deprecated_settings) or None
    # And theirs name every module that tasks came from, beside those that were asked for.
    modules = {type(task).__module__ for task in worker.app.tasks.values()}
    table["include"] = sorted(modules.union(worker.app.conf.include or ()))
    return {name: _plain(value) for name, value in table.items() if not str(name).startswith("__")}


@builtin("inspect", variadic="ids", signature="[id1 [id2 [... [idN]]]]")
async def query_task(worker: Commander, ids: Any, **_: Any) -> dict[str, Any]:
    """Tell where tasks are."""
    wanted = {ids} if isinstance(ids, str) else set(ids or ())
    running = {job.seq for job in worker.running()}
    held = {job.seq for job in worker.holding.jobs()}
    answer = {}
    for job in worker.ledger.find(wanted):
        state = "active" if job.seq in running else "ready" if job.seq in held else "reserved"
        answer[job.header.id] = [state, worker.info(job)]
    return answer


@builtin("inspect", alias="dump_schedule")
async def scheduled(worker: Commander, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that wait here for their time."""
    return [
        {"eta": _eta(job), "priority": _HOLDING_PRIORITY, "request": worker.info(job)}
        for job in worker.holding.jobs()
    ]


@builtin("inspect", alias="dump_reserved")
async def reserved(worker: Commander, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that were taken and have not begun."""
    elsewhere = {job.seq for job in worker.running()} | {job.seq for job in worker.holding.jobs()}
    return _infos(worker, (job for job in worker.ledger if job.seq not in elsewhere))


@builtin("inspect", alias="dump_active")
async def active(worker: Commander, safe: bool = False, **_: Any) -> list[dict[str, Any]]:
    """List the tasks that run."""
    return _infos(worker, worker.running(), safe=bool(safe))


@builtin("inspect", alias="dump_revoked")
async def revoked(worker: Commander, **_: Any) -> list[str]:
    """List the ids of revoked tasks."""
    return list(worker.revoked)


@builtin("inspect", alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
async def registered(
    worker: Commander, taskinfoitems: Sequence[str] | None = None, builtins: bool = False, **_: Any
) -> list[str]:
    """List the tasks that this worker knows."""
    items = [item for item in taskinfoitems or _TASK_ITEMS if isinstance(item, str) and item[:1] != "_"]
    tasks = worker.app.tasks
    names = sorted(name for name in tasks if builtins or not name.startswith("celery."))
    return [_described(tasks[name], items) for name in names]


def _described(task: Any, items: Iterable[str]) -> str:
    told = [f"{item}={value}" for item in items if (value := getattr(task, item, None)) is not None]
    return f"{task.name} [{' '.join(told)}]" if told else str(task.name)


@builtin("inspect")
async def active_queues(worker: Commander, **_: Any) -> list[dict[str, Any]]:
    """List the queues that this worker takes from."""
    known = worker.app.amqp.queues
    return [_queue_dict(known[name]) for name in worker.intake.plan.queues]


def _queue_dict(queue: Any) -> dict[str, Any]:
    """A queue, ours or kombu's, as Celery's workers tell it."""
    told = {name: getattr(queue, name, None) for name in _QUEUE_FIELDS}
    exchange = {name: getattr(queue.exchange, name, None) for name in _EXCHANGE_FIELDS}
    told |= {
        "queue_arguments": told["queue_arguments"] or None,
        "exchange": exchange | {"arguments": exchange["arguments"] or None},
        "bindings": [
            {"exchange": str(each.exchange), "routing_key": each.routing_key} for each in queue.bindings or ()
        ],
    }
    return {name: _plain(value) for name, value in told.items()}


@builtin("inspect")
async def stats(worker: Commander, **_: Any) -> dict[str, Any]:
    """Tell the worker's statistics."""
    options = worker.options
    return {
        "total": dict(worker.completion.totals),
        "pid": os.getpid(),
        "clock": str(worker.clock.value),
        "uptime": round(time.monotonic() - worker.started_at),
        "ready": worker.link.ready,
        "pool": {
            "implementation": f"umbel.pools.{options.pool}",
            "max-concurrency": worker.pool.size,
            "processes": worker.pool.pids() or [os.getpid()],
            "max-tasks-per-child": options.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [options.soft_time_limit or 0, options.time_limit or 0],
        },
        **({"autoscaler": worker.scaling.autoscaler.info()} if worker.scaling is not None else {}),
        "broker": _broker_info(worker.app),
        "prefetch_count": worker.intake.prefetch_count,
        "rusage": _resource_usage(),
    }


def _broker_info(app: Any) -> dict[str, Any]:
    conf, url = app.conf, urlsplit(app.broker.display_url)
    return {
        "hostname": url.hostname,
        "userid": url.username,
        "virtual_host": url.path.lstrip("/") or "/",
        "port": url.port,
        "insist": False,
        "ssl": bool(conf.broker_use_ssl),
        "transport": url.scheme,
        "connect_timeout": conf.broker_connection_timeout,
        "transport_options": _plain(dict(conf.broker_transport_options or {})),
        "login_method": conf.broker_login_method,
        "uri_prefix": None,
        "heartbeat": conf.broker_heartbeat,
        "failover_strategy": str(conf.broker_failover_strategy),
        "alternates": [],
        "credential_provider": None,
    }


def _resource_usage() -> dict[str, Any]:
    try:
        import resource
    except ImportError:  # not on Windows
        return {}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    names = (
        "utime stime maxrss ixrss idrss isrss minflt majflt nswap inblock oublock msgsnd msgrcv nsignals "
        "nvcsw nivcsw"
    )
    return {name: getattr(usage, f"ru_{name}") for name in names.split()}


@builtin("inspect")
async def memsample(worker: Commander, **_: Any) -> str:
    """Measure the worker's memory."""
    return f"{_resident_bytes() / 2**20:.2f}MB"


@builtin("inspect", args=(("samples", int),), signature="[n_samples=10]")
async def memdump(worker: Commander, samples: int = 10, **_: Any) -> str:
    """Tell the worker's memory, and that of its pool processes."""
    lines = [f"rss (end): {_resident_bytes() / 2**20:.2f}MB."]
    lines += [f"{pid}: {_resident_bytes(pid) / 2**20:.2f}MB." for pid in worker.pool.pids()[:samples]]
    return "\n".join(lines)


def _resident_bytes(pid: int | str = "self") -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return int(_resource_usage().get("maxrss", 0)) * 1024  # no /proc here: the most it ever was


@builtin(
    "inspect",
    default_timeout=60.0,
    args=(("type", str), ("num", int), ("max_depth", int)),
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
async def objgraph(
    worker: Commander, num: int = 200, max_depth: int = 10, type: str = "Request", **_: Any
) -> dict[str, str]:
    """Draw a graph of the objects of a type; needs the library objgraph."""
    try:
        library = importlib.import_module("objgraph")
    except ImportError:
        raise ImportError("this command needs the library objgraph: pip install objgraph") from None
    logger.info("Dumping graph for type %r", type)
    return await asyncio.to_thread(_draw, library, type, num, max_depth)


def _draw(library: Any, type_name: str, num: int, max_depth: int) -> dict[str, str]:
    with tempfile.NamedTemporaryFile(prefix="objgraph", suffix=".png", delete=False) as file:
        objects = library.by_type(type_name)[:num]
        library.show_backrefs(
            objects, max_depth=max_depth, highlight=lambda each: each in objects, filename=file.name
        )
    return {"filename": file.name}


COMMANDS: Final = (
    ping,
    clock,
    hello,
    report,
    conf,
    query_task,
    scheduled,
    reserved,
    active,
    revoked,
    registered,
    active_queues,
    stats,
    memsample,
    memdump,
    objgraph,
)


def _infos(worker: Commander, jobs: Iterable[Job], *, safe: bool = False) -> list[dict[str, Any]]:
    return [worker.info(job, safe=safe) for job in jobs]


def _eta(job: Job) -> str | None:
    return format_iso(parse_iso(job.header.eta)) if job.header.eta else None


def _plain(value: Any) -> Any:
    """A value that every serializer can write: what is no plain type is shown as text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else repr(value)
