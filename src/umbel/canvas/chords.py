"""Chords: a group, the header, and what runs with the list of its results, the body."""

from __future__ import annotations

import warnings
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from umbel.canvas.chains import strip_header_links
from umbel.canvas.composite import Composite
from umbel.canvas.counting import parts_of
from umbel.canvas.groups import group, stamped_members
from umbel.canvas.lazy import Regen, as_list, is_sequence
from umbel.canvas.outbox import Opening
from umbel.canvas.signature import Signature, kind_of, maybe_signature, shortened, signature, unrolled
from umbel.core.ids import new_id
from umbel.errors import CPendingDeprecationWarning
from umbel.state import get_current_app

if TYPE_CHECKING:
    from umbel.canvas.outbox import Outbox
    from umbel.canvas.stamping import StampingVisitor

__all__ = ["_chord", "chord", "header_tasks"]

#: Options of a sending that only Celery's producers have a use for.
_NOT_SENT = ("publisher", "producer", "connection", "result_cls", "router")
#: Options of a sending that its body gets in another way, or not at all.
_NOT_OF_THE_BODY = ("link", "link_error", "parent_id", "task_id", "add_to_parent", "chain")
#: Options of a chord that its header must not have: they are the body's, or the chord's place.
_NOT_OF_THE_HEADER = ("chain", "chord", "task_id", "group_id", "group_index")


