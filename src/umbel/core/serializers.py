"""Serializers by name and content type, with kombu's names, types and rule of what may be decoded.

A reader decodes only content types that it accepts; the check comes before anything touches the bytes.
"""

from __future__ import annotations

import os
from codecs import decode as decode_text
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from umbel.core.json_types import dumps_json, loads_json
from umbel.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Decoded whatever the accept list says: they are bytes or text and decode to just that.
TRUSTED_TYPES: Final = frozenset({"application/data", "application/text"})
#: What is decoded where no accept list is given.
_DEFAULT_ACCEPT: Final = frozenset({"application/json"})
_BYTES_ENCODINGS: Final = frozenset({"binary", "ascii-8bit"})
_ENTRY_POINTS: Final = "kombu.serializers"


class Serializer(NamedTuple):
    """One way to write values; either direction may be missing."""

    name: str
    encode: Callable[[Any], bytes | str] | None
    decode: Callable[[bytes], Any] | None
    content_type: str
    content_encoding: str


class SerializerRegistry:
    """Serializers by name and by content type."""

    def __init__(self, serializers: Iterable[Serializer] = ()) -> None:
        self._by_name: dict[str, Serializer] = {}
        self._by_type: dict[str, Serializer] = {}
        self._plugins_loaded = False
        #: Plug-ins that cannot be loaded, and why; told when one is asked for by name.
        self._broken: dict[str, str] = {}
        for serializer in serializers:
            self.add(serializer)

    def add(self, serializer: Serializer) -> None:
        """Add a serializer, or replace the one of its name."""
        self._by_name[serializer.name] = serializer
        self._by_type[serializer.content_type] = serializer

    def remove(self, name: str) -> None:
        """Forget a serializer. Raises ImproperlyConfigured when there is none of that name."""
        serializer = self.named(name)
        del self._by_name[name]
        self._by_type.pop(serializer.content_type, None)

    def named(self, name: str) -> Serializer:
        """The serializer of a name. Raises ImproperlyConfigured with the known names."""
        found = self._by_name.get(name)
        if found is None:
            self._load_plugins()
            found = self._by_name.get(name)
        if found is None:
            raise ImproperlyConfigured(
                f"unknown serializer {name!r}; known are {', '.join(sorted(self._by_name))}"
            )
        return found

    def for_type(self, content_type: str) -> Serializer | None:
        """The serializer of a content type, if there is one."""
        found = self._by_type.get(content_type)
        if found is None and content_type not in TRUSTED_TYPES:
            self._load_plugins()
            found = self._by_type.get(content_type)
        return found

    def _load_plugins(self) -> None:
        """Load kombu's extension point, once: packages register (encoder, decoder, content type, encoding) there."""
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        # Imported here, on the first unknown name: reading entry points costs every program start-up time.
        from importlib.metadata import entry_points

        for entry_point in entry_points(group=_ENTRY_POINTS):
            if entry_point.name in self._by_name:
                continue
            try:
                encoder, decoder, content_type, *encoding = entry_point.load()
            except Exception as error:  # a broken plug-in concerns only those who name it
                self._broken[entry_point.name] = f"{type(error).__name__}: {error}"
            else:
                self.add(
                    Serializer(entry_point.name, encoder, decoder, content_type, *(encoding or ["utf-8"]))
                )


def _dump_pickle(value: Any) -> bytes:
    from umbel.core.pickles import dump_pickle

    return dump_pickle(value, int(os.environ.get("PICKLE_PROTOCOL", "4")))


def _load_pickle(data: bytes) -> Any:
    # Reached only where the operator accepts pickle by name.
    from umbel.core.pickles import load_pickle

    return load_pickle(data)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise ImproperlyConfigured('YAML is not installed here; run: pip install "umbel[yaml]"') from None
    return yaml


def _dump_yaml(value: Any) -> str:
    text: str = _yaml().safe_dump(value)
    return text


def _load_yaml(data: bytes) -> Any:
    return _yaml().safe_load(data)


#: What msgpack has a form for. msgspec writes dates and dataclasses too, but they read back as something else.
_PACKABLE: Final = (str, int, float, bytes, bytearray, memoryview, type(None))


