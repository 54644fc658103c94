"""Chains: tasks that follow one another, each with the result of the one before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, ClassVar

from umbel.canvas.composite import Composite
from umbel.canvas.groups import is_empty
from umbel.canvas.lazy import as_list, is_sequence, regen
from umbel.canvas.signature import Signature, kind_of, maybe_signature, new_signature, shortened, unrolled
from umbel.canvas.steps import Place, freeze_steps, led_by_task, prepared_steps, unrolled_chord

if TYPE_CHECKING:
    from umbel.canvas.outbox import Outbox
    from umbel.canvas.stamping import StampingVisitor

__all__ = ["_chain", "chain", "fold", "merge_step"]


@Signature.register_type("chain")
class _chain(Composite):  # noqa: N801 -- Celery's name
    """A chain that keeps its steps as they were given; see ``chain``."""

    kind: ClassVar[str] = "chain"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        self._use_link = options.pop("use_link", None)
        self._frozen: Any = None
        steps: Any = regen(tasks[0]) if len(tasks) == 1 and is_sequence(tasks[0]) else tasks
        if isinstance(steps, tuple):
            steps = list(steps)
        super().__init__("celery.chain", (), {"tasks": steps}, **options)
        self.subtask_type = "chain"

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A chain from its mapping."""
        return cls._restored([maybe_signature(task, app=app) for task in d["kwargs"]["tasks"]], d, app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with these arguments for its first task; an empty chain does nothing."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def __or__(self, other: Any) -> Any:
        if is_empty(other):
            return self
        other = unrolled(other)
        if kind_of(other) == "chain":
            return reduce(or_, other.unchain_tasks(), self)
        if not isinstance(other, Signature):
            return NotImplemented
        steps = self.unchain_tasks()
        last = kind_of(steps[-1]) if steps else None
        if last == "group" and other.kind != "group":
            return self._with_chord_of(steps, other)
        if last == "chord" and other.kind != "chord":
            steps[-1].body = steps[-1].body | other
            return self._like_this(steps)
        if not steps and other.kind == "group":
            return other
        return self._like_this([*steps, other])

    def _with_chord_of(self, steps: list[Any], body: Signature) -> Any:
        steps[-1] = new_signature("chord", steps[-1], body, app=self._app)
        if len(steps) > 1 and kind_of(steps[-2]) == "chord":
            # Of two chords in a row the second follows the body of the first.
            later = steps.pop()
            steps[-1].body = steps[-1].body | later
        return self._like_this(steps)

    def _like_this(self, steps: list[Any]) -> Any:
        # With an option, so that a subclass of chain keeps the steps as they are.
        return type(self)(steps, app=self._app)

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """A copy, its steps copied too."""
        copy = super().clone(args, kwargs, **options)
        copy.tasks = [maybe_signature(task, app=self._app, clone=True) for task in copy.tasks]
        copy._use_link = self._use_link
        return copy

    partial = clone

    def unchain_tasks(self) -> list[Any]:
        """Copies of its steps: the last with what is linked to the chain, all with what is linked to its failure."""
        steps = [_cloned(task, self._app) for task in self.tasks]
        for callback in as_list(self.options.get("link")) or ():
            steps[-1].link(callback)
        for errback in as_list(self.options.get("link_error")) or ():
            for step in steps:
                step.link_error(errback)
        return steps

    # Sending.

    def apply_async(  # type: ignore[override]
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send the first task; its message carries the others. Gives the result of the last."""
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        return self.run(args, kwargs, app=app, **{**self.options, **options})

    def run(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Any = None,
        **options: Any,
    ) -> Any:
        """Send it, with these options and no others."""
        app = app or self.app
        with app.outbox() as outbox:
            return self._begin(outbox, args or (), kwargs or {}, options, app)

    def _start(
        self, outbox: Outbox, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any:
        if self._has_own_sending():
            return self.apply_async(args, kwargs, **options)
        given = {name: value for name, value in options.items() if value is not None}
        return self._begin(outbox, args, kwargs, {**self.options, **given}, self.app)

    def _has_own_sending(self) -> bool:
        return type(self).apply_async is not _apply_async

    def _begin(
        self,
        outbox: Outbox,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: dict[str, Any],
        app: Any,
    ) -> Any:
        take = options.pop
        link, parent_id = take("link", None), take("parent_id", None)
        for unused in ("publisher", "producer", "connection"):
            take(unused, None)
        place = Place(
            take("task_id", None), take("group_id", None), take("chord", None),
            take("group_index", None), take("root_id", None), take("link_error", None),
        )  # fmt: skip
        args = self._with_own(args)
        tasks, results = self._prepare(self.tasks, args, kwargs, place, app, clone=True)
        if not tasks:
            return None
        if any(step.kind == "chord" for step in tasks):
            # Said to who sends it, not to the worker that has come as far as the chord.
            app.backend.ensure_chords_allowed()
        if link:
            tasks[0].extend_list_option("link", link)
        first = tasks.pop()
        uses_link = self._links(app)
        if not uses_link:
            options["chain"] = [*(options.get("chain") or ()), *tasks]
        if parent_id:
            options["parent_id"] = parent_id
        sent = first._start(outbox, (), {}, options)
        # Of a single step the result that knows what it has sent, not the one that was promised.
        return results[0] if tasks else sent

    def _links(self, app: Any) -> bool:
        return bool(app.conf.task_protocol == 1 if self._use_link is None else self._use_link)

    def _prepare(
        self, tasks: Iterable[Any], args: Sequence[Any], kwargs: Any, place: Place, app: Any, clone: bool
    ) -> tuple[list[Signature], list[Any]]:
        steps = prepared_steps(tasks, args, kwargs, app, clone)
        prepared, results = freeze_steps(steps, place, self._links(app))
        self.id = results[0].id if results else place.task_id
        if clone:
            for step in prepared:
                strip_header_links(step)
        return prepared, results

    def prepare_steps(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Any = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Any = None,
        group_index: int | None = None,
    ) -> tuple[list[Signature], list[Any]]:
        """The steps as they are sent, and their results; both last to first.

        Args:
            args, kwargs: put before and over the arguments of the first step.
            tasks: the steps as they were written.
            root_id: the id of the workflow's first task.
            parent_id, from_dict: accepted as Celery's.
            link_error: called when any step fails.
            app: the application; None: the chain's.
            last_task_id, group_id, chord_body, group_index: the last step's id and place.
            clone: copy the steps; otherwise they get their ids in place.
        """
        place = Place(last_task_id, group_id, chord_body, group_index, root_id, link_error)
        return self._prepare(tasks, args, kwargs, place, app or self.app, clone)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Decide the ids of all steps now; gives the result of the last."""
        self.tasks = [maybe_signature(task, app=self._app) for task in self.tasks]
        place = Place(_id or self.id, group_id, chord, group_index, root_id)
        args, self["args"] = self.args, ()
        self._frozen = self._prepare(self.tasks, args or (), None, place, self.app, clone=False)
        return self._frozen[1][0]

    _freeze = freeze

    def _unroll_chords(self, app: Any = None) -> None:
        """Have the bodies of chords among the steps end where their first task ends; the rest become steps."""
        app = app or self.app
        if self._links(app):
            # What is linked has no chain that a failed header could find the last result by.
            return
        steps: list[Any] = []
        pending = list(self.tasks)
        while pending:
            step = pending.pop(0)
            if kind_of(step) == "chain":
                step = step.clone()
                step._unroll_chords(app)
            if kind_of(step) == "chord" and led_by_task(step.body):
                pending[:0] = unrolled_chord(step)
            else:
                steps.append(step)
        self.tasks = steps

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp every step; see ``Signature.stamp``."""
        visited = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        headers = self._stamp_headers(visited, append_stamps, **headers)
        self.stamp_links(visitor, **headers)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)

    # Running in place.

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run the steps here, one after the other, until one is ignored or rejected; gives the last result."""
        merged = {**self.options, **options}
        link = as_list(merged.pop("link", None))
        for name in ("task_id", "chain"):
            merged.pop(name, None)
        steps = [task for task in self.tasks if not is_empty(task)] or list(self.tasks)[:1]
        last: Any = None
        given: tuple[Any, Any] = (self._with_own(args or ()), kwargs or {})
        for step in steps:
            copy = _cloned(unrolled(step), self._app)
            if link and step is steps[-1]:
                _end_of(copy).extend_list_option("link", link)
            if last is not None:
                given = (last.get(disable_sync_subtasks=False),), None
            result = copy.apply(*given, **merged)
            result.parent, last = last, result
            if _was_dropped(result):
                break
        return last

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return shortened(self.tasks[0]["task"], " | ".join(repr(task) for task in self.tasks))


_apply_async = _chain.apply_async


class chain(_chain):  # noqa: N801 -- Celery's name
    """Tasks that follow one another: ``chain(add.s(2, 2), add.s(4))()`` is ``(2 + 2) + 4``.

    ``chain(x, y, z)`` is what ``x | y | z`` is, which may be a chord, or a single chord's body made longer. With
    options it keeps its steps as they are.

    Args:
        tasks: signatures, or one iterable of them.
        options: of ``apply_async``, for the first task.
    """

    def __new__(cls, *tasks: Any, **options: Any) -> Any:
        """A chain, or what the chain comes to."""
        if options or not tasks or (len(tasks) == 1 and not is_sequence(tasks[0])):
            return super().__new__(cls)
        made = fold(tasks[0] if len(tasks) == 1 else tasks)
        if cls is not chain and type(made) is _chain:
            own = super().__new__(cls)
            _chain.__init__(own, made.tasks)
            return own
        return made


def fold(tasks: Iterable[Any]) -> Any:
    """What ``|`` between all of them gives, in one pass.

    Raises TypeError for what cannot be chained.
    """
    tasks = list(tasks)
    steps: list[Any] = []
    for position, task in enumerate(tasks, 1):
        merged = merge_step(steps, task, position < len(tasks))
        if merged is NotImplemented:
            return reduce(or_, tasks, _chain())
        if merged is not steps:
            return reduce(or_, tasks[position:], merged)
    # Copies, so that no two steps share what is linked to them; the last stays the caller's own.
    return _chain([step.clone() for step in steps[:-1]] + steps[-1:])


def merge_step(steps: list[Any], other: Any, clone: bool = True) -> Any:
    """Add to the steps of a chain what follows it, in place, as ``|`` would.

    Gives the steps; another signature where the whole is no chain any more; NotImplemented for what has no place in
    one. ``clone`` adds a copy.
    """
    if is_empty(other):
        return steps
    other = unrolled(other)
    kind = kind_of(other)
    if kind == "chain":
        return _merge_chain(steps, other.unchain_tasks(), clone)
    if kind is None:
        return NotImplemented
    if kind == "group" and not steps:
        return other
    _append_step(steps, other, clone)
    return steps


def _append_step(steps: list[Any], other: Any, clone: bool) -> None:
    last = kind_of(steps[-1]) if steps else None
    if last == "chord" and other.kind != "chord":
        steps[-1].body = steps[-1].body | other
        return
    other = other.clone() if clone else other
    if last == "group" and other.kind != "group":
        steps[-1] = new_signature("chord", steps[-1], other)
    else:
        steps.append(other)


def _merge_chain(steps: list[Any], inner: list[Any], clone: bool) -> Any:
    for position, task in enumerate(inner, 1):
        merged = merge_step(steps, task, clone or position < len(inner))
        if merged is NotImplemented:
            return merged
        if merged is not steps:
            return reduce(or_, inner[position:], merged)
    return steps


def strip_header_links(signature: Any) -> None:
    """Take from the parts of chords that wait what they get when they are sent: the body, which the chord has."""
    kind = kind_of(signature)
    if kind == "chord":
        clear_chord(signature.tasks)
        strip_header_links(signature.tasks)
        strip_header_links(signature.body)
    elif kind in ("group", "chain"):
        for task in signature.tasks:
            strip_header_links(task)
    elif kind is None and isinstance(signature, list):
        for task in signature:
            strip_header_links(task)


def clear_chord(signature: Any) -> None:
    """Take the chord that a signature is a part of from it, and from the tasks it ends with."""
    if isinstance(signature, Signature):
        signature.options.pop("chord", None)
    kind = kind_of(signature)
    if kind == "group" or (kind is None and isinstance(signature, list)):
        for task in signature.tasks if kind else signature:
            clear_chord(task)
    elif kind == "chain" and signature.tasks:
        clear_chord(signature.tasks[-1])
    elif kind == "chord" and signature.body is not None:
        clear_chord(signature.body)


def _cloned(task: Any, app: Any) -> Any:
    return maybe_signature(dict(task), app=app) if type(task) is dict else task.clone()


def _end_of(step: Any) -> Any:
    """What the callbacks of a chain that ends with this step are linked to."""
    return step.body if step.kind == "chord" else step


def _was_dropped(result: Any) -> bool:
    """Whether an eager task was ignored or rejected: then nothing follows it."""
    state = getattr(result, "state", None)
    return state in ("IGNORED", "REJECTED")
