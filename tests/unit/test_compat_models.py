"""``celery.backends.database``: the rows of the result tables, as programs query them."""

from __future__ import annotations

from pathlib import Path

from umbel import Umbel
from umbel.compat.celery.backends.database.models import Task, TaskExtended, TaskSet
from umbel.compat.celery.backends.database.session import SessionManager


def test_rows_are_found_and_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.db"
    with Umbel(broker="memory://", backend=f"db+{url}", set_as_current=False) as app:
        app.backend.mark_as_done("1", 7)
        app.GroupResult("g", [app.AsyncResult("1")]).save()
        seen: list[object] = []
        manager = SessionManager(seen.append)
        with manager.session_factory(url) as session:
            row = session.query(Task).filter(Task.task_id == "1").one()
            assert row.to_dict()["status"] == "SUCCESS"
            assert session.query(TaskExtended).one().name is None
            assert session.query(TaskSet).one().taskset_id == "g"
            session.add(Task("2", status="PROGRESS"))
            session.commit()
        assert app.AsyncResult("2").state == "PROGRESS"
        manager.invalidate(url)
    assert len(seen) == 1
