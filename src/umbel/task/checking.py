"""Checks a call's arguments against the task's signature before it is sent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inspect

__all__ = ["arguments_checker"]


def arguments_checker(function: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function of the same signature that does nothing: calling it raises TypeError for arguments that do not fit.

    It is compiled, so that a check costs a function call; ``inspect.Signature.bind`` would cost twenty times that.
    ``bound`` leaves out the first parameter, which is the task itself.
    """
    # Only tasks that are sent come here, and inspect is slow to import.
    import inspect

    try:
        # A decorator that hands arguments of its own to the body decides what may be sent, not the body.
        signature = inspect.signature(function, follow_wrapped=False)
        parameters = list(signature.parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell
        return _accept_anything
    if bound:
        parameters = _without_first(parameters)
    name = getattr(function, "__name__", type(function).__name__)
    name = name if name.isidentifier() else "task"
    namespace: dict[str, Any] = {"__name__": function.__module__, "_omitted": None}
    exec(f"def {name}({_head(parameters)}): pass", namespace)  # noqa: S102 -- names only, no defaults, no annotations
    checker: Callable[..., Any] = namespace[name]
    # Celery's mark of a bound task: an error callback that is one is sent, never called in place.
    return partial(checker) if bound else checker


def _accept_anything(*args: Any, **kwargs: Any) -> None:
    """Checks nothing."""


def _without_first(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    if parameters and parameters[0].kind is parameters[0].VAR_POSITIONAL:
        return parameters
    return parameters[1:]


def _head(parameters: list[inspect.Parameter]) -> str:
    parts: list[str] = []
    previous: Any = None
    for parameter in parameters:
        kinds, kind = type(parameter), parameter.kind
        if previous is kinds.POSITIONAL_ONLY and kind is not kinds.POSITIONAL_ONLY:
            parts.append("/")
        if kind is kinds.KEYWORD_ONLY and previous not in {kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL}:
            parts.append("*")
        default = "" if parameter.default is kinds.empty else "=_omitted"
        star = "*" if kind is kinds.VAR_POSITIONAL else "**" if kind is kinds.VAR_KEYWORD else ""
        parts.append(f"{star}{parameter.name}{default}")
        previous = kind
    if parameters and previous is parameters[-1].POSITIONAL_ONLY:
        parts.append("/")
    return ", ".join(parts)
