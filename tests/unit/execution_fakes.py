"""Tasks and an application small enough to see through, with the attributes that execution asks for."""

from __future__ import annotations

from time import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from umbel.core.clock import BrokerClock
from umbel.core.destination import Destination
from umbel.core.message import Call
from umbel.core.protocol import build_message, encode, pack_kombu
from umbel.core.records import Publication, ResultRecord
from umbel.core.serializers import accept_set
from umbel.core.times import utc_iso
from umbel.pools.base import Work
from umbel.results.handles import AsyncResult, GroupResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


class FakeTask:
    """A task made of a function, with Celery's defaults."""

    ignore_result = False
    acks_late = False
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    acks_on_failure_or_timeout: bool | None = True
    reject_on_worker_lost: bool | None = None
    retry_on_worker_lost: bool | None = None
    quarantine_after = 3
    dead_letter_failed = False
    dead_letter_expired = False
    store_errors_even_if_ignored = False
    track_started = False
    time_limit: float | None = None
    soft_time_limit: float | None = None
    resultrepr_maxsize = 1024
    trail = True
    throws: Any = ()
    custom_call = False
    max_retries: int | None = 3
    default_retry_delay = 180
    _hooks: frozenset[str] = frozenset()

    def __init__(self, function: Callable[..., Any], name: str = "fakes.task", **options: Any) -> None:
        self.run: Any = function
        self.name = name
        self.told: list[tuple[Any, ...]] = []
        vars(self).update(options)

    def listen(self) -> FakeTask:
        """Have every handler called."""
        self._hooks = frozenset({"before_start", "on_success", "on_failure", "on_retry", "after_return"})
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)

    def signature_from_request(self, request: Any = None, **options: Any) -> dict[str, Any]:
        return signature_of(self.name, *request.args, task_id=request.id, **options)

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        self.told.append(("before_start", task_id))

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        self.told.append(("on_success", retval))

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        self.told.append(("on_failure", exc, einfo))

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        self.told.append(("on_retry", exc, einfo))

    def after_return(
        self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.told.append(("after_return", status, retval, einfo))


class FakeConf:
    """The settings that execution reads."""

    result_serializer = "json"
    result_compression: str | None = None
    result_extended = False
    result_accept_content: list[str] | None = None
    accept_content = ["json"]
    task_inherit_parent_priority = False
    task_default_queue = "celery"
    broker_transport_options: dict[str, Any] | None = None
    result_chord_join_timeout: float | None = 3.0
    worker_deduplicate_successful_tasks = False
    task_protocol = 2

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)


class FakeBackend:
    """Documents in a dictionary. ``arrivals`` are what a wait sees, after what is there."""

    store = ""
    display_url = "fake://"
    native_chords = False

    def __init__(self, serializer: str = "json", stores_results: bool = True) -> None:
        self.serializer = serializer
        self.stores_results = stores_results
        self.documents: dict[str, bytes] = {}
        self.saved: list[ResultRecord] = []
        self.arrivals: list[ResultRecord] = []
        self.loads = 0
        self.waits: list[list[str]] = []

    def save(self, records: Sequence[ResultRecord]) -> None:
        self.saved += records
        self.documents.update((record.task_id, record.document) for record in records)

    def load(self, task_ids: Sequence[str]) -> list[bytes | None]:
        self.loads += 1
        return [self.documents.get(task_id) for task_id in task_ids]

    def forget(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self.documents.pop(task_id, None)

    def expect(self, task_ids: Sequence[str]) -> None:
        pass

    def close(self) -> None:
        pass

    async def asave(self, records: Sequence[ResultRecord]) -> None:
        self.save(records)

    async def aload(self, task_ids: Sequence[str]) -> list[bytes | None]:
        return self.load(task_ids)

    async def await_(self, task_ids: Iterable[str], timeout: float | None) -> Any:
        for arrival in self.wait(task_ids, timeout):
            yield arrival

    def wait(self, task_ids: Iterable[str], timeout: float | None) -> Iterator[tuple[str, bytes]]:
        from umbel.core.states import READY_STATES
        from umbel.errors import TimeoutError
        from umbel.results.documents import read_document

        missing = list(task_ids)
        self.waits.append(list(missing))
        there = [(task_id, self.documents[task_id]) for task_id in missing if task_id in self.documents]
        while missing:
            if not there:
                if not self.arrivals:
                    raise TimeoutError("nothing more arrives")
                record = self.arrivals.pop(0)
                self.save([record])
                there = [(record.task_id, record.document)]
            task_id, data = there.pop(0)
            if task_id in missing:
                if read_document(data, self.serializer)["status"] in READY_STATES:
                    missing.remove(task_id)
                yield task_id, data


class FakeControl:
    """Takes down what it is asked."""

    def __init__(self) -> None:
        self.revoked: list[tuple[Any, dict[str, Any]]] = []

    def revoke(self, task_id: Any, **options: Any) -> None:
        self.revoked.append((task_id, options))


class FakeApp:
    """Tasks, settings and a backend; publications go to one queue."""

    def __init__(self, *tasks: FakeTask, backend: FakeBackend | None = None, **settings: Any) -> None:
        self.tasks: dict[str, Any] = {task.name: task for task in tasks}
        self.conf = FakeConf(**settings)
        self.accept = accept_set(["json"])
        self.backend = backend or FakeBackend(self.conf.result_serializer)
        self.broker = SimpleNamespace(clock=BrokerClock())
        self.control = FakeControl()
        self.prepared: list[dict[str, Any]] = []
        self.thread_oid = "oid"

    def AsyncResult(  # noqa: N802 -- Celery's name
        self, task_id: str
    ) -> AsyncResult[Any]:
        return AsyncResult(task_id)

    def GroupResult(self, group_id: str, results: list[Any]) -> GroupResult:  # noqa: N802 -- Celery's name
        return GroupResult(group_id, results)

    def prepare(self, signature: Mapping[str, Any]) -> Publication:
        self.prepared.append(dict(signature))
        options = signature["options"]
        call = Call(
            signature["task"],
            options["task_id"],
            signature["args"],
            signature["kwargs"],
            eta=options.get("eta")
            or (utc_iso(time() + options["countdown"]) if "countdown" in options else None),
            retries=options.get("retries", 0),
            root_id=options.get("root_id"),
            parent_id=options.get("parent_id"),
            chain=options.get("chain"),
            custom_headers=options.get("headers"),
            callbacks=options.get("link"),
        )
        queue = options.get("queue", "celery")
        destination = Destination("", queue, queue)
        return Publication(destination, pack_kombu(encode(build_message(call), "json", None), destination))


def payload_of(task: str, *args: Any, task_id: str = "id-1", **call: Any) -> bytes:
    """A payload as a client of Celery's would send it."""
    message = build_message(Call(task, task_id, args, **call))
    return pack_kombu(encode(message, "json", None), Destination("", "celery", "celery"))


def work_of(task: str, *args: Any, task_id: str = "id-1", redelivered: bool = False, **call: Any) -> Work:
    """A job of that payload."""
    return Work(7, payload_of(task, *args, task_id=task_id, **call), "celery", redelivered)


def signature_of(task: str, *args: Any, immutable: bool = False, **options: Any) -> dict[str, Any]:
    """A signature in its JSON form."""
    return {
        "task": task,
        "args": list(args),
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": immutable,
    }


__all__ = [
    "FakeApp",
    "FakeBackend",
    "FakeConf",
    "FakeControl",
    "FakeTask",
    "payload_of",
    "signature_of",
    "work_of",
]
