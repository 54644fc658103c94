"""What docs/from-celery.md promises: projects of Celery's run as they are, after two lines, mixed, and back again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.environments import ensure_python, ensure_third_parties
from tests.support.peers import run_script
from tests.support.servers import RedisServer
from tests.support.workers import WorkerProcess

pytestmark = [pytest.mark.interop, pytest.mark.redis, pytest.mark.processes]

PROJECTS = Path(__file__).parent / "projects"
GUIDE = Path(__file__).parents[2] / "docs" / "from-celery.md"
#: Project → its package, whose ``__init__`` is imported first.
PACKAGES = {"plain": "proj", "shop": "shop"}
TWO_LINES = "import umbel\numbel.install_as_celery()\n"


class Project:
    """A copy of a project, the server that it uses, and the two environments: with Celery, with ``umbel-celery``."""

    def __init__(self, name: str, directory: Path, redis_url: str, pythons: dict[str, Path]) -> None:
        self.name = name
        self.package = PACKAGES[name]
        self.directory = directory / name
        self._pythons = pythons
        self._env = {"BROKER_URL": redis_url, "RESULT_URL": redis_url, "C_FORCE_ROOT": "true"}
        shutil.copytree(PROJECTS / name, self.directory, ignore=shutil.ignore_patterns("__pycache__"))
        if name == "shop":
            run_script(
                pythons["celery"], self.directory / "manage.py", "migrate", cwd=directory, env=self._env
            )

    def install_as_celery(self) -> None:
        """The two lines of the guide, first in the package."""
        first = self.directory / self.package / "__init__.py"
        first.write_text(TWO_LINES + first.read_text())

    def import_umbel(self) -> None:
        """Take everything from Umbel's own modules, by the guide's table."""
        for path in self.directory.rglob("*.py"):
            text = path.read_text()
            for old, new in _renamed_imports():
                text = text.replace(old, new)
            assert "from celery" not in text, path
            path.write_text(text)

    def worker(self, library: str, module: str = "celery") -> WorkerProcess:
        """A worker as the project's service file would start it."""
        options = [
            "-A",
            self.package,
            "worker",
            "-c",
            "2",
            "-Q",
            "celery,reports",
            "-l",
            "INFO",
            "--without-mingle",
            "--without-gossip",
            "-n",
            f"{library}@%h",
        ]
        return WorkerProcess(
            [self._pythons[library], "-m", module, *options], cwd=self.directory, env=self._env, name=library
        )

    def run(self, library: str, *words: str) -> Any:
        """The project's program, in the environment of that library."""
        env = self._env | {"PYTHONPATH": str(self.directory)}
        script = self.directory / "run.py"
        output = run_script(self._pythons[library], script, *words, cwd=self.directory, env=env, timeout=60)
        return json.loads(output.splitlines()[-1])


def _renamed_imports() -> list[tuple[str, str]]:
    rows = [line.split("|") for line in GUIDE.read_text().splitlines() if line.startswith("| `from celery")]
    return [(old.strip().strip("`"), new.strip().strip("`")) for _, old, new, *_ in rows]


@pytest.fixture(scope="module")
def pythons() -> dict[str, Path]:
    return {"celery": ensure_python("celery"), "umbel": ensure_third_parties()}


@pytest.fixture(params=list(PACKAGES))
def project(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer, pythons: dict[str, Path]
) -> Project:
    redis_server.flush()
    return Project(request.param, tmp_path, redis_server.url(), pythons)


@pytest.fixture(scope="module")
def with_celery(
    tmp_path_factory: pytest.TempPathFactory, pythons: dict[str, Path]
) -> Iterator[dict[str, dict[str, Any]]]:
    """What each project does with real Celery."""
    values = {}
    with RedisServer() as server:
        for name in PACKAGES:
            project = Project(name, tmp_path_factory.mktemp("celery"), server.url(), pythons)
            with project.worker("celery") as worker:
                worker.ready()
                values[name] = project.run("celery", "everything")
            server.flush()
        yield values


def test_unchanged_with_umbel_celery_installed(project: Project, with_celery: dict[str, Any]) -> None:
    with project.worker("umbel") as worker:
        worker.ready()
        assert project.run("umbel", "everything") == with_celery[project.name]
        assert project.run("umbel", "read", *project.run("umbel", "send", "1")) == ["umbel"]


@pytest.mark.parametrize(
    "change", [Project.install_as_celery, Project.import_umbel], ids=["two-lines", "imports"]
)
def test_after_the_changes_of_the_guide(project: Project, change: Any, with_celery: dict[str, Any]) -> None:
    change(project)
    with project.worker("umbel", "umbel") as worker:
        worker.ready()
        assert project.run("umbel", "everything") == with_celery[project.name]


def test_both_work_on_one_queue(project: Project, with_celery: dict[str, Any]) -> None:
    """Programs and workers of both libraries; each program reads what the other one has sent."""
    with project.worker("celery") as celery, project.worker("umbel") as umbel:
        celery.ready()
        umbel.ready()
        for library in ("celery", "umbel"):
            assert project.run(library, "everything") == with_celery[project.name]
        sent = project.run("celery", "send", "40") + project.run("umbel", "send", "40")
        assert set(project.run("umbel", "read", *sent)) == {"celery", "umbel"}
        assert set(project.run("celery", "read", *sent)) == {"celery", "umbel"}


def test_what_waits_is_taken_over(project: Project) -> None:
    """Changing over, and going back: messages that were sent before are worked off, results stay readable."""
    waiting: list[str] = []
    sent: dict[str, str] = {}
    for library in ("celery", "umbel", "celery"):
        with project.worker(library) as worker:
            worker.ready()
            sent |= dict.fromkeys(waiting, library)
            assert project.run(library, "read", *sent) == list(sent.values())
            worker.terminate()
        waiting = project.run(library, "send", "5")


def test_the_guide_shows_the_two_lines() -> None:
    assert TWO_LINES in GUIDE.read_text()
    assert len(_renamed_imports()) >= 5, os.fspath(GUIDE)
