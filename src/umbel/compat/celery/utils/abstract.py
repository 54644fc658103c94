"""What counts as a task and as a signature, by the methods it has."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any, ClassVar

__all__ = ("CallableSignature", "CallableTask")


class _ByMethods(metaclass=ABCMeta):  # noqa: B024 - what counts is asked, not derived
    """A class counts as a subclass when it has all the methods named here."""

    __required_attributes__: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        wanted = vars(cls).get("__required_attributes__")
        if not wanted:
            return NotImplemented
        found = {name for base in other.__mro__ for name in vars(base)}
        return True if wanted <= found else NotImplemented

    @classmethod
    def register(cls, other: Any) -> Any:
        """Count ``other`` as a subclass; also a decorator."""
        type(cls).register(cls, other)
        return other


class CallableTask(_ByMethods):
    """Something that can be called, or sent as a task."""

    __required_attributes__ = frozenset({"__call__", "apply", "apply_async", "delay"})


class CallableSignature(CallableTask):
    """A call that was not made yet."""

    __required_attributes__ = frozenset(
        {
            *CallableTask.__required_attributes__,
            "__or__",
            "clone",
            "freeze",
            "link",
            "link_error",
            "set",
        }
    )
