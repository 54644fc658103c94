"""What follows a task: callbacks, the next step of its chain, and error callbacks, from any writer's JSON signatures.

Everything here becomes publications, which are sent in the same step that ends the task's delivery. Ids that a
signature does not carry are derived from the parent's, so that a repeated attempt names what follows alike.
"""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from umbel.canvas.outbox import Carried
from umbel.canvas.signature import Signature
from umbel.execution import lines
from umbel.execution.ids import derived_id
from umbel.execution.opening import open_chord_later
from umbel.results.handles import AsyncResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from umbel.canvas.outbox import Opening
    from umbel.core.records import Publication
    from umbel.execution.context import Context
    from umbel.execution.job import ExecutionApp, RunnableTask

#: Options that a signature keeps against those it is called with: changing them would stall what waits for them.
_KEPT_OPTIONS: Final = frozenset({"group_id", "stamped_headers"})
#: The flag of code objects that take ``*args``.
_VARIADIC: Final = 0x04


class Followers:
    """The outbox of a task that has ended: what follows it becomes publications, and the task's children.

    Args:
        app: the application.
        context: of the task, or of the chord, that is followed.
        children: where results are entered; None: nowhere.
    """

    def __init__(self, app: ExecutionApp, context: Context, children: list[Any] | None = None) -> None:
        self._app = app
        self._family = _family(context)
        self._children = children
        self._carried = Carried()
        self.publications: list[Publication] = []

    def send(
        self,
        signature: Mapping[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> AsyncResult[Any]:
        """As ``Outbox.send``: makes the publication. Raises what ``ExecutionApp.prepare`` raises."""
        given = self._carried.options(options)
        remembered = given.pop("add_to_parent", True)
        for name, value in self._family.items():
            given[name] = given.get(name) or value
        call = {"task": signature["task"], "args": args, "kwargs": kwargs, "options": given}
        self.publications.append(self._app.prepare(call))
        result: AsyncResult[Any] = AsyncResult(given["task_id"])
        if remembered:
            self.remember(result)
        return result

    def open_chord(self, opening: Opening) -> None:
        """As ``Outbox.open_chord``, at once: the parts go out when the task is settled."""
        open_chord_later(self._app, opening, self)

    def hasten(self) -> None:
        """As ``Outbox.hasten``: nothing goes out before the task is settled."""

    def remember(self, result: Any) -> None:
        """Note a result among the task's children."""
        if self._children is not None:
            self._children.append(result)

    def start(
        self, signature: Mapping[str, Any], place: str, args: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        """Have any signature follow, a workflow included; ``place`` tells it from whatever else follows the same."""
        parent_id = str(self._family["parent_id"])
        if not signature.get("subtask_type"):
            call = _called(signature, args, options)
            call["options"].setdefault("task_id", derived_id(parent_id, place))
            self.send(call, call["args"], call["kwargs"], call["options"])
            return
        workflow = Signature.from_dict(signature, app=self._app).clone()
        _derive_ids(workflow, parent_id, place)
        workflow._start(self, args, {}, options)


def _derive_ids(signature: Any, parent_id: str, place: str) -> None:
    """Give everything in a workflow that has no id yet one that a repeated attempt gives it too."""
    if signature.kind == "chain":
        for index, step in enumerate(signature.tasks):
            _derive_ids(step, parent_id, f"{place}/{index}")
        return
    signature.options.setdefault("task_id", derived_id(parent_id, place))
    if signature.kind == "chord":
        header = signature.as_group()
        header.options.setdefault("task_id", signature.options["task_id"])
        _derive_ids(header, parent_id, f"{place}/header")
        # Its id has been that of its header; as an option it would become the body's.
        del signature.options["task_id"]
        _derive_ids(signature.body, parent_id, f"{place}/body")
    elif signature.kind == "group":
        for index, task in enumerate(signature.tasks):
            _derive_ids(task, parent_id, f"{place}/{index}")


def links_for(
    app: ExecutionApp, task: RunnableTask, context: Context, value: Any, inherit_priority: bool
) -> list[Publication]:
    """What a task that returned ``value`` is followed by: its callbacks, then its chain's next step.

    Each is added to the task's trail. The chords among them are opened. Raises what ``ExecutionApp.prepare`` raises;
    then nothing was sent.
    """
    options: dict[str, Any] = {}
    if inherit_priority:
        priority = (context.delivery_info or {}).get("priority")
        if priority is not None:
            options["priority"] = priority
    followers = Followers(app, context, context.children if task.trail else None)
    for index, callback in enumerate(context.callbacks or ()):
        followers.start(callback, f"link/{index}", (value,), options)
    if tail := context.unread_chain:
        step, rest = tail.split()
        # A workflow among the steps looks at those that follow it.
        later = {**options, "chain": rest.steps() if step.get("subtask_type") else rest}
        followers.start(step, "chain", (value,), later)
    elif context.chain:
        later = {**options, "chain": list(context.chain[:-1])}
        followers.start(context.chain[-1], "chain", (value,), later)
    return followers.publications


def errbacks_for(
    app: ExecutionApp,
    context: Context,
    error: BaseException,
    traceback: str | None,
    before_calling: Callable[[], None] | None = None,
) -> list[Publication]:
    """Call a failed task's error callbacks: those that can be here, in place; the others become publications.

    A task of this process that was not bound and takes more than one argument is called with the request, the error
    and its traceback. Any other is sent the failed task's id, as its first argument. ``before_calling`` is called
    before the first that is called here.
    """
    followers = Followers(app, context)
    for index, errback in enumerate(context.errbacks or ()):
        here = None if errback.get("subtask_type") else app.tasks.get(errback["task"])
        if here is not None and _takes_error(here, errback):
            if before_calling is not None:
                before_calling()
                before_calling = None
            _call_errback(here, errback, (context, error, traceback))
        else:
            followers.start(errback, f"errback/{index}", (context.id,), {})
    return followers.publications


def _is_called_here(app: ExecutionApp, errback: Mapping[str, Any]) -> bool:
    here = None if errback.get("subtask_type") else app.tasks.get(errback["task"])
    return here is not None and _takes_error(here, errback)


def _family(context: Context) -> dict[str, Any]:
    return {"parent_id": context.id, "root_id": context.root_id or context.id}


def _called(signature: Mapping[str, Any], args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A complete signature: ``args`` come first unless it is immutable, ``options`` override its own."""
    mine = dict(signature.get("options") or {})
    kept = _KEPT_OPTIONS.union(mine.get("stamped_headers") or ())
    mine.update((name, value) for name, value in options.items() if name not in kept or name not in mine)
    own_args = tuple(signature.get("args") or ())
    return {
        "task": signature["task"],
        "args": own_args if signature.get("immutable") else (*args, *own_args),
        "kwargs": dict(signature.get("kwargs") or {}),
        "options": mine,
    }


def _takes_error(task: RunnableTask, errback: Mapping[str, Any]) -> bool:
    """Whether an error callback is of the kind that is called with the error itself.

    Only tasks made from plain functions are: a bound task's first argument would be taken by itself.
    """
    header = getattr(task, "__header__", None)
    code = None if isinstance(header, partial) else getattr(header, "__code__", None)
    if code is None:
        return False
    if code.co_flags & _VARIADIC:
        return True
    names = code.co_varnames[: code.co_argcount]
    if not errback.get("immutable"):
        # What is stored already is not for the failure to fill in, nor what comes after it by name.
        stored = errback.get("kwargs") or {}
        names = names[len(errback.get("args") or ()) :]
        names = tuple(takewhile(lambda name: name not in stored, names))
    return len(names) > 1


def _call_errback(task: RunnableTask, errback: Mapping[str, Any], args: Sequence[Any]) -> None:
    call = _called(errback, args, {})
    try:
        task(*call["args"], **call["kwargs"])
    except Exception as error:
        # The failure it was told of stands, whatever becomes of the telling.
        lines.errback_raised(task.name, error)
