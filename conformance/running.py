"""Running the files of the suite, one pytest process each, and what came of every test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from conformance.exclusions import excluded_of
from scripts.environments import CACHE, ROOT
from tests.support.processes import end_session, is_alive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds that one file may take; the longest takes about twelve minutes with Celery.
_FILE_DEADLINE: Final = 2400.0
#: Seconds without a test's end after which a file counts as hanging.
_SILENCE: Final = 420.0
#: Seconds that one test of ``t/unit`` may take.
_UNIT_TIMEOUT: Final = 20
_PASSED: Final = frozenset({"passed", "xpassed"})


@dataclass
class Tally:
    """How the tests ended, by id."""

    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    deselected: dict[str, str] = field(default_factory=dict)

    def count(self, *outcomes: str) -> int:
        """How many ended so."""
        return sum(1 for outcome in self.outcomes.values() if outcome in outcomes)

    @property
    def failures(self) -> list[str]:
        """The ids of those that failed, or never ended."""
        return [test for test, outcome in self.outcomes.items() if outcome in {"failed", "unfinished"}]


@dataclass(frozen=True)
class Run:
    """One run of the suite: where, with what, and which tests."""

    python: Path
    folder: Path
    environment: Mapping[str, str]
    logs: Path
    keyword: str | None = None

    def file(self, name: str, tally: Tally) -> None:
        """Run one file to its end, or until it hangs; every test that it has is in the tally then."""
        label = name.removesuffix(".py").replace("/", ".")
        record, log = self.logs / f"{label}.jsonl", self.logs / f"{label}.log"
        record.unlink(missing_ok=True)
        record.touch()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "CELERY"))},
            **self.environment,
            "CONFORMANCE_RECORD": str(record),
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "conformance" / "plugin"),
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command(name),
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                self._watch(process, record, name)
            finally:
                end_session(process)
        _count(record, log, name, tally)

    def _command(self, name: str) -> list[str]:
        command = [
            str(self.python),
            "-m",
            "pytest",
            "-p",
            "celery.contrib.pytest",
            "-p",
            "conformance_recorder",
        ]
        command += [
            name,
            "-v",
            "-o",
            "xfail_strict=false",
            "-o",
            "cache_dir=/dev/null",
            "-p",
            "no:cacheprovider",
        ]
        if name.startswith("t/unit"):
            # Where a test's mock is of no effect here it may wait for ever; t/integration sets limits of its own.
            command += ["--timeout", str(_UNIT_TIMEOUT)]
        command += [f"--deselect={test}" for test in excluded_of(name)]
        return [*command, "-k", self.keyword] if self.keyword else command

    def _watch(self, process: subprocess.Popen[bytes], record: Path, name: str) -> None:
        started = last = time.monotonic()
        size = shown = 0
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
            now = time.monotonic()
            if record.stat().st_size != size:
                size, last = record.stat().st_size, now
                shown = _show(record, name, shown)
            if now - last > _SILENCE or now - started > _FILE_DEADLINE:
                print(f"    {name} hangs; ended", file=sys.stderr, flush=True)
                return
        _show(record, name, shown)


def _events(record: Path) -> list[dict[str, Any]]:
    lines = record.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _show(record: Path, name: str, shown: int) -> int:
    tests = [event for event in _events(record) if event["event"] == "test"]
    for number, event in enumerate(tests[shown:], shown + 1):
        if event["outcome"] == "failed":
            print(f"    FAILED {event['id']}", file=sys.stderr)
        if number % 25 == 0:
            print(f"    {name}: {number} done", file=sys.stderr, flush=True)
    return len(tests)


def _count(record: Path, log: Path, name: str, tally: Tally) -> None:
    events = _events(record)
    collected = [test for event in events if event["event"] == "collected" for test in event["ids"]]
    for test in collected:
        tally.outcomes[test] = "unfinished"
    for event in events:
        if event["event"] == "test":
            tally.outcomes[event["id"]] = event["outcome"]
            tally.reasons[event["id"]] = event["text"]
    # A file whose tests are all left out has an empty collection; one that cannot be read has none.
    if not events:
        tally.outcomes[name] = "failed"
        tally.reasons[name] = log.read_text(errors="replace")[-3000:]


def run_files(run: Run, names: Sequence[str], tally: Tally, empty: Any) -> None:
    """Run the files one after the other; ``empty`` is called before each."""
    run.logs.mkdir(parents=True, exist_ok=True)
    for name in names:
        empty()
        started, before = time.monotonic(), dict(tally.outcomes)
        print(f"==> {name}", file=sys.stderr, flush=True)
        run.file(name, tally)
        new = {test: outcome for test, outcome in tally.outcomes.items() if test not in before}
        tally.deselected |= excluded_of(name)
        good = sum(1 for outcome in new.values() if outcome in _PASSED)
        print(
            f"    {good} of {len(new)} passed in {time.monotonic() - started:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def logs_folder(pair: str, subject: str) -> Path:
    """Where the output of this run's files is kept, until the next run after it has ended."""
    parent = CACHE / "conformance-logs"
    for old in parent.glob(f"{pair}-{subject}-*"):
        pid = old.name.rpartition("-")[2]
        if not (pid.isdigit() and is_alive(int(pid))):
            shutil.rmtree(old)
    return parent / f"{pair}-{subject}-{os.getpid()}"
