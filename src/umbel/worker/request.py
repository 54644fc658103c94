"""A job as Celery's worker signals show it to their receivers. Made only when a receiver is connected."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from umbel.core.protocol import decode_body, read_envelope
from umbel.errors import ContentDisallowed, DecodeError, InvalidTaskError

if TYPE_CHECKING:
    from umbel.core.protocol import Envelope
    from umbel.execution.job import RunnableTask
    from umbel.worker.ledger import Job

#: Content types that are data and nothing else; the others run code when they are read, which is for pool processes.
_DATA_TYPES: Final = frozenset({"application/json", "application/x-msgpack"})
#: Bodies above this are shown as the text in their headers: the answer is for people.
_MOST_BYTES: Final = 64 * 1024


class Request:
    """The attributes of Celery's ``Request`` that receivers of ``task_received`` and ``task_revoked`` read."""

    def __init__(self, job: Job, hostname: str, accept: frozenset[str] = frozenset()) -> None:
        self._job = job
        self._accept = accept & _DATA_TYPES
        self.hostname = hostname
        header = job.header
        self.id: str = header.id
        self.task_id: str = header.id
        self.task_name: str = header.task
        self.name: str = header.name
        self.root_id = header.root_id
        self.parent_id = header.parent_id
        self.group = header.group
        self.eta = header.eta
        self.expires = header.expires
        self.reply_to = header.reply_to
        self.correlation_id = header.correlation_id
        self.stamped_headers = header.stamped_headers
        self.stamps = header.stamps

    @property
    def task(self) -> RunnableTask:
        """The task that the job runs."""
        return self._job.task

    @property
    def acknowledged(self) -> bool:
        """Whether the delivery was acknowledged already."""
        return self._job.acked

    @property
    def time_start(self) -> float | None:
        """Epoch seconds of its begin, if it has begun and said so."""
        return self._job.started_at or None

    @property
    def worker_pid(self) -> int | None:
        """The pool process that runs it, once that is known."""
        return self._job.pid or None

    @cached_property
    def _envelope(self) -> Envelope:
        return read_envelope(self._job.delivery.payload)

    @property
    def request_dict(self) -> dict[str, Any]:
        """The message's headers."""
        return self._envelope.headers

    @cached_property
    def __payload(self) -> tuple[Any, Any, Any]:
        # By this name: receivers of signals look into the body of Celery's requests where there is no other way.
        return decode_body(self._envelope, self._accept)

    @property
    def errbacks(self) -> list[Any] | None:
        """The error callbacks of the message. Raises ContentDisallowed for a body that only tasks may read."""
        errbacks: list[Any] | None = self.__payload[2]["errbacks"]
        return errbacks

    @property
    def replaced_task_nesting(self) -> int:
        """How often a task was replaced until it was this one."""
        return int(self.request_dict.get("replaced_task_nesting") or 0)

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Where the message came from."""
        info = self._envelope.properties.get("delivery_info") or {}
        return {
            "exchange": info.get("exchange", ""),
            "routing_key": info.get("routing_key", self._job.delivery.queue),
            "priority": self._job.header.priority,
            "redelivered": self._job.delivery.redelivered,
        }

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What remote control says of the job; its arguments as they are, or as text where they are to be ``safe``."""
        args, kwargs = self._arguments(safe=safe)
        return {
            "id": self.id,
            "name": self.name,
            "args": args,
            "kwargs": kwargs,
            "type": self.task_name,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def _arguments(self, *, safe: bool) -> tuple[Any, Any]:
        envelope = self._envelope
        if not safe and len(envelope.body) <= _MOST_BYTES:
            try:
                args, kwargs, _ = decode_body(envelope, self._accept)
            except (ContentDisallowed, DecodeError, InvalidTaskError):
                pass  # the header has them as text
            else:
                return args, kwargs
        return envelope.headers.get("argsrepr"), envelope.headers.get("kwargsrepr")

    def __repr__(self) -> str:
        return f"<Request: {self.name}[{self.id}]>"
