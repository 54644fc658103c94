"""``umbel dead``, as users run it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.acceptance.test_cli_commands import Project
from umbel import Umbel
from umbel.brokers.base import Disposition, FetchPlan
from umbel.core.causes import Cause


@pytest.fixture
def app(tmp_path):
    with Umbel("proj", broker=f"sqlite:///{tmp_path}/umbel.db", set_as_current=False) as app:
        yield app


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def bury(
    app: Umbel, *names: str, kind: str = "failed", queue: str = "celery", **options: object
) -> list[str]:
    """Send tasks and give them up."""
    ids = [app.send_task(name, (1,), queue=queue, **options).id for name in names]

    async def give_up() -> None:
        consumer = app.broker.consumer("test", 30)
        await consumer.open()
        taken = await consumer.fetch(FetchPlan((queue,)), len(names), 10)
        cause = Cause(kind, "ValueError", "no", "Traceback …", "w@h")
        await consumer.settle(
            [Disposition(each.tag, "dead_letter", reason="r", cause=cause) for each in taken]
        )
        await consumer.close()

    asyncio.run(give_up())
    return ids


def run(project: Project, *words: str, fails: bool = False, stdin: str = "") -> str:
    done = project.run("-A", "proj", "dead", *words, stdin=stdin)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def test_letters_are_listed_shown_and_exported(app, project, tmp_path) -> None:
    first, second = bury(app, "proj.add", "proj.ädd")
    assert [line.split()[1:4] for line in run(project, "list").splitlines()] == [
        ["celery", "failed", f"proj.add[{first}]:"],
        ["celery", "failed", f"proj.ädd[{second}]:"],
    ]
    [found] = map(json.loads, run(project, "list", "--json", "--id", second).splitlines())
    assert (found["task"], found["exception"], found["losses"]["count"]) == ("proj.ädd", "ValueError", 0)
    assert "traceback: Traceback …\n" in run(project, "show", first)
    assert json.loads(run(project, "show", "--json", first))["headers"]["id"] == first
    assert "no dead letter with the task id 'none'" in run(project, "show", "none", fails=True)
    assert run(project, "export", "-o", "out.json").startswith("Wrote 2 dead letters")
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert [line["id"] for line in lines] == [first, second]
    assert lines[0]["body"]


def test_letters_are_replayed_and_deleted(app, project) -> None:
    ids = bury(app, "proj.add", "other.a", "other.b")
    assert run(project, "replay", "-t", "other.*", "--dry-run") == "2 dead letters would be replayed.\n"
    assert app.broker.depth("celery") == 0
    assert run(project, "replay", "-t", "other.*", "--rate", "50", "-n1") == "1 dead letter replayed.\n"
    assert app.broker.depth("celery") == 1
    assert "expected some of rejected" in run(project, "purge", "-r", "nonsense", "-f", fails=True)
    run(project, "purge", stdin="n\n", fails=True)
    assert json.loads(run(project, "purge", "-f", "--json")) == {"deleted": 2, "dry_run": False}
    assert run(project, "list") == ""
    assert app.dead_letters.get(ids[0]) is None
