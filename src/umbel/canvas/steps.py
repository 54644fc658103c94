"""From a chain as it was written to the steps it consists of.

Chains within a chain are spliced, groups of one stand for their task, empty groups fall out, and a group that is
followed by anything becomes a chord. Each step then gets its id, and its result the one before it as its parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from umbel.canvas.groups import is_empty
from umbel.canvas.lazy import as_list
from umbel.canvas.signature import Signature, kind_of, new_signature, unrolled

__all__ = ["Place", "freeze_steps", "prepared_steps", "unrolled_chord"]

#: Options of a chain that are not those of its first task.
OF_THE_CHAIN = frozenset(
    {"chord", "group_id", "group_index", "link", "link_error", "parent_id", "root_id", "task_id"}
)


class Place(NamedTuple):
    """Where a chain stands: what its last step takes over, and what is called when any step fails."""

    task_id: str | None = None
    group_id: str | None = None
    chord: Any = None
    group_index: int | None = None
    root_id: str | None = None
    link_error: Any = None


def prepared_steps(
    tasks: Iterable[Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    app: Any,
    clone: bool,
) -> list[Signature]:
    """The steps, first to last; the arguments are put before and over those of the first.

    With ``clone`` they are copies. Otherwise they are the chain's own signatures, which get their ids in place.
    """
    steps = list(_flat(tasks, app, clone, set()))
    real = [step for step in steps if not is_empty(step)]
    # A chain of nothing but empty groups has the result of one.
    steps = real or steps[:1]
    if steps and (args or kwargs):
        if clone:
            steps[0] = _with_arguments(steps[0], args, kwargs)
        elif args and not steps[0].immutable:
            steps[0].args = (*args, *(steps[0].args or ()))
    return _with_chords(steps, app)


def _flat(tasks: Iterable[Any], app: Any, clone: bool, seen: set[int]) -> Iterable[Signature]:
    for written in tasks:
        task = unrolled(written)
        if not isinstance(task, Signature) and isinstance(task, dict):
            task = unrolled(Signature.from_dict(task, app=app))
        elif clone or id(task) in seen:
            # The same signature twice is two tasks.
            task = task.clone()
        seen.add(id(task))
        if kind_of(task) == "chain":
            yield from _flat(_linked_steps(task) if clone else task.tasks, app, clone=False, seen=seen)
        elif clone and kind_of(task) == "chord" and led_by_task(task.body):
            yield from _flat(unrolled_chord(task), app, clone=False, seen=seen)
        else:
            yield task


def _linked_steps(chain: Any) -> list[Signature]:
    steps: list[Signature] = chain.unchain_tasks()
    return steps


def led_by_task(body: Any) -> bool:
    """Whether it is a chain that begins with anything but a group, which would run the rest once for each member."""
    return kind_of(body) == "chain" and bool(body.tasks) and kind_of(body.tasks[0]) != "group"


def unrolled_chord(chord: Any) -> list[Signature]:
    """A chord followed by the later steps of its body, a chain: they need not be in every part's message."""
    copy = chord.clone()
    first, *later = copy.body.unchain_tasks()
    options = {name: value for name, value in copy.body.options.items() if name not in OF_THE_CHAIN}
    copy.body = first.clone(**options)
    return [copy, *later]


def _with_arguments(step: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
    if step.kind == "chord":
        return step.with_header_arguments(args, kwargs)
    return step.clone(args, kwargs or {})


def _with_chords(steps: list[Signature], app: Any) -> list[Signature]:
    done: list[Signature] = []
    for step in reversed(steps):
        if step.kind != "group" or not done:
            done.append(step)
            continue
        chord = new_signature("chord", step, body=done.pop(), app=app)
        # The group itself, not its tasks: it may have an id already.
        chord.tasks = step
        done.append(chord)
    return done[::-1]


def freeze_steps(steps: list[Signature], place: Place, use_link: bool) -> tuple[list[Signature], list[Any]]:
    """Give the steps their ids and their results their parents; both come last to first, as messages have them.

    With ``use_link`` each step is linked to the one before it, as protocol 1 has it.
    """
    tasks: list[Signature] = []
    results: list[Any] = []
    after: Any = None
    for step in reversed(steps):
        if not tasks:
            result = step.freeze(
                place.task_id,
                root_id=place.root_id,
                group_id=place.group_id,
                chord=place.chord,
                group_index=place.group_index,
            )
        else:
            result = step.freeze(root_id=place.root_id)
            if use_link:
                step.link(tasks[-1])
        if after is not None and not after.parent:
            after.parent = result
        _link_errors(step, place.link_error)
        tasks.append(step)
        results.append(result)
        after = _first_of(result) if step.kind == "chord" else result
    return tasks, results


def _first_of(result: Any) -> Any:
    """Where the results of a chord begin: those of its header, which the step before it is the parent of."""
    while result.parent:
        result = result.parent
    return result


def _link_errors(step: Any, errbacks: Any) -> None:
    for errback in as_list(errbacks) or ():
        step.link_error(errback)
        # A chord that fails asks its body what is to be called.
        if step.kind == "chord" and step.body is not None:
            step.body.link_error(errback)