def _check_packable(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_packable(key)
            _check_packable(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_packable(item)
    elif not isinstance(value, _PACKABLE):
        raise TypeError(f"msgpack has no form for {type(value).__module__}.{type(value).__qualname__}")


def _dump_msgpack(value: Any) -> bytes:
    _check_packable(value)
    return msgspec.msgpack.encode(value)


def _load_msgpack(data: bytes) -> Any:
    return msgspec.msgpack.decode(data)


#: The one registry of a process, as kombu's; ``register`` and ``unregister`` change it.
registry: Final = SerializerRegistry(
    (
        Serializer("json", dumps_json, loads_json, "application/json", "utf-8"),
        Serializer("pickle", _dump_pickle, _load_pickle, "application/x-python-serialize", "binary"),
        Serializer("yaml", _dump_yaml, _load_yaml, "application/x-yaml", "utf-8"),
        Serializer("msgpack", _dump_msgpack, _load_msgpack, "application/x-msgpack", "binary"),
    )
)


def register(
    name: str,
    encoder: Callable[[Any], bytes | str] | None,
    decoder: Callable[[bytes], Any] | None,
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Add a serializer for every application of this process. Either function may be None."""
    registry.add(Serializer(name, encoder, decoder, content_type, content_encoding))


def unregister(name: str) -> None:
    """Forget a serializer. Raises ImproperlyConfigured when there is none of that name."""
    registry.remove(name)


def dumps(value: Any, serializer: str) -> tuple[str, str, bytes]:
    """The content type, content encoding and bytes of a value.

    ``raw`` passes bytes and text on as they are. Raises EncodeError for a value the serializer cannot write, and
    ImproperlyConfigured for an unknown serializer.
    """
    if serializer == "json":
        return "application/json", "utf-8", dumps_json(value)
    if serializer == "raw":
        return _dump_raw(value)
    chosen = registry.named(serializer)
    if chosen.encode is None:
        raise ImproperlyConfigured(f"serializer {serializer!r} can only read")
    try:
        data = chosen.encode(value)
        return chosen.content_type, chosen.content_encoding, data.encode() if isinstance(data, str) else data
    except (EncodeError, ImproperlyConfigured):
        raise
    except Exception as error:
        raise EncodeError(f"cannot write a {type(value).__qualname__} with {serializer}: {error}") from error


def _dump_raw(value: Any) -> tuple[str, str, bytes]:
    if isinstance(value, bytes):
        return "application/data", "binary", value
    if isinstance(value, str):
        try:
            return "application/data", "utf-8", value.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(f"cannot write a str with raw: {error}") from error
    raise EncodeError(f"cannot write a {type(value).__qualname__} with raw: it takes bytes or text")


def check_accepted(content_type: str, accept: frozenset[str] | None) -> str:
    """The content type that decides how to decode (no type at all is ``application/data``).

    Raises ContentDisallowed, in Celery's words, when it is not accepted. Without an accept list only JSON is.
    """
    content_type = content_type or "application/data"
    allowed = _DEFAULT_ACCEPT if accept is None else accept
    if content_type in allowed or content_type in TRUSTED_TYPES:
        return content_type
    known = registry.for_type(content_type)
    alias = f"{known.name} ({content_type})" if known else f"{content_type} ({content_type})"
    why = "disabled" if accept is None else "untrusted"
    raise ContentDisallowed(f"Refusing to deserialize {why} content of type {alias}")


def loads(data: bytes, content_type: str, content_encoding: str, accept: frozenset[str] | None) -> Any:
    """The value that ``dumps`` wrote.

    ``accept`` holds content types (see ``accept_set``); None accepts JSON alone. Raises ContentDisallowed before any
    byte is looked at, and DecodeError when the bytes are not what their type says. A type without a decoder reads as
    text of its content encoding, or as bytes where that is ``binary``.
    """
    content_type = check_accepted(content_type, accept)
    if not data:
        return data
    if content_type == "application/json":
        return loads_json(data)
    try:
        return _decode(data, content_type, (content_encoding or "utf-8").lower())
    except (DecodeError, ContentDisallowed):
        raise
    except RecursionError:
        raise DecodeError(f"the {content_type} body is nested too deeply") from None
    except Exception as error:
        raise DecodeError(f"the body is not {content_type}: {error}") from error


def _decode(data: bytes, content_type: str, content_encoding: str) -> Any:
    serializer = registry.for_type(content_type)
    if serializer is not None and serializer.decode is not None:
        return serializer.decode(data)
    if content_encoding in _BYTES_ENCODINGS:
        return data
    return decode_text(data, content_encoding)


def accept_set(names: Iterable[str]) -> frozenset[str]:
    """The content types of a list of names and content types, as ``accept_content`` holds them.

    Raises ImproperlyConfigured for an unknown name, with the known ones.
    """
    return frozenset(name if "/" in name else registry.named(name).content_type for name in names)
