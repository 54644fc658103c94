"""Result backends that were written for Celery, found as Celery finds them.

``result_backend`` may be such a class, its path (``module:Class``, with ``+URL`` after it), a name in the loader's
``override_backends``, or one that an installed package brings (entry points ``celery.result_backends``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from umbel.app.backend import Backend
from umbel.config.sources import import_path
from umbel.errors import ImproperlyConfigured
from umbel.results.urls import is_served

if TYPE_CHECKING:
    from umbel.app.application import Umbel

__all__ = ["backend_class", "foreign_backend"]

#: Where packages name their result backends.
ENTRY_POINTS: Final = "celery.result_backends"


def foreign_backend(app: Umbel, setting: str | type) -> Backend | None:
    """The backend of a class of Celery's kind; None where ``result_backend`` names one of Umbel's own.

    Raises ImproperlyConfigured for what cannot be imported or is no such class.
    """
    name, url = _split(setting) if isinstance(setting, str) else (setting, None)
    cls = backend_class(app, name)
    if cls is None:
        return None
    if not isinstance(cls, type) or not issubclass(cls, Backend):
        raise ImproperlyConfigured(
            f"result_backend: expected a URL, or a subclass of celery.backends.base.Backend as Umbel has it, "
            f"got {cls!r}"
        )
    make: Any = cls
    made: Backend = make(app=app, url=url)
    return made


def backend_class(app: Umbel, name: str | type) -> Any:
    """What a name of a result backend stands for where it is none of Umbel's own; None where it is."""
    if not isinstance(name, str):
        return name
    found = app.loader.override_backends.get(name)
    if found is None and not is_served(name):
        found = name if "." in name or ":" in name else _installed(name)
    return _imported(name, found) if isinstance(found, str) else found


def _split(setting: str) -> tuple[str, str | None]:
    """The name of a backend, and its URL: ``name://…`` is the URL itself, ``name+URL`` has it after the name."""
    scheme, found, _ = setting.partition("://")
    if not found:
        return setting, None
    if "+" in scheme:
        name, _, url = setting.partition("+")
        return name, url
    return scheme, setting


def _installed(name: str) -> Any:
    """What an installed package brings under a name; None where none does."""
    # Reading what is installed takes time, and is only for names that nobody knows.
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return point.value
    return None


def _imported(name: str, path: str) -> Any:
    try:
        return import_path(path)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"celery", "kombu"}:
            hint = "it was written for Celery: install umbel-celery, or call umbel.install_as_celery() first"
            raise ImproperlyConfigured(f"result_backend: {name!r} cannot be imported; {hint}") from error
        raise ImproperlyConfigured(f"result_backend: {name!r} cannot be imported: {error}") from error
    except (ImportError, AttributeError) as error:
        raise ImproperlyConfigured(f"result_backend: {name!r} cannot be imported: {error}") from error
