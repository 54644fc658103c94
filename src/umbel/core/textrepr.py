"""The text of arguments and results in messages, events and logs: Celery's, short and safe.

It differs from ``repr`` in quoting (strings are shown as they are, between single quotes), stops at ``maxlevels`` of
nesting and about ``maxlen`` characters, and never raises, whatever the values' own ``repr`` does.
"""

from __future__ import annotations

import sys
from decimal import Decimal
from numbers import Number
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Types whose ``repr`` is Celery's text.
_SIMPLE: Final = frozenset({int, bool, float, type(None)})
_CONTAINERS: Final = frozenset({tuple, list, dict})
#: Beyond this a container is shown step by step, stopping as soon as the characters are used up.
_MOST_MEMBERS: Final = 16
_MOST_LEVELS: Final = 8
_UNLIMITED: Final = sys.maxsize

# Kinds of token: text that is never shortened, a mapping's key, and a value still to be shown.
_LITERAL: Final = 0
_KEY: Final = 1
_ITEM: Final = 2
_Token = tuple[int, Any]
_SEPARATOR: Final = (_LITERAL, ", ")
_COLON: Final = (_LITERAL, ": ")


def safe_repr(value: Any, maxlen: int | None = 1024, maxlevels: int = 3) -> str:
    """A readable text of ``value``, as Celery's ``saferepr``.

    Args:
        value: anything.
        maxlen: about how many characters to show; what is left out is marked ``...``. None shows everything.
        maxlevels: how many containers deep to look; 0 means without limit.
    """
    limit = _UNLIMITED if maxlen is None else maxlen
    try:
        if type(value) is tuple and len(value) <= _MOST_MEMBERS and _SIMPLE.issuperset(map(type, value)):
            text: str | None = repr(value)
        else:
            text = _flat(value, limit, maxlevels or _UNLIMITED, ())
    except ValueError:  # an integer with more digits than Python shows
        text = None
    if text is not None and len(text) < limit:
        return text
    return _Writer(maxlen, maxlevels).write(value)


def _flat(value: Any, limit: int, levels: int, parents: tuple[int, ...]) -> str | None:
    """The text of a short value of plain types, in one go; None for what the writer has to look at closely."""
    kind = type(value)
    if kind is str:
        return "'" + value.replace("'", "\\'") + "'" if len(value) < limit else None
    if kind in _SIMPLE:
        return repr(value)
    if kind not in _CONTAINERS or len(value) > _MOST_MEMBERS or id(value) in parents:
        return None
    if len(parents) == levels:
        return "...".join(_brackets(value))
    if len(parents) == _MOST_LEVELS:
        return None
    show = _flat_dict if kind is dict else _flat_sequence
    return show(value, limit, levels, (*parents, id(value)))


def _flat_sequence(
    value: list[Any] | tuple[Any, ...], limit: int, levels: int, parents: tuple[int, ...]
) -> str | None:
    texts = []
    for item in value:
        text = repr(item) if type(item) in _SIMPLE else _flat(item, limit, levels, parents)
        if text is None:
            return None
        texts.append(text)
    opener, closer = _brackets(value)
    return f"{opener}{', '.join(texts)}{closer}"


def _flat_dict(value: dict[Any, Any], limit: int, levels: int, parents: tuple[int, ...]) -> str | None:
    texts = []
    for key, item in value.items():
        text = _flat(item, limit, levels, parents)
        if text is None or type(key) is not str:
            return None
        texts.append("'" + key.replace("'", "\\'") + "': " + text)
    return "{" + ", ".join(texts) + "}"


class _Writer:
    """Shows one value token by token until the characters are used up."""

    __slots__ = ("_closers", "_left", "_levels", "_open", "_parts", "_seen")

    def __init__(self, maxlen: int | None, maxlevels: int) -> None:
        self._left = maxlen
        self._levels = maxlevels
        self._parts: list[str] = []
        self._open: list[Iterator[_Token]] = []
        self._closers: list[str] = []
        self._seen: list[int] = []

    def write(self, value: Any) -> str:
        self._open.append(iter(((_ITEM, value),)))
        while self._open:
            token = next(self._open[-1], None)
            if token is None:
                self._close()
            elif self._left is not None and self._left <= 0:
                self._parts.append(", ...")
                self._parts.extend(reversed(self._closers))
                break
            else:
                self._show(*token)
        return "".join(self._parts)

    def _emit(self, text: str) -> None:
        self._parts.append(text)
        if self._left is not None:
            self._left -= len(text)

    def _close(self) -> None:
        self._open.pop()
        if self._closers:
            self._seen.pop()
            self._emit(self._closers.pop())

    def _show(self, kind: int, payload: Any) -> None:
        if kind == _LITERAL:
            self._emit(payload)
        elif kind == _KEY:
            self._emit(safe_repr(payload, self._left, self._levels))
        elif isinstance(payload, (set, frozenset, tuple, dict, list)) and (
            payload or not isinstance(payload, (set, frozenset))
        ):
            self._enter(payload)
        else:
            self._emit(_leaf(payload, self._left))

    def _enter(self, container: Any) -> None:
        opener, closer = _brackets(container)
        if self._levels and len(self._closers) >= self._levels:
            self._emit(f"{opener}...{closer}")
        elif id(container) in self._seen:
            name = type(container).__name__
            self._emit(_truncate(f"<Recursion on {name} with id={id(container)}>", self._left))
        else:
            self._emit(opener)
            self._seen.append(id(container))
            self._closers.append(closer)
            self._open.append(_members(container))


def _brackets(container: Any) -> tuple[str, str]:
    if isinstance(container, (set, frozenset)):
        name = type(container).__name__
        return ("{", "}") if name == "set" else (f"{name}({{", "})")
    if isinstance(container, tuple):
        return "(", ",)" if len(container) == 1 else ")"
    return ("{", "}") if isinstance(container, dict) else ("[", "]")


def _members(container: Any) -> Iterator[_Token]:
    if isinstance(container, dict):
        for index, (key, item) in enumerate(container.items()):
            if index:
                yield _SEPARATOR
            yield _KEY, key
            yield _COLON
            yield _ITEM, item
    else:
        for index, item in enumerate(container):
            if index:
                yield _SEPARATOR
            yield _ITEM, item


def utf8_text(text: str) -> str:
    """The text with escapes for what UTF-8 has no form for: lone surrogates, as in names of files that are no text."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def _leaf(value: Any, maxlen: int | None) -> str:
    if isinstance(value, str) and not isinstance(value, Number):
        return "'" + _truncate(value, maxlen).replace("'", "\\'") + "'"
    if isinstance(value, bytes):
        return _bytes_text(value, maxlen)
    if isinstance(value, (set, frozenset)):
        return _truncate(f"{type(value).__name__}()", maxlen)
    return _truncate(_own_text(value), maxlen)


def _own_text(value: Any) -> str:
    try:
        if isinstance(value, Number) and not isinstance(value, Decimal):
            return str(value)
        return repr(value)
    except Exception as error:
        return f"<Unrepresentable {type(value)!r}{id(value):#x}: {type(error).__name__}>"


def _bytes_text(value: bytes, maxlen: int | None) -> str:
    shown, more = (value[:maxlen], "...") if maxlen and len(value) > maxlen else (value, "")
    try:
        return f"b'{shown.decode()}{more}'"
    except UnicodeDecodeError:
        return f"b'{shown.hex()}{more}'"


def _truncate(text: str, maxlen: int | None) -> str:
    if maxlen and len(text) >= maxlen:
        return text[:maxlen].rsplit(" ", 1)[0] + "..."
    return text
