"""Result backends by name."""

from __future__ import annotations

from typing import Any

from umbel.errors import ImproperlyConfigured
from umbel.results.urls import backend_from_url

__all__ = ("by_name", "by_url")


def by_name(
    backend: Any = None, loader: Any = None, extension_namespace: str = "celery.result_backends"
) -> Any:
    """What makes the backend of a name: called with ``url`` it gives one."""
    if not isinstance(backend, (str, type(None))):
        return backend
    name = backend or "disabled"

    def make(app: Any = None, url: str | None = None, **options: Any) -> Any:
        return backend_from_url(url or f"{name}://", None)

    make.__name__ = name
    backend_from_url(f"{name}://" if "://" not in name else name, None).close()
    return make


def by_url(backend: Any = None, loader: Any = None) -> Any:
    """What makes the backend of a URL, and the URL. Raises ImproperlyConfigured for a scheme that is not known."""
    if backend is None:
        raise ImproperlyConfigured("expected the URL of a result backend, got None")
    scheme, found, _ = str(backend).partition("://")
    return by_name(scheme, loader), backend if found else None
