"""The state of a fleet, kept from its events: what monitors show.

Names are Celery's. Memory is bounded: the workers and tasks heard of longest ago are forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

from umbel.core.events import group_of
from umbel.events import members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["State"]

K = TypeVar("K")
V = TypeVar("V")


class Bounded(OrderedDict[K, V], Generic[K, V]):
    """A mapping that forgets the oldest entry beyond ``limit``."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > self.limit:
            self.popitem(last=False)

    @property
    def data(self) -> Bounded[K, V]:
        """Celery's cache has its mapping here."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _bounded, (self.limit, list(self.items()))


def _bounded(limit: int, items: Iterable[tuple[K, V]]) -> Bounded[K, V]:
    made: Bounded[K, V] = Bounded(limit)
    for key, value in items:
        made[key] = value
    return made


class _Index(dict[str, "WeakSet[members.Task]"]):
    """Tasks by name or worker: a mapping to sets, or, called, the tasks in the order of time."""

    def __init__(self, ordered: Callable[..., Iterator[tuple[str, members.Task]]]) -> None:
        super().__init__()
        self._ordered = ordered

    def __missing__(self, key: str) -> WeakSet[members.Task]:
        self[key] = found = WeakSet[members.Task]()
        return found

    def __call__(
        self, key: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, members.Task]]:
        return islice(self._ordered(key, reverse), 0, limit)


class State:
    """Workers and tasks, kept from events.

    Args:
        callback: called with the state and each event first.
        workers, tasks: mappings to begin with.
        max_workers_in_memory, max_tasks_in_memory: beyond these the oldest are forgotten.
        on_node_join, on_node_leave: called with a worker that comes or goes.
    """

    Worker = members.Worker
    Task = members.Task

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], object] | None = None,
        workers: Mapping[str, members.Worker] | None = None,
        tasks: Mapping[str, members.Task] | None = None,
        taskheap: object = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10_000,
        on_node_join: Callable[[members.Worker], object] | None = None,
        on_node_leave: Callable[[members.Worker], object] | None = None,
        **_: Any,
    ) -> None:
        self.event_callback = callback
        self.workers: Bounded[str, members.Worker] = _bounded(max_workers_in_memory, (workers or {}).items())
        self.tasks: Bounded[str, members.Task] = _bounded(max_tasks_in_memory, (tasks or {}).items())
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self.event_count = 0
        self.task_count = 0
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        self.tasks_by_type = _Index(self._of_type)
        self.tasks_by_worker = _Index(self._of_worker)
        self._mutex = threading.Lock()
        self._tasks_to_resolve: Bounded[str, WeakSet[members.Task]] = Bounded(max_tasks_in_memory)
        for task in self.tasks.values():
            self._index(task)

    def event(self, event: dict[str, Any]) -> Any:
        """Take in an event: a pair of the worker or task it is about and whether that is new, and the event's kind."""
        with self._mutex:
            return self._event(event)

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback is not None:
            self.event_callback(self, event)
        group = group_of(event["type"])
        subject = event["type"].partition("-")[2]
        if group in self.handlers:
            return self.handlers[group](subject, event), subject
        if group == "worker":
            return self._worker_event(subject, event)
        if group == "task":
            return self._task_event(subject, event)
        return None

    def _worker_event(self, subject: str, event: dict[str, Any]) -> Any:
        hostname = event.get("hostname")
        if hostname is None:
            return None
        leaves = subject == "offline"
        worker = self.workers.get(hostname)
        created = worker is None and not leaves
        if worker is None:
            worker = self.Worker(hostname)
            if not leaves:
                self.workers[hostname] = worker
        worker.event(subject, event.get("timestamp"), event.get("local_received"), event)
        if self.on_node_join is not None and (created or subject == "online"):
            self.on_node_join(worker)
        if leaves and self.on_node_leave is not None:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return (worker, created), subject

    def _task_event(self, subject: str, event: dict[str, Any]) -> Any:
        uuid, hostname = event["uuid"], event["hostname"]
        received = event.get("local_received")
        task, created = self.get_or_create_task(uuid)
        if subject == "sent":
            task.client = hostname
        else:
            worker, _ = self.get_or_create_worker(hostname)
            task.worker = worker
            worker.event(None, event.get("timestamp"), received)
        if subject == "received":
            self.task_count += 1
        task.event(subject, event.get("timestamp"), received, event)
        self._index(task)
        self._relate(task)
        return (task, created), subject

    def _index(self, task: members.Task) -> None:
        if task.name is not None:
            self.tasks_by_type[task.name].add(task)
            if task.worker is not None:
                self.tasks_by_worker[task.worker.hostname].add(task)

    def _relate(self, task: members.Task) -> None:
        """Make a task known to its parent; one whose parent is not known yet waits for it."""
        if task.parent_id:
            parent = self.tasks.get(task.parent_id)
            if parent is not None:
                parent.children.add(task)
            else:
                self._tasks_to_resolve.setdefault(task.parent_id, WeakSet()).add(task)
        if task.uuid and task.uuid in self._tasks_to_resolve:
            task.children.update(self._tasks_to_resolve.pop(task.uuid))

    def get_or_create_worker(self, hostname: str, **fields: Any) -> tuple[members.Worker, bool]:
        """A worker, and whether it is new."""
        worker = self.workers.get(hostname)
        if worker is not None:
            worker.update(fields)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **fields)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[members.Task, bool]:
        """A task, and whether it is new."""
        task = self.tasks.get(uuid)
        if task is not None:
            return task, False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function while nothing changes; with ``clear_after`` forget everything afterwards."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear(ready=True)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended, or all of them."""
        with self._mutex:
            self._clear_tasks(ready)

    def clear(self, ready: bool = True) -> None:
        """Forget the workers, and the tasks as ``clear_tasks`` does."""
        with self._mutex:
            self._clear(ready)

    def _clear(self, ready: bool) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def _clear_tasks(self, ready: bool) -> None:
        kept = {uuid: task for uuid, task in self.tasks.items() if ready and not task.ready}
        self.tasks.clear()
        self.tasks.update(kept)

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, members.Task]]:
        """Tasks, in the order in which they were heard of."""
        yield from islice(list(self.tasks.items()), 0, limit or None)

    def tasks_by_time(
        self, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, members.Task]]:
        """Tasks in the order of their last events, the newest first."""
        ordered = sorted(
            self.tasks.items(), key=lambda item: (item[1].clock or 0, item[1].timestamp or 0), reverse=reverse
        )
        yield from islice(ordered, 0, limit)

    tasks_by_timestamp = tasks_by_time

    def _of_type(self, name: str, reverse: bool = True) -> Iterator[tuple[str, members.Task]]:
        return ((uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.name == name)

    def _of_worker(self, hostname: str, reverse: bool = True) -> Iterator[tuple[str, members.Task]]:
        return (
            (uuid, task)
            for uuid, task in self.tasks_by_time(reverse=reverse)
            if task.worker is not None and task.worker.hostname == hostname
        )

    def rebuild_taskheap(self) -> None:
        """Nothing to do: tasks are put in order when they are asked for."""

    def task_types(self) -> list[str]:
        """The names of all tasks heard of."""
        return sorted(self.tasks_by_type)

    def alive_workers(self) -> Iterator[members.Worker]:
        """The workers heard lately."""
        return (worker for worker in list(self.workers.values()) if worker.alive)

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.event_callback,
            dict(self.workers),
            dict(self.tasks),
            None,
            self.max_workers_in_memory,
            self.max_tasks_in_memory,
            self.on_node_join,
            self.on_node_leave,
        )
