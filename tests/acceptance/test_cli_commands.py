"""The program ``umbel`` as users run it: real processes on the embedded broker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import free_port

PROJECT = """
from umbel import Umbel

app = Umbel("proj")

@app.task
def add(x, y):
    return x + y
"""


class Project:
    """A user's folder, and the program run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proj.py").write_text(PROJECT)

    def run(
        self, *words: str, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess:
        hidden = {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_CONFIG_MODULE", "APP"}
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        return subprocess.run(
            [sys.executable, "-m", "umbel", *words],
            cwd=self.folder,
            env=kept | (env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def purged(project: Project, *words: str) -> str:
    done = project.run("-A", "proj", "purge", "-f", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestCall:
    def test_prints_the_id_alone(self, project):
        done = project.run("-A", "proj", "call", "proj.add", "-a", "[1, 2]")
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.strip()) == 36
        assert purged(project) == "Purged 1 message from 1 known task queue."

    def test_needs_no_application(self, project):
        assert project.run("call", "tasks.anything", "--queue", "q", "-k", '{"a": 1}').returncode == 0
        assert purged(project, "-Q", "q,other", "-X", "other") == "Purged 1 message from 1 known task queue."

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["-a", "{}"], "expected a json array, got '{}'"),
            (["-a", "[1"], "is not JSON"),
            (["--eta", "tomorrow"], "expected iso-8601"),
            (["--expires", "soon"], "expected iso-8601 or float"),
        ],
    )
    def test_bad_values_are_usage_errors(self, project, words, message):
        done = project.run("call", "x", *words)
        assert done.returncode == 2
        assert message in done.stderr

    def test_a_broker_that_is_not_there(self, project):
        url = f"redis://:secret@127.0.0.1:{free_port()}/0"
        done = project.run("-b", url, "call", "x")
        assert done.returncode == 69
        assert done.stderr.startswith("Error: Cannot reach the broker: ")
        assert done.stderr.count("\n") == 1
        assert "secret" not in done.stderr

    def test_the_traceback_is_shown_on_request(self, project):
        url = f"redis://127.0.0.1:{free_port()}/0"
        done = project.run("--traceback", "-b", url, "purge", "-f")
        assert done.returncode == 69
        assert done.stderr.startswith("Traceback (most recent call last):")


class TestPurge:
    def test_asks_first(self, project):
        project.run("call", "x")
        refused = project.run("purge", stdin="n\n")
        assert refused.returncode == 1
        assert "WARNING: This will remove all tasks from queue: celery." in refused.stdout
        assert "There is no undo for this operation!" in refused.stdout
        assert project.run("purge", stdin="y\n").stdout.endswith(
            "Purged 1 message from 1 known task queue.\n"
        )

    def test_says_that_there_was_nothing(self, project):
        assert purged(project) == "No messages purged from 1 queue."
        assert purged(project, "-Q", "a,b") == "No messages purged from 2 queues."


class TestReport:
    def test_tells_versions_and_settings_and_no_secrets(self, project):
        (project.folder / "celeryconfig.py").write_text(
            "broker_url = 'redis://:hunter2@somewhere/0'\nresult_backend = 'redis://:hunter3@somewhere/1'\n"
            "task_default_queue = 'mine'\nsecurity_key_password = b'hunter4'\n"
        )
        done = project.run("report")
        assert done.returncode == 0, done.stderr
        assert "software -> celery:" in done.stdout
        assert "umbel:" in done.stdout
        assert "transport:redis://" in done.stdout
        assert "task_default_queue: 'mine'" in done.stdout
        assert "hunter" not in done.stdout


class TestShell:
    def test_has_the_application_and_its_tasks(self, project):
        done = project.run(
            "-A", "proj", "shell", "--python", stdin="print(add(40, 2), app is celery, Task)\n"
        )
        assert done.returncode == 0, done.stderr
        assert "42 True" in done.stdout

    def test_without_tasks(self, project):
        done = project.run("-A", "proj", "shell", "--python", "-T", stdin="print('add' in globals())\n")
        assert "False" in done.stdout


class TestErrors:
    def test_an_unknown_application(self, project):
        done = project.run("-A", "porj", "report")
        assert done.returncode == 2
        assert done.stderr.startswith(
            "Error: Unable to load celery application. The module porj was not found"
        )
        assert done.stderr.count("\n") == 1

    def test_the_default_configuration_has_a_mistake(self, project):
        (project.folder / "celeryconfig.py").write_text("broker_urll = 'redis://'\n")
        done = project.run("report")
        assert done.returncode == 1
        assert "broker_url" in done.stderr
        assert "Traceback" not in done.stderr

    def test_the_directory_is_changed_before_the_application_is_imported(self, project):
        elsewhere = project.folder / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "other.py").write_text(PROJECT)
        assert project.run("--workdir", "elsewhere", "-A", "other", "report").returncode == 0

    def test_an_interrupted_pipe_is_quiet(self, project):
        done = project.run("--help", env={"COLUMNS": "80"})
        assert done.returncode == 0
        assert not done.stderr


class TestPlugins:
    @pytest.fixture
    def plugin(self, project):
        """A package installed beside the project, with a command that works and one that does not."""
        (project.folder / "plugin.py").write_text(
            "import click\n\n@click.command()\n@click.pass_obj\ndef hello(obj):\n    click.echo(obj.app.main)\n"
        )
        info = project.folder / "greetings-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            "[celery.commands]\nhello = plugin:hello\nbroken = nonexistent_library:command\n"
        )

    @pytest.mark.usefixtures("plugin")
    def test_are_found_by_their_entry_points(self, project):
        assert project.run("-A", "proj", "hello").stdout == "proj\n"
        assert re.search(r"hello +From greetings\.", project.run("--help").stdout)

    @pytest.mark.usefixtures("plugin")
    def test_one_that_is_broken_says_so_when_it_is_used(self, project):
        done = project.run("broken")
        assert done.returncode == 1
        assert "The command broken (from greetings) cannot be loaded: ModuleNotFoundError" in done.stderr


def test_a_program_runs_commands_on_its_own_application(project):
    (project.folder / "program.py").write_text(
        "from proj import app\n"
        "assert app.start(['call', 'proj.add', '-a', '[1, 2]']) in (None, 0)\n"
        "try:\n    app.worker_main(['report'])\nexcept ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "worker_main" in done.stdout
    assert purged(project) == "Purged 1 message from 1 known task queue."
