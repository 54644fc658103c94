"""Who a worker runs as: giving up root's rights, and refusing pickled messages with them."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from typing import TYPE_CHECKING

from umbel.cli.errors import CommandFailed
from umbel.errors import SecurityError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

__all__ = ["check_privileges", "drop_privileges"]

_POWERFUL_GROUPS = frozenset({"sudo", "wheel"})


def drop_privileges(uid: str | int | None, gid: str | int | None) -> None:
    """Become another user and group, for good; of the group alone, or the user's own group, where one is not given.

    Raises CommandFailed when there is no such user or group or changing to it is not permitted, SecurityError when
    root's rights would remain.
    """
    user = _user_id(uid) if uid else None
    group = _group_id(gid) if gid else None
    try:
        if user is not None:
            _become(user, group)
        elif group is not None and group != os.getegid():
            os.setgid(group)
    except PermissionError:
        raise CommandFailed("Only root may change to another user or group with --uid or --gid") from None


def _become(user: int, group: int | None) -> None:
    if user == os.getuid() == os.geteuid():
        return  # a program that starts anew has given them up before
    entry = pwd.getpwuid(user)
    group = entry.pw_gid if group is None else group
    # The group first: afterwards there would be no right to change it.
    os.setgid(group)
    os.initgroups(entry.pw_name, group)
    os.setuid(user)
    if user != 0:
        with contextlib.suppress(PermissionError):
            os.setuid(0)
            raise SecurityError("root's rights could be taken back after --uid; not starting")


def _user_id(user: str | int) -> int:
    if isinstance(user, int) or user.isdigit():
        number = int(user)
        return _known(lambda: pwd.getpwuid(number).pw_uid, f"User does not exist: {user}")
    return _known(lambda: pwd.getpwnam(user).pw_uid, f"User does not exist: {user}")


def _group_id(group: str | int) -> int:
    if isinstance(group, int) or group.isdigit():
        return int(group)
    return _known(lambda: grp.getgrnam(group).gr_gid, f"Group does not exist: {group}")


def _known(look_up: Callable[[], int], otherwise: str) -> int:
    try:
        return look_up()
    except KeyError:
        raise CommandFailed(otherwise) from None


def check_privileges(accept_content: Container[str]) -> str | None:
    """What to say to a worker that runs with too many rights, if anything; nothing where ``C_FORCE_ROOT`` is set.

    Raises SecurityError when it accepts pickled messages too, which can run any code, and ``C_FORCE_ROOT`` is not set.
    """
    if os.environ.get("C_FORCE_ROOT") or not _is_powerful():
        return None
    who = f"uid={os.getuid()} euid={os.geteuid()} gid={os.getgid()} egid={os.getegid()}"
    if "pickle" in accept_content or "application/x-python-serialize" in accept_content:
        raise SecurityError(
            f"A worker with superuser privileges ({who}) that accepts messages in pickle would run any code as root. "
            "Run it as another user (--uid), take pickle out of accept_content, or set C_FORCE_ROOT to insist."
        )
    return (
        f"You're running the worker with superuser privileges ({who}), which is not recommended; "
        "give another user with --uid, or set C_FORCE_ROOT to insist."
    )


def _is_powerful() -> bool:
    if 0 in {os.getuid(), os.geteuid()}:
        return True
    groups = {os.getgid(), os.getegid()}
    return any(name in _POWERFUL_GROUPS for name in map(_group_name, groups))


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return ""  # containers run as groups that nobody named
