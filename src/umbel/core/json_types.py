"""JSON of user data, with kombu's tagged types.

A date, a decimal or bytes goes on the wire as ``{"__type__": name, "__value__": text}``, so that either side of a
mixed fleet reads back what the other wrote. msgspec writes those types too, but as bare text, and writes NaN as null.
It is therefore used only for values that both write alike (see ``is_plain``) and for documents that both read alike;
everything else goes through the standard library, as kombu's does.
"""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode, b64encode
from datetime import date, datetime, time
from decimal import Decimal
from json import encoder as json_encoder
from math import isfinite
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from umbel.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TYPE: Final = "__type__"
_VALUE: Final = "__value__"
_TAG_KEYS: Final = frozenset({_TYPE, _VALUE})
#: What both writers treat alike whatever its value. Floats are left out for NaN and the infinities.
_PLAIN: Final = frozenset({str, int, bool, type(None)})
_HAS_TEXT_KEYS: Final = frozenset({str}).issuperset
#: How deep ``is_plain`` looks before it leaves the value to the standard library.
_PLAIN_DEPTH: Final = 8

_encode_fast: Final = msgspec.json.encode
_decode_fast: Final = msgspec.json.decode


class TypeRegistry:
    """The types that JSON has no form for, and how each is written and read.

    The first registered type that a value is an instance of decides, so a datetime comes before a date.
    """

    def __init__(self) -> None:
        self._encoders: dict[type, tuple[str | None, Callable[[Any], Any]]] = {}
        self._decoders: dict[str, Callable[[Any], Any]] = {}

    def register(
        self,
        type_: type,
        marker: str | None,
        encoder: Callable[[Any], Any],
        decoder: Callable[[Any], Any] | None = None,
    ) -> None:
        """Write values of ``type_`` with ``encoder``, tagged ``marker``, and read that tag with ``decoder``.

        Without a marker the encoder's value goes on the wire untagged, and reads back as that. Without a decoder the
        tag reads back as what the encoder made.
        """
        self._encoders[type_] = (marker, encoder)
        if marker is not None:
            self._decoders[marker] = decoder or _as_it_is

    def encode(self, value: object) -> object:
        """The JSON form of a value that JSON has none for; TypeError when nobody knows one.

        In kombu's order: the value's own ``__json__``, Django's lazy text, registered types, bytes.
        """
        own_form = getattr(value, "__json__", None)
        if own_form is not None:
            return own_form()
        if _is_lazy_text(value):
            return str(value)
        for type_, (marker, encoder) in self._encoders.items():
            if isinstance(value, type_):
                return encoder(value) if marker is None else {_TYPE: marker, _VALUE: encoder(value)}
        if isinstance(value, bytes):
            return _tagged_bytes(value)
        raise TypeError(f"JSON has no form for {type(value).__module__}.{type(value).__qualname__}")

    def decode(self, document: dict[str, Any]) -> Any:
        """The value of a tagged object; any other object as it is. ValueError for an unknown tag."""
        if document.keys() != _TAG_KEYS:
            return document
        try:
            decoder = self._decoders[document[_TYPE]]
        except (KeyError, TypeError):
            known = ", ".join(sorted(self._decoders))
            raise ValueError(
                f"unknown __type__ {document[_TYPE]!r}; known are {known} (register_type adds one)"
            ) from None
        return decoder(document[_VALUE])

    def register_defaults(self) -> None:
        """Register the types that kombu knows."""
        self._decoders["bytes"] = lambda text: text.encode()
        self._decoders["base64"] = lambda text: b64decode(text.encode())
        self.register(datetime, "datetime", datetime.isoformat, datetime.fromisoformat)
        self.register(date, "date", date.isoformat, lambda text: datetime.fromisoformat(text).date())
        self.register(time, "time", time.isoformat, time.fromisoformat)
        self.register(Decimal, "decimal", str, Decimal)
        self.register(UUID, "uuid", lambda value: {"hex": value.hex}, lambda fields: UUID(**fields))


def _as_it_is(value: Any) -> Any:
    return value


def _tagged_bytes(value: bytes) -> dict[str, str]:
    try:
        return {_TYPE: "bytes", _VALUE: value.decode()}
    except UnicodeDecodeError:
        return {_TYPE: "base64", _VALUE: b64encode(value).decode()}


def _is_lazy_text(value: object) -> bool:
    # Looked up, not imported: a program that has not imported Django has none of its lazy strings.
    functional = sys.modules.get("django.utils.functional")
    return functional is not None and isinstance(value, functional.Promise)


