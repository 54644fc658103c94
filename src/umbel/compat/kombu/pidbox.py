"""Remote control, which is ``app.control`` here: the classes are there to be named, and say so when they are made."""

from __future__ import annotations

from ._unserved import unserved as _unserved

__all__ = ("Mailbox", "Node")

_INSTEAD = "app.control sends orders to the workers, and celery.worker.control registers commands of your own"

Mailbox = _unserved(__name__, "Mailbox", _INSTEAD)
Node = _unserved(__name__, "Node", _INSTEAD)
