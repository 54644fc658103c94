"""What a running task knows of its message: ``self.request``, and the stack of the attempts that are running.

A context is made for every job, so making one is nearly free: the message's own headers become its attributes, and
what few tasks read (``delivery_info``, ``headers``, ``time_limit``) is worked out when it is read.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from umbel.core.message import Embed, Tail
    from umbel.execution.job import RunnableTask

V = TypeVar("V")

#: RabbitMQ's record of dead-lettering. Sent along with a retry it would look like a cycle, and the broker drops those.
_X_DEATH = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    }
)


class _Lazy(Generic[V]):
    """An attribute that is worked out on first reading, unless the message brought one of that name."""

    def __init__(self, make: Callable[[Any], V]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, context: None, owner: type) -> None: ...

    @overload
    def __get__(self, context: object, owner: type) -> V: ...

    def __get__(self, context: Any, owner: type) -> V | None:
        if context is None:
            return None
        value = self._make(context)
        vars(context)[self._name] = value
        return value


class Context:
    """The request that a task runs for: Celery's ``self.request``.

    Every header of the message is an attribute, those of other writers included. Attributes of the base class are the
    values of a task that was called as a function. Unknown names raise AttributeError.
    """

    _children: list[Any] | None = None  #: see ``children``
    _protected: int = 0  #: an overridden ``Task.__call__`` is running, and may call the base class's
    _queue: str | None = None  #: where the delivery came from, for messages that do not say
    _redelivered: bool = False
    _tail: Tail | None = None  #: see ``chain``
    args: Any = None
    callbacks: list[Any] | None = None
    called_directly: bool = True
    chord: Mapping[str, Any] | None = None
    errbacks: list[Any] | None = None
    eta: str | None = None
    expires: str | None = None
    group: str | None = None
    group_index: int | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool = False
    is_eager: bool = False
    kwargs: Any = None
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    replaced_task_nesting: int = 0
    retries: int = 0
    root_id: str | None = None
    shadow: str | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    task: str | None = None
    taskset: str | None = None  #: the old name of ``group``
    timelimit: Any = None  #: (hard, soft)
    utc: bool | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.update(*args, **kwargs)

    @_Lazy
    def chain(self) -> list[Any] | None:
        """The steps that follow, the last first."""
        return None if self._tail is None else list(self._tail.steps())

    @property
    def unread_chain(self) -> Tail | None:
        """The chain as it came, while nobody has looked at it, and so nobody has changed it."""
        return None if "chain" in vars(self) else self._tail

    @_Lazy
    def correlation_id(self) -> str | None:
        """The message's correlation id, which is the task's id."""
        return (self.properties or {}).get("correlation_id")

    @_Lazy
    def reply_to(self) -> str | None:
        """Where its caller awaits results, for backends that send them."""
        return (self.properties or {}).get("reply_to")

    @_Lazy
    def delivery_info(self) -> dict[str, Any] | None:
        """Exchange, routing key, priority and ``redelivered``; None when there was no message."""
        properties = self.properties
        if properties is None:
            return None
        info = properties.get("delivery_info")
        if not isinstance(info, dict) or not info.get("routing_key"):
            # Only kombu's form of a message carries its way; the others came through the anonymous exchange.
            info = {"exchange": "", "routing_key": self._queue}
        return {
            "exchange": info.get("exchange"),
            "routing_key": info["routing_key"],
            "priority": properties.get("priority"),
            "redelivered": self._redelivered or bool(info.get("redelivered", False)),
        }

    @_Lazy
    def headers(self) -> dict[str, Any] | None:
        """The custom headers of the message: those that are not the protocol's. None when there are none."""
        custom = {name: value for name, value in vars(self).items() if name not in _PROTOCOL_NAMES}
        return custom or None

    @_Lazy
    def time_limit(self) -> float | None:
        """The message's hard limit, in seconds."""
        return _limit(self.timelimit, 0)

    @_Lazy
    def soft_time_limit(self) -> float | None:
        """The message's soft limit, in seconds."""
        return _limit(self.timelimit, 1)

    @property
    def children(self) -> list[Any]:
        """Handles of the tasks that this one has sent; its trail."""
        if self._children is None:
            self._children = []
        return self._children

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes, given as ``dict.update`` takes them."""
        mine = vars(self)
        before = mine.get("timelimit")
        mine.update(*args, **kwargs)
        if mine.get("timelimit") is not before:
            mine["time_limit"], mine["soft_time_limit"] = _limit(self.timelimit, 0), _limit(self.timelimit, 1)

    def clear(self) -> None:
        """Forget everything; the attributes have the base class's values again."""
        vars(self).clear()

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute ``key``, or ``default``."""
        return getattr(self, key, default)

    def as_execution_options(self) -> dict[str, Any]:
        """The options with which ``apply_async`` would send this request again; the base of a retry."""
        headers = {name: value for name, value in (self.headers or {}).items() if name not in _X_DEATH}
        options = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": self.soft_time_limit,
            "time_limit": self.time_limit,
            "headers": headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamps is not None and self.stamped_headers is not None:
            options["stamped_headers"] = self.stamped_headers
            options.update(
                (name, value) for name, value in self.stamps.items() if name in self.stamped_headers
            )
        return options

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


#: Names that are not custom headers: every attribute of a context, and the headers that are only for brokers and logs.
_PROTOCOL_NAMES = frozenset(vars(Context)) | {"lang", "argsrepr", "kwargsrepr", "compression", "redelivered"}


def _limit(timelimit: Any, index: int) -> float | None:
    if not isinstance(timelimit, (list, tuple)) or len(timelimit) < 2:
        return None
    limit: float | None = timelimit[index]
    return limit


def message_context(
    headers: dict[str, Any],
    properties: dict[str, Any],
    args: Any,
    kwargs: Any,
    embed: Embed,
    hostname: str,
    queue: str,
    redelivered: bool,
    tail: Tail | None = None,
) -> Context:
    """The context of one job. ``headers`` becomes part of it and must not be used for anything else."""
    context = Context.__new__(Context)
    headers.update(embed)
    if tail is not None:
        del headers["chain"]
        headers["_tail"] = tail
    headers["args"] = args
    headers["kwargs"] = kwargs
    headers["properties"] = properties
    headers["hostname"] = hostname
    headers["called_directly"] = False
    headers["is_eager"] = False
    headers["_queue"] = queue
    if not headers.get("retries"):
        # Other writers leave it out, or say null; tasks count with it.
        headers["retries"] = 0
    if redelivered:
        headers["_redelivered"] = True
    context.__dict__ = headers
    return context


def ignores_result(task: RunnableTask, context: Context) -> bool:
    """Whether the result is of no interest: the message decides, and the task where the message is silent."""
    ignored = vars(context).get("ignore_result")
    return bool(task.ignore_result if ignored is None else ignored)


def display_name(task_name: str, context: Context) -> str:
    """The name to show in logs: the shadow of the call, if it has one."""
    return context.shadow or task_name


#: The innermost attempt of a thread or coroutine and, behind it, those that run it: (task, context, previous).
_Stack = tuple["RunnableTask", Context, Any]
_stack: ContextVar[_Stack | None] = ContextVar("umbel_attempts", default=None)


def push(task: RunnableTask, context: Context) -> None:
    """Enter an attempt: ``task`` is the current task, and ``context`` its request, until ``pop``."""
    _stack.set((task, context, _stack.get()))


def pop() -> Context | None:
    """Leave the innermost attempt; gives its context, None when nothing was running."""
    top = _stack.get()
    if top is None:
        return None
    _stack.set(top[2])
    return top[1]


def current() -> Context | None:
    """The context of the innermost attempt."""
    top = _stack.get()
    return None if top is None else top[1]


def current_task() -> RunnableTask | None:
    """The task of the innermost attempt."""
    top = _stack.get()
    return None if top is None else top[0]


def current_worker_task() -> RunnableTask | None:
    """The innermost task that runs because of a message, not because another called it as a function."""
    node = _stack.get()
    while node is not None:
        if not node[1].called_directly:
            return node[0]
        node = node[2]
    return None


def context_of(task: RunnableTask) -> Context | None:
    """The context of the innermost attempt at ``task``; None when it is not running."""
    node = _stack.get()
    while node is not None:
        if node[0] is task:
            return node[1]
        node = node[2]
    return None


def depth_of(task: RunnableTask) -> int:
    """How many attempts at ``task`` are running inside one another."""
    depth, node = 0, _stack.get()
    while node is not None:
        depth += node[0] is task
        node = node[2]
    return depth
