"""Results in SQL databases, memcached and files, stored by one library and read by the other."""

from __future__ import annotations

import pytest

from tests.interop.conftest import OTHER
from tests.support.datastores import MariaDbServer, MemcachedServer, PostgresServer

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]


@pytest.fixture(scope="module")
def broker() -> str:
    return "redis"


pytest.importorskip("sqlalchemy")
pytest.importorskip("pymemcache")

STORES = ["sqlite", "postgresql", "mysql", "memcached", "file"]


@pytest.fixture(params=STORES)
def backend(request, tmp_path) -> str:
    """The address of an empty store."""
    match request.param:
        case "sqlite":
            return f"db+sqlite:///{tmp_path}/results.db"
        case "postgresql":
            server: PostgresServer = request.getfixturevalue("postgres_server")
            return f"db+{server.url(server.add_database())}"
        case "mysql":
            mariadb: MariaDbServer = request.getfixturevalue("mariadb_server")
            return f"db+{mariadb.url(mariadb.add_database())}"
        case "memcached":
            memcached: MemcachedServer = request.getfixturevalue("memcached_server")
            memcached.flush()
            return memcached.url()
    return f"file://{tmp_path}"


@pytest.mark.parametrize("library", ["celery", "umbel"])
def test_what_one_library_stores_the_other_reads(new_world, backend: str, library: str) -> None:
    world = new_world(result_backend=backend, result_extended=True, broker_connection_retry_on_startup=True)
    worker = world.worker(OTHER[library], "-c1", "-Q", "work", ready=False)
    side = world.side(library)
    worker.ready()
    done, failed = side.send("add", 2, 3, queue="work"), side.send("fail", "value", queue="work")
    nested = side.send("echo", {"é": [1.5, None, True]}, queue="work")
    assert side.value(done) == 5
    assert side.value(nested) == {"é": [1.5, None, True]}
    outcome = side.outcome(failed)
    assert (outcome["state"], outcome["error"]["type"]) == ("FAILURE", "ValueError")
    # Of all that is known of a result, each side reads the same.
    about = (
        "(r.name, list(r.args), r.kwargs, r.worker, r.retries, r.queue, r.date_done is not None, r.children)"
    )
    told = [
        world.side(reader).execute(f"r = app.AsyncResult(task_id); answer = {about}", task_id=done)
        for reader in ("celery", "umbel")
    ]
    assert told[0][:3] == ("add", [2, 3], {})
    assert told[0] == told[1]


def test_both_write_one_result_in_turn(new_world, backend: str) -> None:
    """States go forward whichever library stores them, and a SUCCESS stays."""
    world = new_world(result_backend=backend)
    world.celery.execute("app.backend.store_result('t', {'at': 1}, 'PROGRESS'); answer = None")
    assert world.umbel.evaluate("app.AsyncResult('t').state") == "PROGRESS"
    store = """
from umbel.testing.contracts.results import record
app.backend.save([record('t', state, result=7)])
answer = None
"""
    world.umbel.execute(store, state="SUCCESS")
    assert world.celery.evaluate("(app.AsyncResult('t').state, app.AsyncResult('t').result)") == (
        "SUCCESS",
        7,
    )
    world.umbel.execute(store, state="STARTED")
    world.celery.execute("app.backend.store_result('t', {'at': 2}, 'PROGRESS'); answer = None")
    for side in (world.umbel, world.celery):
        assert side.evaluate("app.AsyncResult('t').state") == "SUCCESS"
    world.celery.execute("app.AsyncResult('t').forget(); answer = None")
    assert world.umbel.evaluate("app.AsyncResult('t').state") == "PENDING"


def test_groups_are_kept_for_the_other_library(new_world, backend: str) -> None:
    world = new_world(result_backend=backend)
    world.celery.execute("""
from celery.result import AsyncResult, GroupResult
GroupResult('g', [AsyncResult('a'), AsyncResult('b')]).save()
answer = None
""")
    document = world.umbel.evaluate("app.backend.load_group('g').decode()")
    world.umbel.execute("app.backend.save_group('h', document.encode()); answer = None", document=document)
    assert world.umbel.evaluate("app.backend.load_group('none')") is None
    restored = "[r.id for r in __import__('celery').result.GroupResult.restore(group).results]"
    assert world.celery.evaluate(restored, group="h") == ["a", "b"]
    world.umbel.execute("app.backend.forget_group('h'); answer = None")
    assert world.celery.evaluate("__import__('celery').result.GroupResult.restore('h')") is None
