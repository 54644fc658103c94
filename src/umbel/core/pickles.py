"""Pickles that either side of a mixed fleet reads: our exceptions and results go by Celery's names.

A pickle names each class by its module, and whoever reads it imports that. Celery's side has no ``umbel``, and ours
need not have ``celery``.
"""

from __future__ import annotations

import importlib
import pickle
from io import BytesIO
from typing import Any, Final

from umbel import errors
from umbel.errors import wire_module

#: Classes of higher layers by where they are, and Celery's module of the same name for each.
_RESULTS: Final = {
    ("umbel.results.handles", "AsyncResult"): "celery.result",
    ("umbel.results.handles", "EagerResult"): "celery.result",
    ("umbel.results.sets", "GroupResult"): "celery.result",
    ("umbel.results.sets", "ResultSet"): "celery.result",
}
_ERRORS: Final = {
    (cls.__module__, name): wire_module(cls)
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, BaseException) and cls.__module__ == errors.__name__
}
_WIRE: Final = {**_RESULTS, **_ERRORS}
_OURS: Final = {(wire, name): (module, name) for (module, name), wire in _WIRE.items()}


def dump_pickle(value: Any, protocol: int = 4) -> bytes:
    """The pickle of a value; raises whatever pickling it raises."""
    buffer = BytesIO()
    try:
        _Plain(buffer, protocol).dump(value)
    except _OwnClassError:
        # Only the pickler written in Python lets a class be called what it is not; few values need it.
        buffer = BytesIO()
        _Renaming(buffer, protocol).dump(value)
    return buffer.getvalue()


def load_pickle(data: bytes) -> Any:
    """The value of a pickle. To be called only where pickle is accepted by name."""
    return _Reader(BytesIO(data)).load()


class _OwnClassError(Exception):
    """A class has another name on the wire."""


def _wire_name(value: object) -> tuple[str, str] | None:
    if not isinstance(value, type):
        return None
    module = _WIRE.get((value.__module__, value.__qualname__))
    return None if module is None else (module, value.__qualname__)


class _Plain(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if _wire_name(value) is not None:
            raise _OwnClassError
        return NotImplemented


#: The pickler written in Python: public by long use, and typed nowhere.
_InPython: Any = vars(pickle)["_Pickler"]


class _Renaming(_InPython):  # type: ignore[misc]
    def save_global(self, value: Any, name: str | None = None) -> None:
        wire = _wire_name(value)
        if wire is None:
            super().save_global(value, name)
        elif self.proto >= 4:
            for part in wire:
                self.save(part)
            self.write(pickle.STACK_GLOBAL)
            self.memoize(value)
        else:
            self.write(pickle.GLOBAL + "\n".join((*wire, "")).encode())
            self.memoize(value)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        own = _OURS.get((module, name))
        if own is None:
            return super().find_class(module, name)
        return getattr(importlib.import_module(own[0]), own[1])
