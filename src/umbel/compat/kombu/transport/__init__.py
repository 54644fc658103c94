"""Kinds of brokers."""

from __future__ import annotations

from typing import Any

from umbel.brokers.urls import _ADAPTERS
from umbel.compat.lazily import lazily as _lazily

__all__ = ("TRANSPORT_ALIASES", "get_transport_cls", "resolve_transport", "supports_librabbitmq")

TRANSPORT_ALIASES = {scheme: ":".join(place) for scheme, place in _ADAPTERS.items()}


def resolve_transport(transport: str | None = None) -> Any:
    """The class of the broker of a scheme. Raises KeyError."""
    from umbel.compat.helpers.imports import symbol_by_name

    name = transport or "sqlite"
    if name not in TRANSPORT_ALIASES:
        raise KeyError(f"No such transport: {name}.")
    return symbol_by_name(TRANSPORT_ALIASES[name])


get_transport_cls = resolve_transport


def supports_librabbitmq() -> bool:
    """Umbel has no use for it."""
    return False


__getattr__ = _lazily(__name__, {})
