"""Classes of kombu's that nothing here would call: importing or deriving from one is no error, making one is."""

from __future__ import annotations

from typing import Any

from umbel.errors import ImproperlyConfigured


def unserved(module: str, name: str, instead: str) -> type[Any]:
    """A class that may be named and derived from, and says when it is made that it is not here, and what is."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ImproperlyConfigured(f"{module}.{name} is not in this version of Umbel; {instead}")

    return type(name, (), {"__init__": __init__, "__module__": module, "__doc__": "Not in this version."})
