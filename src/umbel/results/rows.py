"""Result documents as rows of Celery's tables: each part of a document in a column of its own.

The parts that hold user data (result, children, arguments) are serialized one by one with ``result_serializer``. In
JSON documents they are cut out and put together again as the bytes that they are, so that nothing is lost on the way.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.core.serializers import accept_set, check_accepted, dumps, loads, registry
from umbel.core.states import PENDING, READY_STATES
from umbel.results.documents import decompress_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from umbel.core.records import ResultRecord

#: Columns that hold serialized values, and those of plain text or numbers, both in the order of a document.
_VALUES: Final = ("result", "children", "args", "kwargs")
_EXTENDED: Final = ("name", "args", "kwargs", "worker", "retries", "queue")
#: How every pickle of protocol 2 and later begins: rows of Celery before 5.7 are pickles whatever the serializer.
_PICKLE_MARK: Final = b"\x80"
_PICKLE: Final = "application/x-python-serialize"
_MAY_BEGIN_SO: Final = frozenset({_PICKLE, "application/x-msgpack"})

Row = dict[str, Any]


class RowForm:
    """Turns documents into rows and back, for one serializer.

    Args:
        serializer: ``result_serializer``.
        accept: names of what may be read; None trusts the serializer alone.
    """

    def __init__(self, serializer: str, accept: tuple[str, ...] | None) -> None:
        self._serializer = serializer
        known = registry.named(serializer)
        self._type, self._encoding = known.content_type, known.content_encoding
        self._accept = accept_set(accept or (serializer,))

    def split(self, record: ResultRecord, now: float) -> Row:
        """The columns of a record. A result without a time of its own is done ``now``."""
        parts = self._parts(decompress_document(record.document))
        row: Row = {name: parts.get(name) for name in (*_VALUES, *_EXTENDED)}
        for name in ("name", "worker", "queue", "retries", "traceback"):
            row[name] = self._value(parts.get(name))
        row["stamps"] = self._stamps(parts)
        row["date_done"] = self._date_done(parts.get("date_done"), record.state, now)
        row["status"] = record.state
        return row

    def _parts(self, data: bytes) -> dict[str, bytes]:
        """The parts of a document, serialized; those that are None are left out, but the result."""
        if self._type == "application/json":
            try:
                raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
                return {
                    name: bytes(part) for name, part in raw.items() if name == "result" or part != b"null"
                }
            except msgspec.DecodeError:
                pass  # NaN and the infinities, which the standard library reads
        document = loads(data, self._type, self._encoding, frozenset({self._type}))
        return {
            name: self._dumps(value)
            for name, value in document.items()
            if name == "result" or value is not None
        }

    def _dumps(self, value: Any) -> bytes:
        return dumps(value, self._serializer)[2]

    def _value(self, part: bytes | None) -> Any:
        """What a part that this backend's own worker wrote holds."""
        return None if part is None else loads(part, self._type, self._encoding, frozenset({self._type}))

    def _stamps(self, parts: Mapping[str, bytes]) -> bytes | None:
        names = self._value(parts.get("stamped_headers"))
        if not names:
            return None
        stamps = {name: self._value(parts[name]) for name in names if name in parts}
        return self._dumps({"stamped_headers": names, "stamps": stamps})

    def _date_done(self, part: bytes | None, state: str, now: float) -> datetime | None:
        text = self._value(part)
        if text:
            done = datetime.fromisoformat(text) if isinstance(text, str) else text
            return (done.astimezone(UTC) if done.tzinfo else done).replace(tzinfo=None)
        return datetime.fromtimestamp(now, UTC).replace(tzinfo=None) if state in READY_STATES else None

    def join(self, task_id: str, row: Mapping[str, Any]) -> bytes:
        """The document that a row holds. Raises ContentDisallowed and DecodeError for a row that cannot be read."""
        done = row["date_done"]
        document: dict[str, bytes] = {
            "status": self._dumps(row["status"] or PENDING),
            "result": self._stored(row["result"]),
            "traceback": self._dumps(row["traceback"]),
            "children": self._stored(row.get("children")),
            "date_done": self._dumps(done and done.replace(tzinfo=UTC).isoformat()),
        }
        if any(row.get(name) is not None for name in _EXTENDED):
            for name in _EXTENDED:
                value = row.get(name)
                document[name] = self._stored(value) if name in _VALUES else self._dumps(value)
        document.update(self._stored_stamps(row.get("stamps")))
        document["task_id"] = self._dumps(task_id)
        return self._finish(document)

    def split_group(self, document: bytes) -> bytes:
        """What the column of a group holds of its document: the ids alone."""
        return self._parts(decompress_document(document))["result"]

    def join_group(self, stored: Any) -> bytes:
        """The document of a group. Raises as ``join``: older Celery stored pickled objects of its own."""
        return self._finish({"result": self._stored(stored)})

    def _stored(self, part: Any) -> bytes:
        """A column's value in this serializer's form: a pickle of older Celery is one where pickle is accepted."""
        if part is None:
            return self._dumps(None)
        data = part.encode() if isinstance(part, str) else bytes(part)
        if data[:1] == _PICKLE_MARK and self._type not in _MAY_BEGIN_SO:
            return self._dumps(loads(data, _PICKLE, "binary", self._accept))
        return data

    def _stored_stamps(self, part: bytes | None) -> dict[str, bytes]:
        if part is None:
            return {}
        stored = loads(part, self._type, self._encoding, self._accept)
        stamps = stored.get("stamps") or {}
        return {
            "stamped_headers": self._dumps(stored.get("stamped_headers")),
            **{name: self._dumps(value) for name, value in stamps.items()},
        }

    def _finish(self, document: dict[str, bytes]) -> bytes:
        if self._type == "application/json":
            members = (self._dumps(name) + b": " + part for name, part in document.items())
            return b"{" + b", ".join(members) + b"}"
        check_accepted(self._type, self._accept)
        values = {
            name: loads(part, self._type, self._encoding, self._accept) for name, part in document.items()
        }
        return self._dumps(values)