#: The one registry of a process, as kombu's; ``register_type`` adds to it.
types: Final = TypeRegistry()
types.register_defaults()


def register_type(
    type_: type,
    marker: str | None,
    encoder: Callable[[Any], Any],
    decoder: Callable[[Any], Any] | None = None,
) -> None:
    """Teach JSON a type, for every application of this process (see ``TypeRegistry.register``)."""
    types.register(type_, marker, encoder, decoder)


def _make_encode() -> Callable[[Any], str]:
    """The standard library's encoder, built once where it is written in C.

    Circular references are left to the recursion limit: a shared table of open containers would not survive an error
    or two threads.
    """
    make = getattr(json_encoder, "c_make_encoder", None)
    if make is None:
        return json.JSONEncoder(default=types.encode, check_circular=False).encode
    escape = json_encoder.encode_basestring_ascii
    iterate = make(None, types.encode, escape, None, ": ", ", ", False, False, True)

    def encode(value: Any) -> str:
        return "".join(iterate(value, 0))

    return encode


_encode_exactly: Final = _make_encode()
_decode_exactly: Final = json.JSONDecoder(object_hook=types.decode).decode
_decode_untagged: Final = json.JSONDecoder().decode


def is_plain(value: Any, depth: int = _PLAIN_DEPTH) -> bool:
    """Whether msgspec and the standard library write ``value`` as the same JSON value.

    True only for exact built-in types: a subclass may have a hook, and a key that is not text is written differently.
    """
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is float:
        return isfinite(value)
    if kind is dict:
        return depth > 0 and _HAS_TEXT_KEYS(map(type, value)) and _are_plain(value.values(), depth - 1)
    if kind is list or kind is tuple:
        return depth > 0 and _are_plain(value, depth - 1)
    return False


def _are_plain(values: Iterable[Any], depth: int) -> bool:
    for value in values:
        if type(value) in _PLAIN:  # said here again: one call less for what most values are
            continue
        if not is_plain(value, depth):
            return False
    return True


def dumps_json(value: Any) -> bytes:
    """Write a value as kombu's JSON would, to the byte: tagged types, NaN as NaN, integer keys as text.

    Raises EncodeError for a value that has no form, refers to itself, or is nested too deeply.
    """
    try:
        return _encode_exactly(value).encode()
    except RecursionError:
        raise EncodeError(
            f"cannot write a {type(value).__qualname__} as JSON: it contains itself or is nested too deeply"
        ) from None
    except Exception as error:
        raise EncodeError(f"cannot write a {type(value).__qualname__} as JSON: {error}") from error


def dumps_compact(value: Any) -> bytes:
    """As ``dumps_json`` in meaning, in fewer bytes and less time where the value allows it."""
    return dumps_plain(value) if is_plain(value) else dumps_json(value)


def dumps_plain(value: Any) -> bytes:
    """As ``dumps_compact``, for a value that is known to be plain."""
    try:
        return _encode_fast(value)
    except UnicodeEncodeError:  # a lone surrogate, which the standard library writes as an escape
        return dumps_json(value)


#: Regular expressions find literal bytes in half the time that ``in`` takes.
_find_tag: Final = re.compile(rb"__type__").search


def may_be_tagged(data: bytes, start: int = 0) -> bool:
    """Whether a document may contain a tagged type from ``start`` on; its name could also be written with escapes."""
    return _find_tag(data, start) is not None or (
        data.find(b"\\", start) >= 0 and data.find(b"\\u00", start) >= 0
    )


def loads_json(data: bytes | bytearray | memoryview | str) -> Any:
    """Read JSON as kombu's would. Raises DecodeError for anything that is not JSON or has a bad tag."""
    if isinstance(data, str):
        return _loads_exactly(data, _decode_exactly)
    if not isinstance(data, bytes):
        data = bytes(data)
    return _loads(data, _decode_exactly if may_be_tagged(data) else None)


def loads_untagged(data: bytes) -> Any:
    """Read JSON and leave tagged types as they stand, for documents that are passed on."""
    return _loads(data, None)


def _loads(data: bytes, decode: Callable[[str], Any] | None) -> Any:
    if decode is None:
        try:
            return _decode_fast(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # NaN, numbers out of range and lone surrogates are JSON to the standard library.
            decode = _decode_untagged
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"not JSON: {error}") from error
    return _loads_exactly(text, decode)


def _loads_exactly(text: str, decode: Callable[[str], Any]) -> Any:
    try:
        return decode(text)
    except RecursionError:
        raise DecodeError("not readable as JSON: nested too deeply") from None
    except Exception as error:
        raise DecodeError(f"not readable as JSON: {error}") from error
