"""Locks of a program that forks: the thread that holds one at that moment is not there to release it in the child."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["renew_in_children"]

_owners: Final[WeakKeyDictionary[Any, dict[str, Callable[[], object]]]] = WeakKeyDictionary()


def renew_in_children(owner: object, **locks: Callable[[], object]) -> None:
    """Give an object new locks in every process that is forked from this one, before anything else runs there.

    ``locks`` names its attributes, and how each lock is made. What they guard has to be whole at any moment: a
    thread of the parent may have been in the midst of changing it.
    """
    _owners[owner] = locks


def _renew() -> None:
    for owner, locks in list(_owners.items()):
        for name, make in locks.items():
            setattr(owner, name, make())


os.register_at_fork(after_in_child=_renew)
