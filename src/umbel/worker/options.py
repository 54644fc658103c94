"""What one worker was asked to be: arguments over settings, resolved once before it starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from umbel.config.config import Settings


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Every choice of a worker. Durations in seconds, memory in KiB."""

    hostname: str
    pool: str = "prefork"
    concurrency: int = 1
    autoscale: tuple[int, int] | None = None  #: slots at most and at least; None: always ``concurrency``
    slots: int = 100  #: of each process of the asyncio pool
    loop_block_timeout: float = 1.0
    queues: tuple[str, ...] = ()  #: empty: every queue of ``task_queues``
    exclude_queues: tuple[str, ...] = ()
    prefetch_multiplier: int = 4
    time_limit: float | None = None
    soft_time_limit: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    max_age_per_child: float | None = None
    age_jitter: float = 0.2  #: part of ``max_age_per_child`` by which a process's time may be shorter
    start_method: Literal["fork", "spawn"] = "fork"
    start_timeout: float = 4.0
    #: Log records of pool processes from this level on are handled in the worker's process; None: in their own.
    log_level: int | None = None
    purge: bool = False
    state_db: str | None = None  #: path of the state file, see ``statedb``
    task_events: bool = False
    heartbeat_interval: float = 2.0  #: seconds between heartbeat events while somebody watches; 0: none
    elections: bool = True  #: take part in elections among workers
    lease: float = 10.0
    brief_seconds: float = 0.001
    reserve_seconds: float = 0.05
    park_after: float = 5.0
    soft_shutdown_timeout: float = 0.0
    soft_shutdown_on_idle: bool = False


#: Pools whose slots are not scaled: there is one, or they cost nothing.
_FIXED_POOLS: Final = frozenset({"solo", "asyncio"})
#: Seconds for a pool process that starts from nothing to import the application, where nothing was said.
SPAWN_TIMEOUT: Final = 60.0

#: Constructor argument → the setting it stands over.
_SETTINGS: Final = {
    "pool": "worker_pool",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
    "max_tasks_per_child": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
    "max_age_per_child": "worker_max_age_per_child",
    "age_jitter": "worker_age_jitter",
    "start_method": "worker_pool_start_method",
    "start_timeout": "worker_proc_alive_timeout",
    "slots": "worker_slots",
    "loop_block_timeout": "worker_loop_block_timeout",
    "task_events": "worker_send_task_events",
    "state_db": "worker_state_db",
    "lease": "worker_lease_duration",
    "park_after": "worker_delay_threshold",
    "soft_shutdown_timeout": "worker_soft_shutdown_timeout",
    "soft_shutdown_on_idle": "worker_enable_soft_shutdown_on_idle",
}


def resolve(conf: Settings, given: dict[str, Any]) -> WorkerOptions:
    """Options from what was given and, where nothing was, from the settings.

    Raises ValueError for a concurrency that is no positive number or ``auto``.
    """
    fields: dict[str, Any] = {name: conf[setting] for name, setting in _SETTINGS.items()}
    fields.update({name: value for name, value in given.items() if value is not None})
    _choose_start(conf, given, fields)
    fields["autoscale"] = scale_bounds(fields.get("autoscale"))
    fields["concurrency"] = _choose_size(conf, fields)
    fields["hostname"] = node_name(fields.get("hostname"))
    fields["queues"] = names(fields.get("queues"))
    fields["exclude_queues"] = names(fields.get("exclude_queues"))
    if fields.pop("without_heartbeat", False):
        fields["heartbeat_interval"] = 0.0
    fields["elections"] = not fields.pop("without_gossip", False)
    if conf.worker_disable_prefetch:
        fields["prefetch_multiplier"] = 1
    for name, value in fields.items():
        if value is None and name in _DEFAULTS:
            fields[name] = _DEFAULTS[name]
    return WorkerOptions(**fields)


def _choose_size(conf: Settings, fields: dict[str, Any]) -> int:
    """The slots to begin with: where they are scaled, the fewest; all where that pool's slots cannot be."""
    if fields["autoscale"] is None:
        return concurrency(fields.get("concurrency") or conf.worker_concurrency)
    most, fewest = fields["autoscale"]
    if fields["pool"] not in _FIXED_POOLS:
        return int(fewest)
    fields["autoscale"] = None
    return int(most)


