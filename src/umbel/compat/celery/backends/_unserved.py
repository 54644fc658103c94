"""Result backends of Celery's that this version of Umbel may not have: importing one is no error, using it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from umbel.errors import ImproperlyConfigured

from .base import Backend


def unserved(module: str, name: str, scheme: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for the class of one such backend; ``scheme`` is that of its URLs."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ImproperlyConfigured(
            f"{module}.{name}: results in {scheme}:// are not in this version of Umbel; use redis://, db+…, "
            "cache+memcached://, file:// or rpc://, or a class of your own that derives from "
            "celery.backends.base.KeyValueStoreBackend"
        )

    made = type(
        name, (Backend,), {"__init__": __init__, "__module__": module, "__doc__": "Not in this version."}
    )

    def find(asked: str) -> Any:
        if asked == name:
            return made
        raise AttributeError(f"module {module!r} has no attribute {asked!r}")

    return find
