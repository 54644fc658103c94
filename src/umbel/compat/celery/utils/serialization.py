"""Exceptions and values in a form that can be written."""

from __future__ import annotations

import datetime  # noqa: ICN001
import inspect
import numbers
import pickle
from base64 import b64decode as base64decode
from base64 import b64encode as base64encode
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from umbel.compat.helpers.encoding import bytes_to_str, safe_repr, str_to_bytes

__all__ = (
    "UnpickleableExceptionWrapper",
    "create_exception_cls",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "strtobool",
    "subclass_exception",
)

#: Classes that say nothing of what happened.
unwanted_base_classes = (Exception, BaseException, object)

STRTOBOOL_DEFAULT_TABLE = {
    "false": False,
    "no": False,
    "0": False,
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
    "off": False,
}


def subclass_exception(name: str, parent: type, module: str) -> type:
    """A new exception class."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(name: str, module: str, parent: type | None = None) -> type:
    """A new exception class."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """The classes in the order of resolution, up to the first of ``stop``."""
    for base in inspect.getmro(cls):
        if base in stop:
            return
        yield base


def find_pickleable_exception(exc: Any, loads: Any = pickle.loads, dumps: Any = pickle.dumps) -> Any:
    """The same exception as the nearest of its classes that can be pickled; None if only ``Exception`` can."""
    for base in itermro(type(exc), unwanted_base_classes):
        try:
            found = base(*exc.args)
            loads(dumps(found))
        except Exception:  # noqa: S112 - whatever keeps it from being pickled: the next class may do
            continue
        return found
    return None


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The values; those that the encoder cannot write as their ``repr``."""
    return tuple(item if _is_written(item, encoder) else safe_repr(item) for item in items)


def _is_written(item: Any, encoder: Callable[[Any], Any]) -> bool:
    try:
        encoder(item)
    except Exception:  # whatever the encoder raises: the value's text is written instead
        return False
    return True


class UnpickleableExceptionWrapper(Exception):
    """Stands for an exception that cannot be pickled."""

    exc_module: str = ""
    exc_cls_name: str = ""
    exc_args: Any = None

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Any, text: str | None = None) -> None:
        safe = ensure_serializable(exc_args, lambda value: pickle.loads(pickle.dumps(value)))
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = safe
        self.text = text
        super().__init__(exc_module, exc_cls_name, safe, text)

    def restore(self) -> Any:
        """An exception of a new class with the name of the original."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    def __str__(self) -> str:
        return str(self.text)

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """One for this exception, with its traceback."""
        made = cls(type(exc).__module__, type(exc).__name__, exc.args, safe_repr(exc))
        return made.with_traceback(exc.__traceback__)


def get_pickleable_exception(exc: BaseException) -> Any:
    """The exception itself where it can be pickled, else what comes nearest."""
    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:  # whatever keeps it from being pickled
        return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)
    return exc


def get_pickleable_etype(cls: type, loads: Any = pickle.loads, dumps: Any = pickle.dumps) -> type:
    """The class itself where it can be pickled, else ``Exception``."""
    try:
        loads(dumps(cls))
    except Exception:  # whatever keeps it from being pickled
        return Exception
    return cls


def get_pickled_exception(exc: Any) -> Any:
    """Undo ``get_pickleable_exception``."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(s: Any) -> str:
    """Base64 as text."""
    text: str = bytes_to_str(base64encode(str_to_bytes(s)))
    return text


def b64decode(s: Any) -> bytes:
    """Undo ``b64encode``."""
    return base64decode(str_to_bytes(s))


def strtobool(term: Any, table: Any = None) -> Any:
    """``yes``, ``off``, ``1`` and the like as a truth value. Raises TypeError for other text."""
    if not isinstance(term, str):
        return term
    try:
        return (STRTOBOOL_DEFAULT_TABLE if table is None else table)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def jsonify(
    obj: Any,
    builtin_types: Any = (numbers.Real, str),
    key: Any = None,
    keyfilter: Any = None,
    unknown_type_filter: Any = None,
) -> Any:
    """A value with nothing in it but what JSON has. Raises ValueError for other types, without a filter for them."""
    again = (builtin_types, key, keyfilter, unknown_type_filter)
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (tuple, list)):
        return [jsonify(each, *again) for each in obj]
    if isinstance(obj, dict):
        kept = {name: value for name, value in obj.items() if keyfilter is None or keyfilter(name)}
        return {
            name: jsonify(value, builtin_types, name, keyfilter, unknown_type_filter)
            for name, value in kept.items()
        }
    if isinstance(obj, (datetime.date, datetime.time, datetime.timedelta)):
        return _instant_text(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def _instant_text(instant: Any) -> str:
    """ECMAScript's form: milliseconds, and Z for UTC; of a duration Python's."""
    if isinstance(instant, datetime.timedelta):
        return str(instant)
    has_time = isinstance(instant, (datetime.datetime, datetime.time))
    if not (has_time and instant.microsecond):
        text = instant.isoformat()
    elif isinstance(instant, datetime.datetime):
        text = instant.isoformat(timespec="milliseconds")
    else:
        text = instant.isoformat()[:12]
    return f"{text[:-6]}Z" if isinstance(instant, datetime.datetime) and text.endswith("+00:00") else text


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise an exception with the one that is being handled as its cause."""
    import sys

    handled = sys.exception()
    if handled is None or handled is exc:
        raise exc
    raise exc from handled
