"""The benchmark harness: stamps, ratios, its command line. What it measures is real; that needs no test here."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from benchmarks import options, stamps
from benchmarks.catalogue import SYSTEMS
from benchmarks.report import Figure, Report
from scripts.environments import ROOT


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stamps.Stamps:
    path = tmp_path / "stamps"
    monkeypatch.setenv(stamps.VARIABLE, str(path))
    return stamps.Stamps.create(path, 10)


def test_every_process_and_thread_stamps_without_disturbing_the_others(recorded: stamps.Stamps) -> None:
    record = stamps.Recorder()
    record(0)
    thread = threading.Thread(target=record, args=(1,))
    thread.start()
    thread.join()
    child = os.fork()
    if child == 0:
        record(2)
        record(3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    record(4)
    assert recorded.count() == 5
    assert recorded.wrong(0, 5) == []
    assert 0 < recorded.first() <= recorded.last()


def test_missing_and_doubled_tasks_are_named(recorded: stamps.Stamps) -> None:
    record = stamps.Recorder()
    for task in (0, 1, 1, 3):
        record(task)
    assert recorded.wrong(0, 4) == [1, 2]


def test_ratios_say_how_many_times_better_umbel_is() -> None:
    report = Report("throughput", {})
    for system, speed, cpu in (
        ("umbel", 20_000.0, 50.0),
        ("celery", 1_000.0, 1_000.0),
        ("celery", 3_000.0, 1_200.0),
    ):
        report.add(
            system, "redis", "prefork", [Figure("speed", "tasks/s", speed), Figure("cpu", "us/task", cpu)]
        )
    report.add("celery", "redis", "threads", [Figure("speed", "tasks/s", 1.0)])
    document = report.document()
    assert {(ratio["metric"], ratio["peer"]): ratio["ratio"] for ratio in document["ratios"]} == {
        ("speed", "celery"): 10.0,
        ("cpu", "celery"): 22.0,
    }
    (celery,) = [row for row in document["rows"] if row["system"] == "celery" and row["metric"] == "cpu"]
    assert (celery["median"], celery["min"], celery["max"], celery["runs"]) == (1100.0, 1000.0, 1200.0, 2)
    assert "umbel is 10 times better than celery: speed (redis, prefork)" in report.table()


def test_the_command_line_names_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options.parse(["throughput", "--peers", "celeri"])
    assert "unknown peer 'celeri': known are celery," in capsys.readouterr().err


def test_only_systems_that_can_use_the_broker_are_measured() -> None:
    assert options.parse(["latency", "--broker", "sqlite", "--peers", "all"]).systems == ("umbel",)


def test_every_system_has_its_file_and_every_peer_its_lock() -> None:
    for system in SYSTEMS.values():
        assert (ROOT / "benchmarks" / "systems" / f"{system.file}.py").exists()
        assert system.name == "umbel" or (ROOT / "benchmarks" / "peers" / f"{system.name}.lock").exists()
