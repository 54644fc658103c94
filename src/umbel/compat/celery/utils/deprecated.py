"""Warnings about what will go."""

from __future__ import annotations

import warnings
from collections.abc import Callable as _Callable
from functools import wraps
from typing import Any

from ..exceptions import CDeprecationWarning, CPendingDeprecationWarning
from .imports import qualname

__all__ = ("Callable", "Property", "warn")


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn that something is deprecated, or will be in ``deprecation``, and is removed in ``removal``."""
    if deprecation is not None:
        text = (
            f"{description} is scheduled for deprecation in version {deprecation} and removal in {removal}."
        )
        warning: Warning = CPendingDeprecationWarning(f"{text} {alternative or ''}".rstrip())
    else:
        text = f"{description} is deprecated and scheduled for removal in version {removal}."
        warning = CDeprecationWarning(f"{text} {alternative or ''}".rstrip())
    warnings.warn(warning, stacklevel=stacklevel)


def Callable(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Any:
    """Decorate a function so that calling it warns."""

    def decorate(fun: _Callable[..., Any]) -> _Callable[..., Any]:
        @wraps(fun)
        def warned(*args: Any, **kwargs: Any) -> Any:
            warn(description or qualname(fun), deprecation, removal, alternative, stacklevel=3)
            return fun(*args, **kwargs)

        return warned

    return decorate


def Property(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> Any:
    """Decorate a method so that it is a property, reading or setting which warns."""

    def decorate(fun: _Callable[..., Any]) -> Any:
        warned = Callable(deprecation, removal, alternative, description or fun.__name__)
        return _Warned(warned, fun)

    return decorate


class _Warned:
    def __init__(self, warned: Any, fget: Any, fset: Any = None, fdel: Any = None) -> None:
        self._warned = warned
        self._get, self._set, self._delete = fget, fset, fdel

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return self if obj is None else self._warned(self._get)(obj)

    def __set__(self, obj: Any, value: Any) -> None:
        if self._set is None:
            raise AttributeError("cannot set attribute")
        self._warned(self._set)(obj, value)

    def __delete__(self, obj: Any) -> None:
        if self._delete is None:
            raise AttributeError("cannot delete attribute")
        self._warned(self._delete)(obj)

    def setter(self, fset: Any) -> Any:
        """As of ``property``."""
        return _Warned(self._warned, self._get, fset, self._delete)

    def deleter(self, fdel: Any) -> Any:
        """As of ``property``."""
        return _Warned(self._warned, self._get, self._set, fdel)
