"""Programs that fork: a thread that is in the midst of something then is not there to end it in the child.

The registries are the module's, and hold nothing alive: hooks at a fork are the process's own and cannot be taken back.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Copied", "hold_for_forks", "renew_in_children"]


class Copied(Protocol):
    """What must not be copied into a child as it is at any moment."""

    def hold(self) -> Callable[[], object]:
        """Make ready to be copied, and stay so; gives what ends that, in the parent and in the child."""


_owners: Final[WeakKeyDictionary[Any, dict[str, Callable[[], object]]]] = WeakKeyDictionary()


def renew_in_children(owner: object, **locks: Callable[[], object]) -> None:
    """Give an object new locks in every process that is forked from this one, before anything else runs there.

    ``locks`` names its attributes, and how each lock is made. What they guard has to be whole at any moment: a
    thread of the parent may have been in the midst of changing it.
    """
    _owners[owner] = locks


_copied: Final[WeakSet[Copied]] = WeakSet()
#: What each thread that forks holds meanwhile.
_holding: Final = threading.local()


def hold_for_forks(owner: Copied) -> None:
    """Have ``owner.hold()`` called before each fork of this process."""
    _copied.add(owner)


def _hold() -> None:
    _holding.ends = [owner.hold() for owner in list(_copied)]


def _go_on() -> None:
    for end in _holding.__dict__.pop("ends", ()):
        end()


def _renew() -> None:
    for owner, locks in list(_owners.items()):
        for name, make in locks.items():
            setattr(owner, name, make())


os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_go_on)
os.register_at_fork(after_in_child=_renew)
