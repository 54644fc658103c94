"""The command line read: options, environment variables, suggestions, refusals. Nothing is started here."""

from __future__ import annotations

import os
import re
import sys

import click
import pytest
from click.testing import CliRunner, Result

from umbel import Umbel, __version__
from umbel.cli import run_with_app
from umbel.cli.context import CliContext
from umbel.cli.group import UmbelGroup
from umbel.cli.main import umbel
from umbel.cli.worker import worker
from umbel.errors import ImproperlyConfigured
from umbel.signals import user_preload_options


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch, tmp_path):
    """Commands write to the environment, change directory and look for modules; all that ends with the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def app():
    with Umbel("parsing", broker="memory://", set_as_current=False) as app:
        yield app


def run(*args: str, **options) -> Result:
    return CliRunner().invoke(umbel, args, prog_name="umbel", **options)


def parse(app: Umbel, *args: str, **settings) -> dict:
    """The values that the command `worker` gets for its words."""
    parent = click.Context(umbel, info_name="umbel", auto_envvar_prefix="CELERY")
    parent.obj = CliContext(app)
    return worker.make_context("worker", list(args), parent=parent, **settings).params


class TestHelp:
    def test_no_command_shows_the_help(self):
        result = run()
        assert result.exit_code == 0
        assert "Usage: umbel" in result.output

    def test_lists_every_command_of_celerys(self):
        output = run("--help").output
        for command in (
            *("amqp", "beat", "call", "control", "events", "graph", "inspect", "list", "logtool", "migrate"),
            *("multi", "purge", "report", "result", "shell", "status", "upgrade", "worker"),
        ):
            assert f"\n  {command} " in output
            assert run(command, "--help").exit_code == 0, command

    def test_options_of_the_worker_come_in_celerys_groups(self):
        output = run("worker", "--help").output
        for heading in (
            "Worker Options",
            "Pool Options",
            "Queue Options",
            "Features",
            "Daemonization Options",
        ):
            assert f"{heading}:" in output

    def test_version(self):
        assert run("--version").output == f"{__version__} (umbel)\n"


class TestMistakes:
    def test_a_misspelt_command_gets_a_suggestion(self):
        result = run("wroker")
        assert result.exit_code == 2
        assert "No such command 'wroker'." in result.stderr
        assert "Did you mean one of these?\n    worker" in result.stderr

    @pytest.mark.parametrize(("option", "words"), [("-A", ["-A", "proj"]), ("--app", ["--app=proj"])])
    def test_the_app_after_the_command_is_told_where_it_belongs(self, option, words):
        result = run("worker", *words)
        assert result.exit_code == 2
        assert f"You are using `{option}` as an option of the worker sub-command" in result.stderr
        assert f"umbel {option} celeryapp worker" in result.stderr

    def test_a_workdir_that_does_not_exist(self):
        result = run("--workdir", "nowhere", "report")
        assert result.exit_code == 2
        assert "nowhere: No such file or directory" in result.stderr

    def test_an_error_of_a_command_is_one_line(self, app):
        with pytest.raises(click.ClickException) as caught:
            run_with_app(app, ["-b", "nonsense://", "purge", "-f"])
        assert caught.value.exit_code == 1
        assert "nonsense" in caught.value.message
        assert isinstance(caught.value.cause, ImproperlyConfigured)


class TestWorkerOptions:
    def test_every_option_of_celerys_is_taken(self, app):
        words = (
            "-n w1@%h -D -S state.db -l info -O fair --prefetch-multiplier 2 --disable-prefetch -c 3 -P threads -E "
            "--time-limit 10 --soft-time-limit 5.5 --max-tasks-per-child 7 --max-memory-per-child 8000 "
            "--pool-start-method spawn --discard -Q a,b -X c -I m,n --without-gossip --without-mingle "
            "--without-heartbeat --heartbeat-interval 2 --autoscale 10,3 -B -s sched --scheduler x.Y -f log "
            "--pidfile pid --uid u --gid g --umask 022 --executable py"
        )
        values = parse(app, *words.split())
        assert values["hostname"] == "w1@%h"
        assert values["loglevel"] == 20
        assert values["concurrency"] == 3
        assert values["pool"] == "threads"
        assert (values["queues"], values["exclude_queues"], values["include"]) == (
            ["a", "b"],
            ["c"],
            ["m", "n"],
        )
        assert values["autoscale"] == (10, 3)
        assert values["soft_time_limit"] == 5.5
        assert (
            values["purge"] is values["detach"] is values["task_events"] is values["disable_prefetch"] is True
        )
        assert values["umask"] == "022"

    @pytest.mark.parametrize(
        ("words", "name", "value"),
        [
            ("-l 15", "loglevel", 15),
            ("-l Error", "loglevel", 40),
            ("", "loglevel", 30),
            ("-c auto", "concurrency", "auto"),
            ("-c 0", "concurrency", None),
            ("-P processes", "pool", "prefork"),
            ("-P my.pool:Pool", "pool", "my.pool:Pool"),
            ("--autoscale 3,16", "autoscale", (16, 3)),
            ("--autoscale 16", "autoscale", (16, 0)),
            ("-- worker.prefetch_multiplier=1", "settings", ("worker.prefetch_multiplier=1",)),
        ],
    )
    def test_a_value_is_read_as_celery_reads_it(self, app, words, name, value):
        assert parse(app, *words.split())[name] == value

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("-l loud", "expected one of"),
            ("-c many", "must be a non-negative integer or 'auto', got 'many'"),
            ("-c=-1", "must be a non-negative integer"),
            ("-P quick", "expected one of prefork"),
            ("--autoscale 1,2,3", "expected MAX or MAX,MIN"),
            ("--time-limit soon", "not a valid float"),
        ],
    )
    def test_a_bad_value_is_a_usage_error(self, app, words, message):
        with pytest.raises(click.UsageError) as caught:
            parse(app, *words.replace("-c=", "--concurrency=").split())
        assert message in caught.value.format_message()

    def test_daemon_options_fall_back_to_settings(self, app):
        app.conf.update(worker_logfile="from.settings", worker_umask="077")
        values = parse(app, "--umask", "022")
        assert (values["logfile"], values["umask"]) == ("from.settings", "022")

    def test_options_come_from_the_environment(self, app, monkeypatch):
        monkeypatch.setenv("CELERY_WORKER_CONCURRENCY", "5")
        monkeypatch.setenv("CELERY_WORKER_QUEUES", "x,y")
        values = parse(app)
        assert (values["concurrency"], values["queues"]) == (5, ["x", "y"])

    def test_beat_may_run_inside(self, app):
        values = parse(app, "-B", "-s", "times", "--scheduler", "proj:Own")
        assert (values["beat"], values["schedule_filename"], values["scheduler"]) == (
            True,
            "times",
            "proj:Own",
        )

    def test_a_setting_that_is_none_is_refused(self, app):
        with pytest.raises(click.UsageError, match="worker_prefetch_multiplier"):
            run_with_app(app, ["worker", "worker.prefetch_multiplierr=1"])


class TestGlobalOptions:
    @pytest.mark.parametrize(
        ("words", "variable", "value"),
        [
            (["-b", "memory://x"], "CELERY_BROKER_URL", "memory://x"),
            (["--result-backend", "memory://y"], "CELERY_RESULT_BACKEND", "memory://y"),
            (["--loader", "umbel.app.loading:Loader"], "CELERY_LOADER", "umbel.app.loading:Loader"),
            (["--config", "string"], "CELERY_CONFIG_MODULE", "string"),
            (["--skip-checks"], "CELERY_SKIP_CHECKS", "true"),
        ],
    )
    def test_what_processes_must_know_goes_into_the_environment(self, app, words, variable, value):
        @umbel.command("probe")
        def probe() -> None:
            click.echo(os.environ[variable])

        try:
            result = run(*words, "probe")
        finally:
            umbel.commands.pop("probe")
        assert result.output == f"{value}\n"

    @pytest.mark.parametrize("variable", ["NO_COLOR", "SKIP_CHECKS", "CELERY_QUIET"])
    def test_any_text_in_the_variable_of_a_flag_sets_it(self, variable):
        @umbel.command("probe")
        @click.pass_context
        def probe(ctx: click.Context) -> None:
            assert ctx.parent is not None
            click.echo([name for name, value in sorted(ctx.parent.params.items()) if value is True])

        try:
            result = run("probe", env={variable: "anything"})
        finally:
            umbel.commands.pop("probe")
        assert result.output == f"['{variable.lower().removeprefix('celery_')}']\n"


class TestOptionsOfApplications:
    def test_the_worker_has_options_that_the_application_added(self, app):
        app.user_options["worker"].add(click.Option(["--flavour"], default="plain"))
        assert parse(app, "--flavour", "vanilla")["flavour"] == "vanilla"
        assert parse(app)["flavour"] == "plain"

    def test_preload_options_go_out_with_their_signal(self, app):
        seen = []

        def receive(sender, app, options, **_):
            seen.append((app, options))

        app.user_options["preload"].add(click.Option(["--zone"], default="here"))
        user_preload_options.connect(receive)
        try:
            run_with_app(app, ["purge", "-f", "--zone", "there"])
        finally:
            user_preload_options.disconnect(receive)
        assert seen == [(app, {"zone": "there"})]

    def test_a_plug_in_that_is_any_click_command_has_them_too(self, app):
        seen = []

        def receive(sender, options, **_):
            seen.append(options)

        @click.command("extra")
        def extra() -> None:
            """Do a little more."""

        app.user_options["preload"].add(click.Option(["--zone"], default="here"))
        user_preload_options.connect(receive)
        umbel.add_command(extra)
        try:
            run_with_app(app, ["extra", "--zone", "there"])
            assert re.search(r"extra +Do a little more\.", run("--help").output)
        finally:
            umbel.commands.pop("extra")
            user_preload_options.disconnect(receive)
        assert seen == [{"zone": "there"}]


def test_the_group_is_one_that_plug_ins_made_for_celery_can_extend():
    assert isinstance(umbel, click.Group)
    assert isinstance(umbel, UmbelGroup)
