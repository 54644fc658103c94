"""What exchanges and queues have in common."""

from __future__ import annotations

from typing import Any

__all__ = ("MaybeChannelBound", "Object")


class Object:
    """Attributes that are named in ``attrs``, with what converts each."""

    attrs: tuple[tuple[str, Any], ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name, convert in self.attrs:
            value = kwargs.get(name)
            if value is not None:
                setattr(self, name, convert(value) if convert else value)

    def as_dict(self, recurse: bool = False) -> dict[str, Any]:
        """The attributes."""
        return {name: vars(self).get(name) for name, _ in self.attrs}


class MaybeChannelBound(Object):
    """One that may belong to a connection."""

    is_bound = False
