"""Chords as their tasks see them: what a part says of itself, and what completing a chord sends.

A part's record carries its entry and a *plan*: all that completing the chord takes should this part be the last. The
stores keep both and look into neither.
"""

from __future__ import annotations

import hashlib
import pickle
from typing import TYPE_CHECKING, Any, Final

from umbel.core.failures import decode_error
from umbel.core.json_types import dumps_compact, loads_json
from umbel.core.records import ChordPart
from umbel.core.states import EXCEPTION_STATES, PROPAGATE_STATES
from umbel.errors import BackendError, ChordError, EncodeError, SecurityError
from umbel.results.documents import accepted_types, read_document, read_serialized
from umbel.results.handles import result_from_tuple
from umbel.results.sets import GroupResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from umbel.execution.context import Context
    from umbel.execution.job import ExecutionApp
    from umbel.results.documents import DocumentWriter

#: How every pickle of protocol 2 and later begins; no JSON does.
_PICKLE_MARK: Final = b"\x80"


def chord_realm(app: ExecutionApp, queue: str) -> str:
    """Names the workers that complete a chord when the one of its last part is gone: those of that part's queue.

    Several applications may keep their results in one place, and each routes its messages its own way. Those whose
    messages are there too are one realm, however each of them writes its URL.
    """
    prefix = (app.conf.broker_transport_options or {}).get("global_keyprefix", "")
    store = "here" if app.broker.store == app.backend.store else app.broker.store
    where = hashlib.sha1(f"{store} {prefix}".encode(), usedforsecurity=False).hexdigest()[:8]
    return f"{where}:{queue}"


class PartWriter:
    """Writes what a task's record says of its chord."""

    def __init__(self, app: ExecutionApp, writer: DocumentWriter) -> None:
        self._app = app
        self._writer = writer
        self._counts = app.backend.native_chords
        self._default_queue = app.conf.task_default_queue
        self._realms: dict[str, str] = {}

    def part_of(self, context: Context, state: str, value: Any) -> ChordPart | None:
        """What is counted with a record; None for a task that is no part of a chord, or when nobody counts.

        Raises EncodeError for a value, or a body, that cannot be written.
        """
        return self.counted(context, state, value) if context.chord else None

    def counted(self, context: Context, state: str, value: Any) -> ChordPart | None:
        """As ``part_of``, for a member of a group of which the body is not known here."""
        if not self._counts or not context.group:
            return None
        entry = self._writer.write_entry(str(context.id), state, value)
        return ChordPart(context.group, context.group_index, entry, self._plan(context), self._realm(context))

    def _plan(self, context: Context) -> bytes:
        plan = {
            "body": context.chord,
            "parent_id": context.id,
            "root_id": context.root_id,
            "priority": (context.delivery_info or {}).get("priority"),
        }
        try:
            return dumps_compact(plan)
        except EncodeError:
            if "application/x-python-serialize" not in self._app.accept:
                raise
            return pickle.dumps(plan, 4)

    def _realm(self, context: Context) -> str:
        queue = context._queue or (context.delivery_info or {}).get("routing_key") or self._default_queue
        realm = self._realms.get(queue)
        if realm is None:
            realm = self._realms[queue] = chord_realm(self._app, queue)
        return realm


def read_plan(data: bytes, accept: frozenset[str]) -> dict[str, Any]:
    """The plan of a due chord. Raises DecodeError, or SecurityError for a pickle that must not be read."""
    if not data.startswith(_PICKLE_MARK):
        plan = loads_json(data)
    elif "application/x-python-serialize" in accept:
        plan = pickle.loads(data)
    else:
        raise SecurityError("the body of a chord is pickled, and accept_content does not name pickle")
    return dict(plan)


class HeaderResults:
    """Reads what the parts of a chord have returned."""

    def __init__(self, app: ExecutionApp) -> None:
        self._backend = app.backend
        self._serializer = app.conf.result_serializer
        names = app.conf.result_accept_content
        wanted = app.conf.accept_content if names is None else names
        self._accept = None if self._serializer == "json" else accepted_types(self._serializer, wanted)
        self._timeout = app.conf.result_chord_join_timeout

    def read(self, group_id: str, last: str) -> list[Any]:
        """The values in the header's order; groups within the header are lists, where they were saved.

        Raises ChordError when a part has failed, with its error as the cause. Raises BackendError when not all parts
        are there, or ``last``, the task that was counted last, is not among them: then a peer has completed the chord
        meanwhile and its parts are gone, or this is a store of the time before, such as a primary that does not know
        yet that it is replaced. There ``last`` may have been counted too, and others not.
        """
        values: dict[str, Any] = {}
        ordered = []
        entries = self._backend.chord_entries(group_id)
        for entry in entries:
            task_id, value = self._value(entry)
            values[task_id] = value
            ordered.append(value)
        if last not in values or len(entries) < self._backend.chord_size(group_id):
            raise BackendError("its parts are not there; a peer may have completed it")
        saved = self._backend.load_group(group_id)
        if saved is None:
            return ordered
        structure = result_from_tuple(self._decode(saved)["result"])
        self._read_missing(structure, values)
        return [_shaped(member, values) for member in structure]

    def _value(self, entry: bytes) -> tuple[str, Any]:
        _, task_id, state, value = self._decode(entry)
        return str(task_id), self._checked(str(task_id), state, value)

    def _checked(self, task_id: str, state: str, value: Any) -> Any:
        if state in EXCEPTION_STATES:
            value = decode_error(value)
        if state in PROPAGATE_STATES:
            error = ChordError(f"Dependency {task_id} raised {value!r}")
            raise error from (value if isinstance(value, Exception) else None)
        return value

    def _decode(self, data: bytes) -> Any:
        return read_serialized(data, self._serializer, self._accept)

    def _read_missing(self, structure: GroupResult, values: dict[str, Any]) -> None:
        """Results that the group names and that were no parts of the chord are waited for, as Celery does."""
        missing = [leaf.id for leaf in structure._leaves() if leaf.id not in values]
        if not missing:
            return
        ready = {}
        for task_id, data in self._backend.wait(missing, self._timeout):
            ready[task_id] = read_document(data, self._serializer, self._accept)
        for task_id, document in ready.items():
            values[task_id] = self._checked(task_id, document["status"], document["result"])


def _shaped(result: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(result, GroupResult):
        return [_shaped(member, values) for member in result]
    return values[result.id]


def unreached(steps: Iterable[Mapping[str, Any]] | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The ids, and options, of all tasks and groups in signatures that will not run.

    A chord stands for its body, a chain for all its steps and a group for all its members: each may be awaited.
    """
    for step in steps or ():
        options = step.get("options") or {}
        kwargs = step.get("kwargs") or {}
        kind = step.get("subtask_type")
        if options.get("task_id"):
            # A group's own id is nobody's part: its members are.
            yield options["task_id"], _without_chord(options) if kind in _COMPOSITE else options
        if kind == "chord":
            yield from unreached([kwargs["body"]] if kwargs.get("body") else ())
        elif kind in _COMPOSITE:
            yield from unreached(kwargs.get("tasks"))
        if options.get("chain"):
            yield from unreached(options["chain"])


_COMPOSITE: Final = frozenset({"group", "chain", "chord"})


def _without_chord(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in options.items() if name != "chord"}
