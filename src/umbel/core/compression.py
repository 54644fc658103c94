"""Compression of message bodies and results, by kombu's names and header values."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import msgspec

from umbel.errors import DecodeError, EncodeError, ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping


class Method(msgspec.Struct, frozen=True):
    """A compression: the header value that names it, its aliases, and the modules that may provide it.

    ``extra`` is the extra that installs a module; empty where Python brings it.
    """

    content_type: str
    aliases: tuple[str, ...]
    modules: tuple[str, ...]
    extra: str = ""


METHODS: Final = (
    Method("application/x-gzip", ("gzip", "zlib"), ("zlib",)),
    Method("application/x-bz2", ("bzip2", "bzip"), ("bz2",)),
    Method("application/x-lzma", ("lzma", "xz"), ("lzma",)),
    Method("application/x-brotli", ("brotli",), ("brotli", "brotlicffi"), "brotli"),
    Method(
        "application/zstd", ("zstd", "zstandard"), ("compression.zstd", "backports.zstd", "zstandard"), "zstd"
    ),
)
_BY_NAME: Final[Mapping[str, Method]] = {
    name: method for method in METHODS for name in (method.content_type, *method.aliases)
}


def _find(name: str) -> Method:
    try:
        return _BY_NAME[name]
    except (KeyError, TypeError):
        known = ", ".join(alias for method in METHODS for alias in method.aliases)
        raise ImproperlyConfigured(f"unknown compression {name!r}; known are {known}") from None


def _codec(method: Method) -> Any:
    # Imported on first use: few programs compress, and these modules cost start-up time.
    for module in method.modules:
        try:
            return import_module(module)
        except ImportError:
            continue
    raise ImproperlyConfigured(
        f'compression {method.aliases[0]} is not installed here; run: pip install "umbel[{method.extra}]"'
    )


def compress(data: bytes, name: str) -> tuple[str, bytes]:
    """The value of the ``compression`` header for a name or alias, and the compressed bytes.

    Raises ImproperlyConfigured for a name that is unknown or not installed, EncodeError when compressing fails.
    """
    method = _find(name)
    codec = _codec(method)
    try:
        return method.content_type, bytes(codec.compress(data))
    except Exception as error:
        raise EncodeError(f"cannot compress with {method.aliases[0]}: {error}") from error


def decompress(data: bytes, header: str) -> bytes:
    """The bytes as they were before ``compress``; ``header`` is the header's value, or an alias.

    Raises DecodeError for bytes that are not of that kind, and for a compression that is unknown or not installed.
    """
    try:
        method = _find(header)
        codec = _codec(method)
    except ImproperlyConfigured as error:
        raise DecodeError(str(error)) from error
    try:
        if codec.__name__ == "zstandard":
            return _decompress_zstandard(codec, data)
        return bytes(codec.decompress(data))
    except Exception as error:
        raise DecodeError(f"the body is not {method.aliases[0]}-compressed data: {error}") from error


def _decompress_zstandard(codec: Any, data: bytes) -> bytes:
    # zstandard's one-call form refuses frames that do not say their size; other writers make such frames.
    result: bytes = codec.ZstdDecompressor().decompressobj().decompress(data)
    return result
