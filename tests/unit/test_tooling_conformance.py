"""The judge: what it leaves out, and how it counts. The suite itself is not run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from conformance.exclusions import EXCLUDED, excluded_of
from conformance.running import Run, Tally, run_files

FAKE_PYTEST = """
import json, os, sys
record = open(os.environ["CONFORMANCE_RECORD"], "a")
def write(**fields):
    record.write(json.dumps(fields) + chr(10))
write(event="collected", ids=["f.py::a", "f.py::b", "f.py::c", "f.py::d", "f.py::never"])
for test, outcome in [("a", "passed"), ("b", "failed"), ("c", "skipped"), ("d", "xpassed")]:
    write(event="test", id=f"f.py::{test}", outcome=outcome, text="why")
"""


def test_at_most_ten_are_left_out_and_each_has_a_reason():
    assert len(EXCLUDED) <= 10
    assert all(len(reason.split()) >= 5 for reason in EXCLUDED.values())
    assert all(test.startswith("t/integration/test_") and "::" in test for test in EXCLUDED)


def test_files_and_tests_are_told_apart():
    assert excluded_of("t/integration/test_backend.py") == {}
    assert len(excluded_of("t/integration/test_tasks.py")) == 3


def test_what_was_collected_and_never_ended_is_a_failure(tmp_path: Path):
    (tmp_path / "pytest.py").write_text(FAKE_PYTEST)
    run = Run(Path(sys.executable), tmp_path, {}, tmp_path / "logs")
    tally = Tally()
    emptied = []
    run_files(run, ["f.py"], tally, lambda: emptied.append(1))
    assert emptied == [1]
    assert tally.failures == ["f.py::b", "f.py::never"]
    assert (tally.count("passed", "xpassed"), tally.count("skipped"), len(tally.outcomes)) == (2, 1, 5)


def test_a_file_that_cannot_be_collected_is_a_failure(tmp_path: Path):
    (tmp_path / "pytest.py").write_text("raise SystemExit('no such plug-in')")
    tally = Tally()
    run_files(Run(Path(sys.executable), tmp_path, {}, tmp_path / "logs"), ["f.py"], tally, lambda: None)
    assert tally.failures == ["f.py"]
    assert "no such plug-in" in tally.reasons["f.py"]


def test_a_file_whose_tests_are_all_left_out_is_none(tmp_path: Path):
    (tmp_path / "pytest.py").write_text(
        FAKE_PYTEST.partition("write(event")[0] + "write(event='collected', ids=[])"
    )
    tally = Tally()
    run_files(Run(Path(sys.executable), tmp_path, {}, tmp_path / "logs"), ["f.py"], tally, lambda: None)
    assert (tally.failures, tally.outcomes) == ([], {})


def test_the_names_of_the_alias_are_sorted_for_review():
    names = json.loads(Path(__file__).with_name("test_compat_names.json").read_text())
    assert list(names) == sorted(names)
