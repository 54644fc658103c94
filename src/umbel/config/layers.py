"""Layers of settings: reading one source's settings, by any spelling, and what in it is no setting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

from umbel.config.names import (
    is_stranger,
    meaning_of,
    misspelling_of,
    nearest_to,
    prefixed,
    reject_misspelling,
)
from umbel.config.settings import BY_NAME
from umbel.config.sources import ObjectView

__all__ = ["MISSING", "find_free", "free_names", "names_in", "settings_in", "strangers_in"]

#: Stands for no value at all, ``None`` being one.
MISSING = object()


def names_in(layer: Mapping[str, object], prefix: str) -> dict[str, str]:
    """Give the settings a layer sets, each with the spelling that counts: the most direct one."""
    found: dict[str, tuple[int, str]] = {}
    for name in layer:
        meaning = meaning_of(name, prefix) if isinstance(name, str) else None
        if meaning is not None and meaning.rank < found.get(meaning.setting, (9, ""))[0]:
            found[meaning.setting] = meaning.rank, name
    return {setting: spelling for setting, (_, spelling) in found.items()}


def settings_in(layer: Mapping[str, object], prefix: str) -> dict[str, object]:
    """Give the values a layer sets, by setting.

    Raises:
        ImproperlyConfigured: a setting cannot take its value.
    """
    return {
        name: BY_NAME[name].to_python(layer[spelling]) for name, spelling in names_in(layer, prefix).items()
    }


def free_names(layer: Mapping[str, object], prefix: str) -> Iterator[str]:
    """Give the names in a layer that are no settings: those of third parties, helpers and frameworks."""
    for name in layer:
        if _is_free(name, prefix) and not _is_helper(layer, name):
            yield name


def strangers_in(layer: Mapping[str, object], prefix: str) -> list[str]:
    """Give a note for each name that begins like a setting and is none.

    Raises:
        ImproperlyConfigured: one of them resembles a setting so closely that it must be a misspelling.
    """
    notes = []
    for name in layer:
        if not _is_free(name, prefix) or not (is_stranger(name, prefix) or misspelling_of(name, prefix)):
            continue
        # Only now is the value read: Django's settings, for one, warn when some of them are.
        if not _is_helper(layer, name):
            reject_misspelling(name, prefix)
            near = nearest_to(name)
            notes.append(f"{name} is no setting; it is kept{f' (the nearest is {near})' if near else ''}")
    return notes


def find_free(layers: Iterable[Mapping[str, object]], name: str, prefix: str) -> object:
    """Look a name that is no setting up in layers; ``MISSING`` if no layer has it."""
    spellings = (prefixed(name, prefix), name) if prefix else (name,)
    for layer in layers:
        for spelling in spellings:
            if spelling in layer:
                return layer[spelling]
    return MISSING


def _is_free(name: object, prefix: str) -> TypeGuard[str]:
    return isinstance(name, str) and meaning_of(name, prefix) is None


def _is_helper(layer: Mapping[str, object], name: str) -> bool:
    return isinstance(layer, ObjectView) and layer.is_helper(name)
