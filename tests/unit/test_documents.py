"""Result documents: Celery's form, written and read, whoever is on the other side."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.peers import run_script
from umbel.core.json_types import loads_json
from umbel.core.serializers import dumps
from umbel.errors import ContentDisallowed, DecodeError, EncodeError, SecurityError, TaskRevokedError
from umbel.execution.context import Context
from umbel.results.documents import COMPRESSED_MAGIC, DocumentWriter, accepted_types, read_document
from umbel.results.handles import AsyncResult, GroupResult

WRITER = DocumentWriter()
KEYS = ["status", "result", "traceback", "children", "date_done"]


def context(**fields: Any) -> Context:
    return Context(
        {"id": "t", "task": "app.add", "args": [1], "kwargs": {"y": 2}, "hostname": "w@h", **fields}
    )


class TestWriting:
    def test_keys_are_celerys_in_celerys_order(self) -> None:
        document = json.loads(WRITER.write("t", "SUCCESS", 5, None, context()))
        assert list(document) == [*KEYS, "task_id"]
        assert document | {"date_done": 0} == {
            "status": "SUCCESS", "result": 5, "traceback": None, "children": [], "date_done": 0, "task_id": "t"
        }  # fmt: skip

    def test_group_and_parent_come_only_when_they_are_set(self) -> None:
        document = json.loads(WRITER.write("t", "SUCCESS", 5, None, context(group="g", parent_id="p")))
        assert list(document) == [*KEYS, "group_id", "parent_id", "task_id"]

    def test_extended(self) -> None:
        request = context(
            stamps={"mon": "abc", "other": 1},
            stamped_headers=["mon"],
            delivery_info={"routing_key": "q1"},
            retries=2,
        )
        document = json.loads(DocumentWriter(extended=True).write("t", "SUCCESS", 5, None, request))
        names = ["name", "args", "kwargs", "worker", "retries", "queue", "stamped_headers", "mon", "task_id"]
        assert list(document) == [*KEYS, *names]
        assert [document[name] for name in names[:6]] == ["app.add", [1], {"y": 2}, "w@h", 2, "q1"]

    def test_the_date_is_utc_and_only_there_when_it_is_done(self) -> None:
        done = json.loads(WRITER.write("t", "SUCCESS", 5))["date_done"]
        assert done.endswith("+00:00")
        assert abs((datetime.now(UTC) - datetime.fromisoformat(done)).total_seconds()) < 60
        assert json.loads(WRITER.write("t", "RETRY", KeyError("x")))["date_done"] is None

    def test_without_a_request_there_are_no_children(self) -> None:
        assert json.loads(WRITER.write("t", "REVOKED", TaskRevokedError("revoked")))["children"] is None

    def test_results_are_stored_as_their_tuples(self) -> None:
        parent = AsyncResult("p")
        document = json.loads(WRITER.write("t", "SUCCESS", AsyncResult("a", parent=parent)))
        assert document["result"] == [["a", [["p", None], None]], None]
        group = GroupResult("g", [AsyncResult("a"), AsyncResult("b")])
        assert json.loads(WRITER.write("t", "SUCCESS", group))["result"] == [
            ["g", None], [[["a", None], None], [["b", None], None]]
        ]  # fmt: skip

    def test_special_types_are_kombus(self) -> None:
        moment = datetime(2030, 1, 2, tzinfo=UTC)
        data = WRITER.write("t", "SUCCESS", {"at": moment})
        assert b"__type__" in data
        assert read_document(data)["result"] == {"at": moment}

    def test_a_result_without_a_form_is_named(self) -> None:
        with pytest.raises(EncodeError, match="Thread"):
            WRITER.write("t", "SUCCESS", threading.Thread())

    def test_a_state_of_the_tasks_own(self) -> None:
        data = WRITER.write("t", "PROGRESS", {"done": 3})
        assert read_document(data)["result"] == {"done": 3}


class TestReading:
    @pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
    @pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
    def test_every_serializer_and_compression(self, serializer: str, compression: str | None) -> None:
        if serializer == "yaml":
            pytest.importorskip("yaml")
        data = DocumentWriter(serializer, compression).write("t", "SUCCESS", {"a": [1, "b"]}, None, context())
        assert data.startswith(COMPRESSED_MAGIC) is (compression is not None)
        assert read_document(data, serializer)["result"] == {"a": [1, "b"]}

    def test_exceptions_come_back_as_themselves(self) -> None:
        for serializer in ("json", "pickle"):
            data = DocumentWriter(serializer).write("t", "FAILURE", ValueError("boom", 3), "Traceback…")
            error = read_document(data, serializer)["result"]
            assert (type(error), error.args) == (ValueError, ("boom", 3))

    def test_an_exception_that_does_not_pickle_is_stored_as_the_nearest_that_does(self) -> None:
        class Local(KeyError):
            def __init__(self, one: str, two: str) -> None:
                super().__init__(one, two)

        data = DocumentWriter("pickle").write("t", "FAILURE", Local("a", "b"))
        error = read_document(data, "pickle")["result"]
        assert (type(error), error.args) == (KeyError, ("a", "b"))

        class Bare(Exception):
            pass

        error = read_document(DocumentWriter("pickle").write("t", "FAILURE", Bare(1)), "pickle")["result"]
        assert "Bare" in str(error)

    @pytest.mark.parametrize(
        "document",
        [
            {"status": "FAILURE", "result": None},
            {"status": "FAILURE", "result": "it broke", "traceback": None},
            {"status": "FAILURE", "result": {"message": "node"}, "date_done": None},
            {"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]}},
            {"status": "FAILURE"},
        ],
    )
    def test_failures_of_other_writers(self, document: dict[str, Any]) -> None:
        meta = read_document(json.dumps(document).encode())
        assert isinstance(meta["result"], BaseException)
        assert meta["children"] is None

    def test_a_retry_without_an_error_has_none(self) -> None:
        assert read_document(b'{"status": "RETRY", "result": null}')["result"] is None

    def test_missing_fields_are_none(self) -> None:
        assert read_document(b"{}") == {
            "status": "PENDING",
            "result": None,
            "traceback": None,
            "children": None,
        }

    def test_what_is_not_accepted_is_not_decoded(self) -> None:
        data = DocumentWriter("pickle").write("t", "SUCCESS", 1)
        with pytest.raises(ContentDisallowed):
            read_document(data, "pickle", accepted_types("pickle", ["json"]))
        assert read_document(data, "pickle", accepted_types("pickle", ["json", "pickle"]))["result"] == 1

    def test_only_exceptions_are_made(self) -> None:
        evil = {"exc_type": "system", "exc_message": ["true"], "exc_module": "os"}
        with pytest.raises(SecurityError):
            read_document(json.dumps({"status": "FAILURE", "result": evil}).encode())

    @pytest.mark.parametrize(
        "data", [b"", b"[]", b"1", b"{", b"\xff", COMPRESSED_MAGIC + b"application/x-gzip\0junk"]
    )
    def test_junk_is_said_to_be_junk(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            read_document(data)

    def test_an_unknown_content_type_is_named(self) -> None:
        with pytest.raises(DecodeError, match="application/x-nothing"):
            read_document(b"{}", "application/x-nothing")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(lambda value: "__type__" not in repr(value))


@given(json_values, st.sampled_from(["json", "msgpack", "pickle"]), st.sampled_from([None, "gzip"]))
def test_every_value_comes_back(value: Any, serializer: str, compression: str | None) -> None:
    data = DocumentWriter(serializer, compression).write("t", "SUCCESS", value, None, context())
    meta = read_document(data, serializer)
    assert meta["result"] == value
    assert meta["task_id"] == "t"


_CELERY_READS = """
import json, sys
from celery import Celery
app = Celery(backend="cache+memory://")
app.conf.result_compression = "gzip" if sys.argv[1] == "gzip" else None
out = []
for line in sys.stdin.read().split():
    meta = app.backend.decode_result(bytes.fromhex(line))
    value = meta["result"]
    if isinstance(value, BaseException):
        value = [type(value).__module__, type(value).__name__, list(value.args)]
    out.append([meta["status"], value, meta["task_id"]])
