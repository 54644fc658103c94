"""Results in SQL databases: the tables, the settings, the forms of a row, and what goes wrong."""

from __future__ import annotations

import json
import math
import pickle
import sqlite3

import pytest

from umbel.core.records import ResultRecord
from umbel.core.serializers import dumps, loads
from umbel.core.states import FAILURE, SUCCESS
from umbel.errors import BackendGetMetaError, BackendStoreError, ContentDisallowed, ImproperlyConfigured
from umbel.results.documents import DocumentWriter, read_document
from umbel.results.options import DatabaseOptions, ResultOptions, RetryRules
from umbel.results.urls import backend_from_url
from umbel.testing.contracts.results import record
from umbel.testing.contracts.support import ShiftedClock

pytest.importorskip("sqlalchemy")

#: The tables as Celery 5.7 makes them in SQLite.
CELERYS_TABLE = """\
CREATE TABLE celery_taskmeta (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155), \
status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT, children BLOB, name VARCHAR(155), args BLOB, \
kwargs BLOB, worker VARCHAR(155), retries INTEGER, queue VARCHAR(155), stamps BLOB, UNIQUE (task_id))"""


@pytest.fixture
def path(tmp_path) -> str:
    return f"{tmp_path}/results.db"


@pytest.fixture
def make(path):
    made = []

    def backend(**options):
        made.append(backend_from_url(f"db+sqlite:///{path}", ResultOptions(**options)))
        return made[-1]

    yield backend
    for one in made:
        one.close()


def rows(path: str, query: str) -> list[tuple]:
    with sqlite3.connect(path) as connection:
        found = connection.execute(query).fetchall()
    connection.close()
    return found


def columns(path: str, table: str) -> list[tuple]:
    return [row[1:3] for row in rows(path, f"PRAGMA table_info({table})")]


def test_the_tables_are_celerys(make, path, tmp_path) -> None:
    make()
    rows(f"{tmp_path}/celery.db", CELERYS_TABLE)
    assert columns(path, "celery_taskmeta") == columns(f"{tmp_path}/celery.db", "celery_taskmeta")
    assert columns(path, "celery_tasksetmeta") == [
        ("id", "INTEGER"),
        ("taskset_id", "VARCHAR(155)"),
        ("result", "BLOB"),
        ("date_done", "DATETIME"),
    ]
    indices = {row[0] for row in rows(path, "SELECT name FROM sqlite_master WHERE type = 'index'")}
    assert {"ix_celery_taskmeta_date_done", "ix_celery_tasksetmeta_date_done"} <= indices


def test_the_tables_have_the_names_of_the_settings(make, path) -> None:
    make(database=DatabaseOptions(table_names={"task": "jobs", "group": "sets"})).save([record("1")])
    assert rows(path, "SELECT task_id, status FROM jobs") == [("1", "SUCCESS")]
    assert columns(path, "sets")


def test_tables_may_wait_for_their_first_use(make, path) -> None:
    backend = make(database=DatabaseOptions(create_tables_at_setup=False))
    assert columns(path, "celery_taskmeta") == []
    assert backend.load(["1"]) == [None]
    assert columns(path, "celery_taskmeta")


def test_a_table_of_an_older_celery_gets_what_it_lacks(make, path) -> None:
    old = CELERYS_TABLE.replace("children BLOB, ", "").replace(", stamps BLOB", "")
    rows(path, old)
    rows(path, "INSERT INTO celery_taskmeta (task_id, status, result) VALUES ('old', 'SUCCESS', x'37')")
    backend = make()
    backend.save([record("new")])
    assert ("children", "BLOB") in columns(path, "celery_taskmeta")
    assert [read_document(found)["result"] for found in backend.load(["old", "new"])] == [7, None]


def test_a_database_that_cannot_be_reached_is_no_error_yet(make, caplog, tmp_path) -> None:
    missing = tmp_path / "missing"
    backend = backend_from_url(
        f"db+sqlite:///{missing}/results.db", ResultOptions(retry=RetryRules(limit=1, base=0.001))
    )
    assert "cannot be created yet" in caplog.text
    with pytest.raises(BackendStoreError, match="2 results could not be stored"):
        backend.save([record("1"), record("2")])
    with pytest.raises(BackendGetMetaError, match="could not be read"):
        backend.load(["1"])
    assert caplog.text.count("Retrying, attempt 1") == 2
    missing.mkdir()
    backend.save([record("1")])
    assert backend.load(["1"]) != [None]
    backend.close()


@pytest.mark.parametrize(("always", "tries"), [(False, 0), (None, 3)])
def test_it_tries_again_as_the_settings_say(always, tries, caplog, tmp_path) -> None:
    rules = RetryRules(always=always, base=0.001)
    backend = backend_from_url(f"db+sqlite:///{tmp_path}/missing/x.db", ResultOptions(retry=rules))
    caplog.clear()
    with pytest.raises(BackendStoreError):
        backend.save([record("1")])
    assert caplog.text.count("Retrying") == tries


