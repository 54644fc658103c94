"""Mappings whose keys are compared by value."""

from __future__ import annotations

from typing import Any


class HashedSeq(list[Any]):
    """A list that can be a key."""

    def __init__(self, *seq: Any) -> None:
        self[:] = seq
        self.hashvalue = hash(seq)

    def __hash__(self) -> int:  # type: ignore[override]
        return self.hashvalue


def eqhash(o: Any) -> Any:
    """What stands for an object as a key."""
    try:
        return o.__eqhash__()
    except AttributeError:
        return hash(o)


class EqualityDict(dict[Any, Any]):
    """A mapping whose keys may say themselves what they are equal to."""

    def __getitem__(self, key: Any) -> Any:
        name = eqhash(key)
        return self.__missing__(key) if name not in self else super().__getitem__(name)

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(eqhash(key), value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(eqhash(key))
