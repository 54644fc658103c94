"""The application."""

from __future__ import annotations

from umbel.app.application import Celery, unpickle_app
from umbel.config import Settings as PendingConfiguration
from umbel.state import Proxy

__all__ = ("Celery",)

#: Celery's mark of a spawned pool process; Umbel's pool processes need none.
USING_EXECV = False


def _unpickle_appattr(reverse_name: str, args: tuple[object, ...]) -> object:
    """An attribute of the current application, called: how Celery pickles what belongs to one."""
    from umbel.state import get_current_app

    found = get_current_app()
    for part in reverse_name.split("."):
        found = getattr(found, part)
    return found(*args)
