"""The state file: what is written is read again, and nothing that is not plain is."""

from __future__ import annotations

import dbm
import os
import pickle
import zlib
from pathlib import Path

import pytest

from umbel.worker.statedb import StateFile


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    assert file.load() == ([], 0)
    file.save({"a": 1.0, "b": 2.0}, 41)
    assert file.load() == (["a", "b"], 41)
    file.save({"b": 2.0}, 50)
    assert StateFile(tmp_path / "state").load() == (["b"], 50)


def test_older_files_hold_a_mapping(tmp_path: Path) -> None:
    with dbm.open(str(tmp_path / "state"), "c") as file:
        file[b"zrevoked"] = pickle.dumps(zlib.compress(pickle.dumps({"a": 1.0})))
    assert StateFile(tmp_path / "state").load() == (["a"], 0)


@pytest.mark.parametrize("packed", [pickle.dumps(os.system), b"junk", pickle.dumps(7), pickle.dumps(b"junk")])
def test_what_is_no_state_is_said_and_not_run(
    tmp_path: Path, packed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with dbm.open(str(tmp_path / "state"), "c") as file:
        file[b"zrevoked"] = packed
    assert StateFile(tmp_path / "state").load() == ([], 0)
    assert "cannot be read" in caplog.text


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    StateFile(tmp_path / "no" / "where").save({"a": 1.0}, 1)
    assert "cannot be written" in caplog.text
