"""The workers and tasks of a fleet, as far as events have told of them. Names and attributes are Celery's."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from umbel.core import states

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from umbel.events.state import State

__all__ = ["HEARTBEAT_DRIFT_MAX", "HEARTBEAT_EXPIRE_WINDOW", "Task", "Worker", "heartbeat_expires"]

#: A worker is gone when this many percent of the time between two heartbeats have passed without one.
HEARTBEAT_EXPIRE_WINDOW: Final = 200
#: Seconds that a worker's clock may differ before a warning.
HEARTBEAT_DRIFT_MAX: Final = 16

#: Event about a task → its state.
TASK_EVENT_TO_STATE: Final = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}


def heartbeat_expires(
    timestamp: float, freq: float = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW
) -> float:
    """When a worker that was heard at ``timestamp`` is to be taken for gone."""
    return float(timestamp) + float(freq) * (expire_window / 100)


class Worker:
    """One worker as its events tell."""

    heartbeat_max = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW
    _fields = (
        "hostname",
        "pid",
        "freq",
        "heartbeats",
        "clock",
        "active",
        "processed",
        "loadavg",
        "sw_ident",
        "sw_ver",
        "sw_sys",
    )

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        self.heartbeats: list[float] = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys
        self._drift_told = False

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in an event: ``online``, ``heartbeat``, ``offline``, or None for one about a task of this worker."""
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
            return
        if not local_received or not timestamp:
            return
        self._watch_drift(timestamp, local_received)
        self.heartbeats.append(local_received)
        self.heartbeats.sort()
        del self.heartbeats[: -self.heartbeat_max]

    def _watch_drift(self, timestamp: float, local_received: float) -> None:
        drift = abs(int(local_received) - int(timestamp))
        if drift > HEARTBEAT_DRIFT_MAX and not self._drift_told:
            self._drift_told = True
            import logging

            logging.getLogger("celery.events.state").warning(
                "Substantial drift from %s may mean clocks are out of sync. Current drift is %s seconds. "
                "[orig: %s recv: %s]",
                self.hostname,
                drift,
                datetime.fromtimestamp(local_received),  # noqa: DTZ006 - the reader's own time
                datetime.fromtimestamp(timestamp),  # noqa: DTZ006
            )

    def update(self, fields: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Set attributes."""
        for name, value in {**(fields or {}), **more}.items():
            setattr(self, name, value)

    @property
    def status_string(self) -> str:
        """``ONLINE`` or ``OFFLINE``."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def heartbeat_expires(self) -> float:
        """When it is to be taken for gone, unless it is heard again."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Whether it was heard lately."""
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def id(self) -> str:
        """Its name and process id."""
        return f"{self.hostname}.{self.pid}"

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, Worker) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname} ({self.status_string} clock:{self.clock})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self._fields)


class Task:
    """One task as its events tell; what no event told is None."""

    name: Any = None
    received: Any = None
    sent: Any = None
    started: Any = None
    succeeded: Any = None
    failed: Any = None
    retried: Any = None
    revoked: Any = None
    rejected: Any = None
    args: Any = None
    kwargs: Any = None
    eta: Any = None
    expires: Any = None
    retries: Any = None
    worker: Any = None
    result: Any = None
    exception: Any = None
    timestamp: Any = None
    runtime: Any = None
    traceback: Any = None
    exchange: Any = None
    routing_key: Any = None
    root_id: Any = None
    parent_id: Any = None
    client: Any = None
    state: str = states.PENDING
    clock: int = 0

    _fields = (
        *(
            "uuid",
            "name",
            "state",
            "received",
            "sent",
            "started",
            "rejected",
            "succeeded",
            "failed",
            "retried",
        ),
        *(
            "revoked",
            "args",
            "kwargs",
            "eta",
            "expires",
            "retries",
            "worker",
            "result",
            "exception",
            "timestamp",
        ),
        *("runtime", "traceback", "exchange", "routing_key", "clock", "client", "root", "root_id", "parent"),
        *("parent_id", "children"),
    )
    #: What an event that comes late may still tell: of the others the later event knows better.
    merge_rules: Mapping[str, tuple[str, ...]] = {
        states.RECEIVED: ("name", "args", "kwargs", "parent_id", "root_id", "retries", "eta", "expires"),
    }
    _info_fields = (
        *("args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange"),
        *("routing_key", "root_id", "parent_id"),
    )

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[str] | None = None,
        **fields: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(known[each] for each in children or () if each in known)
        # ``root`` and ``parent`` are looked up, not kept.
        vars(self).update({name: value for name, value in fields.items() if name not in {"root", "parent"}})

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Take in an event, ``received`` say; one that comes late does not turn the state back."""
        told = dict(fields or {})
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is not None:
            setattr(self, type_, timestamp)
        else:
            state = type_.upper()
        if self._is_late(state):
            keep = self.merge_rules.get(state)
            if keep is not None:
                told = {name: value for name, value in told.items() if name in keep}
        else:
            told.update(state=state, timestamp=timestamp)
        vars(self).update(told)

    def _is_late(self, state: str) -> bool:
        if states.RETRY in {state, self.state}:
            return False
        return states.precedence(state) > states.precedence(self.state)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """What is known, for people."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """Everything, with ids in the place of other tasks."""
        found = {name: getattr(self, name) for name in self._fields if name not in {"root", "parent"}}
        return found | {
            "children": [task.id for task in self.children],
            "root": self.root_id,
            "parent": self.parent_id,
        }

    @property
    def id(self) -> str | None:
        """The task's id."""
        return self.uuid

    @property
    def origin(self) -> Any:
        """The worker's id, or the client that sent it while no worker has it."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in states.READY_STATES

    @property
    def parent(self) -> Task | None:
        """The task that sent it, if that is known."""
        return self._find(self.parent_id)

    @property
    def root(self) -> Task | None:
        """The task that its workflow began with, if that is known."""
        return self._find(self.root_id)

    def _find(self, task_id: str | None) -> Task | None:
        if not task_id or self.cluster_state is None:
            return None
        return self.cluster_state.tasks.get(task_id)

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, Task) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return f"<Task: {self.name}({self.uuid}) {self.state} clock:{self.clock}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _task_again, (type(self), self.as_dict())


def _task_again(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)
