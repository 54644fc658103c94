"""Pid files, masks and privileges, without starting anything."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from umbel.cli.daemon import Pidfile, read_umask
from umbel.cli.errors import CommandFailed
from umbel.cli.privileges import check_privileges, drop_privileges
from umbel.errors import SecurityError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about root")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "worker.pid"


def test_it_holds_the_process_id_while_it_is_held(path):
    with Pidfile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_running_process_holds_it(path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        path.write_text(f"{other.pid}\n")
        with pytest.raises(CommandFailed, match=rf"already exists.*pid: {other.pid}") as caught:
            Pidfile(str(path)).acquire()
        assert other.stdin is not None
        other.stdin.close()
    assert caught.value.exit_code == 73
    assert path.exists()


@pytest.mark.parametrize("text", ["", "rubbish\n"])
def test_a_broken_one_is_replaced(path, text, capsys):
    path.write_text(text)
    with Pidfile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert "Broken pidfile" in capsys.readouterr().err


def test_one_of_a_process_that_ended_is_replaced(path, capsys):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path.write_text(f"{ended.pid}\n")
    with Pidfile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
    assert "Stale pidfile" in capsys.readouterr().err


def test_one_of_this_process_is_its_own_again(path):
    path.write_text(f"{os.getpid()}\n")  # as in a container, where every first process is number 1
    with Pidfile(str(path)):
        assert path.exists()


def test_somebody_elses_is_not_removed_at_the_end(path):
    pidfile = Pidfile(str(path))
    pidfile.acquire()
    path.write_text("1\n")
    pidfile.release()
    pidfile.release()
    assert path.read_text() == "1\n"


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(CommandFailed, match="Cannot write") as caught:
        Pidfile(str(tmp_path / "no" / "folder.pid")).acquire()
    assert caught.value.exit_code == 73


@pytest.mark.parametrize(("text", "mask"), [("022", 0o22), ("18", 18), (7, 7)])
def test_masks_are_octal_with_a_leading_zero(text, mask):
    assert read_umask(text) == mask


def test_a_mask_that_is_none():
    with pytest.raises(CommandFailed, match="expected a number such as 022, got 'rw'"):
        read_umask("rw")


def test_users_and_groups_that_do_not_exist():
    with pytest.raises(CommandFailed, match="User does not exist: no-such-user"):
        drop_privileges("no-such-user", None)
    with pytest.raises(CommandFailed, match="Group does not exist: no-such-group"):
        drop_privileges(None, "no-such-group")


def test_being_who_one_is_changes_nothing():
    drop_privileges(os.getuid(), os.getgid())
    drop_privileges(None, None)


@as_root
def test_root_is_warned_and_refused_pickle(monkeypatch):
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    assert "superuser privileges" in (check_privileges(["json"]) or "")
    for name in ("pickle", "application/x-python-serialize"):
        with pytest.raises(SecurityError, match="C_FORCE_ROOT"):
            check_privileges([name])


@as_root
def test_who_insists_may_be_root(monkeypatch):
    monkeypatch.setenv("C_FORCE_ROOT", "1")
    assert check_privileges(["pickle"]) is None
