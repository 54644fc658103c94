"""The result suite on the files of a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from umbel.core.ids import new_id
from umbel.results.filesystem import FilesystemResultBackend
from umbel.results.options import ResultOptions
from umbel.testing.contracts.results import EXPIRES, ResultContract, ResultWorld
from umbel.testing.contracts.support import ShiftedClock


class FilesystemResultWorld(ResultWorld):
    wake_within = 0.1  # nobody wakes; see results.polling

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.url = f"file://{directory}"
        self.clock = ShiftedClock()

    def connect(self) -> FilesystemResultBackend:
        return FilesystemResultBackend.from_url(self.url, ResultOptions(expires=EXPIRES), clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.shift += seconds

    def close(self) -> None:
        """The directory is the test's."""


class TestFilesystemResults(ResultContract):
    @pytest.fixture
    def make_world(self, tmp_path: Path) -> Callable[[], FilesystemResultWorld]:
        return lambda: FilesystemResultWorld(tmp_path / new_id())
