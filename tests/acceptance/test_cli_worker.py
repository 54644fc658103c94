"""``umbel worker`` from its start to its end, in the foreground and in the background."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import pytest

from tests.support.processes import is_alive, kill_tree, tree, wait_gone
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

PROJECT = """
import logging
import os
from umbel import Umbel
from umbel.signals import celeryd_after_setup, celeryd_init

app = Umbel("proj")

@app.task
def add(x, y):
    return x + y

@app.task
def fail():
    raise ValueError("on purpose")

@app.task
def speak():
    print("said by a task")
    logging.getLogger("celery.task").info("logged by a task")
    return os.getpid()

@celeryd_init.connect
def configure(sender, conf, options, **kwargs):
    if "flavour" in options:
        print("flavour", options["flavour"])
    if sender.startswith("special@"):
        conf.worker_concurrency = 3

@celeryd_after_setup.connect
def direct(sender, instance, **kwargs):
    if sender.startswith("special@"):
        instance.app.amqp.queues.select_add("direct." + sender)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "proj.py").write_text(PROJECT)
    return tmp_path


@pytest.fixture
def umbel(folder):
    """Starts the program in the folder: ``umbel("-A", "proj", …)``; it ends with the test."""
    with contextlib.ExitStack() as running:

        def start(*words: str, **env: str) -> WorkerProcess:
            hidden = dict.fromkeys(("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "APP"), "")
            argv = [sys.executable, "-m", "umbel", *words]
            process = WorkerProcess(argv, cwd=folder, env=hidden | {"C_FORCE_ROOT": "1"} | env, name="umbel")
            return running.enter_context(process)

        yield start


def output_of(process: WorkerProcess, *, status: int = 0) -> str:
    """What a command printed, to its end."""
    assert process.wait() == status, process.output
    process.close()
    return process.output


def call(umbel, name: str, *words: str) -> str:
    return output_of(umbel("-A", "proj", "call", name, *words)).strip()


def result(umbel, task_id: str, *words: str, status: int = 0) -> str:
    return output_of(umbel("-A", "proj", "result", task_id, *words), status=status)


class TestForeground:
    def test_runs_tasks_until_it_is_told_to_stop(self, umbel):
        worker = umbel("-A", "proj", "worker", "-l", "info", "-c", "1").ready()
        assert result(umbel, call(umbel, "proj.add", "-a", "[40, 2]")) == "42"
        failed = call(umbel, "proj.fail")
        assert "ValueError: on purpose" in result(umbel, failed, status=1)
        assert "Traceback (most recent call last):" in result(umbel, failed, "--traceback")
        assert worker.terminate() == 0
        assert "worker: Warm shutdown (MainProcess)" in worker.output

    def test_the_banner_says_what_it_is(self, umbel):
        worker = umbel("-A", "proj", "worker", "-l", "info", "-c", "2", "-n", "w1@here", "-Q", "a,b").ready()
        worker.terminate()
        for line in (
            " w1@here umbel v",
            " .> app:         proj:0x",
            "umbel.db",
            " .> concurrency: 2 (prefork)",
            " .> a                exchange=a(direct) key=a",
            "   . proj.add",
            "No broker is configured: messages and results are kept in ./umbel.db",
        ):
            assert line in worker.output

    def test_quiet_shows_none(self, umbel):
        worker = umbel("-q", "-A", "proj", "worker", "-l", "info", "-c", "1").ready()
        worker.terminate()
        assert "[config]" not in worker.output

    def test_options_come_from_the_environment(self, umbel):
        worker = umbel(
            "worker", CELERY_APP="proj", CELERY_WORKER_CONCURRENCY="3", CELERY_WORKER_LOGLEVEL="info"
        ).ready()
        worker.terminate()
        assert "concurrency: 3 (prefork)" in worker.output

    def test_receivers_of_the_start_up_signals_configure_it(self, umbel):
        worker = umbel("-A", "proj", "worker", "-l", "info", "-n", "special@x").ready()
        worker.terminate()
        assert "concurrency: 3 (prefork)" in worker.output
        assert " .> direct.special@x" in worker.output

    def test_what_does_not_apply_is_said_and_does_no_harm(self, umbel):
        words = "-A proj worker -l info -E --statedb s --without-gossip --without-mingle -O fair"
        worker = umbel(*words.split(), "-P", "solo", "--autoscale", "2,1").ready()
        worker.terminate()
        assert "--autoscale does not serve the pool solo: it has one size" in worker.output
        assert "gossip" not in worker.output

    def test_words_after_the_options_are_settings(self, umbel):
        words = [
            "-A",
            "proj",
            "worker",
            "-l",
            "info",
            "--",
            "worker.concurrency=2",
            "task_default_queue=other",
        ]
        worker = umbel(*words).ready()
        worker.terminate()
        assert "concurrency: 2 (prefork)" in worker.output
        assert " .> other " in worker.output

    def test_purges_first_when_asked(self, umbel):
        call(umbel, "proj.add", "-a", "[1, 1]")
        worker = umbel("-A", "proj", "worker", "-l", "info", "-c", "1", "--purge").ready()
        worker.terminate()
        assert "purge: Erased 1 message from the queue." in worker.output

    def test_what_tasks_print_goes_to_the_log(self, umbel):
        worker = umbel("-A", "proj", "worker", "-l", "info", "-c", "1").ready()
        call(umbel, "proj.speak")
        worker.wait_for_line(r"WARNING/ForkPoolWorker-1\] said by a task")
        worker.wait_for_line(r"INFO/ForkPoolWorker-1\] proj.speak\[[0-9a-f-]{36}\]: logged by a task")
        worker.terminate()

    def test_each_pool_process_has_a_log_of_its_own(self, umbel, folder):
        umbel("-A", "proj", "worker", "-l", "info", "-c", "1", "-n", "w@h", "-f", "%n%I.log")
        log = folder / "w.log"
        wait_until(lambda: log.exists() and "w@h ready." in log.read_text(), what="the worker's log")
        result(umbel, call(umbel, "proj.speak"))
        own = folder / "w-1.log"
        wait_until(lambda: own.exists() and "logged by a task" in own.read_text(), what="the process's log")
        assert "logged by a task" not in log.read_text()

    def test_include_imports_more_tasks(self, umbel, folder):
        (folder / "more.py").write_text(
            "from proj import app\n\n@app.task\ndef other():\n    return 'more'\n"
        )
        worker = umbel("-A", "proj", "worker", "-l", "info", "-c", "1", "-I", "more").ready()
        worker.terminate()
        assert "   . more.other" in worker.output

    def test_an_option_of_the_application_reaches_its_receivers(self, umbel, folder):
        with (folder / "proj.py").open("a") as file:
            file.write("\nimport click\napp.user_options['worker'].add(click.Option(['--flavour']))\n")
        worker = umbel("-A", "proj", "worker", "-l", "info", "-c", "1", "--flavour", "vanilla").ready()
        worker.terminate()
        assert "flavour vanilla" in worker.output

    def test_starts_anew_on_hangup_with_the_same_process_id(self, umbel, folder):
        (folder / "deeper").mkdir()
        (folder / "deeper" / "proj.py").write_text(PROJECT)
        worker = umbel(
            "--workdir", "deeper", "-A", "proj", "worker", "-l", "info", "-c", "1", "--pidfile", "pid"
        ).ready()
        seen = worker.line_count
        worker.signal(signal.SIGHUP)
        worker.wait_for_line(r"@\S+ ready\.", since=seen)
        assert (folder / "deeper" / "pid").read_text() == f"{worker.pid}\n"
        assert worker.terminate() == 0
        assert not (folder / "deeper" / "pid").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
    def test_root_must_insist_on_pickle(self, umbel):
        worker = umbel("-A", "proj", "worker", "--", 'accept_content=(json)["pickle"]', C_FORCE_ROOT="")
        output = output_of(worker, status=1)
        assert "C_FORCE_ROOT" in output
        assert output.count("\n") == 0

    def test_a_broker_that_is_not_there_when_it_must_not_wait(self, umbel):
        worker = umbel(
            "-b",
            "redis://127.0.0.1:1/0",
            "-A",
            "proj",
            "worker",
            "-c",
            "1",
            "--",
            "broker_connection_retry_on_startup=no",
        )
        assert "Cannot connect to redis://127.0.0.1:1" in output_of(worker, status=1)


class TestBackground:
    @pytest.fixture
    def daemon(self, folder, umbel):
        """Starts a worker in the background; its process id. It ends with the test."""
        pidfile = folder / "w1.pid"

        def start(*words: str) -> int:
            words = (
                "worker",
                "-D",
                "-l",
                "info",
                "-c",
                "1",
                "-n",
                "w1@h",
                "-f",
                "%n.log",
                "--pidfile",
                "%n.pid",
                *words,
            )
            output_of(umbel("-A", "proj", *words))
            wait_until(lambda: pidfile.exists() and pidfile.read_text().endswith("\n"), what="the pid file")
            wait_until(lambda: "w1@h ready." in (folder / "w1.log").read_text(), what="the ready worker")
            return int(pidfile.read_text())

        yield start
        if pidfile.exists():
            members = tree(int(pidfile.read_text()))
            kill_tree(members)
            wait_gone(members)

    def test_runs_on_by_itself(self, umbel, folder, daemon):
        pid = daemon()
        assert os.getsid(pid) != os.getsid(0)
        assert result(umbel, call(umbel, "proj.add", "-a", "[1, 2]")) == "3"
        os.kill(pid, signal.SIGTERM)
        wait_gone([pid])
        assert not (folder / "w1.pid").exists()
        assert "Warm shutdown" in (folder / "w1.log").read_text()

    def test_one_at_a_time_holds_the_pid_file(self, umbel, daemon):
        pid = daemon()
        for background in ([], ["-D"]):
            words = ["worker", "-c", "1", "-n", "w1@h", "--pidfile", "%n.pid", *background]
            output = output_of(umbel("-A", "proj", *words), status=73)
            assert f"already exists. Seems we're already running? (pid: {pid})" in output
        assert is_alive(pid)

    def test_starts_anew_on_hangup_and_stays_in_the_background(self, folder, daemon):
        pid = daemon()
        os.kill(pid, signal.SIGHUP)
        log = folder / "w1.log"
        wait_until(lambda: log.read_text().count("w1@h ready.") == 2, what="the worker to be ready again")
        assert (folder / "w1.pid").read_text() == f"{pid}\n"

    def test_a_log_that_cannot_be_written_is_said_in_the_foreground(self, umbel):
        output = output_of(umbel("-A", "proj", "worker", "-D", "-f", "no/folder/w.log"), status=73)
        assert "Cannot write no/folder/w.log: No such file or directory" in output
