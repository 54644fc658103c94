"""Groups: tasks that are sent together and run beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from umbel.canvas.composite import Composite
from umbel.canvas.counting import parts_of
from umbel.canvas.lazy import Regen, is_sequence, regen
from umbel.canvas.outbox import Opening
from umbel.canvas.signature import Signature, kind_of, maybe_signature, new_signature, shortened
from umbel.core.ids import new_id, sibling_id

if TYPE_CHECKING:
    from umbel.canvas.outbox import Outbox
    from umbel.canvas.stamping import StampingVisitor

__all__ = ["Opener", "clear_place", "group", "is_empty", "stamped_members"]

#: Makes the opening of the chord whose header a group is, from the number of parts and their results.
Opener = Callable[[int, list[Any]], Opening]

#: Options of a group that say what the group itself is, not how its tasks are sent.
_OF_THE_GROUP = ("task_id", "group_id", "group_index", "chord")


@Signature.register_type()
class group(Composite):  # noqa: N801 -- Celery's name
    """Tasks that run beside each other: ``group(add.s(2, 2), add.s(4, 4))()`` gives a ``GroupResult``.

    Args:
        tasks: signatures, or one iterable of them. A generator is read while its tasks are sent.
        options: of ``apply_async``, for every task.
    """

    kind: ClassVar[str] = "group"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = tasks[0]
            if kind_of(members) == "group":
                members = members.tasks
            elif isinstance(members, Signature):
                members = [members.clone()]
            elif isinstance(members, dict) or not is_sequence(members):
                members = [members]
        if isinstance(members, tuple):
            members = list(members)
        super().__init__("celery.group", (), {"tasks": regen(members)}, **options)
        self.subtask_type = "group"

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Any = None) -> Any:
        """A group from its mapping, whose tasks become signatures in place."""
        tasks = d["kwargs"]["tasks"]
        if isinstance(tasks, Regen):
            tasks.map(lambda task: maybe_signature(task, app=app))
        else:
            tasks = d["kwargs"]["tasks"] = [maybe_signature(task, app=app) for task in tasks]
        return cls._restored(tasks, d, app)

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Send the tasks, with these arguments put before their own."""
        return self.apply_async(partial_args, **options)

    def __or__(self, other: Any) -> Any:
        """What follows a group waits for all of it: a chord. An empty group follows nothing."""
        if is_empty(other):
            return self
        return new_signature("chord", self, body=other, app=self._app)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return shortened(self.tasks[0]["task"], f"group({list(self.tasks)!r})")

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """A copy, its tasks copied too, each with these arguments put before and over its own."""
        copy = super().clone((), None, **options)
        if isinstance(self.tasks, Regen):
            copy.tasks = (
                self.tasks if not args and not kwargs else Regen(_with_arguments(self.tasks, args, kwargs))
            )
        else:
            copy.tasks = list(_with_arguments(self.tasks, args, kwargs))
        return copy

    partial = clone

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group:
        """Have the tasks start one after the other: ``start`` seconds from now, then ``step`` apart, up to ``stop``."""
        countdown = start
        for task in self.tasks:
            task.set(countdown=countdown)
            countdown = countdown + step if stop is None else min(countdown + step, stop)
        return self

    # Sending.

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        add_to_parent: bool = True,
        producer: object = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send the tasks, in few round trips; gives the ``GroupResult``.

        Raises TypeError for ``link`` and ``link_error``: what follows a group is the body of a chord.
        """
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        if link_error is not None:
            raise TypeError("Cannot add link to group: do that on individual tasks")
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        with app.outbox() as outbox:
            return self._start(outbox, args or (), kwargs or {}, {**options, "add_to_parent": add_to_parent})

    def _start(
        self,
        outbox: Outbox,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        opener: Opener | None = None,
    ) -> Any:
        merged = {**self._merge((), {}, options, force=True)[2]}
        later = merged.pop("chain", None)
        if later:
            return self._start_chord(outbox, args, kwargs, {**merged, "chain": later[:-1]}, later[-1])
        remembered = merged.pop("add_to_parent", True)
        group_id, of_the_members, chord = self._placed(merged)
        if self.args and not self.immutable:
            args = (*(args or ()), *self.args)
        merged.update(group_id=of_the_members, add_to_parent=False)
        if chord is not None:
            merged["chord"] = chord
        members = self._frozen_members(
            self.tasks,
            group_id=of_the_members,
            chord=chord,
            base=merged.pop("base", 0),
            anew=opener is not None,
            **_family(merged),
        )
        results = self._start_members(outbox, members, (args, kwargs, merged), opener)
        result = self.app.GroupResult(group_id, results)
        if len(results) == 1 and kind_of_result(results[0]) == "group":
            # A lone chain that ends in a group: that group's result is the whole.
            result = results[0]
        if remembered:
            outbox.remember(result)
        return result

    @staticmethod
    def _placed(options: dict[str, Any]) -> tuple[str, str, Any]:
        """The group's own id, the group that its members belong to, and the chord that they are parts of."""
        taken = {name: options.pop(name, None) for name in _OF_THE_GROUP}
        group_id = taken["task_id"] or new_id()
        if taken["group_index"] is not None and taken["chord"] is not None:
            options["base"] = taken["group_index"]
        return group_id, taken["group_id"] or group_id, taken["chord"]

    def _start_chord(self, outbox: Outbox, args: Any, kwargs: Any, options: dict[str, Any], body: Any) -> Any:
        """What follows a group within a chain waits for all of it."""
        header = self.clone()
        group_id = options.pop("task_id", None)
        # The group is the header now: its place in a workflow is the body's.
        header.options = {} if group_id is None else {"task_id": group_id}
        body = maybe_signature(body, app=self._app)
        upgraded = new_signature("chord", header, body=body, app=self._app)
        upgraded.tasks = header
        return upgraded._start(outbox, args, kwargs, options)

    def _start_members(
        self,
        outbox: Outbox,
        members: Iterator[tuple[Signature, Any, int]],
        call: tuple[Any, Any, dict[str, Any]],
        opener: Opener | None,
    ) -> list[Any]:
        args, kwargs, options = call
        results: list[Any] = []
        size = 0
        if not (isinstance(self.tasks, Regen) and not self.tasks.done):
            known = list(members)
            results = [result for _, result, _ in known]
            if opener is not None and known:
                outbox.open_chord(opener(sum(parts for _, _, parts in known), results))
            for member, _, _ in known:
                member._start(outbox, args, kwargs, options)
            return results
        # The tasks are being made while they are sent: how many they are is known with the last of them.
        current = next(members, None)
        # The first of them may have been made long ago, so nobody knows how long the others take.
        outbox.hasten()
        while current is not None:
            member, result, parts = current
            results.append(result)
            size += parts
            current = next(members, None)
            if current is None and opener is not None:
                outbox.open_chord(opener(size, results))
            member._start(outbox, args, kwargs, options)
        return results

    def _frozen_members(
        self,
        tasks: Any,
        *,
        group_id: str | None,
        chord: Any,
        base: int = 0,
        anew: bool = False,
        kin: str | None = None,
        root_id: Any = None,
        parent_id: Any = None,
    ) -> Iterator[tuple[Signature, Any, int]]:
        """Copies of its tasks with their ids and places, their results, and how many parts of a chord each ends as.

        Groups within the group are unrolled, empty chains left out. Parts of a chord are numbered so that their
        results come in order whatever they consist of. ``anew`` takes them out of the group and chord that they had
        their places in before.
        """
        index = base
        for task in _unrolled_members(tasks, self._app):
            if anew:
                clear_place(task)
            result = task.freeze(
                None if kin is None else sibling_id(kin, index - base + 1),
                group_id=group_id,
                chord=chord,
                root_id=root_id,
                parent_id=parent_id,
                group_index=index,
            )
            parts = 1 if task.kind == "task" or chord is None else parts_of(task)
            yield task, result, parts
            index += parts

    # Running in place.

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run the tasks here, one after the other; gives the ``GroupResult``."""
        merged = {**self._merge((), {}, options, force=True)[2]}
        group_id, of_the_members, _ = self._placed(merged)
        merged.pop("chain", None)
        if self.args and not self.immutable:
            args = (*(args or ()), *self.args)
        merged["group_id"] = of_the_members
        results = [
            task.apply(args=args or (), kwargs=kwargs or {}, **merged)
            for task in _unrolled_members(self.tasks, self._app)
        ]
        return self.app.GroupResult(group_id, results)

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
        """Decide the ids of the group and of its tasks now; gives the ``GroupResult``."""
        return self.app.GroupResult(
            *self._freeze_group_tasks(_id, group_id, chord, root_id, parent_id, group_index)
        )

    _freeze = freeze

    def _freeze_group_tasks(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> tuple[str, list[Any]]:
        options = self.options
        drawn = new_id()
        own_id: str = options.setdefault("task_id", _id or drawn)
        if chord is None:
            # Its tasks are of this group; only as parts of a chord they count for another.
            group_id = None
        given = {"group_id": group_id, "chord": chord, "root_id": root_id, "parent_id": parent_id}
        options.update((name, value) for name, value in given.items() if value)
        if group_index is not None:
            options["group_index"] = group_index
        base = group_index if group_index is not None and chord is not None else 0
        members = self._frozen_members(
            self.tasks,
            group_id=group_id,
            chord=chord,
            base=base,
            kin=drawn,
            root_id=options.get("root_id"),
            parent_id=options.get("parent_id"),
        )
        if isinstance(self.tasks, Regen) and not self.tasks.done:
            return own_id, self._freeze_lazily(members)
        frozen = list(members)
        self.tasks = [task for task, _, _ in frozen]
        return own_id, [result for _, result, _ in frozen]

    def _freeze_lazily(self, members: Iterator[tuple[Signature, Any, int]]) -> Regen[Any]:
        frozen = Regen(members)
        self.tasks = Regen(task for task, _, _ in frozen)
        return Regen(result for _, result, _ in frozen)

    def _freeze_gid(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], str, Any]:
        merged = {**self._merge((), {}, options, force=True)[2]}
        group_id = merged["group_id"] = merged.pop("task_id", None) or new_id()
        return merged, group_id, merged.get("root_id")

    def _prepared(
        self, tasks: Any, partial_args: Sequence[Any], group_id: str, root_id: Any, app: Any
    ) -> Iterator[tuple[Signature, Any, str]]:
        """Celery's form of what is about to be sent: (task, result, group id) of each."""
        for index, task in enumerate(_unrolled_members(tasks, app)):
            ready = task.clone(partial_args)
            yield ready, ready.freeze(group_id=group_id, root_id=root_id, group_index=index), group_id

    def set_immutable(self, immutable: bool) -> None:
        """Say of every task whether arguments of the eventual call are left out."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp every task; see ``Signature.stamp``."""
        visited = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        headers = self._stamp_headers(visited, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        self.tasks = stamped_members(self.tasks, visitor, append_stamps, headers, self._app)
        if visitor is not None:
            visitor.on_group_end(self, **headers)

    # What follows it.

    def link(self, callback: Any) -> Any:
        """Link to the first task: immutable, for the results of the others are not there. A chord waits for all."""
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Link to the failure of every task; gives what was linked."""
        errback = maybe_signature(errback)
        return tuple(task.link_error(errback.clone()) for task in self.tasks)


def is_empty(value: Any) -> bool:
    """Whether it is a group that is known to have no tasks; of a generator nothing is known before it is read."""
    return (
        kind_of(value) == "group"
        and not (isinstance(value.tasks, Regen) and not value.tasks.done)
        and not value.tasks
    )


def kind_of_result(result: Any) -> str:
    """``group`` for the result of a group, ``task`` for that of one task; told by what they can do."""
    return "group" if hasattr(result, "results") else "task"


def clear_place(signature: Any) -> None:
    """Take a signature out of the group and chord that it is in, with the tasks that it ends with."""
    for name in ("chord", "group_id", "group_index"):
        signature.options.pop(name, None)
    match kind_of(signature):
        case "group":
            ends = () if isinstance(signature.tasks, Regen) else signature.tasks
        case "chain":
            ends = signature.tasks[-1:]
        case "chord":
            ends = () if signature.body is None else (signature.body,)
        case _:
            return
    for end in ends:
        if isinstance(end, Signature):
            clear_place(end)


def stamped_members(
    tasks: Any, visitor: StampingVisitor | None, append: bool, headers: dict[str, Any], app: Any
) -> Any:
    """The tasks, stamped; those of a generator when they are read."""

    def stamped(task: Any) -> Any:
        task = maybe_signature(task, app=app)
        task.stamp(visitor, append, **headers)
        return task

    if isinstance(tasks, Regen):
        tasks.map(stamped)
        return tasks
    if isinstance(tasks, list):
        tasks[:] = [stamped(task) for task in tasks]
        return tasks
    return [stamped(task) for task in tasks]


def _family(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("root_id", "parent_id") if options.get(name)}


def _unrolled_members(tasks: Any, app: Any) -> Iterator[Signature]:
    """Copies of the tasks; those of groups among them one by one, and no chain that has none."""
    for task in tasks:
        member = task.clone() if isinstance(task, Signature) else maybe_signature(dict(task), app=app)
        if member.kind == "group":
            yield from _unrolled_members(member.tasks, app)
        elif not (member.kind == "chain" and not member.tasks):
            yield member


def _with_arguments(tasks: Any, args: Any, kwargs: Any) -> Iterator[Any]:
    for task in tasks:
        yield (
            task.clone(args, kwargs)
            if isinstance(task, Signature)
            else maybe_signature(dict(task)).clone(args, kwargs)
        )
