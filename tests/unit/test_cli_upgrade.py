"""``umbel upgrade settings``: old names become today's, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from umbel.cli.main import umbel
from umbel.cli.upgrade import rewrite

SETTINGS = (
    b'BROKER_URL = "memory://"  # BROKER_URL\r\n'
    b"CELERY_ALWAYS_EAGER = True\r\n"
    b'NOTE = "CELERY_ALWAYS_EAGER"\n'
    b"# \xc3\xa9t\xc3\xa9\n"
)


@pytest.mark.parametrize(
    ("options", "expected", "backup"),
    [
        ((), ("broker_url", "task_always_eager"), True),
        (("--django", "--no-backup"), ("CELERY_BROKER_URL", "CELERY_TASK_ALWAYS_EAGER"), False),
        (("--compat",), ("CELERY_BROKER_URL", "CELERY_TASK_ALWAYS_EAGER"), True),
    ],
)
def test_a_file_is_rewritten(
    tmp_path: Path, options: tuple[str, ...], expected: tuple[str, str], backup: bool
) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_bytes(SETTINGS)
    done = CliRunner().invoke(umbel, ["upgrade", "settings", str(path), *options])
    assert done.exit_code == 0, done.output
    assert "Changes to your setting have been made!" in done.output
    url, eager = (name.encode() for name in expected)
    wanted = SETTINGS.replace(b"BROKER_URL =", url + b" =").replace(b"CELERY_ALWAYS_EAGER =", eager + b" =")
    assert path.read_bytes() == wanted
    copy = tmp_path / "celeryconfig.py.orig"
    assert copy.exists() is backup
    if backup:
        assert copy.read_bytes() == SETTINGS


def test_names_that_are_right_already_stay(tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_text("broker_url = 'memory://'\nDEBUG = True\n")
    done = CliRunner().invoke(umbel, ["upgrade", "settings", str(path)])
    assert "Does not seem to require any changes" in done.output
    assert not list(tmp_path.glob("*.orig"))


def test_what_is_not_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_text("BROKER_URL = (\n")
    done = CliRunner().invoke(umbel, ["upgrade", "settings", str(path)])
    assert done.exit_code == 1
    assert "cannot be read as Python" in done.output


def test_a_lookup_is_renamed_too() -> None:
    assert rewrite("if CELERY_ALWAYS_EAGER: x = CELERY_ALWAYS_EAGER\n") == (
        "if task_always_eager: x = task_always_eager\n"
    )
