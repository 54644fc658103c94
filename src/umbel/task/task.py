"""``Task``: a function that can be called here, or sent to run elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from umbel.canvas.signature import Signature
from umbel.errors import MaxRetriesExceededError, OperationalError, Reject, Retry
from umbel.execution.autoretry import with_autoretry
from umbel.execution.context import Context, context_of, current, depth_of, pop, push
from umbel.registry import unpickle_task
from umbel.results.waiting import denied_join_result
from umbel.state import get_current_app
from umbel.task.bulk import plain_arguments, split_calls
from umbel.task.handlers import HANDLERS, Handlers
from umbel.task.plan import MESSAGE_OPTIONS, Plan
from umbel.task.retrying import plan_retry, signature_from_request
from umbel.task.telling import Telling
from umbel.task.workflows import Workflows

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Unpack

    from umbel.app import Umbel
    from umbel.client.client import Work
    from umbel.results.base import ResultBackend
    from umbel.results.handles import AsyncResult as Handle
    from umbel.results.handles import EagerResult
    from umbel.task.options import ApplyOptions, Links

__all__ = ["AsyncTask", "Task"]

P = ParamSpec("P")
R = TypeVar("R")


class Task(Handlers, Telling, Workflows, Generic[P, R]):
    """A task: its body is ``run``, its options are attributes.

    ``@app.task`` makes one from a function. A class of one's own is registered with ``app.register_task``, or given
    as ``base=`` to share behaviour between functions. A task is one object for all its runs, in every thread: what
    belongs to one run is in ``self.request``.

    ``P`` are the parameters of the body and ``R`` is what its result is.
    """

    # What a user may set, here or as options of @app.task. Durations are seconds. None means: as the settings say.

    name: str = ""  #: made from the module and the function when it is not given
    typing: bool | None = (
        None  #: check arguments before sending; None: as the application's ``strict_typing``
    )
    max_retries: int | None = 3  #: None: without limit
    default_retry_delay: float = 180
    rate_limit: Any = None  #: ``task_default_rate_limit``
    ignore_result: bool = cast("bool", None)  #: ``task_ignore_result``
    trail: bool = True  #: keep the tasks that it sends as ``result.children``
    send_events: bool = True
    store_errors_even_if_ignored: bool = cast("bool", None)  #: ``task_store_errors_even_if_ignored``
    serializer: str = cast("str", None)  #: ``task_serializer``
    time_limit: float | None = None  #: ``task_time_limit``
    soft_time_limit: float | None = None  #: ``task_soft_time_limit``
    track_started: bool = cast("bool", None)  #: ``task_track_started``
    store_eager_result: bool = cast("bool", None)  #: ``task_store_eager_result``
    acks_late: bool = cast("bool", None)  #: ``task_acks_late``
    acks_on_failure_or_timeout: bool | None = None  #: ``task_acks_on_failure_or_timeout``
    acks_on_failure: bool | None = None  #: ``task_acks_on_failure``, else ``acks_on_failure_or_timeout``
    acks_on_timeout: bool | None = None  #: ``task_acks_on_timeout``, else ``acks_on_failure_or_timeout``
    reject_on_worker_lost: bool | None = None  #: ``task_reject_on_worker_lost``
    retry_on_worker_lost: bool | None = None  #: ``task_retry_on_worker_lost``
    quarantine_after: int = cast("int", None)  #: ``task_quarantine_after``
    dead_letter_failed: bool = cast("bool", None)  #: ``dead_letter_failed``
    dead_letter_expired: bool = cast("bool", None)  #: ``dead_letter_expired``
    throws: Any = ()  #: errors that are part of normal operation: logged without traceback
    expires: Any = None
    priority: int | None = None  #: ``task_default_priority``
    autoretry_for: Any = ()  #: errors after which the task retries itself
    dont_autoretry_for: Any = ()  #: exceptions to that
    retry_kwargs: Mapping[str, Any] = {}  #: arguments of ``retry`` for that
    retry_backoff: bool | float = False  #: seconds before the first such retry, doubled for each; True is 1
    retry_backoff_max: float = 600
    retry_jitter: bool = True  #: draw the delay evenly from 0 up to that
    resultrepr_maxsize: int = 1024  #: characters of a result shown in logs and events
    queue: Any = None
    exchange: Any = None
    exchange_type: str | None = None
    routing_key: str | None = None
    delivery_mode: Any = None
    compression: str | None = None
    immediate: bool | None = None
    mandatory: bool | None = None
    abstract: bool = True

    #: (attribute, setting) of the attributes that a setting fills in when they are None.
    from_config: ClassVar[tuple[tuple[str, str], ...]] = (
        ("serializer", "task_serializer"),
        ("rate_limit", "task_default_rate_limit"),
        ("priority", "task_default_priority"),
        ("time_limit", "task_time_limit"),
        ("soft_time_limit", "task_soft_time_limit"),
        ("track_started", "task_track_started"),
        ("acks_late", "task_acks_late"),
        ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
        ("acks_on_failure", "task_acks_on_failure"),
        ("acks_on_timeout", "task_acks_on_timeout"),
        ("reject_on_worker_lost", "task_reject_on_worker_lost"),
        ("retry_on_worker_lost", "task_retry_on_worker_lost"),
        ("quarantine_after", "task_quarantine_after"),
        ("dead_letter_failed", "dead_letter_failed"),
        ("dead_letter_expired", "dead_letter_expired"),
        ("ignore_result", "task_ignore_result"),
        ("store_eager_result", "task_store_eager_result"),
        ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
    )

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    #: Called with a call's arguments before it is sent; raises TypeError when they do not fit. None: no check.
    __header__: Callable[..., Any] | None = None
    __bound__: bool = False

    # What execution reads.
    custom_call: bool = False
    _hooks: frozenset[str] = frozenset()
    #: Whether ``shadow_name`` is overridden, so that each call has to be looked at.
    names_shadows: bool = False

    @property
    def sends_its_own_way(self) -> bool:
        """Whether ``apply_async`` is overridden or replaced, so that it has to be called for each message."""
        return type(self).apply_async is not _apply_async or "apply_async" in vars(self)

    #: Makes data of the pydantic models among a call's arguments; None: there are none.
    _dump_arguments: Callable[..., tuple[Any, Any]] | None = None

    _app: Any = None
    _backend: Any = None
    _plan: Plan | None = None
    _default_request: Context | None = None
    _exec_options: dict[str, Any] | None = None

    # Belonging to an application.

    @property
    def app(self) -> Umbel:
        """The application; a task that belongs to none yet answers the current one."""
        app: Umbel = self._app or get_current_app()
        return app

    @app.setter
    def app(self, app: Umbel) -> None:
        self._app = app

    def _get_app(self) -> Umbel:
        """As ``app``, by the name under which packages such as celery-once ask for it."""
        return self.app

    @property
    def backend(self) -> ResultBackend:
        """Where its results are kept: the application's result backend, unless it was given another."""
        backend: ResultBackend = self._backend or self.app.backend
        return backend

    @backend.setter
    def backend(self, backend: ResultBackend | None) -> None:
        self._backend = backend

    def bind(self, app: Umbel) -> Umbel:
        """Take what was left open from the application's settings. The application does this when it is finalized."""
        first, self.__bound__ = not self.__bound__, True
        self._app = app
        self._plan = self._exec_options = None
        conf = app.conf
        if self.typing is None:
            self.typing = app.strict_typing
        for attribute, setting in self.from_config:
            if getattr(self, attribute, None) is None:
                setattr(self, attribute, conf.get(setting))
        joint = self.acks_on_failure_or_timeout is not False
        self.acks_on_failure = joint if self.acks_on_failure is None else self.acks_on_failure
        self.acks_on_timeout = joint if self.acks_on_timeout is None else self.acks_on_timeout
        if first:
            self.annotate()
        with_autoretry(self)
        self._note_overrides()
        self.on_bound(app)
        return app

    def on_bound(self, app: Umbel) -> None:
        """Called when the task has been bound to an application; for subclasses."""

    def annotate(self) -> None:
        """Set what ``task_annotations`` says of this task; a key ``@name`` wraps the method of that name."""
        for annotation in self.app.annotations_for(self):
            for key, value in annotation.items():
                if key.startswith("@"):
                    self.add_around(key[1:], value)
                else:
                    setattr(self, key, value)

    def add_around(self, attr: str, around: Callable[[Any], Any]) -> None:
        """Wrap a method: ``around(method)`` takes its place."""
        setattr(self, attr, around(getattr(self, attr)))

    def _note_overrides(self) -> None:
        cls, mine = type(self), vars(self)
        self.custom_call = cls.__call__ is not Task.__call__
        self.names_shadows = "shadow_name" in mine or cls.shadow_name is not Task.shadow_name
        self._hooks = frozenset(
            name for name in HANDLERS if name in mine or getattr(cls, name) is not getattr(Task, name)
        )

    # Being a function.

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body. Subclasses define it."""
        raise NotImplementedError(
            f"Tasks must define the run method, and {type(self).__qualname__} does not."
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the body here and now, as the function it was made from; nothing is sent or stored."""
        request = context_of(cast("Any", self))
        if (
            request is not None
            and not (request.called_directly or request._protected)
            and depth_of(cast("Any", self)) == 1
        ):
            # An overridden __call__, run by a worker, calls this one: it is the same run, with the same request.
            request._protected = 1
            return cast("R", self.run(*args, **kwargs))
        push(cast("Any", self), Context(args=args, kwargs=kwargs))
        try:
            return cast("R", self.run(*args, **kwargs))
        finally:
            pop()

    # Being sent.

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Send the task with these arguments; ``apply_async`` has options too. Returns the handle of its result."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: object = None,
        link: Links = None,
        link_error: Links = None,
        shadow: str | None = None,
        **options: Unpack[ApplyOptions],
    ) -> Handle[R]:
        """Send the task. Returning means that the broker has the message.

        Args:
            args, kwargs: the arguments.
            task_id: its id; None: a new one.
            producer: accepted for Celery's sake; the application's own connections are used.
            link: what is sent, with the result put before its arguments, when the task succeeds.
            link_error: what is called when it fails.
            shadow: another name for logs and monitors.
            options: see ``ApplyOptions``; ``countdown`` or ``eta`` for not before, ``expires`` for not after,
                ``queue``, ``priority``, ``serializer``, ``headers``, ``ignore_result``, ``retry`` and more.
                Names that are none of these become properties of the message.

        Raises:
            TypeError: the arguments do not fit the task (unless ``typing`` is off).
            ValueError: ``soft_time_limit`` is above ``time_limit``.
            OperationalError: the broker cannot be reached.
            EncodeError: the serializer cannot write the arguments.
        """
        plan = self._plan
        if plan is None or plan.generation != plan.conf._generation:
            plan = self._make_plan()
        args, kwargs = self._checked(args, kwargs)
        if plan.plain is not None and not (options or link or link_error or shadow) and current() is None:
            return plan.sender.send_plain(plan.plain, args, kwargs, task_id)
        more = {**options, "task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow}
        return self._send(plan, args, kwargs, more)

    def _send(self, plan: Plan, args: Any, kwargs: Any, options: dict[str, Any]) -> Handle[R]:
        merged = self._merged(plan, args, kwargs, options)
        if plan.eager:
            return self._sent_eagerly(args, kwargs, merged)
        add_to_parent, result_cls = merged.pop("add_to_parent", True), merged.pop("result_cls", None)
        work = plan.sender.make(self.name, args, kwargs, merged, self)
        return plan.sender.send(work, result_cls, add_to_parent)

    def _sent_eagerly(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Handle[R]:
        """Run the task in the place of sending it, with its arguments as they would have arrived."""
        from umbel.task.eager import through_the_wire

        serializer = options.get("serializer") or self.app.conf.task_serializer
        args, kwargs = through_the_wire(args or (), kwargs or {}, serializer)
        with denied_join_result():
            return self.apply(args, kwargs, **options)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        link: Links = None,
        link_error: Links = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the task here and now as a worker would: with a request, retries, handlers, signals and links.

        Args:
            throw: raise what the task raises; None: as ``task_eager_propagates`` says.
            options: of ``apply_async``, where they mean something here.

        Returns:
            The result, which is there already.
        """
        # Programs that only send need nothing of what runs tasks.
        from umbel.task.eager import run_eagerly

        app = self.app
        app.finalize(auto=True)
        if throw is None:
            throw = bool(app.conf.task_eager_propagates)
        options.update(
            link=link,
            link_error=link_error,
            task_id=task_id,
            retries=retries,
            logfile=logfile,
            loglevel=loglevel,
            headers=headers,
        )
        return run_eagerly(self, args or (), kwargs or {}, options, throw)

    def _make_plan(self) -> Plan:
        app = self.app
        app.finalize(auto=True)
        if not self.__bound__:
            self.bind(app)
        self._plan = plan = Plan(self, app)
        return plan

    def _get_exec_options(self) -> dict[str, Any]:
        """The options that the task fixes for its messages: its attributes of their names that are not None."""
        if self._exec_options is None:
            values = {name: getattr(self, name) for name in (*MESSAGE_OPTIONS, "ignore_result")}
            self._exec_options = {name: value for name, value in values.items() if value is not None}
        return self._exec_options

    def _merged(self, plan: Plan, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
        if not options["shadow"]:
            options["shadow"] = self.shadow_name(args, kwargs, options)
        return {**plan.options, **options}

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Another name for this run in logs and monitors; for subclasses and as an option. None: its own."""
        return None

    def _work(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> Work:
        plan = self._current_plan()
        args, kwargs = self._checked(args, kwargs)
        merged = self._merged(plan, args, kwargs, {"shadow": None, **options})
        return plan.sender.make(self.name, args, kwargs, merged, self)

    def _current_plan(self) -> Plan:
        plan = self._plan
        return plan if plan is not None and plan.generation == plan.conf._generation else self._make_plan()

    def delay_many(self, calls: Iterable[Any], **options: Unpack[ApplyOptions]) -> list[Handle[R]]:
        """Send many runs in few round trips: far cheaper than as many times ``delay``.

        Args:
            calls: for each run its arguments: a tuple or list of them, a pair ``(args, kwargs)`` of a tuple or list and
                a mapping, or a signature of this task.
            options: of ``apply_async``, for all of them; a signature's own options win.

        Returns:
            The handles, in the same order.

        Raises:
            What ``apply_async`` raises. Arguments are checked before anything is sent. When the broker is lost
            half-way, the first of them have been sent.
        """
        plan = self._current_plan()
        if plan.plain is not None and not options and current() is None:
            calls = calls if isinstance(calls, (list, tuple)) else list(calls)
            pairs = plain_arguments(calls, self._checked)
            if pairs is not None:
                return plan.sender.send_plain_many(plan.plain, pairs)
        each = list(split_calls(calls))
        if plan.eager:
            return [self.apply_async(args, kwargs, **{**options, **more}) for args, kwargs, more in each]
        return plan.sender.send_many(
            [self._work(args, kwargs, {**options, **more}) for args, kwargs, more in each]
        )

    async def adelay_many(self, calls: Iterable[Any], **options: Unpack[ApplyOptions]) -> list[Handle[R]]:
        """As ``delay_many``, without blocking the event loop."""
        plan = self._current_plan()
        each = list(split_calls(calls))
        if plan.eager:
            return [self.apply_async(args, kwargs, **{**options, **more}) for args, kwargs, more in each]
        works = [self._work(args, kwargs, {**options, **more}) for args, kwargs, more in each]
        return await plan.sender.asend_many(works, self.app.async_publisher())

    def _checked(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments. Raises TypeError when they do not fit."""
        args, kwargs = args or (), kwargs or {}
        if self.typing and self.__header__ is not None:
            self.__header__(*args, **kwargs)
        if self._dump_arguments is not None:
            args, kwargs = self._dump_arguments(args, kwargs)
        return args, kwargs

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """As ``delay``, without blocking the event loop."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        link: Links = None,
        link_error: Links = None,
        shadow: str | None = None,
        **options: Unpack[ApplyOptions],
    ) -> Handle[R]:
        """As ``apply_async``, without blocking the event loop."""
        plan = self._current_plan()
        if plan.eager:
            return self.apply_async(args, kwargs, task_id, None, link, link_error, shadow, **options)
        if plan.plain is not None and not (options or link or link_error or shadow) and current() is None:
            args, kwargs = self._checked(args, kwargs)
            publisher = self.app.async_publisher()
            return await plan.sender.asend_plain(plan.plain, args, kwargs, task_id, publisher)
        add_to_parent, result_cls = options.pop("add_to_parent", True), options.pop("result_cls", None)
        given = {**options, "task_id": task_id, "link": link, "link_error": link_error, "shadow": shadow}
        work = self._work(args, kwargs, given)
        app = self.app
        return await app.sender.asend(work, app.async_publisher(), result_cls, add_to_parent)

    # Retrying.

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run this task again later, under the same id: ``raise self.retry(countdown=60)``.

        It raises, so nothing after it runs. The next attempt is sent when this one is settled.

        Args:
            args, kwargs: arguments of the next attempt; None: those of this one.
            exc: why; raised instead when there have been too many retries.
            throw: False sends the next attempt at once, returns the ``Retry`` and lets this attempt go on.
            eta: when.
            countdown: in how many seconds; None, without ``eta``: ``default_retry_delay``.
            max_retries: for this call instead of the task's own.
            options: of ``apply_async``, changed for the next attempt.

        Raises:
            Retry: always, unless ``throw`` is False.
            MaxRetriesExceededError: there have been ``max_retries`` retries, and ``exc`` is None.
            BaseException: ``exc``, or the error being handled, where there is nothing to retry: too many retries, or
                the task was called as a function.
        """
        retry = plan_retry(
            self, args, kwargs, options, exc=exc, eta=eta, countdown=countdown, max_retries=max_retries
        )
        if throw:
            raise retry
        if not retry.is_eager:
            try:
                retry.sig.apply_async()
            except Exception as error:
                # The attempt must not be acknowledged as done when its successor could not be sent.
                raise Reject(error, requeue=False) from error
        return retry

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Signature:
        """The signature that would send the current run again, with these changes."""
        return signature_from_request(self, request or self.request, args, kwargs, queue, **extra_options)

    subtask_from_request = signature_from_request

    # While it runs.

    @property
    def request(self) -> Context:
        """The run that this is: id, retries, arguments and the rest of its message. Outside runs, an empty one."""
        request = context_of(cast("Any", self))
        if request is None:
            if self._default_request is None:
                self._default_request = Context()
            request = self._default_request
        return request

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Make a request current, as if a run had begun; for tests. The arguments are those of ``dict``."""
        push(cast("Any", self), Context(*args, **kwargs))

    def pop_request(self) -> None:
        """Undo ``push_request``."""
        pop()

    def add_trail(self, result: Any) -> Any:
        """Count a result among this run's children, unless ``trail`` is off; returns it."""
        if self.trail:
            self.request.children.append(result)
        return result

    # As a value.

    def signature(self, args: Iterable[Any] | None = None, *starargs: Any, **starkwargs: Any) -> Signature:
        """A signature of this task, with arguments and options: ``add.signature((2, 2), countdown=10)``."""
        starkwargs.setdefault("app", self._app)
        return Signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments, some or all of them."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """A signature with these arguments and no others: a parent's result is not added."""
        return self.signature(args, kwargs, immutable=True)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Handle[R]:  # noqa: N802 -- Celery's name
        """The handle of a result of this task."""
        result: Handle[R] = self.app.AsyncResult(task_id, task_name=self.name, **kwargs)
        return result

    def __reduce__(self) -> Any:
        module = type(self).__module__
        return unpickle_task, (self.name, module if module in sys.modules else None)

    def __repr__(self) -> str:
        main = self._app.main if self._app is not None else None
        return (
            f"<@task: {self.name} of {main or '__main__'}>"
            if self._app is not None
            else f"<unbound {type(self).__name__}>"
        )


_apply_async = Task.apply_async


if TYPE_CHECKING:

    class AsyncTask(Task[P, R]):
        """A task made from an ``async def``: calling it gives a coroutine, its result is what that returns."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """Call the function: gives its coroutine."""

else:
    AsyncTask = Task
