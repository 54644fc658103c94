"""What execution needs of a task and of an application, said as protocols: both stand in layers above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from umbel.brokers.base import Broker
    from umbel.core.records import Publication
    from umbel.results.base import ResultBackend


class RunnableTask(Protocol):
    """A registered task as one attempt sees it. Attributes have Celery's names and meanings."""

    name: str
    throws: Any
    ignore_result: bool
    acks_late: bool
    acks_on_failure: bool | None
    acks_on_timeout: bool | None
    acks_on_failure_or_timeout: bool | None
    reject_on_worker_lost: bool | None
    retry_on_worker_lost: bool | None
    quarantine_after: int
    dead_letter_failed: bool
    dead_letter_expired: bool
    max_retries: int | None
    default_retry_delay: float
    store_errors_even_if_ignored: bool
    track_started: bool
    time_limit: float | None
    soft_time_limit: float | None
    resultrepr_maxsize: int
    trail: bool
    #: Whether ``__call__`` is overridden, so that it has to be called rather than ``run``.
    custom_call: bool
    #: Names of the handlers that are overridden, of ``before_start``, ``on_success``, ``on_failure``, ``on_retry`` and
    #: ``after_return``; the others are not called.
    _hooks: frozenset[str]

    @property
    def run(self) -> Callable[..., Any]:
        """The body; with automatic retries around it where the task asks for them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body in this process, as a function."""

    def signature_from_request(self, request: Any = None, **options: Any) -> Mapping[str, Any]:
        """The signature that would send the run again, with these options of ``apply_async``."""

    def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called before the body."""

    def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
        """Called when the body has returned."""

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task has failed."""

    def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when the task is to be tried again."""

    def after_return(
        self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called last, when the task has returned or failed."""


class ExecutionConf(Protocol):
    """The settings that execution reads, by Celery's names. Read once, when a runner is made."""

    @property
    def result_serializer(self) -> str:
        """How result documents are written."""

    @property
    def result_compression(self) -> str | None:
        """How result documents are compressed; None: not at all."""

    @property
    def result_extended(self) -> bool:
        """Whether result documents say what was called."""

    @property
    def accept_content(self) -> Iterable[str]:
        """Names of what may be read."""

    @property
    def result_accept_content(self) -> Iterable[str] | None:
        """The same of results; None: as ``accept_content``."""

    @property
    def result_chord_join_timeout(self) -> float | None:
        """Seconds to wait for results that a chord's body gets and that were no parts of it."""

    @property
    def task_default_queue(self) -> str:
        """The queue of tasks that no route sends elsewhere."""

    @property
    def broker_transport_options(self) -> Mapping[str, Any] | None:
        """Options of the broker."""

    @property
    def task_inherit_parent_priority(self) -> bool:
        """Whether what follows a task has its priority."""

    @property
    def worker_deduplicate_successful_tasks(self) -> bool:
        """Whether a redelivered job looks whether its result is there already."""


class ExecutionApp(Protocol):
    """An application as its pool processes see it. Safe for use by several threads."""

    @property
    def tasks(self) -> Mapping[str, RunnableTask]:
        """Every registered task by name."""

    @property
    def conf(self) -> ExecutionConf:
        """The settings."""

    @property
    def accept(self) -> frozenset[str]:
        """Content types of bodies that may be decoded (``accept_content``)."""

    @property
    def backend(self) -> ResultBackend:
        """Where results are kept."""

    @property
    def broker(self) -> Broker:
        """Where messages are sent and come from."""

    @property
    def lifespans(self) -> Sequence[Callable[[Any], AbstractAsyncContextManager[Any]]]:
        """What is entered on each event loop that runs its tasks, given the application."""

    def prepare(self, signature: Mapping[str, Any]) -> Publication:
        """The publication that ``apply_async`` of a complete signature would send, without sending it.

        The signature has its JSON form: ``task``, ``args``, ``kwargs`` and ``options``, where the options are those of
        ``apply_async`` (``task_id``, ``root_id``, ``parent_id``, ``chain``, ``link``, ``eta``, ``retries`` …).
        ``before_task_publish`` is sent. Raises EncodeError and whatever routing raises.
        """
