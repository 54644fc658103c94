"""The files under tests/typing, judged by mypy: what is inferred, and that wrong calls are errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "tests" / "typing").glob("*.py"))
_IGNORED = re.compile(r"  # type: ignore\[([a-z-]+)\]$")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_mypy_sees_what_is_expected(path, tmp_path):
    expected = set()
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if found := _IGNORED.search(line):
            expected.add((number, found[1]))
            lines[number - 1] = line[: found.start()]
    copy = tmp_path / path.name
    copy.write_text("\n".join(lines) + "\n")
    assert expected
    assert _errors(copy, tmp_path / "cache") == expected


def _errors(path: Path, cache: Path) -> set[tuple[int, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(cache), "--no-error-summary", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    errors = set()
    for line in done.stdout.splitlines():
        if found := re.match(r".*?:(\d+): error: .*\[([a-z-]+)\]$", line):
            assert path.name in line, line
            errors.add((int(found[1]), found[2]))
    return errors
