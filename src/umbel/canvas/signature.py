"""Signatures: a task, its arguments and its options as a value that can be sent, linked and stored.

A signature is a dictionary with Celery's keys, and that dictionary is what goes on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib import import_module
from types import GenericAlias
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from umbel.canvas.lazy import as_list, holds_at_least
from umbel.core.ids import new_id
from umbel.core.textrepr import safe_repr
from umbel.state import get_current_app

if TYPE_CHECKING:
    from umbel.canvas.outbox import Outbox
    from umbel.canvas.stamping import StampingVisitor
    from umbel.results.handles import AsyncResult as Handle
    from umbel.results.handles import EagerResult

__all__ = [
    "Signature",
    "as_list",
    "kind_of",
    "maybe_signature",
    "new_signature",
    "shortened",
    "signature",
    "unrolled",
]

S = TypeVar("S", bound="type[Signature]")

#: Options that a later caller may not change: others wait for what was promised under them.
_KEPT_OPTIONS = frozenset({"group_id", "stamped_headers"})


class Signature(dict[str, Any]):
    """One call of one task, to be made later.

    Args:
        task: a task, its name, or a mapping with a signature's keys (then the rest is not looked at).
        args, kwargs: arguments; those of the eventual call are put before ``args`` and over ``kwargs``.
        options: of ``apply_async``; further keywords are options too.
        immutable: the eventual call's arguments, such as a parent's result, are not added.
        app: the application; None: that of the task, else the current one.
    """

    TYPES: ClassVar[dict[str, type[Signature]]] = {}
    #: task, chain, group or chord: what it is, whatever a subclass calls itself.
    kind: ClassVar[str] = "task"

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Any = None,
        **more_options: Any,
    ) -> None:
        self._app = app
        self._type: Any = None
        if isinstance(task, dict):
            super().__init__(task)
            return
        name = task
        if task is not None and not isinstance(task, (str, list, tuple)):
            self._type, name = task, task.name
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options={**(options or {}), **more_options},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[S], S]:
        """Class decorator: make mappings whose ``subtask_type`` is this name become this class."""

        def register(subclass: S) -> S:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Signature:
        """A signature from the mapping that was read off the wire."""
        name = d.get("subtask_type")
        target = _type_named(name) if name else Signature
        if target is cls or target is Signature:
            return Signature(dict(d), app=app)
        return target.from_dict(d, app=app)

    # What it holds.

    @property
    def task(self) -> str:
        """The task's name."""
        name: str = self["task"]
        return name

    @task.setter
    def task(self, value: str) -> None:
        self["task"] = value

    @property
    def name(self) -> str:
        """The task's name, as tasks themselves say it."""
        return self.task

    @property
    def args(self) -> Any:
        """The positional arguments."""
        return self["args"]

    @args.setter
    def args(self, value: Any) -> None:
        self["args"] = value

    @property
    def kwargs(self) -> Any:
        """The keyword arguments."""
        return self["kwargs"]

    @kwargs.setter
    def kwargs(self, value: Any) -> None:
        self["kwargs"] = value

    @property
    def options(self) -> dict[str, Any]:
        """The options of ``apply_async``."""
        options: dict[str, Any] = self["options"]
        return options

    @options.setter
    def options(self, value: dict[str, Any]) -> None:
        self["options"] = value

    @property
    def immutable(self) -> bool:
        """Whether arguments of the eventual call are left out."""
        return bool(self.get("immutable"))

    @immutable.setter
    def immutable(self, value: bool) -> None:
        self["immutable"] = value

    @property
    def subtask_type(self) -> str | None:
        """The kind of workflow it is; None for a single task."""
        return self.get("subtask_type")

    @subtask_type.setter
    def subtask_type(self, value: str | None) -> None:
        self["subtask_type"] = value

    @property
    def id(self) -> str | None:
        """The task id, once it was frozen."""
        return self.options.get("task_id")

    @id.setter
    def id(self, value: str | None) -> None:
        self.options["task_id"] = value

    @property
    def parent_id(self) -> str | None:
        """The id of the task before it."""
        return self.options.get("parent_id")

    @property
    def root_id(self) -> str | None:
        """The id of the first task of its workflow."""
        return self.options.get("root_id")

    @property
    def app(self) -> Any:
        """The application it is sent by."""
        if self._app is None and self._type is not None:
            return self._type.app
        return self._app or get_current_app()

    @property
    def type(self) -> Any:
        """The task. Raises NotRegistered when the application does not know it."""
        return self._type or self.app.tasks[self["task"]]

    @type.setter
    def type(self, task: Any) -> None:
        self._type = task

    # Calling it.

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Run the task here and now, as an ordinary function."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Handle[Any]:
        """Send it, with these arguments put before and over its own."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[Any]:
        """Run it here with the whole of the machinery, see ``Task.apply``."""
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, _said(options))
        result: EagerResult[Any] = self.type.apply(merged_args, merged_kwargs, **merged)
        return result

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Handle[Any]:
        """Send it, with these arguments put before and over its own and these options over its own.

        An option of None says nothing. A task that the application does not know is sent by its name.
        """
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, _said(options))
        handle: Handle[Any] = self._apply_async(merged_args, merged_kwargs, **merged)
        return handle

    @property
    def _apply_async(self) -> Any:
        try:
            return self.type.apply_async
        except KeyError:
            return partial(self.app.send_task, self["task"])

    def _start(
        self, outbox: Outbox, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        """Put what starts now into ``outbox``, and give the result of the whole.

        Arguments and options are those of ``apply_async``. Workflows start what they begin with; the messages of that
        carry what follows.
        """
        if self._has_own_sending():
            given: dict[str, Any] = {
                key: value for key, value in (("args", args), ("kwargs", kwargs)) if value
            }
            return self.apply_async(**given, **options)
        return outbox.send(self, *self._merge(args, kwargs, _said(options)))

    def _has_own_sending(self) -> bool:
        """Whether ``apply_async`` was overridden, so that it has to be called for each signature."""
        return type(self).apply_async is not _apply_async or "apply_async" in vars(self)

    def AsyncResult(self, task_id: str) -> Handle[Any]:  # noqa: N802 -- Celery's name
        """The handle of a result of this task."""
        try:
            make = self.type.AsyncResult
        except KeyError:
            make = self.app.AsyncResult
        handle: Handle[Any] = make(task_id)
        return handle

    # Changing it.

    def _merge(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        own = self.options
        merged = own
        if options:
            kept = _KEPT_OPTIONS.union(own.get("stamped_headers") or ())
            merged = {
                **own,
                **{key: value for key, value in options.items() if key not in kept or key not in own},
            }
        if self.immutable and not force:
            return self.args, self.kwargs, merged
        return (
            (*args, *(self.args or ())) if args else self.args,
            {**self.kwargs, **kwargs} if kwargs else self.kwargs,
            merged,
        )

    def _with_own(self, args: Sequence[Any]) -> Sequence[Any]:
        """The arguments of a call before its own, unless it is immutable."""
        own: Sequence[Any] = self.args or ()
        return (*args, *own) if args and not self.immutable else own

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """A copy, with these arguments put before and over its own and these options over its own."""
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        copy = Signature.from_dict(
            {
                "task": self["task"],
                "args": tuple(merged_args or ()),
                "kwargs": dict(merged_kwargs or {}),
                "options": deepcopy(merged) if merged else {},
                "subtask_type": self.subtask_type,
                "immutable": self.immutable,
            },
            app=self._app,
        )
        copy._type = self._type
        return copy

    partial = clone

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Handle[Any]:
        """Decide its id now, so that there is a result to hand out before it is sent.

        An id it has already stays; the other arguments are noted where they say something.
        """
        options = self.options
        task_id: str = options.setdefault("task_id", _id or new_id())
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        options.setdefault("reply_to", self.app.thread_oid)
        if group_id:
            options.setdefault("group_id", group_id)
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        return self.AsyncResult(task_id)

    _freeze = freeze

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Signature:
        """A copy with these parts in the place of its own, where they are not None."""
        copy: Signature = self.clone()
        if args is not None:
            copy["args"] = args
        if kwargs is not None:
            copy["kwargs"] = kwargs
        if options is not None:
            copy["options"] = options
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options; returns the signature itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether arguments of the eventual call are left out."""
        self["immutable"] = immutable

    # Stamps.

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Put stamps on it and on what is linked to it: ``headers``, and what the visitor says.

        Args:
            visitor: is told of each signature that is reached, and answers with stamps.
            append_stamps: values of a stamp that has one already become a list; otherwise the first stays.
            headers: stamps to put on everything.
        """
        stamping = _stamping()
        stamping.stamp_links(self, visitor, append_stamps, headers)
        visited = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**stamping.merged_stamps(self, visited, append_stamps, headers))

    def stamp_links(
        self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp what is linked to it, and to its failure."""
        _stamping().stamp_links(self, visitor, append_stamps, headers)

    def _stamp_headers(
        self,
        visitor_headers: dict[str, Any] | None = None,
        append_stamps: bool = False,
        self_headers: bool = True,
        **headers: Any,
    ) -> dict[str, Any]:
        merged: dict[str, Any] = _stamping().merged_stamps(
            self, visitor_headers, append_stamps, headers, self_headers
        )
        return merged

    # What follows it.

    def __or__(self, other: Any) -> Any:
        """Chain: ``add.s(2, 2) | add.s(4)``. A chain is joined, a group of one task stands for its task."""
        other = unrolled(other)
        if kind_of(other) == "chain":
            return new_signature("chain", self, *other.unchain_tasks(), app=self._app)
        if isinstance(other, Signature):
            return new_signature("chain", self, other, app=self._app)
        return NotImplemented

    def __ior__(self, other: Any) -> Any:
        return self.__or__(other)

    def _listed(self, key: str) -> list[Any]:
        items = self.options.setdefault(key, [])
        if not isinstance(items, list):
            items = self.options[key] = as_list(items)
        listed: list[Any] = items
        return listed

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add a value to an option that is a list, unless it is there; returns the value."""
        items = self._listed(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add values to an option that is a list."""
        self._listed(key).extend(as_list(value) or ())

    def link(self, callback: Any) -> Any:
        """Have ``callback`` sent, with the result put before its arguments, when the task succeeds; returns it."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Have ``errback`` called when the task fails; returns it."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """As ``link_error``, but returns the signature itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature]:
        """The signature and everything that is linked to it, to any depth."""
        found: list[Signature] = [self]
        for callback in as_list(self.options.get("link")) or ():
            found += maybe_signature(callback, app=self._app).flatten_links()
        return found

    def election(self) -> Any:
        """Send it after an election among the workers, as Celery's signatures can. Returns its handle."""
        frozen = self.clone()
        result = frozen.freeze()
        self.app.control.election(result.id, "task", frozen)
        return result

    # As a value.

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text, ``tasks.add(2, 2)``, with these arguments added for the purpose."""
        all_args, all_kwargs, _ = self._merge(args, kwargs, None, force=True)
        shown = [_shown(value) for value in all_args]
        shown += [f"{key}={_shown(value)}" for key, value in all_kwargs.items()]
        return f"{self['task']}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        # Options are changed when a workflow is prepared; arguments may be lazy, or anything at all.
        copy = dict(self)
        memo[id(self)] = copy
        copy["options"] = deepcopy(self.options, memo)
        return copy

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __invert__(self) -> Any:
        return self.apply_async().get()

    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated]


_apply_async = Signature.apply_async


def _stamping() -> Any:
    # By name: few programs stamp, and the module is above this one.
    return import_module("umbel.canvas.stamping")


def _type_named(name: str) -> type[Signature]:
    """The class of signatures with this ``subtask_type``. Raises KeyError for one that nobody registered."""
    if name not in Signature.TYPES:
        # By name: workflows are signatures, and programs without any need not load them.
        import_module("umbel.canvas.workflows")
    return Signature.TYPES[name]


def _shown(value: Any) -> str:
    """A value as text; signatures as the calls that they are."""
    if isinstance(value, Signature):
        return repr(value)
    if isinstance(value, list) and any(isinstance(member, Signature) for member in value[:3]):
        return f"[{', '.join(_shown(member) for member in value)}]"
    return safe_repr(value)


def shortened(name: str, text: str) -> str:
    """``text`` with the module of the task ``name`` named once only."""
    module = name.rpartition(".")[0]
    if not module:
        return text
    known = re.compile(rf"(?<![\w.-]){re.escape(module)}\.")
    first = known.search(text)
    return text if first is None else text[: first.end()] + known.sub("", text[first.end() :])


def new_signature(kind: str, /, *parts: Any, **options: Any) -> Any:
    """A new chain, group or chord, from what its class takes."""
    return _type_named(kind)(*parts, **options)


def kind_of(value: Any) -> str | None:
    """task, chain, group or chord; None for what is no signature."""
    return value.kind if isinstance(value, Signature) else None


def unrolled(value: Any) -> Any:
    """The only task of a group of one; anything else as it is."""
    if kind_of(value) != "group" or holds_at_least(value.tasks, 2) or not holds_at_least(value.tasks, 1):
        return value
    return value.tasks[0]


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature:
    """Make a signature from a task, a task's name, or a mapping; a signature is copied.

    ``signature('tasks.add', args=(2, 2), countdown=10)``
    """
    if isinstance(varies, dict):
        if isinstance(varies, Signature):
            copy: Signature = varies.clone()
            return copy
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """A mapping as a signature; None, and what is a signature already, as it is, with ``app`` set where given.

    ``clone`` copies what is a signature already.
    """
    if d is None:
        return None
    made = d
    if isinstance(d, Signature):
        made = d.clone() if clone else d
    elif isinstance(d, dict):
        made = signature(d)
    if app is not None and isinstance(made, Signature):
        made._app = app
    return made
