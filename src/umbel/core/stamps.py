"""Stamps: names and values in a message's headers, by which tasks are revoked together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["as_stamps", "as_values", "read_stamps", "write_stamps"]

logger = logging.getLogger("umbel.control")


def as_stamps(headers: Any) -> dict[str, list[Any]]:
    """Names and values of stamps from a mapping, or from text such as ``name=value``.

    Raises TypeError or ValueError for what is neither.
    """
    if isinstance(headers, dict):
        return {name: as_values(values) for name, values in headers.items()}
    if not isinstance(headers, (list, tuple)):
        raise TypeError(f"expected stamps as a mapping or a list of name=value, not {headers!r}")
    stamps: dict[str, list[Any]] = {}
    for each in headers:
        name, equals, value = str(each).partition("=")
        if not equals:
            raise ValueError(f"expected a stamp as name=value, not {each!r}")
        stamps.setdefault(name, []).append(value)
    return stamps


def as_values(values: Any) -> list[Any]:
    """The values of a stamp, which may be given alone."""
    if values is None:
        return []
    return list(values) if isinstance(values, (list, tuple, set, frozenset)) else [values]


def write_stamps(stamps: Mapping[str, Sequence[Any]]) -> list[str]:
    """Each name with each of its values as a text of its own; what is nothing for JSON is left out and told."""
    texts = []
    for name, values in stamps.items():
        for value in values:
            try:
                texts.append(msgspec.json.encode((name, value)).decode())
            except (TypeError, ValueError) as error:
                logger.warning(
                    "Workers that start later will not know that %s=%r is revoked: %s", name, value, error
                )
    return texts


def read_stamps(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Names and values of such texts. What is none is passed over and told."""
    stamps: dict[str, list[Any]] = {}
    for text in texts:
        try:
            name, value = msgspec.json.decode(text, type=tuple[str, Any])
        except msgspec.DecodeError as error:
            logger.warning("A revoked stamp cannot be read: %r: %s", text, error)
        else:
            stamps.setdefault(name, []).append(value)
    return stamps
