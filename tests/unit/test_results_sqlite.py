"""sqlite:/// results beyond the shared suite."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from umbel.core.ids import new_id
from umbel.errors import OperationalError
from umbel.errors import TimeoutError as ResultTimeoutError
from umbel.results.options import ResultOptions
from umbel.results.sqlite import SqliteResultBackend
from umbel.results.watch import Watch
from umbel.stores.doorbell import wake_directory
from umbel.testing.contracts.results import document, record


@pytest.fixture
def backend(tmp_path):
    backend = SqliteResultBackend.from_url(f"sqlite:///{tmp_path}/umbel.db", ResultOptions())
    yield backend
    backend.close()


def test_a_wait_for_many_reads_what_others_save_and_skips_it(backend) -> None:
    mine = [new_id() for _ in range(300)]

    def save() -> None:
        for start in range(0, 300, 60):
            backend.save([record(new_id()) for _ in range(2500)])
            backend.save([record(task_id) for task_id in mine[start : start + 60]])

    backend.save([record(mine[0], "STARTED")])
    thread = threading.Thread(target=save)
    thread.start()
    assert dict(backend.wait(mine, 20)) == {task_id: document(task_id) for task_id in mine}
    thread.join()


def test_a_timeout_says_what_was_waited_for(backend) -> None:
    with pytest.raises(ResultTimeoutError, match="no result of task a nor of 1 others within 0 s"):
        list(backend.wait(["a", "b"], 0))


def test_waiting_leaves_no_doorbell(backend, tmp_path) -> None:
    with pytest.raises(ResultTimeoutError):
        list(backend.wait(["a"], 0.3))
    assert not list(Path(wake_directory(str(tmp_path / "umbel.db")) or "").iterdir())


def test_a_file_that_cannot_be_opened_is_an_operational_error(tmp_path) -> None:
    backend = SqliteResultBackend.from_url(f"sqlite:///{tmp_path}/missing/umbel.db", ResultOptions())
    with pytest.raises(OperationalError, match="missing"):
        backend.load(["a"])


def test_a_watch_reports_changes_once() -> None:
    watch = Watch(["a", "b"])
    assert watch.news([("a", "STARTED", b"1"), ("x", "SUCCESS", b"2")]) == [("a", b"1")]
    assert watch.news([("a", "STARTED", b"1")]) == []
    assert watch.news([("a", "SUCCESS", b"3"), ("b", "FAILURE", b"4")]) == [("a", b"3"), ("b", b"4")]
    assert watch.news([("a", "SUCCESS", b"5")]) == []
    assert not watch.pending
