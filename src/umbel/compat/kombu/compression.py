"""Compression of bodies."""

from __future__ import annotations

from typing import Any

from umbel.core import compression as _compression

__all__ = ("compress", "decompress", "encoders", "get_decoder", "get_encoder", "register")


def compress(body: Any, content_type: str) -> tuple[bytes, str]:
    """The body compressed, and the content type of that."""
    header, data = _compression.compress(body.encode() if isinstance(body, str) else body, content_type)
    return data, header


def decompress(body: bytes, content_type: str) -> bytes:
    """Undo ``compress``."""
    return _compression.decompress(body, content_type)


def get_encoder(content_type: str) -> Any:
    """What compresses, and the content type of that."""
    header, _ = _compression.compress(b"", content_type)
    return lambda body: _compression.compress(body, content_type)[1], header


def get_decoder(content_type: str) -> Any:
    """What undoes that."""
    return lambda body: _compression.decompress(body, content_type)


def encoders() -> list[str]:
    """The content types there are."""
    return sorted({method.content_type for method in _compression.METHODS})


def register(encoder: Any, decoder: Any, content_type: str, aliases: Any = None) -> None:
    """Refused: Umbel has the compressions that Celery names, and takes no others."""
    raise NotImplementedError(f"Umbel cannot be taught the compression {content_type!r}")
