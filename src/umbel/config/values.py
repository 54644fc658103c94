"""What a setting takes: kinds of value, each with the words an error uses and a check that also converts.

A check gives the value back as it was wherever Celery would have used it as it was, so that what a user put into
``app.conf`` is what comes out. Only text for something that is not text (from the environment, the command line
or an ini file) and time deltas for seconds are converted. Anything Celery 5.7 can work with passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from math import isnan
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    #: Gives the value to use; raises ``ValueError`` or ``TypeError`` when it cannot be used.
    Check: TypeAlias = Callable[[object], object]

__all__ = [
    "ANY",
    "BOOL",
    "CONCURRENCY",
    "CONTENT",
    "DICT",
    "EXPIRES",
    "FLOAT",
    "INT",
    "LEVEL",
    "LIST",
    "MISSED",
    "MODE",
    "OBJECT",
    "OBJECTS",
    "PATH",
    "QUEUES",
    "RATE",
    "SECONDS",
    "SECRET",
    "START_METHOD",
    "TEXT",
    "TLS",
    "URLS",
    "VERSION",
    "Kind",
    "seconds",
]

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"", "0", "false", "f", "no", "n", "off"})
_RATE_UNITS = frozenset({"", "s", "m", "h"})


class Kind(NamedTuple):
    """One kind of value.

    ``name`` is Celery's word for the type (the casts of the command line use it), ``expects`` completes the
    sentence "expected ...", ``check`` converts or refuses. ``None`` is never checked: for every setting it
    means that nothing was said.
    """

    name: str
    expects: str
    check: Check


def seconds(value: float | timedelta | None) -> float | None:
    """Give a duration as seconds, for the settings that keep a time delta as the user wrote it."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def _refuse(value: object) -> object:
    raise ValueError(value)


def _anything(value: object) -> object:
    return value


def _bool(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else _refuse(value)
    # Celery goes by truth: 1, 4, a match object and the like say yes. A container is a mistake.
    return _refuse(value) if isinstance(value, (bytes, list, tuple, set, frozenset, Mapping)) else value


def _number(value: object) -> object:
    """Pass numbers of any type (Decimal and numpy's included); Celery takes 0.5 even where it says integer."""
    if isinstance(value, (int, float)):
        return _refuse(value) if isnan(value) else value
    return value if hasattr(value, "__float__") else _refuse(value)


def _int(value: object) -> object:
    if isinstance(value, str):
        return int(value) if value.strip() else None
    return _number(value)


def _float(value: object) -> object:
    if isinstance(value, str):
        return _number(float(value)) if value.strip() else None
    return _number(value)


def _seconds(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else _float(value)


def _expires(value: object) -> object:
    return value if isinstance(value, timedelta) else _float(value)


def _text(value: object) -> object:
    # Django's lazy strings are no strs; they become text where they are used, as in Celery.
    if isinstance(value, str) or type(value).__name__ == "__proxy__":
        return value
    return _refuse(value)


def _path(value: object) -> object:
    return value if isinstance(value, os.PathLike) else _text(value)


def _secret(value: object) -> object:
    return value if isinstance(value, bytes) else _text(value)


def _level(value: object) -> object:
    return value if isinstance(value, int) else _text(value)


def _object(value: object) -> object:
    plain = isinstance(value, (bool, int, float, bytes, Mapping, list, tuple, set, frozenset))
    return _refuse(value) if plain else value


def _objects(value: object) -> object:
    return _refuse(value) if isinstance(value, (int, float, bytes)) else value


def _dict(value: object) -> object:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, str):
        return _parsed_dict(value) if value.strip() else {}
    pairs: Iterable[tuple[object, object]] = (
        value if isinstance(value, (list, tuple)) else _refuse_pairs(value)
    )
    return dict(pairs)


def _parsed_dict(value: str) -> object:
    import json  # reading a dict from text is rare; the import would cost every program that starts

    parsed: object = json.loads(value)
    return parsed if isinstance(parsed, dict) else _refuse(value)


def _refuse_pairs(value: object) -> Iterable[tuple[object, object]]:
    raise ValueError(value)


def _tls(value: object) -> object:
    return value if isinstance(value, Mapping) else _bool(value)


def _list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return (
        value if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)) else _refuse(value)
    )


def _urls(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return value if all(isinstance(url, str) for url in value) else _refuse(value)
    return _text(value)


def _queues(value: object) -> object:
    return value if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else _refuse(value)


def _concurrency(value: object) -> object:
    if isinstance(value, str):
        return "auto" if value.strip().lower() == "auto" else _int(value)
    return _number(value)


def _rate(value: object) -> object:
    if not isinstance(value, str):
        return _number(value)
    count, _, unit = value.partition("/")
    if value.strip():
        float(count)
    return value if unit.strip() in _RATE_UNITS else _refuse(value)


def _version(value: object) -> object:
    version = _int(value)
    return version if version in (1, 2) else _refuse(value)


def _start_method(value: object) -> object:
    return value if value in ("fork", "spawn", "forkserver") else _refuse(value)


def _missed(value: object) -> object:
    return value if value in ("skip", "once", "all") else _refuse(value)


def _mode(value: object) -> object:
    if isinstance(value, str) and value not in ("persistent", "transient"):
        return _int(value)
    return value if isinstance(value, str) else _number(value)


ANY = Kind("any", "anything", _anything)
BOOL = Kind("bool", "a yes or no (True, False, 1, 0, 'yes', 'no', 'on', 'off')", _bool)
INT = Kind("int", "an int", _int)
FLOAT = Kind("float", "a number", _float)
SECONDS = Kind("float", "a number of seconds or a timedelta", _seconds)
#: Seconds whose timedelta is kept: users compare ``app.conf.result_expires`` with what they wrote.
EXPIRES = Kind("float", "a number of seconds or a timedelta", _expires)
TEXT = Kind("string", "a str", _text)
PATH = Kind("string", "a path", _path)
SECRET = Kind("bytes", "bytes or a str", _secret)
LEVEL = Kind("string", "the name or number of a log level", _level)
OBJECT = Kind("string", "a name, a 'module:Class' path, a class or an object", _object)
OBJECTS = Kind("any", "a dict, a list, a function, an object or a 'module:name' path", _objects)
DICT = Kind("dict", "a dict", _dict)
LIST = Kind("tuple", "a list of str or a comma-separated str", _list)
CONTENT = Kind("list", "a list of serializer names or content types, or a comma-separated str", _list)
QUEUES = Kind("dict", "a list of Queue objects, or a dict of name to options", _queues)
URLS = Kind("string", "a URL or a list of URLs", _urls)
TLS = Kind("bool", "True, False or a dict of TLS options", _tls)
CONCURRENCY = Kind("any", 'an int or "auto"', _concurrency)
RATE = Kind("string", "a number, or a str such as '10/s', '100/m' or '1000/h'", _rate)
VERSION = Kind("int", "1 or 2", _version)
MODE = Kind("string", "1, 2, 'transient' or 'persistent'", _mode)
START_METHOD = Kind("string", "'fork', 'spawn' or 'forkserver'", _start_method)
MISSED = Kind("string", "'skip', 'once' or 'all'", _missed)