def test_engines_are_made_with_the_options_and_shown_to_the_callback(make) -> None:
    engines = []
    options = {"echo": False, "pool_pre_ping": True, "pool_size": 3}
    for short_lived in (False, True):
        backend = make(
            database=DatabaseOptions(
                engine_options=options, engine_callback=engines.append, short_lived_sessions=short_lived
            )
        )
        backend.save([record("1")])
    assert [type(engine.pool).__name__ for engine in engines] == ["QueuePool", "NullPool"]
    assert engines[0].pool.size() == 3


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("db+nothing://user:secret@host/db", {}, "driver of"),
        ("db+user:secret@host", {}, "as SQLAlchemy reads it"),
        ("database://", {}, "needs database_url"),
        ("db+sqlite://", {"engine_callback": 3}, "must be callable, got 3"),
        ("db+sqlite://", {"engine_callback": "os.nothing"}, "cannot import 'os.nothing'"),
        ("db+sqlite://", {"engine_options": {"colour": 1}}, "database_engine_options"),
    ],
)
def test_settings_that_cannot_be_are_refused(url, options, words) -> None:
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        backend_from_url(url, ResultOptions(database=DatabaseOptions(**options)))
    assert "secret" not in str(caught.value)


def test_database_is_another_name_of_database_url(path) -> None:
    backend = backend_from_url(
        "database://", ResultOptions(database=DatabaseOptions(url=f"sqlite:///{path}"))
    )
    backend.save([record("1")])
    assert rows(path, "SELECT count(*) FROM celery_taskmeta") == [(1,)]
    backend.close()


def test_the_password_is_not_shown() -> None:
    options = ResultOptions(database=DatabaseOptions(create_tables_at_setup=False))
    backend = backend_from_url("db+postgresql+psycopg://user:secret@host/db", options)
    assert backend.display_url == "db+postgresql+psycopg://user:***@host/db"


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack", "yaml"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_documents_of_every_serializer(make, path, serializer, compression) -> None:
    if serializer == "yaml":
        pytest.importorskip("yaml")
    backend = make(serializer=serializer)
    value = {"a": [1, 2.5, None], "b": "é"}
    data = DocumentWriter(serializer, compression).write("1", SUCCESS, value)
    failure = DocumentWriter(serializer, compression).write("2", FAILURE, ValueError("boom"), "Traceback …")
    backend.save([ResultRecord("1", SUCCESS, data), ResultRecord("2", FAILURE, failure)])
    done, failed = (read_document(found, serializer) for found in backend.load(["1", "2"]))
    assert (done["result"], done["task_id"]) == (value, "1")
    assert done["date_done"] == read_document(data, serializer)["date_done"]
    assert (repr(failed["result"]), failed["traceback"]) == ("ValueError('boom')", "Traceback …")
    [[stored]] = rows(path, "SELECT result FROM celery_taskmeta WHERE task_id = '1'")
    content_type, encoding, _ = dumps(None, serializer)
    assert loads(stored, content_type, encoding, frozenset({content_type})) == value


def test_numbers_that_json_does_not_have(make) -> None:
    backend = make()
    document = json.dumps({"status": SUCCESS, "result": float("nan"), "task_id": "1"}).encode()
    backend.save([ResultRecord("1", SUCCESS, document)])
    assert math.isnan(read_document(backend.load(["1"])[0])["result"])


def test_a_pickle_of_an_older_celery_needs_leave(make, path) -> None:
    make()
    old = pickle.dumps({"x": (1, 2)}).hex()
    rows(path, f"INSERT INTO celery_taskmeta (task_id, status, result) VALUES ('1', 'SUCCESS', x'{old}')")
    with pytest.raises(ContentDisallowed):
        make().load(["1"])
    [found] = make(accept=("json", "pickle")).load(["1"])
    assert read_document(found)["result"] == {"x": [1, 2]}


def test_stamps_come_back(make) -> None:
    backend = make()
    document = {"status": SUCCESS, "result": 1, "name": "t", "stamped_headers": ["who"], "who": ["me"]}
    backend.save([ResultRecord("1", SUCCESS, json.dumps(document).encode())])
    found = read_document(backend.load(["1"])[0])
    assert {name: found[name] for name in document} == document


def test_expired_rows_are_deleted_by_the_clean_up(path) -> None:
    clock = ShiftedClock()
    options = ResultOptions(expires=100, failure_expires=1000)
    backend = backend_from_url(f"db+sqlite:///{path}", options, clock=clock)
    backend.save([record("1"), record("2", FAILURE), record("3", "STARTED")])
    backend.save_group("g", b'{"result": [["g", null], []]}')
    clock.shift = 500
    backend.save([record("4")])
    backend.cleanup()
    left = rows(path, "SELECT task_id FROM celery_taskmeta ORDER BY task_id")
    assert left == [("2",), ("3",), ("4",)]
    assert rows(path, "SELECT count(*) FROM celery_tasksetmeta") == [(0,)]
    backend.close()


def test_a_result_that_the_tables_cannot_hold_is_told_as_a_failure(postgres_server, caplog) -> None:
    """Text with a NUL, which PostgreSQL refuses: the others of the batch are stored, and nothing is tried for ever."""
    url = f"db+{postgres_server.url(postgres_server.add_database())}"
    backend = backend_from_url(url, ResultOptions(retry=RetryRules(base=0.001)))
    bad = DocumentWriter().write("2", FAILURE, ValueError("x"), "Traceback \0")
    backend.save([record("1"), ResultRecord("2", FAILURE, bad), record("3")])
    documents = [read_document(found) for found in backend.load(["1", "2", "3"])]
    assert [found["status"] for found in documents] == [SUCCESS, FAILURE, SUCCESS]
    assert "the result backend refuses the FAILURE of this task" in str(documents[1]["result"])
    assert "Task 2: the result backend refuses" in caplog.text
    assert "Retrying" not in caplog.text
    backend.close()
