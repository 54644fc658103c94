"""Serializers."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

from umbel.core import serializers
from umbel.core.serializers import accept_set, register
from umbel.core.serializers import registry as _umbel_registry
from umbel.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured

from .exceptions import SerializerNotInstalled

__all__ = ("dumps", "loads", "pickle", "register", "unregister")

TRUSTED_CONTENT = frozenset(["application/data", "application/text"])
SKIP_DECODE = frozenset(["binary", "ascii-8bit"])
pickle_protocol = 4


def unregister(name: str) -> None:
    """Forget a serializer. Raises SerializerNotInstalled."""
    try:
        serializers.unregister(name)
    except ImproperlyConfigured as error:
        raise SerializerNotInstalled(str(error)) from error


def dumps(data: Any, serializer: str | None = None) -> tuple[str, str, Any]:
    """Content type, content encoding and body of a value; text is ``text/plain`` without a serializer."""
    if serializer is None and isinstance(data, bytes):
        return "application/data", "binary", data
    if serializer is None and isinstance(data, str):
        return "text/plain", "utf-8", data.encode()
    try:
        content_type, encoding, body = serializers.dumps(data, serializer or "json")
    except ImproperlyConfigured as error:
        raise SerializerNotInstalled(str(error)) from error
    return content_type, encoding, body.decode() if encoding == "utf-8" else body


def loads(
    data: Any,
    content_type: str | None,
    content_encoding: str | None,
    accept: Iterable[str] | None = None,
    force: bool = False,
    _trusted_content: Any = TRUSTED_CONTENT,
) -> Any:
    """The value that ``dumps`` wrote. Raises ContentDisallowed or DecodeError."""
    body = data.encode() if isinstance(data, str) else data
    accepted = accept_set(accept) if accept is not None else None
    if force:
        accepted = frozenset([content_type or "application/data"])
    return serializers.loads(body, content_type or "application/data", content_encoding or "utf-8", accepted)


def prepare_accept_content(content_types: Any, name_to_type: Any = None) -> Any:
    """Names and content types as content types."""
    return None if content_types is None else set(accept_set(content_types))


def raw_encode(data: Any) -> Any:
    """Text and bytes as they are."""
    return serializers.dumps(data, "raw")


def enable_insecure_serializers(choices: Any = None) -> None:
    """Accepted: ``accept_content`` says what is decoded."""


def disable_insecure_serializers(allowed: Any = None) -> None:
    """Accepted: without an ``accept`` list nothing but JSON is ever decoded."""


class _Registry:
    """``registry``: kombu's view of the serializers."""

    register = staticmethod(register)
    unregister = staticmethod(unregister)
    dumps = staticmethod(dumps)
    loads = staticmethod(loads)

    @property
    def name_to_type(self) -> dict[str, str]:
        """Content types by name."""
        return {name: each.content_type for name, each in _umbel_registry._by_name.items()}

    @property
    def type_to_name(self) -> dict[str, str]:
        """Names by content type."""
        return {each.content_type: name for name, each in _umbel_registry._by_name.items()}


SerializerRegistry = _Registry
registry = _Registry()
encode = dumps
decode = loads