print(json.dumps(out))
"""

_CELERY_WRITES = """
import json
from celery import Celery
from celery.app.task import Context
app = Celery(backend="cache+memory://")
request = Context({"id": "t", "group": "g", "parent_id": "p", "task": "app.add", "args": [1], "kwargs": {"y": 2},
                   "hostname": "w@h", "retries": 0, "delivery_info": {"routing_key": "q"}, "children": []})
backend, out = app.backend, []
for extended in (False, True):
    app.conf.result_extended = extended
    for state, value in (("SUCCESS", 5), ("FAILURE", ValueError("boom", 3)), ("RETRY", KeyError("k"))):
        meta = backend._get_result_meta(backend.encode_result(value, state), state, None, request)
        meta["task_id"] = "t"
        out.append(backend.encode(meta))
print(json.dumps(out))
"""


@pytest.mark.interop
def test_real_celery_reads_what_is_written_here(interop_python: Path, tmp_path: Path) -> None:
    for compression in (None, "gzip"):
        writer = DocumentWriter("json", compression, extended=True)
        documents = [
            writer.write("t", "SUCCESS", {"a": [1, None]}, None, context()),
            writer.write("t", "FAILURE", ValueError("boom", 3), "tb", context()),
            writer.write("t", "REVOKED", TaskRevokedError("expired")),
        ]
        script = _CELERY_READS.replace("sys.stdin.read()", repr(" ".join(data.hex() for data in documents)))
        assert json.loads(run_script(interop_python, script, compression or "none", cwd=tmp_path)) == [
            ["SUCCESS", {"a": [1, None]}, "t"],
            ["FAILURE", ["builtins", "ValueError", ["boom", 3]], "t"],
            ["REVOKED", ["celery.exceptions", "TaskRevokedError", ["expired"]], "t"],
        ]


@pytest.mark.interop
def test_documents_are_those_of_real_celery(interop_python: Path, tmp_path: Path) -> None:
    theirs = json.loads(run_script(interop_python, _CELERY_WRITES, cwd=tmp_path))
    request = context(group="g", parent_id="p", retries=0, delivery_info={"routing_key": "q"})
    values: list[tuple[str, Any]] = [
        ("SUCCESS", 5),
        ("FAILURE", ValueError("boom", 3)),
        ("RETRY", KeyError("k")),
    ]
    mine = [
        DocumentWriter(extended=extended).write("t", state, value, None, request)
        for extended in (False, True)
        for state, value in values
    ]
    for their_text, my_data in zip(theirs, mine, strict=True):
        expected, actual = json.loads(their_text), loads_json(my_data)
        assert list(actual) == list(expected)
        assert actual | {"date_done": 0} == expected | {"date_done": 0}
        assert (actual["date_done"] is None) is (expected["date_done"] is None)
        read_document(their_text.encode())


def test_msgpack_documents_of_other_writers_are_read() -> None:
    _, _, data = dumps({"status": "SUCCESS", "result": b"\xff"}, "msgpack")
    assert read_document(data, "msgpack")["result"] == b"\xff"