def scale_bounds(value: str | Sequence[int] | None) -> tuple[int, int] | None:
    """The most and the fewest slots of ``MAX,MIN`` or ``MAX``, in any order; one at least.

    Raises ValueError for what says neither.
    """
    if not value:
        return None
    try:
        numbers = sorted(int(part) for part in (value.split(",") if isinstance(value, str) else value))
    except ValueError:
        numbers = []
    if len(numbers) not in {1, 2} or numbers[0] < 0 or numbers[-1] < 1:
        raise ValueError(f"autoscale: expected MAX or MAX,MIN, got {value!r}")
    return numbers[-1], max(1, numbers[0]) if len(numbers) == 2 else 1


def _choose_start(conf: Settings, given: dict[str, Any], fields: dict[str, Any]) -> None:
    """How pool processes are started, and for how long they are waited for."""
    if fields["pool"] in {"gevent", "eventlet"}:
        fields["start_method"] = "spawn"  # what is to be patched must not have been imported
    if fields["start_method"] == "forkserver":
        fields["start_method"] = "fork"  # which forks from a clean template: the same idea
    timed = given.get("start_timeout") is not None or conf.value_set_for("worker_proc_alive_timeout")
    if fields["start_method"] == "spawn" and not timed:
        fields["start_timeout"] = SPAWN_TIMEOUT


_DEFAULTS: Final = {
    field.name: field.default
    for field in msgspec.structs.fields(WorkerOptions)
    if field.default is not msgspec.NODEFAULT and field.default is not None
}


def names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Queue names from ``a,b`` or a sequence."""
    if not value:
        return ()
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip() for part in parts if part.strip())


def node_name(template: str | None) -> str:
    """The worker's name: ``celery@<host>`` by default; ``%h`` is the host, ``%n`` its first part, ``%d`` its domain.

    As in Celery, text without ``@`` is the host's part: ``w1`` is ``celery@w1``, and ``w1@`` is ``w1@<host>``.
    """
    here = socket.gethostname()
    name, sign, host = (template or "").partition("@")
    if not sign:
        name, host = "", name
    return expand(f"{name or 'celery'}@{host or here}", here)


def expand(template: str, name: str, process: int | None = 0) -> str:
    """Fill in ``%h``, ``%n``, ``%d``, ``%p`` (the name itself) and ``%%`` for a host name or node name.

    ``%i`` is the number of a pool process, and ``%I`` the same after a dash; ``0`` and nothing in the worker itself.
    Both stay as they are where ``process`` is None.
    """
    node, _, host = name.rpartition("@")
    short, _, domain = host.partition(".")
    values = {
        "%h": host,
        "%n": node or short,
        "%d": domain,
        "%p": name,
        "%i": "%i" if process is None else str(process),
        "%I": "%I" if process is None else f"-{process}" if process else "",
        "%%": "%",
    }
    result, i = [], 0
    while i < len(template):
        pair = template[i : i + 2]
        if pair in values:
            result.append(values[pair])
            i += 2
        else:
            result.append(template[i])
            i += 1
    return "".join(result)


def concurrency(value: int | str | None) -> int:
    """Slots: a number, ``auto`` (what the control group allows), or None (the CPUs this process may run on)."""
    if value is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if value == "auto":
        return available_cpus()
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f'concurrency: expected a positive number or "auto", got {value!r}')
    return number


def available_cpus(cgroup: str = "/sys/fs/cgroup") -> int:
    """CPUs this process may use: its affinity, or less where a control group (v2 or v1) grants less; at least one."""
    cpus = concurrency(None)
    quota = cgroup_cpus(cgroup)
    return max(1, min(cpus, int(quota))) if quota else cpus


def cgroup_cpus(root: str = "/sys/fs/cgroup") -> float | None:
    """The CPUs that the control group grants, parts of one included; None where it sets no limit."""
    version_2 = _read(f"{root}/cpu.max").split()
    if len(version_2) == 2 and version_2[0] != "max":
        return int(version_2[0]) / int(version_2[1])
    quota, period = _read(f"{root}/cpu/cpu.cfs_quota_us"), _read(f"{root}/cpu/cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        return int(quota) / int(period)
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""