@Signature.register_type("chord")
class _chord(Composite):  # noqa: N801 -- Celery's name
    """A body that runs when all tasks of its header are done: ``chord([add.s(2, 2), add.s(4, 4)])(tsum.s())``.

    Args:
        header: a group, an iterable of signatures, or one signature.
        body: what is called with the list of results; None: given when it is called.
        kwargs: as Celery's, the dictionary that header and body are kept in.
        options: of ``apply_async``, for header and body.
    """

    kind: ClassVar[str] = "chord"
    holds_as: ClassVar[str] = "header"  #: its tasks are a group once it was frozen

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> None:
        parts = {**(kwargs or {"kwargs": {}}), "header": header_tasks(header, app)}
        parts["body"] = maybe_signature(body, app=app)
        super().__init__(task, args, parts, app=app, **options)
        self.subtask_type = "chord"

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A chord from its mapping."""
        options = {name: value for name, value in d.items() if name != "chord_size"}
        parts = dict(options.pop("kwargs"))
        header, body = parts.pop("header", None), parts.pop("body", None)
        made = cls(header, body, app=app, kwargs=parts, **options)
        if kind_of(header) == "group" or _is_group(header):
            # Its own id and options are the header's.
            made.tasks = maybe_signature(header, app=app)
        return made

    @property
    def body(self) -> Any:
        """What is called with the results of the header."""
        return self["kwargs"].get("body")

    @body.setter
    def body(self, value: Any) -> None:
        self["kwargs"]["body"] = value

    @property
    def app(self) -> Any:
        """The application: its own, else that of its first task, else that of its body."""
        return self._get_app(self.body)

    def _get_app(self, body: Any = None) -> Any:
        if self._app is not None:
            return self._app
        tasks = self.tasks.tasks if kind_of(self.tasks) == "group" else self.tasks
        for candidate in (tasks[0] if tasks else None, body):
            found = _own_app(candidate)
            if found is not None:
                return found
        return get_current_app()

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it; gives the result of the body, whose parent is that of the header."""
        return self.apply_async((), {"body": body} if body else {}, **options)

    def __or__(self, other: Any) -> Any:
        other = unrolled(other)
        if kind_of(other) not in ("task", "chord"):
            return super().__or__(other)
        copy = self.clone()
        copy.body = copy.body | other
        return copy

    def __length_hint__(self) -> int:
        """How many tasks end as parts of its header."""
        tasks = self.tasks.tasks if kind_of(self.tasks) == "group" else self.tasks
        return sum(parts_of(task) for task in tasks)

    @classmethod
    def _descend(cls, member: Any) -> int:
        return parts_of(member)

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """A copy, its header and body copied too."""
        copy = super().clone(args, kwargs, **options)
        copy.tasks = _copied_header(copy.tasks)
        if "body" in self.kwargs or "body" in (kwargs or {}):
            copy.body = maybe_signature(copy.body, clone=True)
        return copy

    partial = clone

    def as_group(self) -> group:
        """Its header as a group, which it becomes."""
        if kind_of(self.tasks) != "group":
            self.tasks = group(self.tasks, app=self.app)
        header: group = self.tasks
        return header

    def with_header_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        """A copy, with these arguments put before and over those of the header's tasks."""
        copy = self.clone(args)
        if kwargs:
            copy["kwargs"]["kwargs"] = {**(copy["kwargs"].get("kwargs") or {}), **kwargs}
        return copy

    # Sending.

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: object = None,
        publisher: object = None,
        connection: object = None,
        router: object = None,
        result_cls: object = None,
        **options: Any,
    ) -> Any:
        """Send the header, in few round trips; gives the result of the body, whose parent is that of the header.

        Args:
            args, kwargs: for the header's tasks; ``body`` among ``kwargs`` is the body.
            task_id: the body's.
            options: for header and body; ``countdown`` and ``eta`` for the header, ``link`` and ``link_error`` for the
                body.
        """
        call = self._call(args, kwargs, {**options, "task_id": task_id})
        header, body, given, merged = call
        app = self._get_app(body)
        if app.conf.task_always_eager:
            body = add_body_callbacks(body, merged)
            return self.apply(args, merged["kwargs"], body=body, task_id=merged["task_id"])
        return self.run(header, body, given, app=app, **merged)

    def _call(
        self, args: Any, kwargs: Any, options: Mapping[str, Any]
    ) -> tuple[group, Any, Sequence[Any], dict[str, Any]]:
        """Header and body of one sending, copies; the arguments of the header's tasks, and the options of ``run``."""
        given = _without(options, _NOT_SENT)
        delay = {name: given.pop(name, self.options.get(name)) for name in ("countdown", "eta")}
        kwargs = {**(self.kwargs.get("kwargs") or {}), **(kwargs or {})}
        body = maybe_signature(kwargs.pop("body", None) or self.body, app=self._app)
        body = body.clone(**_without(given, _NOT_OF_THE_BODY))
        merged = {**_without(self.options, delay), **given, "kwargs": kwargs, "header_delay": _without(delay)}
        merged["task_id"] = given.get("task_id") or self.options.get("task_id")
        return self._header_to_send(body), body, self._with_own(args or ()), merged

    def _header_to_send(self, body: Any) -> group:
        tasks = self.tasks
        if kind_of(tasks) == "group":
            header: group = tasks.clone()
            header.options.setdefault("task_id", self.options.get("task_id") or new_id())
            return header
        if isinstance(tasks, list) and not isinstance(tasks, Regen):
            tasks = list(tasks)
        return group(tasks, app=self._get_app(body), task_id=self.options.get("task_id") or new_id())

    def _start(
        self, outbox: Outbox, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        if type(self).apply_async is not _apply_async:
            return self.apply_async(args, kwargs, **options)
        header, body, args, merged = self._call(args, kwargs, options)
        return self._begin(outbox, header, body, args, merged)

    def run(
        self,
        header: group,
        body: Any,
        partial_args: Sequence[Any],
        app: Any = None,
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        header_delay: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send a header whose results go to ``body``, which are changed for it.

        Args:
            header, body: what is sent, and what follows it.
            partial_args, kwargs: for the header's tasks.
            app: the application.
            interval, countdown, max_retries: seconds between two looks at the header, before the first, and how many;
                for result backends that do not count.
            eager: accepted as Celery's.
            task_id: the body's.
            header_delay: ``countdown`` or ``eta`` of the header.
            options: for header and body.
        """
        app = app or self._get_app(body)
        counted = {"interval": interval, "countdown": countdown, "max_retries": max_retries}
        merged = {
            **self.options,
            **options,
            "task_id": task_id,
            "kwargs": kwargs,
            "header_delay": header_delay,
        }
        with app.outbox() as outbox:
            return self._begin(outbox, header, body, partial_args, merged, counted)

    def _begin(
        self,
        outbox: Outbox,
        header: group,
        body: Any,
        args: Sequence[Any],
        options: dict[str, Any],
        counted: Mapping[str, Any] | None = None,
    ) -> Any:
        take = options.pop
        task_id, kwargs = take("task_id", None), take("kwargs", None)
        delay = dict(take("header_delay", None) or {})
        for name in ("countdown", "eta"):
            own = take(name, None)
            if own is not None:
                delay.setdefault(name, own)
        remembered = take("add_to_parent", True)
        body = self._body_to_send(body, options)
        group_id = header.options.setdefault("task_id", new_id())
        promised = body.freeze(task_id or new_id(), group_id=group_id, root_id=body.options.get("root_id"))
        strip_header_links(body)
        for name in _NOT_OF_THE_HEADER:
            take(name, None)
        if not header.tasks:
            return self._start_body_alone(outbox, header, body, promised)
        opened: list[Opening] = []

        def opener(size: int, results: list[Any]) -> Opening:
            opened.append(Opening(group_id, size, body, results, **(counted or {})))
            return opened[0]

        of_the_header = {**options, **delay, "chord": body, "add_to_parent": remembered}
        header._start(outbox, args, kwargs or {}, of_the_header, opener)
        if not opened:
            return self._start_body_alone(outbox, header, body, promised)
        first = promised
        while first.parent is not None:
            first = first.parent
        first.parent = header.app.GroupResult(group_id, opened[0].results)
        return promised

    @staticmethod
    def _start_body_alone(outbox: Outbox, header: group, body: Any, promised: Any) -> Any:
        """Of a header without tasks nobody would ever tell: the body starts at once."""
        body._start(outbox, ([],), {}, {})
        promised.parent = header.app.GroupResult(header.options["task_id"], [])
        return promised

    def _body_to_send(self, body: Any, options: dict[str, Any]) -> Any:
        """The body with the options of this sending; takes from them what only the body is linked to."""
        body = add_body_callbacks(body, options)
        body.options.update((name, value) for name, value in options.items() if name != "parent_id")
        if kind_of(body) == "chain":
            body._unroll_chords(self._get_app(body))
        return body

    # Running in place.

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run header and body here; gives the result of the body.

        Args:
            args, kwargs: for the header's tasks.
            propagate: raise what a task of the header raises.
            body: instead of its own.
            options: accepted as Celery's.
        """
        if body is None:
            body = add_body_callbacks(self.body.clone(), dict(self.options))
        kwargs = {**(self.kwargs.get("kwargs") or {}), **(kwargs or {})}
        results = self._header_to_send(body).apply(self._with_own(args or ()), kwargs)
        return body.apply(args=(results.get(propagate=propagate, disable_sync_subtasks=False),))

    # Being prepared.

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Decide the ids of header and body now; gives the result of the body."""
        header = self.as_group()
        before = header.freeze(parent_id=parent_id, root_id=root_id, chord=self.body)
        self.id = header.id
        if self.body is None:
            return None
        result = self.body.freeze(
            _id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index
        )
        first, seen = result, set()
        while first.parent is not None:
            if first.id in seen:
                raise RuntimeError("Recursive result parents")
            seen.add(first.id)
            first = first.parent
        if first.id == before.id:
            raise RuntimeError("Recursive result parents")
        first.parent = before
        return result

    _freeze = freeze

    def set_immutable(self, immutable: bool) -> None:
        """Say of the header's tasks whether arguments of the eventual call are left out; the body stays as it is."""
        for task in self.tasks.tasks if kind_of(self.tasks) == "group" else self.tasks:
            task.set_immutable(immutable)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp header and, with a visitor, body; see ``Signature.stamp``."""
        visited = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        headers = self._stamp_headers(visited, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        if kind_of(self.tasks) == "group":
            self.tasks.tasks = stamped_members(self.tasks.tasks, visitor, append_stamps, headers, self._app)
        else:
            self.tasks = stamped_members(self.tasks, visitor, append_stamps, headers, self._app)
        if visitor is None:
            return
        visitor.on_chord_header_end(self, **headers)
        if self.body is not None:
            visited = visitor.on_chord_body(self, **headers) or {}
            headers = self._stamp_headers(visited, append_stamps, **headers)
            self.body.stamp(visitor, append_stamps, **headers)

    # What follows it.

    def link(self, callback: Any) -> Any:
        """Link to the body; returns the callback."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Link to the failure of the body, which a failed header is too; returns the errback.

        With ``task_allow_error_cb_on_chord_header`` it is linked to each task of the header too.
        """
        errback = maybe_signature(errback)
        tasks = self.tasks.tasks if kind_of(self.tasks) == "group" else self.tasks
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for task in tasks:
                task.link_error(errback.clone(immutable=True))
        else:
            warnings.warn(_PENDING, CPendingDeprecationWarning, stacklevel=2)
        for task in tasks:
            if kind_of(task) == "chord":
                task.link_error(errback)
        self.body.link_error(errback)
        return errback

    def __repr__(self) -> str:
        if not self.body:
            return f"<chord without body: {self.tasks!r}>"
        if kind_of(self.body) == "chain":
            first, *rest = self.body.tasks
            steps = " | ".join([first.reprcall(self.tasks), *map(repr, rest)])
            return shortened(first["task"], f"%({steps})")
        return shortened(self.body["task"], f"%{self.body.reprcall(self.tasks)}")


chord = _chord
_apply_async = _chord.apply_async

_PENDING = (
    "task_allow_error_cb_on_chord_header=False is pending deprecation: error callbacks of a chord will be linked to "
    "the tasks of its header too. Set task_allow_error_cb_on_chord_header to True to have that now"
)


def _without(options: Mapping[str, Any], names: Container[str] = ()) -> dict[str, Any]:
    """The options that say something, without those of these names."""
    return {name: value for name, value in options.items() if value is not None and name not in names}


def header_tasks(tasks: Any, app: Any) -> Any:
    """The tasks of a chord's header: of a group or chain its own, one signature as a list of it.

    A generator stays one.
    """
    if isinstance(tasks, dict):
        tasks = signature(tasks, app=app) if not isinstance(tasks, Signature) else tasks
    if kind_of(tasks) in ("group", "chain"):
        return tasks.tasks
    if isinstance(tasks, Signature):
        return [tasks]
    if isinstance(tasks, (list, tuple)) or not is_sequence(tasks):
        return [signature(task, app=app) for task in tasks]
    return Regen(signature(task, app=app) for task in tasks)


def _is_group(header: Any) -> bool:
    return isinstance(header, dict) and header.get("subtask_type") == "group"


def _copied_header(tasks: Any) -> Any:
    if kind_of(tasks) == "group":
        return tasks.clone()
    if isinstance(tasks, Regen):
        return tasks
    return [maybe_signature(task, clone=True) for task in tasks]


def _own_app(candidate: Any) -> Any:
    """The application that a task says it belongs to; None where it would answer the current one."""
    if isinstance(candidate, list):
        return _own_app(candidate[0] if candidate else None)
    if candidate is None or type(candidate) is dict:
        return None
    if candidate._app is not None:
        return candidate._app
    if kind_of(candidate) == "task":
        return None if candidate._type is None else candidate._type.app
    if kind_of(candidate) in ("group", "chain"):
        return _own_app(candidate.tasks[0] if candidate.tasks else None)
    if kind_of(candidate) == "chord":
        return _own_app(candidate.tasks) or _own_app(candidate.body)
    return None


def add_body_callbacks(body: Any, options: dict[str, Any]) -> Any:
    """The body with the links of this sending beside its own; takes them from ``options``. A copy if there are any."""
    callbacks = as_list(options.pop("link", None)) or []
    errbacks = as_list(options.pop("link_error", None)) or []
    if callbacks or errbacks:
        body = _copied_for_links(body)
    for each in callbacks:
        callback = _copied_for_links(maybe_signature(each, app=body._app))
        if kind_of(body) == "group" and not body.tasks:
            body.append_to_list_option("link", callback)
        else:
            body.link(callback)
    for errback in errbacks:
        if kind_of(body) == "group":
            _link_error_to_tasks(body, maybe_signature(errback, app=body._app))
        else:
            body.append_to_list_option("link_error", errback)
    return body


def _copied_for_links(body: Any) -> Any:
    return maybe_signature(body, clone=True)


def _link_error_to_tasks(body: Any, errback: Signature, runs_as_group: bool = True) -> None:
    """Link to the failure of each task that the body of a chord runs.

    A group's own errbacks take the place of those of its tasks when it runs, so there it joins them instead.
    """
    if kind_of(body) == "group":
        if runs_as_group and body.options.get("link_error") is not None:
            body.append_to_list_option("link_error", errback.clone())
            return
        for task in body.tasks:
            _link_error_to_tasks(task, errback, runs_as_group=False)
    elif kind_of(body) == "chord":
        _link_error_to_tasks(body.body, errback)
    else:
        body.link_error(errback.clone())
