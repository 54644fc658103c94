"""Proxies."""

from __future__ import annotations

import importlib
from typing import Any

from umbel.state import Proxy

__all__ = ("PromiseProxy", "Proxy", "maybe_evaluate", "try_import")


class PromiseProxy(Proxy[Any]):
    """Stands for an object that is made when it is first used, and kept."""

    __slots__ = ("_made", "_pending", "_then")

    def __init__(
        self, local: Any, args: Any = None, kwargs: Any = None, name: str | None = None, __doc__: Any = None
    ) -> None:
        object.__setattr__(self, "_pending", (local, tuple(args or ()), dict(kwargs or {})))
        object.__setattr__(self, "_then", [])
        super().__init__(self._resolved)

    def _resolved(self) -> Any:
        pending = object.__getattribute__(self, "_pending")
        if pending is not None:
            make, args, kwargs = pending
            object.__setattr__(self, "_made", make(*args, **kwargs))
            object.__setattr__(self, "_pending", None)
            for callback in object.__getattribute__(self, "_then"):
                callback.fun(*callback.args, **callback.kwargs) if hasattr(callback, "fun") else callback()
        return object.__getattribute__(self, "_made")

    def __then__(self, fun: Any, *args: Any, **kwargs: Any) -> Any:
        """Call ``fun`` once the object is there."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        object.__getattribute__(self, "_then").append(lambda: fun(*args, **kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Whether the object is there."""
        return object.__getattribute__(self, "_pending") is None

    def __maybe_evaluate__(self) -> Any:
        return self._get_current_object()


def try_import(module: str, default: Any = None) -> Any:
    """The module, or ``default`` where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return default


def maybe_evaluate(obj: Any) -> Any:
    """The object itself, of a ``PromiseProxy`` what it stands for."""
    return obj.__maybe_evaluate__() if type(obj) is PromiseProxy else obj
