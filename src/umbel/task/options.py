"""The options of ``@app.task`` and of ``apply_async``, for type checkers and for catching misspelt names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    from umbel.canvas.signature import Signature

__all__ = ["ApplyOptions", "Links", "TaskOptions", "check_option_names"]

#: What ``link`` and ``link_error`` take: one signature or several, as signatures or in their JSON form.
Links: TypeAlias = "Signature | Mapping[str, Any] | Sequence[Signature | Mapping[str, Any]] | None"


class DeliveryOptions(TypedDict, total=False):
    """What a task may fix for all its messages and a call for one. Durations are seconds."""

    queue: Any
    exchange: Any
    exchange_type: str | None
    routing_key: str | None
    priority: int | None
    expires: float | timedelta | datetime | str | None
    serializer: str | None
    compression: str | None
    delivery_mode: int | str | None
    time_limit: float | None
    soft_time_limit: float | None
    ignore_result: bool | None
    immediate: bool
    mandatory: bool


class TaskOptions(DeliveryOptions, total=False):
    """The options of ``@app.task``; each becomes an attribute of the task.

    Attributes of the user's own are passed to a base class, or set on the task: they are unknown to type checkers.
    """

    name: str | None
    base: type[Any] | None
    typing: bool | None
    shared: bool
    lazy: bool
    filter: Callable[[Any], Any] | None
    max_retries: int | None
    default_retry_delay: float
    rate_limit: str | float | None
    trail: bool
    send_events: bool
    store_errors_even_if_ignored: bool | None
    track_started: bool | None
    store_eager_result: bool | None
    acks_late: bool | None
    acks_on_failure: bool | None
    acks_on_timeout: bool | None
    acks_on_failure_or_timeout: bool | None
    reject_on_worker_lost: bool | None
    retry_on_worker_lost: bool | None
    quarantine_after: int | None
    dead_letter_failed: bool | None
    dead_letter_expired: bool | None
    throws: type[BaseException] | Sequence[type[BaseException]]
    resultrepr_maxsize: int
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    before_start: Callable[..., Any]
    on_success: Callable[..., Any]
    on_failure: Callable[..., Any]
    on_retry: Callable[..., Any]
    after_return: Callable[..., Any]
    shadow_name: Callable[..., str | None]
    pydantic: bool
    pydantic_strict: bool
    pydantic_context: dict[str, Any] | None
    pydantic_dump_kwargs: dict[str, Any] | None


class ApplyOptions(DeliveryOptions, total=False):
    """The options of ``apply_async`` that have no parameter of their own. Durations are seconds."""

    countdown: float | timedelta | None
    eta: datetime | str | None
    headers: Mapping[str, Any] | None
    retry: bool | None
    retry_policy: Mapping[str, Any] | None
    timeout: float | None
    add_to_parent: bool
    connection: Any
    publisher: Any
    router: Any
    route_name: str | None
    result_cls: Any
    retries: int
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    group_index: int | None
    chord: Any
    chain: Any
    reply_to: str | None
    replaced_task_nesting: int
    argsrepr: str | None
    kwargsrepr: str | None
    origin: str | None
    stamped_headers: Sequence[str] | None
    app_id: str
    user_id: str
    type: str
    message_id: str
    timestamp: float


_TASK_OPTIONS = frozenset(TaskOptions.__annotations__) | frozenset(DeliveryOptions.__annotations__) | {"bind"}
_APPLY_OPTIONS = (
    frozenset(ApplyOptions.__annotations__)
    | frozenset(DeliveryOptions.__annotations__)
    | {"task_id", "producer", "link", "link_error", "shadow"}
)


def check_option_names(names: Iterable[str], known_attributes: Iterable[str] = ()) -> None:
    """Refuse the options of ``@app.task`` that look like a known one misspelt.

    Other unknown names pass: they become attributes of the task, as in Celery.

    Raises:
        TypeError: names the option and the one that was probably meant.
    """
    allowed = _TASK_OPTIONS.union(known_attributes)
    for name in names:
        if name in allowed or name.startswith("_"):
            continue
        # Rare: attributes of the user's own.
        import difflib

        near = difflib.get_close_matches(name, _TASK_OPTIONS, n=1, cutoff=0.8)
        if near:
            raise TypeError(f"task option {name!r} is unknown; did you mean {near[0]!r}?")
